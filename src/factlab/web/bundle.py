"""`write_bundle`: results as one file that a browser shows without a server or a network."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from factlab.arguments import checked
from factlab.storage import write_text
from factlab.web.kinds import check_shown
from factlab.web.results import result_document

_STATIC = Path(__file__).parent / "static"
# In this order; what asks a server is left out.
_SCRIPTS = ("dom", "scales", "heatmap", "traces", "averages", "results", "theme", "view")
_RULES = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"


@checked()
def write_bundle(paths: Sequence[str | Path], folder: str | Path) -> Path:
    """Write a page with traces, edits, evaluations or studies in it.

    Args:
        paths: what factlab wrote: files of traces and studies, folders of edits and runs.
        folder: where `index.html` goes; one that is there is replaced.

    Returns:
        The page.

    Raises:
        InvalidRequestError: nothing is named.
        StorageError: something is not there, damaged, or nothing of factlab's; or the page cannot
            be written.

    Examples:
        >>> from factlab.web.bundle import write_bundle
        >>> fl.causal_trace(lm, fact).save("needle.safetensors")
        >>> page = write_bundle(["needle.safetensors"], "page")
    """
    check_shown([Path(path) for path in paths])
    documents = [result_document(Path(path)) for path in paths]
    page = Path(folder) / "index.html"
    write_text(page, _page(documents))
    return page


def _page(documents: Sequence[object]) -> str:
    """The workbench's page with its files and the documents inside."""
    html = (_STATIC / "index.html").read_text(encoding="utf-8")
    style = (_STATIC / "style.css").read_text(encoding="utf-8")
    scripts = "".join(
        f"<script>{(_STATIC / 'js' / f'{name}.js').read_text(encoding='utf-8')}</script>\n"
        for name in _SCRIPTS
    )
    # No text of a model can end the element that it stands in.
    data = json.dumps(documents, allow_nan=False).replace("<", "\\u003c")
    html = re.sub(r"<script src=.*?</script>\n", "", html)
    rules = f'<meta http-equiv="Content-Security-Policy" content="{_RULES}">'
    html = html.replace(
        '<link rel="stylesheet" href="static/style.css">', f"<style>{style}</style>"
    )
    html = html.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{rules}')
    inlined = f'<script type="application/json" id="documents">{data}</script>\n{scripts}'
    return html.replace("</body>", f"{inlined}</body>")
