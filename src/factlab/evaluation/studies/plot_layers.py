"""The picture of layers: scores against the top layer, a line for each number of layers."""

from typing import TYPE_CHECKING

from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.ticker import FixedLocator

from factlab.errors import counted
from factlab.evaluation.scoring.scores import SCORE, SCORE_PARTS
from factlab.evaluation.studies.drawing import (
    MEANINGS,
    Curve,
    caption,
    draw_curves,
    draw_unedited,
    finish_panel,
    label_ends,
)
from factlab.figures import Picture, new_picture

if TYPE_CHECKING:
    from factlab.evaluation.studies.result import Study


def draw_layers(study: "Study") -> Picture:
    """Four panels: S and its parts."""
    names = (SCORE, *SCORE_PARTS[study.benchmark])
    tops = sorted({int(point.place["top"]) for point in study.points})
    figure = new_picture(9.0, 6.4)
    panels = figure.subplots(2, 2, sharex=True)
    for panel, name in zip(panels.flat, names, strict=True):
        curves = _curves(study, name)
        draw_curves(panel, curves, 100.0)
        draw_unedited(panel, 100 * study.points[0].unedited[name].mean)
        panel.set_ylim(top=min(panel.get_ylim()[1], 102))
        panel.xaxis.set_major_locator(FixedLocator(tops))
        finish_panel(panel, MEANINGS[name])
    for panel in panels[:, 0]:
        panel.set_ylabel("score × 100", fontsize=9)
    for panel in panels[-1]:
        panel.set_xlabel("top edited layer", fontsize=9)
    label_ends(panels[1, 1], _curves(study, names[-1]), 100.0, 0.08)
    caption(figure, study, "Dotted: the unedited model. Bars: 95 % intervals.")
    return figure


def _curves(study: "Study", name: str) -> list[Curve]:
    counts = sorted({int(point.place["count"]) for point in study.points})
    shades = colormaps["viridis"]
    found: list[Curve] = []
    for number, count in enumerate(counts):
        own = [point for point in study.points if point.place["count"] == count]
        own.sort(key=lambda point: point.place["top"])
        found.append(
            Curve(
                counted(count, "layer"),
                [float(point.place["top"]) for point in own],
                [point.scores[name] for point in own],
                to_hex(shades(0.85 * number / max(1, len(counts) - 1))),
            )
        )
    return found
