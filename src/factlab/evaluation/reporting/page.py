"""A report page: parts with paragraphs, tables and pictures, as Markdown and as HTML."""

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from factlab.evaluation.reporting.formats import markdown_line, plain
from factlab.figures import as_html

if TYPE_CHECKING:
    from factlab.figures import Picture

_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;font-size:.85rem}td,th{padding:.2rem .6rem;text-align:left;"
    "border-bottom:1px solid #ddd}img{display:block;margin:1rem 0}"
)


class Table(NamedTuple):
    """A table as it is shown.

    Attributes:
        heads: of the columns.
        lines: of cells.
        n_words: how many columns are words; the others are numbers.
        note: below it.
    """

    heads: list[str]
    lines: list[list[str]]
    n_words: int
    note: str


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


def markdown_page(title: str, parts: Sequence[Part], alts: Mapping[str, str]) -> str:
    """The page as Markdown; pictures are files beside it.

    Args:
        title: of the page.
        parts: in their order.
        alts: what each picture shows, by name.
    """
    lines = [f"# {title}", ""]
    for part in parts:
        lines += [f"## {part.heading}", ""]
        for paragraph in part.paragraphs:
            lines += [plain(paragraph), ""]
        for table in part.tables:
            sides = ["---"] * table.n_words + ["---:"] * (len(table.heads) - table.n_words)
            lines += [markdown_line(table.heads), markdown_line(sides)]
            lines += [*map(markdown_line, table.lines), "", plain(table.note), ""]
        for name in part.pictures:
            lines += [f"![{alts[name]}]({name}.png)", ""]
    return "\n".join(lines)


def html_page(title: str, parts: Sequence[Part], pictures: "Mapping[str, Picture]") -> str:
    """The page as HTML, pictures included.

    Args:
        title: of the page.
        parts: in their order.
        pictures: by name.
    """
    body = [f"<h1>{html.escape(title)}</h1>"]
    for part in parts:
        body.append(f"<h2>{html.escape(part.heading)}</h2>")
        body += [f"<p>{html.escape(paragraph)}</p>" for paragraph in part.paragraphs]
        for table in part.tables:
            body.append(_html_table(table))
            body.append(f"<p><small>{html.escape(table.note)}</small></p>")
        body += [as_html(pictures[name]) for name in part.pictures]
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}'
        f"</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _html_table(table: Table) -> str:
    heads = "".join(f"<th>{html.escape(head)}</th>" for head in table.heads)
    lines = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>"
        for line in table.lines
    )
    return f"<table><tr>{heads}</tr>{lines}</table>"
