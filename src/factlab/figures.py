"""What all figures have in common: their look, their files, and how a notebook shows them."""

import base64
import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from factlab.pictures import check_picture_path
from factlab.storage import write_atomically


class Picture(Figure):
    """A matplotlib figure that a notebook shows by itself; pyplot knows nothing of it."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def new_picture(width: float, height: float) -> Picture:
    """An empty figure of so many inches, at 150 dots each, that lays itself out."""
    return Picture(figsize=(width, height), layout="constrained", dpi=150)


def save_picture(figure: Figure, path: str | Path | None) -> None:
    """Write a figure to a file, if one is named.

    Raises:
        InvalidRequestError: the file name's ending is none of `factlab.pictures.FORMATS`.
        StorageError: the file cannot be written.
    """
    if path is not None:
        check_picture_path(Path(path))
        write_atomically(Path(path), figure.savefig)


def as_html(figure: Picture) -> str:
    """A figure as an image of HTML."""
    data = base64.b64encode(figure._repr_png_()).decode()
    return f'<img alt="A figure" style="max-width: 100%" src="data:image/png;base64,{data}"/>'


# -- look --------------------------------------------------------------------------------------


# Told apart by the colour-blind too: S, then its three parts.
SCORE_COLOURS = ("0.35", "#0072b2", "#009e73", "#e69f00")
# Of lines beside each other.
LINE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "0.2", "#999933")


def clear_spines(panel: Axes) -> None:
    """Small ticks and no frame."""
    panel.tick_params(labelsize=8, length=2)
    for side in panel.spines.values():
        side.set_visible(False)


def footnote(figure: Figure, text: str) -> None:
    """Small print below everything; a dollar sign does not begin a formula."""
    figure.supxlabel(printable(text), fontsize=8, color="0.35", parse_math=False)


def printable(text: str) -> str:
    """A text whose signs all have a shape: control characters, as a token may be, become dots."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "·" for sign in text)


def shortened(text: str, n_characters: int) -> str:
    """A text for a title: one line, its middle left out where it is longer than that."""
    line = " ".join(text.split())
    if len(line) <= n_characters:
        return line
    half = (n_characters - 3) // 2
    return f"{line[:half].rstrip()} … {line[-half:].lstrip()}"
