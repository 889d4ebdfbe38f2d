"""The report of the study: what came out, in words and numbers, as Markdown and as HTML."""

from pathlib import Path
from typing import TYPE_CHECKING

from factlab.evaluation.localising.exceptions_page import exceptions_part
from factlab.evaluation.localising.findings import (
    choices_in_words,
    explained_in_words,
    method_in_words,
    traces_in_words,
)
from factlab.evaluation.localising.pictures import draw_picture
from factlab.evaluation.localising.r2_tables import (
    choice_table,
    outcome_table,
    r2_table,
    robustness_table,
)
from factlab.evaluation.reporting.page import Part, html_page, markdown_page
from factlab.evaluation.studies.tables import to_csv
from factlab.storage import write_text

if TYPE_CHECKING:
    from factlab.evaluation.localising.result import Localisation

TITLE = "Does localisation inform editing?"
_ALT = {
    "effects": "mean effect by layer",
    "peaks": "layers with each fact's largest effect",
    "scores": "scores by edited layer",
    "scatter": "rewrite score against effect, by layer",
    "r2": "R² of the layer, and what tracing adds",
}


def page_parts(study: "Localisation") -> list[Part]:
    """The page, part by part."""
    return [
        Part("What was done", method_in_words(study), [], []),
        Part("Where the facts are held", traces_in_words(study), [], ["effects", "peaks"]),
        exceptions_part(study.exceptions),
        Part(
            "Does the effect of a layer tell how well editing works there?",
            explained_in_words(study), [r2_table(study)], ["r2", "scatter"],
        ),
        Part("Scores by layer", [], [], ["scores"]),
        Part("Choosing a layer by traces", choices_in_words(study), [choice_table(study)], []),
        Part("Other scores", [], [outcome_table(study)], []),
        Part("Other ways to look at the effect", [], [robustness_table(study)], []),
    ]  # fmt: skip


def to_markdown(study: "Localisation") -> str:
    """The page as Markdown."""
    return markdown_page(TITLE, page_parts(study), _ALT)


def to_html(study: "Localisation") -> str:
    """The page as HTML, pictures included."""
    parts = page_parts(study)
    names = [name for part in parts for name in part.pictures]
    return html_page(TITLE, parts, {name: draw_picture(study, name) for name in names})


def save_report(study: "Localisation", folder: Path) -> list[Path]:
    """Write everything; see `Localisation.save`."""
    files = [folder / f"{name}.png" for name in _ALT]
    for file in files:
        draw_picture(study, file.stem, file)
    texts = {
        "report.md": to_markdown(study),
        "report.html": to_html(study),
        "rows.csv": to_csv(study.rows()),
        "regressions.csv": to_csv([one.row() for one in (*study.regressions, *study.robustness)]),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [*(folder / name for name in texts), *files]
