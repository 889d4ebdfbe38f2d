"""What the pictures of studies have in common."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.axes import Axes

from factlab.data.records import Benchmark
from factlab.estimate import Estimate
from factlab.evaluation.scoring.scores import METRICS, SCORE, SCORE_PARTS
from factlab.evaluation.studies.tables import n_records
from factlab.figures import SCORE_COLOURS, Picture, clear_spines, footnote, printable

if TYPE_CHECKING:
    from factlab.evaluation.studies.result import Study

UNEDITED = "0.55"
_APART = 0.3  # of the distance of two places, over which curves stand beside each other
_LABELS_END = 0.93  # of the height of a panel: its title is above
# What the scores are, in the figure itself.
MEANINGS: Mapping[str, str] = {
    SCORE: "S: harmonic mean of the three",
    "rewrite_success": "ES: the edited prompt",
    "paraphrase_success": "PS: its paraphrases",
    "neighborhood_success": "NS: other subjects",
    "efficacy": "Efficacy: the edited question",
    "paraphrase": "Paraphrase: asked otherwise",
    "specificity": "Specificity: other questions",
    "entropy_bits": "GE: fluency of texts, bits",
    "consistency": "RS: likeness to references",
    "essence": "Ess: what was known of the subject",
    "perplexity": "Perplexity on ordinary text",
    "drift_kl_nats": "KL on ordinary text, nats",
}


class Curve(NamedTuple):
    """A line with its intervals.

    Attributes:
        label: at its end.
        xs: ascending.
        estimates: as measured.
        colour: of the line.
        style: of the line, as matplotlib writes it.
        width: of the line, in points.
    """

    label: str
    xs: Sequence[float]
    estimates: Sequence[Estimate]
    colour: str
    style: str = "-"
    width: float = 1.6


def score_colours(benchmark: Benchmark) -> dict[str, str]:
    """The colour of S and of each of its parts."""
    return dict(zip((SCORE, *SCORE_PARTS[benchmark]), SCORE_COLOURS, strict=True))


def scale_of(benchmark: Benchmark, name: str) -> float:
    """What pictures multiply a score by."""
    return 100.0 if name == SCORE else METRICS[benchmark][name].scale


def draw_curves(panel: Axes, curves: Sequence[Curve], scale: float, is_log: bool = False) -> None:
    """Lines with dots, and their intervals as thin bars, beside each other where they share an x.

    Args:
        panel: to draw in.
        curves: at least one.
        scale: what to multiply their values by.
        is_log: whether the axis will be logarithmic.
    """
    every = sorted({x for curve in curves for x in curve.xs})
    steps = [b / a if is_log else b - a for a, b in pairwise(every)]
    step = min(steps, default=1.0)
    for number, curve in enumerate(curves):
        share = (number - (len(curves) - 1) / 2) * _APART / max(1, len(curves) - 1)
        xs = [x * step**share if is_log else x + share * step for x in curve.xs]
        means = [scale * estimate.mean for estimate in curve.estimates]
        measured = [place for place in zip(xs, means, strict=True) if not math.isnan(place[1])]
        panel.plot(
            [x for x, _ in measured], [mean for _, mean in measured], curve.style,
            color=curve.colour, linewidth=curve.width, marker="o", markersize=3.2,
            solid_capstyle="round", zorder=3,
        )  # fmt: skip
        for x, estimate in zip(xs, curve.estimates, strict=True):
            if estimate.has_interval:
                low, high = estimate.interval
                panel.plot(
                    [x, x], [scale * low, scale * high], color=curve.colour, linewidth=0.8,
                    alpha=0.55, zorder=2,
                )  # fmt: skip


def label_ends(panel: Axes, curves: Sequence[Curve], scale: float, apart: float) -> None:
    """The name of each curve at its right end, moved up or down until none covers another.

    Args:
        panel: with the curves; its limits must be set.
        curves: in the panel.
        scale: of their values.
        apart: the least distance of two names, as a share of the panel's height.
    """
    low, high = panel.get_ylim()
    ends = [
        (scale * known[-1] if known else (low + high) / 2, curve)
        for curve in curves
        for known in [[e.mean for e in curve.estimates if not math.isnan(e.mean)]]
    ]
    ends.sort(key=lambda end: end[0])
    places = _spread([(end - low) / (high - low) for end, _ in ends], apart)
    for place, (_, curve) in zip(places, ends, strict=True):
        panel.annotate(
            printable(curve.label), (1.0, place), xycoords="axes fraction",
            xytext=(3, 0), textcoords="offset points", color=curve.colour, fontsize=8, va="center",
            parse_math=False, annotation_clip=False,
        )  # fmt: skip


def _spread(places: Sequence[float], apart: float) -> list[float]:
    """Ascending places moved apart, between 0 and `_LABELS_END` if there is room."""
    moved = [*places]
    for _ in range(50):
        for i in range(len(moved) - 1):
            lack = apart - (moved[i + 1] - moved[i])
            if lack > 0:
                moved[i] -= lack / 2
                moved[i + 1] += lack / 2
        if moved and moved[-1] > _LABELS_END:
            moved[-1] = _LABELS_END
        if moved and moved[0] < 0:
            moved[0] = 0.0
    return moved


def draw_unedited(panel: Axes, level: float) -> None:
    """A dotted line for the unedited model."""
    if not math.isnan(level):
        panel.axhline(level, color=UNEDITED, linewidth=1.0, linestyle=(0, (1, 2)), zorder=1)


def finish_panel(panel: Axes, title: str, label: str = "") -> None:
    """Title, label, thin lines; no frame."""
    panel.set_title(title, fontsize=9.5, loc="left")
    clear_spines(panel)
    panel.grid(color="0.92", linewidth=0.6)
    panel.set_axisbelow(True)
    if label:
        panel.set_xlabel(label, fontsize=9)


def caption(figure: Picture, study: "Study", more: str) -> None:
    """What was measured, on how many records, and what marks mean, in small print."""
    where = f"{study.model} on {study.data} · {study.method} · {n_records(study)}"
    footnote(figure, f"{where}\n{more}")
