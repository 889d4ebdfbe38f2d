"""`write_bundle`: results as one file that a browser shows without a server or a network."""

from collections.abc import Sequence
from pathlib import Path

from factlab.arguments import checked
from factlab.pages.inlined import view_page
from factlab.storage import write_text
from factlab.web.kinds import check_shown
from factlab.web.results import result_document


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
    write_text(page, view_page("index.html", documents))
    return page
