"""The report of the study: what came out, in words and numbers, as Markdown and as HTML."""

import html
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from factlab.evaluation.localising.findings import (
    choices_in_words,
    explained_in_words,
    method_in_words,
    traces_in_words,
)
from factlab.evaluation.localising.pictures import draw_picture
from factlab.evaluation.localising.r2_tables import (
    Table,
    choice_table,
    outcome_table,
    r2_table,
    robustness_table,
)
from factlab.evaluation.reporting.formats import markdown_line, plain
from factlab.evaluation.studies.tables import to_csv
from factlab.figures import as_html
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


class Part(NamedTuple):
    """A part of the page.

    Attributes:
        heading: above it.
        paragraphs: below that.
        tables: then.
        pictures: last, by name.
    """

    heading: str
    paragraphs: list[str]
    tables: list[Table]
    pictures: list[str]


def page_parts(study: "Localisation") -> list[Part]:
    """The page, part by part."""
    return [
        Part("What was done", method_in_words(study), [], []),
        Part("Where the facts are held", traces_in_words(study), [], ["effects", "peaks"]),
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
    lines = [f"# {TITLE}", ""]
    for part in page_parts(study):
        lines += [f"## {part.heading}", ""]
        for paragraph in part.paragraphs:
            lines += [plain(paragraph), ""]
        for table in part.tables:
            sides = ["---"] * table.n_words + ["---:"] * (len(table.heads) - table.n_words)
            lines += [markdown_line(table.heads), markdown_line(sides)]
            lines += [*map(markdown_line, table.lines), "", plain(table.note), ""]
        for name in part.pictures:
            lines += [f"![{_ALT[name]}]({name}.png)", ""]
    return "\n".join(lines)


def to_html(study: "Localisation") -> str:
    """The page as HTML, pictures included."""
    body = [f"<h1>{html.escape(TITLE)}</h1>"]
    for part in page_parts(study):
        body.append(f"<h2>{html.escape(part.heading)}</h2>")
        body += [f"<p>{html.escape(paragraph)}</p>" for paragraph in part.paragraphs]
        for table in part.tables:
            body.append(_html_table(table))
            body.append(f"<p><small>{html.escape(table.note)}</small></p>")
        body += [as_html(draw_picture(study, name)) for name in part.pictures]
    style = (
        "body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse;font-size:.85rem}td,th{padding:.2rem .6rem;text-align:left;"
        "border-bottom:1px solid #ddd}img{display:block;margin:1rem 0}"
    )
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(TITLE)}'
        f"</title><style>{style}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _html_table(table: Table) -> str:
    heads = "".join(f"<th>{html.escape(head)}</th>" for head in table.heads)
    lines = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>"
        for line in table.lines
    )
    return f"<table><tr>{heads}</tr>{lines}</table>"


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
