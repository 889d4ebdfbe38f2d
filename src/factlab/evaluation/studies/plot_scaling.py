"""The picture of scaling: scores against the number of facts, and what is forgotten."""

import math
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
    draw_curve,
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
_STEEP = 20.0  # times as much as the least, from where on an axis of perplexity is logarithmic


def draw_scaling(study: "Study") -> Picture:
    """A panel for each score; then the first facts as others follow, and all turns at the end."""
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
    caption(figure, study, "Bands: 95 % intervals. Logarithmic axes of facts.")
    return figure


def _draw_score(panel: Axes, study: "Study", name: str) -> None:
    scale, scored = scale_of(study.benchmark, name), False
    for label, colour in _colours(study).items():
        points = _of(study, label, "all")
        xs = [float(point.place["written"]) for point in points]
        draw_curve(panel, Curve(label, xs, [p.scores[name] for p in points], colour), scale)
        scored = scored or bool(points)
    largest = max(study.points, key=lambda point: int(point.place["written"]))
    draw_unedited(panel, scale * largest.unedited[name].mean)
    finish_panel(panel, MEANINGS[name], "facts in the model")
    _log_axis(panel, [p for p in study.points if p.place["measured"] == "all"])
    if name == SCORE or name in SCORE_PARTS[study.benchmark]:
        panel.set_ylim(0, 102)
    elif name == "perplexity":
        values = [p.scores[name].mean for p in study.points if p.scores[name].mean > 0]
        if values and max(values) > _STEEP * min(values):
            panel.set_yscale("log")


def _draw_first(panel: Axes, study: "Study") -> None:
    """The facts of the first turn, right after it and while others are written."""
    ends: list[int] = []
    for label, colour in _colours(study).items():
        points = [
            point
            for measured in ("right after", "later", "at the end")
            for point in _of(study, label, measured)
            if point.place["first"] == 1
        ]
        ends += [int(point.place["last"]) for point in points]
        xs = [float(point.place["written"]) for point in points]
        draw_curve(panel, Curve(label, xs, [p.scores[SCORE] for p in points], colour), 100.0)
    first = f"1–{ends[0]:,}" if len(set(ends)) == 1 else "of the first turns"
    finish_panel(panel, f"S of facts {first}, as more follow", "facts in the model")
    _log_axis(panel, [p for p in study.points if p.place["first"] == 1])
    panel.set_ylim(0, 102)


def _draw_end(panel: Axes, study: "Study") -> None:
    """The facts of each turn right after it, and at the end."""
    for label, colour in _colours(study).items():
        for measured, style in (("right after", ":"), ("at the end", "-")):
            points = _of(study, label, measured)
            xs = [(int(p.place["first"]) + int(p.place["last"])) / 2 for p in points]
            estimates = [p.scores[SCORE] for p in points]
            if measured == "right after":
                estimates = [Estimate(e.mean, math.nan) for e in estimates]
            draw_curve(panel, Curve(label, xs, estimates, colour, style), 100.0)
    finish_panel(panel, "S at the end (dotted: right after)", "place of the fact in the sequence")
    panel.set_ylim(0, 102)


def _colours(study: "Study") -> dict[str, str]:
    labels = dict.fromkeys(str(point.place["method"]) for point in study.points)
    return {label: LINE_COLOURS[number % len(LINE_COLOURS)] for number, label in enumerate(labels)}


def _of(study: "Study", label: str, measured: str) -> list[Point]:
    found = [
        point
        for point in study.points
        if point.place["method"] == label and point.place["measured"] == measured
    ]
    return sorted(found, key=lambda point: (int(point.place["written"]), int(point.place["last"])))


def _log_axis(panel: Axes, points: "list[Point]") -> None:
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
