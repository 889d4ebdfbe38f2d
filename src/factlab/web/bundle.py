"""`write_bundle`: results as one file that a browser shows without a server or a network."""

from collections.abc import Sequence
from pathlib import Path

from factlab.arguments import checked
from factlab.storage import write_text
from factlab.web.inlined import inlined_page, shared_script, shared_style
from factlab.web.kinds import check_shown
from factlab.web.results import result_document

_STATIC = Path(__file__).parent / "static"
# In this order; what asks a server is left out.
_SCRIPTS = ("dom", "scales", "heatmap", "traces", "averages", "results", "theme", "view")


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
    return inlined_page(html, shared_style(), map(shared_script, _SCRIPTS), "documents", documents)
