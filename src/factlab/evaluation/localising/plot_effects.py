"""Pictures of where facts are held: mean effect by layer, and each fact's peak."""

import math
from typing import TYPE_CHECKING

from matplotlib.ticker import MaxNLocator

from factlab.errors import counted
from factlab.estimate import Estimate
from factlab.evaluation.studies.drawing import Curve, draw_curves, finish_panel
from factlab.figures import LINE_COLOURS, Picture, footnote, new_picture

if TYPE_CHECKING:
    from factlab.evaluation.localising.result import Localisation

_EDITED = "0.82"


def draw_effects(study: "Localisation") -> Picture:
    """Mean effect by layer, a line for each window; the edited layers are marked."""
    figure = new_picture(7.4, 3.9)
    panel = figure.subplots()
    for layer in study.layers:
        panel.axvline(layer, color=_EDITED, linewidth=4, zorder=0)
    curves = [
        Curve(
            f"window {window}", [float(layer) for layer in range(study.n_layers)],
            mean_effects(study, window), colour, width=2.2 if window == study.window else 1.2,
        )
        for window, colour in zip(study.windows, LINE_COLOURS, strict=False)
    ]  # fmt: skip
    draw_curves(panel, curves, 1.0)
    panel.set_ylim(bottom=0)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_ylabel("share restored, best token", fontsize=9)
    finish_panel(panel, "What restoring MLPs around a layer brings back", "layer")
    for curve in curves:
        panel.plot([], [], color=curve.colour, linewidth=curve.width, label=curve.label)
    panel.legend(fontsize=8, frameon=False)
    caption(figure, study, "Grey: the layers that were edited. Bars: 95 % intervals over facts.")
    return figure


def mean_effects(study: "Localisation", window: int) -> list[Estimate]:
    """The mean over facts of the effect at each layer."""
    found: list[Estimate] = []
    for layer in range(study.n_layers):
        shares = [fact.effect(window, layer) for fact in study.facts.values()]
        found.append(Estimate.of([share for share in shares if not math.isnan(share)]))
    return found


def draw_peaks(study: "Localisation") -> Picture:
    """How many facts have their largest effect at each layer."""
    figure = new_picture(7.4, 3.2)
    panel = figure.subplots()
    counts = [0] * study.n_layers
    for layer in peak_layers(study):
        counts[layer] += 1
    edited = {*study.layers}
    colours = [LINE_COLOURS[1] if i in edited else LINE_COLOURS[0] for i in range(study.n_layers)]
    panel.bar(range(study.n_layers), counts, color=colours, width=0.8)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.yaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_ylabel("facts", fontsize=9)
    finish_panel(panel, "Where each fact's effect is largest", "layer")
    caption(figure, study, f"Windows of {study.window} MLPs. Orange: layers that were edited.")
    return figure


def peak_layers(study: "Localisation") -> list[int]:
    """The layer with the largest effect of each fact that has one."""
    peaks = (fact.peak_layer(study.window) for fact in study.facts.values())
    return [peak for peak in peaks if peak is not None]


def caption(figure: Picture, study: "Localisation", more: str) -> None:
    """What was studied, and what marks mean, in small print."""
    where = f"{study.asked.model.name} on {study.asked.data.name}"
    footnote(figure, f"{where} · {counted(study.n_facts, 'known fact')}\n{more}")
