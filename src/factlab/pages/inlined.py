"""Pages in one file: style, scripts and data inside, and nothing asked of anybody."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

STATIC = Path(__file__).parent / "static"
# Of a page that shows results, in this order; what asks a server is left out.
VIEW_SCRIPTS = ("dom", "scales", "heatmap", "traces", "averages", "results", "theme", "view")
_RULES = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"


def shared_script(name: str) -> str:
    """One of the workbench's scripts."""
    return (STATIC / "js" / f"{name}.js").read_text(encoding="utf-8")


def shared_style() -> str:
    """The workbench's style."""
    return (STATIC / "style.css").read_text(encoding="utf-8")


def inlined_page(html: str, style: str, scripts: Iterable[str], name: str, data: object) -> str:
    """A page with everything inside.

    Args:
        html: the page; its links to scripts and to the style are taken out.
        style: of the page.
        scripts: in their order.
        name: the id of the element with the data.
        data: ready for JSON.
    """
    # No text of a model can end the element that it stands in.
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    html = re.sub(r"<script src=.*?</script>\n", "", html)
    rules = f'<meta http-equiv="Content-Security-Policy" content="{_RULES}">'
    html = html.replace(
        '<link rel="stylesheet" href="static/style.css">', f"<style>{style}</style>"
    )
    html = html.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{rules}')
    inlined = "".join(f"<script>{script}</script>\n" for script in scripts)
    inlined = f'<script type="application/json" id="{name}">{text}</script>\n{inlined}'
    return html.replace("</body>", f"{inlined}</body>")


def view_page(name: str, documents: Sequence[object]) -> str:
    """A page that shows results, with their documents inside.

    Args:
        name: of its file: `index.html`, or `frame.html` for inside a notebook.
        documents: as `results.js` reads them.
    """
    html = (STATIC / name).read_text(encoding="utf-8")
    return inlined_page(
        html, shared_style(), map(shared_script, VIEW_SCRIPTS), "documents", documents
    )
