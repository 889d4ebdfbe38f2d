"""The page for raters: one file, which asks nobody for anything and does not know the methods."""

from pathlib import Path
from typing import Any

from factlab.human.key import HumanStudy
from factlab.pages.inlined import inlined_page, shared_script, shared_style

_STATIC = Path(__file__).parent / "static"
_SCRIPTS = ("example", "progress", "screens", "study")


def study_page(study: HumanStudy) -> str:
    """The page of a study as HTML."""
    scripts = [
        shared_script("dom"),
        *((_STATIC / "js" / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS),
        shared_script("theme"),
    ]
    style = shared_style() + (_STATIC / "study.css").read_text(encoding="utf-8")
    html = (_STATIC / "study.html").read_text(encoding="utf-8")
    return inlined_page(html, style, scripts, "study", _shown(study))


def _shown(study: HumanStudy) -> dict[str, Any]:
    """What the page has to know.

    Passages lie in the order of the first page that shows them, so that neither their places nor
    anything else tells what wrote them. The seed, which made the order, is not there.
    """
    first: dict[int, tuple[int, ...]] = {}
    for page in (page for pages in study.pages for page in pages):
        first.setdefault(page.item, page.order)
    return {
        "study": study.study,
        "contact": study.config.contact,
        "letters": study.letters,
        "items": [
            {"fact": item.statement, "passages": [item.passages[i] for i in first[number]]}
            for number, item in enumerate(study.items)
        ],
        "raters": [
            [
                {"item": page.item, "order": [first[page.item].index(i) for i in page.order]}
                for page in pages
            ]
            for pages in study.pages
        ],
    }
