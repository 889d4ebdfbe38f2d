"""A report as plain text for a terminal, and as HTML for a notebook."""

import html
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from factlab.evaluation.reporting.formats import cells, header, table_title
from factlab.evaluation.reporting.notes import notes, short_legend
from factlab.evaluation.reporting.ripple_table import ripple_lines
from factlab.evaluation.reporting.tables import ReportTable

if TYPE_CHECKING:
    from factlab.evaluation.reporting.eval_report import EvalReport

_WIDTH = 100


def to_text(report: "EvalReport") -> str:
    """Tables with their notes, lined up by spaces, and once what the columns mean."""
    parts = [_table_text(table) for table in report.tables]
    return "\n\n".join([*parts, textwrap.fill(short_legend(report.tables), _WIDTH)])


def to_html(report: "EvalReport") -> str:
    """The same as HTML."""
    parts = [_table_html(table) for table in report.tables]
    return "\n".join([*parts, f"<p><small>{html.escape(short_legend(report.tables))}</small></p>"])


def summary(report: "EvalReport") -> str:
    """What is in a report, in a line for each table."""
    lines = [
        f"{table_title(table)}: {', '.join(row.label for row in table.rows)}"
        for table in report.tables
    ]
    shown = [textwrap.shorten(line, _WIDTH, placeholder=" ...") for line in lines]
    return "\n".join(
        ["EvalReport, to be printed, plotted or saved:", *(f"  {line}" for line in shown)]
    )


def aligned_lines(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells, lined up by spaces: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join([
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]).rstrip()
        for line in lines
    ]  # fmt: skip


def html_table(title: str, lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as a table of HTML, the first as its head."""
    heads, *rows = lines
    body = [_row_html("th", heads), *(_row_html("td", row) for row in rows)]
    return f"<table><caption>{html.escape(title)}</caption>{''.join(body)}</table>"


def _table_text(table: ReportTable) -> str:
    said = [textwrap.fill(note, _WIDTH) for note in notes(table)]
    for case in table.cases:
        said += [f"\nCase {case.case_id}: {case.statement}"]
        said += [f"  {label}: {text}" for label, text in case.lines()]
        labels = [f"  {model.label}" for model in case.models]
        for form, prompt, *answers in case.answer_lines()[1:]:
            said += [f"  [{form}] {prompt}"]
            said += [f"  {label}: {text}" for label, text in zip(labels, answers, strict=True)]
    ripple = ripple_lines(table)
    blocks = [table_title(table), *aligned_lines(_lines(table))]
    blocks += ["", *aligned_lines(ripple)] if ripple else []
    return "\n".join([*blocks, *said])


def _table_html(table: ReportTable) -> str:
    said = "".join(f"<p><small>{html.escape(note)}</small></p>" for note in notes(table))
    ripple = ripple_lines(table)
    below = html_table("ripple effects", ripple) if ripple else ""
    return html_table(table_title(table), _lines(table)) + below + said


def _row_html(tag: str, values: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values) + "</tr>"


def _lines(table: ReportTable) -> list[list[str]]:
    return [header(table), *(cells(table, row) for row in table.rows)]
