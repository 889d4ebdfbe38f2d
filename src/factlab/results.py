"""What results have in common: how they show themselves, and how they become tables.

A result is a value: two are equal if they hold the same (`factlab.equality`). `print` says the main
things in a few lines; a notebook adds pictures, or where there are none the first rows. What the
workbench draws, a notebook draws by the same scripts, on top of the words and the first picture.
"""

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from factlab.data_frames import data_frame
from factlab.pages.frames import Drawing, framed

if TYPE_CHECKING:
    from pathlib import Path

    import pandas  # pyright: ignore[reportMissingImports]

    from factlab.figures import Picture

_ROWS_SHOWN = 20


class Result:
    """What says by its `repr` what it is; a notebook shows the same and what belongs to it."""

    __slots__ = ()

    def _words(self) -> str:
        """What a notebook shows first."""
        return repr(self)

    def _drawing(self) -> Drawing | None:
        """What the workbench draws of it, if it does."""
        return None

    def _pictures(self) -> "Sequence[Picture]":
        """What a notebook shows below the words."""
        return ()

    def _tables(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """What it shows instead where there are no pictures: rows by their caption."""
        return {}

    def _repr_html_(self) -> str:
        said = f"<pre>{html.escape(self._words())}</pre>"
        below, drawing = _images(self._pictures()), self._drawing()
        if not below:
            below = [_as_html(caption, rows) for caption, rows in self._tables().items()]
        if drawing is None:
            return said + "".join(below)
        return framed(drawing, said + "".join(below[:1])) + "".join(below[1:])


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

    def _tables(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        return {"": self.rows()}


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


def _images(pictures: "Sequence[Picture]") -> list[str]:
    """Pictures as HTML."""
    if not pictures:
        return []
    from factlab.figures import as_html  # noqa: PLC0415 - matplotlib when drawing only

    return [*map(as_html, pictures)]


def _as_html(caption: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The first rows as a table of HTML."""
    if not rows:
        return ""
    name = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(_cell(value))}</td>' for value in row.values())}</tr>"
        for row in rows[:_ROWS_SHOWN]
    )
    more = len(rows) - _ROWS_SHOWN
    rest = f"<p><small>and {more:,} more rows</small></p>" if more > 0 else ""
    return f"<table>{name}<tr>{heads}</tr>{body}</table>{rest}"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "—" if value is None else str(value)
