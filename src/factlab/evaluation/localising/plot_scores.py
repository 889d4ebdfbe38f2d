"""Pictures of scores: by edited layer, and against the effect at that layer."""

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import FixedLocator

from factlab.editing.variants import VARIANT_NAMES, Variant
from factlab.estimate import Estimate
from factlab.evaluation.localising.explained import observations
from factlab.evaluation.localising.plot_effects import caption
from factlab.evaluation.studies.drawing import Curve, draw_curves, finish_panel
from factlab.figures import LINE_COLOURS, Picture, new_picture

if TYPE_CHECKING:
    from factlab.evaluation.localising.result import Localisation

SCORE_NAMES = {
    "rewrite": "rewrite", "paraphrase": "paraphrase", "neighborhood": "neighbourhood",
    "essence": "essence", "overall": "overall",
}  # fmt: skip


def draw_scores(study: "Localisation") -> Picture:
    """A row of panels for each score, one for each problem; a line for each method."""
    names = [name for name in SCORE_NAMES if _has(study, name)]
    figure = new_picture(2.3 * max(2, len(study.variants)) + 0.6, 1.7 * len(names) + 1.1)
    panels = figure.subplots(
        len(names), len(study.variants), squeeze=False, sharex=True, sharey="row"
    )
    for row, name in enumerate(names):
        for column, variant in enumerate(study.variants):
            panel = panels[row, column]
            curves = [
                Curve(
                    method, [float(layer) for layer in study.layers],
                    mean_scores(study, method, variant, name), colour,
                )
                for method, colour in zip(study.methods, LINE_COLOURS, strict=False)
            ]  # fmt: skip
            draw_curves(panel, curves, 1.0)
            finish_panel(panel, VARIANT_NAMES[variant] if row == 0 else "")
            panel.xaxis.set_major_locator(FixedLocator(study.layers))
        panels[row, 0].set_ylabel(SCORE_NAMES[name], fontsize=9)
        panels[row, 0].set_ylim(top=min(panels[row, 0].get_ylim()[1], 1.02))
    for panel in panels[-1]:
        panel.set_xlabel("edited layer", fontsize=9)
    for method, colour in zip(study.methods, LINE_COLOURS, strict=False):
        panels[0, -1].plot([], [], color=colour, label=method)
    figure.legend(
        *panels[0, -1].get_legend_handles_labels(), loc="outside upper center", fontsize=8,
        frameon=False, ncols=len(study.methods),
    )  # fmt: skip
    caption(figure, study, "Bars: 95 % intervals over facts.")
    return figure


def _has(study: "Localisation", score: str) -> bool:
    return any(row[score] is not None for row in study.scored)


def mean_scores(study: "Localisation", method: str, variant: Variant, score: str) -> list[Estimate]:
    """The mean over facts of a score at each edited layer."""
    by_layer: dict[int, list[float]] = {layer: [] for layer in study.layers}
    for _, layer, value in study.values(method, variant, score):
        by_layer[layer].append(value)
    return [Estimate.of(values) for values in by_layer.values()]


def draw_scatter(
    study: "Localisation", method: str | None = None, variant: Variant | None = None
) -> Picture:
    """The rewrite score of each fact against its effect, a panel for each edited layer.

    Args:
        study: with edits.
        method: by default ROME, or the first.
        variant: by default error injection, or the first.
    """
    method = method or ("rome" if "rome" in study.methods else study.methods[0])
    variant = variant or study.variants[0]
    rows = observations(study, method, variant, "rewrite")
    n_columns = min(4, len(study.layers))
    n_lines = -(-len(study.layers) // n_columns)
    figure = new_picture(2.1 * n_columns + 0.5, 2.0 * n_lines + 0.9)
    panels = figure.subplots(n_lines, n_columns, squeeze=False, sharex=True, sharey=True)
    for panel in panels.flat[len(study.layers) :]:
        panel.set_visible(False)
    for panel, layer in zip(panels.flat, study.layers, strict=False):
        own = [row for row in rows if row.layer == layer and not math.isnan(row.effect)]
        effects, scores = [row.effect for row in own], [row.score for row in own]
        panel.plot([0, 1], [0, 1], color="0.75", linewidth=0.8, linestyle="--", zorder=1)
        panel.scatter(effects, scores, s=9, color=LINE_COLOURS[0], alpha=0.6, linewidths=0)
        finish_panel(panel, f"layer {layer}")
        if len(own) > 2 and min(effects) < max(effects):
            slope, offset = np.polyfit(effects, scores, 1)
            ends = np.array([min(effects), max(effects)])
            panel.plot(ends, offset + slope * ends, color=LINE_COLOURS[1], linewidth=1.6)
            r = np.corrcoef(effects, scores)[0, 1] if min(scores) < max(scores) else math.nan
            panel.set_title(f"layer {layer}, r = {r:+.2f}", fontsize=9.5, loc="left")
    for panel in panels[-1]:
        panel.set_xlabel("effect", fontsize=9)
    for panel in panels[:, 0]:
        panel.set_ylabel("rewrite score", fontsize=9)
    caption(
        figure, study,
        f"{method}, {VARIANT_NAMES[variant]}: a dot for each fact. Dashed: score = effect. "
        "Orange: least squares.",
    )  # fmt: skip
    return figure
