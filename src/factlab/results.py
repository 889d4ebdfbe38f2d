"""What results have in common: how they show themselves, and how they become tables.

A result is a value: two are equal if they hold the same (`factlab.equality`). `print` says the main
things in a few lines; a notebook adds pictures, or where there are none the first rows.
"""

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from factlab.data_frames import data_frame

if TYPE_CHECKING:
    from pathlib import Path

    import pandas  # pyright: ignore[reportMissingImports]

    from factlab.figures import Picture

_ROWS_SHOWN = 20


class Result:
    """What says by its `repr` what it is; a notebook shows the same and what belongs to it."""

    __slots__ = ()

    def _pictures(self) -> "Sequence[Picture]":
        """What a notebook shows below the words."""
        return ()

    def _table(self) -> Sequence[Mapping[str, Any]]:
        """What it shows instead where there are no pictures."""
        return ()

    def _repr_html_(self) -> str:
        said, pictures = f"<pre>{html.escape(repr(self))}</pre>", self._pictures()
        if not pictures:
            return said + _as_html(self._table())
        from factlab.figures import as_html  # noqa: PLC0415 - matplotlib when drawing only

        return said + "".join(map(as_html, pictures))


class Tabular(Result):
    """A result that is a table: one row for each thing that was found."""

    __slots__ = ()

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary for each row, all with the same keys."""
        raise NotImplementedError

    def to_pandas(self) -> "pandas.DataFrame":
        """`rows` as a data frame.

        Raises:
            MissingPackageError: pandas, which factlab itself does not need, is not installed.
        """
        return data_frame(self.rows())

    def _table(self) -> Sequence[Mapping[str, Any]]:
        return self.rows()


class Drawn(Result):
    """A result that can be drawn."""

    __slots__ = ()

    def plot(self, path: "str | Path | None" = None) -> "Picture":
        """Draw it.

        Args:
            path: where to write it too, as .png, .pdf or .svg.

        Returns:
            A matplotlib figure, which a notebook shows.

        Raises:
            InvalidRequestError: the file name's ending is none of these.
            StorageError: the file cannot be written.
        """
        raise NotImplementedError

    def _pictures(self) -> "Sequence[Picture]":
        return [self.plot()]

    def _repr_png_(self) -> bytes | None:
        pictures = self._pictures()
        return pictures[0]._repr_png_() if pictures else None


def known(value: float) -> float | None:
    """A number for a table or for JSON, which has no NaN; None where there is none."""
    return None if math.isnan(value) else value


def _as_html(rows: Sequence[Mapping[str, Any]]) -> str:
    """The first rows as a table of HTML."""
    if not rows:
        return ""
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(_cell(value))}</td>' for value in row.values())}</tr>"
        for row in rows[:_ROWS_SHOWN]
    )
    more = len(rows) - _ROWS_SHOWN
    rest = f"<p><small>and {more:,} more rows</small></p>" if more > 0 else ""
    return f"<table><tr>{heads}</tr>{body}</table>{rest}"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "—" if value is None else str(value)
