"""The picture of a study."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from factlab.evaluation.studies.plot_layers import draw_layers
from factlab.evaluation.studies.plot_mixture import draw_mixture
from factlab.evaluation.studies.plot_relations import draw_relations
from factlab.evaluation.studies.plot_scaling import draw_scaling
from factlab.figures import Picture, save_picture

if TYPE_CHECKING:
    from factlab.evaluation.studies.result import Study

_DRAWN: Mapping[str, "Callable[[Study], Picture]"] = {
    "relations": draw_relations,
    "mixture": draw_mixture,
    "layers": draw_layers,
    "scaling": draw_scaling,
}


def plot_study(study: "Study", path: str | Path | None = None) -> Picture:
    """Draw a study; see `Study.plot`."""
    figure = _DRAWN[study.kind](study)
    save_picture(figure, path)
    return figure
