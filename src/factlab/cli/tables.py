"""Tables for the terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    right: set[int] | None = None,
    title: str | None = None,
) -> RenderableType:
    """A plain table; text is shown as it is, never read as markup.

    Args:
        columns: headings.
        rows: cells, as many in each row as there are columns.
        right: numbers of the columns to align on the right, whose cells are never broken.
        title: above the table.
    """
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(columns):
        is_number = i in (right or set())
        # A name that is too long goes on in the next line: cut off it could not be copied.
        justify, overflow = ("right" if is_number else "left"), "fold"
        made.add_column(name, justify=justify, overflow=overflow, no_wrap=is_number)
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    # The table's own title would be broken to the width of the table.
    return made if title is None else Group(Text(f"\n{title}", style="italic"), made)
