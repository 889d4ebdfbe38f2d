"""The picture of relations: S of each with its interval, and beside it what S is made of."""

import math
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from factlab.data.relation_names import relation_label
from factlab.estimate import Estimate
from factlab.evaluation.scoring.scores import SCORE, SCORE_PARTS
from factlab.evaluation.studies.drawing import (
    MEANINGS,
    UNEDITED,
    caption,
    finish_panel,
    score_colours,
)
from factlab.figures import Picture, new_picture

if TYPE_CHECKING:
    from factlab.evaluation.studies.result import Study

_BESIDE = 0.22  # of a line, by which the dots of the parts stand above each other


def draw_relations(study: "Study") -> Picture:
    """Two panels that share their lines, one for each relation."""
    points = study.points
    figure = new_picture(9.0, 1.9 + 0.25 * len(points))
    left, right = figure.subplots(1, 2, sharey=True)
    colours = score_colours(study.benchmark)
    for line, point in enumerate(points):
        for panel in (left, right):
            panel.axhline(line, color="0.94", linewidth=0.7, zorder=0)
        left.plot(
            [100 * point.unedited[SCORE].mean], [line], "o", markersize=5, markerfacecolor="white",
            markeredgecolor=UNEDITED, zorder=2, clip_on=False,
        )  # fmt: skip
        _dot(left, point.scores[SCORE], line, colours[SCORE], 6.0)
        for number, name in enumerate(SCORE_PARTS[study.benchmark]):
            _dot(right, point.scores[name], line + (number - 1) * _BESIDE, colours[name], 4.0)
    names = [f"{relation_label(str(p.place['relation']))}, n = {p.n}" for p in points]
    left.set_yticks(range(len(points)), labels=names, parse_math=False)
    left.set_ylim(len(points) - 0.4, -0.6)
    finish_panel(left, MEANINGS[SCORE], "score × 100")
    finish_panel(right, "What S is made of", "score × 100")
    for panel in (left, right):
        panel.grid(visible=False, axis="y")
        panel.set_xlim(0, 101)
    right.tick_params(left=False)
    _explain(figure, study)
    caption(figure, study, "All n facts of a relation in one edit. Bars: 95 % intervals.")
    return figure


def _dot(panel: Axes, estimate: Estimate, line: int | float, colour: str, size: float) -> None:
    if math.isnan(estimate.mean):
        return
    if estimate.has_interval:
        low, high = estimate.interval
        panel.plot(
            [100 * low, 100 * high], [line, line], color=colour, linewidth=size / 3, alpha=0.5,
            solid_capstyle="round", zorder=2,
        )  # fmt: skip
    panel.plot([100 * estimate.mean], [line], "o", color=colour, markersize=size, zorder=3)


def _explain(figure: Picture, study: "Study") -> None:
    marks = [
        Line2D([], [], color=colour, marker="o", linestyle="", markersize=5, label=MEANINGS[name])
        for name, colour in score_colours(study.benchmark).items()
        if name != SCORE
    ]
    hollow = Line2D(
        [], [], marker="o", linestyle="", markersize=5, markerfacecolor="white",
        markeredgecolor=UNEDITED, label="S of the unedited model",
    )  # fmt: skip
    figure.legend(
        handles=[hollow, *marks], loc="outside upper center", ncols=4, fontsize=8, frameon=False,
        handletextpad=0.2, columnspacing=1.2,
    )  # fmt: skip
