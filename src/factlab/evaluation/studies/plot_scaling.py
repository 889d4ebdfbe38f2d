"""The picture of scaling: scores against the number of facts, and what is forgotten."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from factlab.estimate import Estimate
from factlab.evaluation.scoring.scores import SCORE, SCORE_PARTS
from factlab.evaluation.studies.drawing import (
    MEANINGS,
    UNEDITED,
    Curve,
    caption,
    draw_curves,
    draw_unedited,
    finish_panel,
    scale_of,
)
from factlab.evaluation.studies.points import Point
from factlab.figures import LINE_COLOURS, Picture, new_picture

if TYPE_CHECKING:
    from factlab.evaluation.studies.result import Study

_PER_LINE = 3
_SHOWN_BESIDE = ("entropy_bits", "consistency", "perplexity")
_SHARES = (-2, 102)  # a dot at 0 is whole
_STEEP = 20.0  # times as much as the least, from where on an axis of perplexity is logarithmic


def draw_scaling(study: "Study") -> Picture:
    """A panel for each score; then the first facts as others follow, and all at the end."""
    names = [SCORE, *SCORE_PARTS[study.benchmark]]
    names += [name for name in _SHOWN_BESIDE if name in study.columns]
    parted = any(point.place["measured"] != "all" for point in study.points)
    n_panels = len(names) + 2 * parted
    n_lines = -(-n_panels // _PER_LINE)
    figure = new_picture(10.0, 1.3 + 2.5 * n_lines)
    panels = [*figure.subplots(n_lines, _PER_LINE, squeeze=False).flat]
    for panel, name in zip(panels, names, strict=False):
        _draw_score(panel, study, name)
    if parted:
        _draw_first(panels[len(names)], study)
        _draw_end(panels[len(names) + 1], study)
    for panel in panels[n_panels:]:
        panel.set_axis_off()
    _explain(figure, study)
    caption(figure, study, "Bars: 95 % intervals. All × 100 but perplexity.")
    return figure


def _draw_score(panel: Axes, study: "Study", name: str) -> None:
    scale = scale_of(study.benchmark, name)
    points = [point for point in study.points if point.place["measured"] == "all"]
    curves = _curves(study, points, name, "written")
    draw_curves(panel, curves, scale, is_log=True)
    largest = max(points, key=lambda point: int(point.place["written"]))
    draw_unedited(panel, scale * largest.unedited[name].mean)
    finish_panel(panel, MEANINGS[name], "facts in the model")
    _log_axis(panel, points)
    if name == SCORE or name in SCORE_PARTS[study.benchmark]:
        panel.set_ylim(*_SHARES)
    elif name == "perplexity":
        values = [p.scores[name].mean for p in points if p.scores[name].mean > 0]
        if values and max(values) > _STEEP * min(values):
            panel.set_yscale("log")
    else:  # of few texts, intervals reach below what there can be
        panel.set_ylim(bottom=max(0.0, panel.get_ylim()[0]))


def _draw_first(panel: Axes, study: "Study") -> None:
    """The facts of the first turns, right after them and while others are written."""
    points = [
        point
        for point in study.points
        if point.place["measured"] != "all" and point.place["first"] == 1
    ]
    draw_curves(panel, _curves(study, points, SCORE, "written"), 100.0, is_log=True)
    lasts = {int(point.place["last"]) for point in points}
    first = f"facts 1–{max(lasts):,}" if len(lasts) == 1 else "the first facts"
    finish_panel(panel, f"S of {first}, as more follow", "facts in the model")
    _log_axis(panel, points)
    panel.set_ylim(*_SHARES)


def _draw_end(panel: Axes, study: "Study") -> None:
    """The facts of each turn right after it, and at the end."""
    for measured, style in (("right after", ":"), ("at the end", "-")):
        points = [point for point in study.points if point.place["measured"] == measured]
        curves = _curves(study, points, SCORE, "last")
        if measured == "right after":
            bare = [[Estimate(e.mean, math.nan) for e in curve.estimates] for curve in curves]
            curves = [
                curve._replace(estimates=own, style=style, width=1.0)
                for curve, own in zip(curves, bare, strict=True)
            ]
        draw_curves(panel, curves, 100.0)
    finish_panel(panel, "S at the end (dotted: right after)", "last fact of each group")
    panel.set_ylim(*_SHARES)


def _curves(study: "Study", points: Sequence[Point], name: str, x: str) -> list[Curve]:
    """A curve for each method, of some points."""
    found: list[Curve] = []
    for label, colour in _colours(study).items():
        own = [point for point in points if point.place["method"] == label]
        own.sort(key=lambda point: int(point.place[x]))
        xs = [float(point.place[x]) for point in own]
        found.append(Curve(label, xs, [point.scores[name] for point in own], colour))
    return found


def _colours(study: "Study") -> dict[str, str]:
    labels = dict.fromkeys(str(point.place["method"]) for point in study.points)
    return {label: LINE_COLOURS[number % len(LINE_COLOURS)] for number, label in enumerate(labels)}


def _log_axis(panel: Axes, points: Sequence[Point]) -> None:
    numbers = sorted({int(point.place["written"]) for point in points})
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(FixedLocator(numbers))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticklabels([f"{number:,}" for number in numbers])


def _explain(figure: Picture, study: "Study") -> None:
    marks = [
        Line2D([], [], color=colour, marker="o", markersize=4, linewidth=1.6, label=label)
        for label, colour in _colours(study).items()
    ]
    dotted = Line2D([], [], color=UNEDITED, linestyle=(0, (1, 2)), label="unedited model")
    figure.legend(
        handles=[*marks, dotted], loc="outside upper center", ncols=4, fontsize=8.5, frameon=False
    )
