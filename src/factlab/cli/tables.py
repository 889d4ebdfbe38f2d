"""Tables for the terminal."""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    right: set[int] | None = None,
    title: str | None = None,
) -> Table:
    """A plain table; text is shown as it is, never read as markup.

    Args:
        columns: headings.
        rows: cells, as many in each row as there are columns.
        right: numbers of the columns to align on the right.
        title: above the table.
    """
    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for i, name in enumerate(columns):
        made.add_column(name, justify="right" if i in (right or set()) else "left")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return made
