"""`inlined`: a page as one text, which asks nobody for anything."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STATIC = Path(__file__).parent / "static"
_RULES = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
_SCRIPT = re.compile(r'<script src="static/([\w/]+\.js)"></script>')


def inlined(name: str, documents: Sequence[Any]) -> str:
    """A page with its style, its scripts and what they draw inside.

    Args:
        name: of a page in `static`, such as `view.html`; it has no script that asks a server.
        documents: ready for JSON; `view.js` says which kinds there are.

    Returns:
        HTML that forbids itself to ask any host for anything.
    """
    html, style = _file(name), _file("style.css")
    # No text of a model can end the element that it stands in.
    data = json.dumps(documents, allow_nan=False).replace("<", "\\u003c")
    rules = f'<meta http-equiv="Content-Security-Policy" content="{_RULES}">'
    html = html.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{rules}')
    html = html.replace(
        '<link rel="stylesheet" href="static/style.css">', f"<style>{style}</style>"
    )
    html = _SCRIPT.sub(lambda found: f"<script>{_file(found[1])}</script>", html)
    shown = f'<script type="application/json" id="documents">{data}</script>'
    return html.replace("</main>", f"</main>\n{shown}")


def _file(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")
