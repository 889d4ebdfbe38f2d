"""The picture of regressions: what layers explain, and what traces add."""

from typing import TYPE_CHECKING

import numpy as np

from factlab.editing.variants import VARIANT_NAMES
from factlab.evaluation.localising.plot_effects import caption
from factlab.evaluation.studies.drawing import finish_panel
from factlab.figures import LINE_COLOURS, Picture, new_picture

if TYPE_CHECKING:
    from factlab.evaluation.localising.result import Localisation


def draw_r2(study: "Localisation") -> Picture:
    """Stacked bars for each problem: R² of the layer, and ΔR² of the effect on top."""
    found = {(one.method, one.variant): one.regression for one in study.explained("rewrite")}
    figure = new_picture(1.9 * max(3, len(study.variants)) + 0.6, 3.6)
    panels = figure.subplots(1, len(study.variants), squeeze=False, sharey=True)
    places = np.arange(len(study.methods))
    for panel, variant in zip(panels.flat, study.variants, strict=True):
        own = [found[method, variant] for method in study.methods]
        layer = np.nan_to_num([one.r2_layer for one in own])
        extra = np.nan_to_num([one.delta for one in own])
        panel.bar(places, layer, 0.7, color=LINE_COLOURS[0], label="layer")
        panel.bar(places, extra, 0.7, bottom=layer, color=LINE_COLOURS[1], label="extra by tracing")
        for place, one, top in zip(places, own, layer + extra, strict=True):
            text = f"+{one.delta:.3f}" if one.can_be_made else "—"
            panel.annotate(text, (place, top), ha="center", va="bottom", fontsize=7)
        panel.set_xticks(places, study.methods, rotation=40, ha="right")
        finish_panel(panel, VARIANT_NAMES[variant])
    panels[0, 0].set_ylabel("R² of the rewrite score", fontsize=9)
    panels[0, 0].set_ylim(0, 1.05)
    figure.legend(
        *panels[0, 0].get_legend_handles_labels(), loc="outside upper center", fontsize=8,
        frameon=False, ncols=2,
    )  # fmt: skip
    caption(figure, study, f"Effects of windows of {study.window} MLPs, at the best token.")
    return figure
