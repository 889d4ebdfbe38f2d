"""The pictures of the study by their names."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from factlab.errors import InvalidRequestError, nearest
from factlab.evaluation.localising.plot_effects import draw_effects, draw_peaks
from factlab.evaluation.localising.plot_r2 import draw_r2
from factlab.evaluation.localising.plot_scores import draw_scatter, draw_scores
from factlab.figures import Picture, save_picture

if TYPE_CHECKING:
    from factlab.evaluation.localising.result import Localisation

_DRAWN: Mapping[str, "Callable[[Localisation], Picture]"] = {
    "effects": draw_effects,
    "peaks": draw_peaks,
    "scatter": draw_scatter,
    "scores": draw_scores,
    "r2": draw_r2,
}


def draw_picture(study: "Localisation", name: str, path: str | Path | None = None) -> Picture:
    """Draw one; see `Localisation.plot`."""
    if name not in _DRAWN:
        raise InvalidRequestError(
            f"There is no picture '{name}'.{nearest(name, _DRAWN)} Choose from {', '.join(_DRAWN)}."
        )
    if not study.edits:
        raise InvalidRequestError("Nothing has been edited yet. Go on with --resume.")
    figure = _DRAWN[name](study)
    save_picture(figure, path)
    return figure
