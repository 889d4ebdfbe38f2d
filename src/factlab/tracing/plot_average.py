"""Figures of averaged traces: heat maps by token group, lines with bands, severed bars.

After figures 2 and 3 of the ROME paper and the line plots of its appendix B.2.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from factlab.storage import write_atomically
from factlab.tracing.average import GROUPS, LAST, LAST_SUBJECT, AverageTrace
from factlab.tracing.plot import clear_spines, heat, panel_title

_LINES = {"block": "#6a51a3", "mlp": "#238b45", "attn": "#cb181d"}
_BARS = {"block": "#6a51a3", "mlp_severed": "#74c476", "attn_severed": "#fb6a4a"}
_BAR_NAMES = {
    "block": "single state",
    "mlp_severed": "MLP severed",
    "attn_severed": "attention severed",
}


def plot_average(average: AverageTrace, folder: Path) -> list[Path]:
    """Draw every figure that the traced kinds and tokens allow, as PNG files in a folder.

    Returns:
        The files: `heatmaps.png` and `lines.png` for ordinary kinds, `severed.png` for severed
        ones.
    """
    drawn: list[Path] = []
    has_last = average.config.positions != "last_subject"
    figures = {
        "heatmaps.png": _heatmaps(average) if has_last else None,
        "lines.png": _lines(average) if has_last and {*_LINES} & {*average.effects} else None,
        "severed.png": _severed_bars(average) if _is_severed(average) else None,
    }
    for name, figure in figures.items():
        if figure is not None:
            write_atomically(folder / name, figure.savefig)
            drawn.append(folder / name)
    return drawn


def _is_severed(average: AverageTrace) -> bool:
    return any(kind.endswith("severed") for kind in average.effects)


def _heatmaps(average: AverageTrace) -> Figure:
    """Six rows, one panel per kind, each on its own scale; negative effects show as none."""
    kinds = list(average.effects)
    figure = Figure(figsize=(1.9 + 3.9 * len(kinds), 2.6), layout="constrained", dpi=150)
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for panel, kind in zip(panels, kinds, strict=True):
        panel_title(panel, kind, average.config)
        heat(figure, panel, average.effects[kind], kind)
        if average.effects[kind][LAST_SUBJECT].isnan().all():
            continue
        layer, peak = average.peak(kind, LAST_SUBJECT)
        panel.plot(layer, LAST_SUBJECT, marker="o", markersize=4, mfc="none", mec="0.2")
        panel.set_title(
            f"{panel.get_title()}\nlast subject token: {peak.mean:.3f} at layer {layer}",
            fontsize=9,
        )
    panels[0].set_yticks(range(len(GROUPS)), labels=GROUPS)
    figure.supxlabel(_caption(average), fontsize=8, color="0.35", parse_math=False)
    return figure


def _lines(average: AverageTrace) -> Figure:
    """Effect by layer at the last subject token and at the last token, with 95 % bands."""
    kinds = [kind for kind in average.effects if kind in _LINES]
    figure = Figure(figsize=(1.0 + 3.9 * len(kinds), 3.0), layout="constrained", dpi=150)
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for panel, kind in zip(panels, kinds, strict=True):
        for group, style in ((LAST_SUBJECT, "-"), (LAST, "--")):
            mean, width = _row(average, kind, group)
            layers = range(len(mean))
            panel.plot(layers, mean, style, color=_LINES[kind], label=GROUPS[group], linewidth=1.6)
            panel.fill_between(
                layers, mean - width, mean + width, color=_LINES[kind], alpha=0.18, linewidth=0
            )
        panel_title(panel, kind, average.config)
        panel.axhline(0, color="0.7", linewidth=0.6)
        panel.legend(fontsize=8, frameon=False)
    panels[0].set_ylabel("average indirect effect", fontsize=9)
    figure.supxlabel(_caption(average), fontsize=8, color="0.35", parse_math=False)
    return figure


def _severed_bars(average: AverageTrace) -> Figure:
    """Effect of a hidden state at the last subject token, its paths whole and severed."""
    kinds = [kind for kind in _BARS if kind in average.effects]
    figure = Figure(figsize=(8.6, 3.0), layout="constrained", dpi=150)
    panel = figure.subplots()
    for i, kind in enumerate(kinds):
        mean, width = _row(average, kind, LAST_SUBJECT)
        places = np.arange(len(mean)) + (i - (len(kinds) - 1) / 2) * 0.28
        panel.bar(places, mean, 0.28, color=_BARS[kind], label=_BAR_NAMES[kind])
        panel.errorbar(places, mean, width, fmt="none", ecolor="0.35", elinewidth=0.6)
    clear_spines(panel)
    panel.axhline(0, color="0.5", linewidth=0.6)
    panel.set_xlabel("layer at which the state is restored", fontsize=9)
    panel.set_ylabel("average indirect effect", fontsize=9)
    panel.set_title("Hidden state at the last subject token", fontsize=10)
    panel.legend(fontsize=8, frameon=False)
    figure.supxlabel(_caption(average), fontsize=8, color="0.35", parse_math=False)
    return figure


def _row(average: AverageTrace, kind: str, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean effects and half-widths by layer."""
    return average.effects[kind][group].numpy(), average.half_widths[kind][group].numpy()


def _caption(average: AverageTrace) -> str:
    return (
        f"{average.n_facts} known facts; p(clean) = {average.clean_prob.mean:.3f}, "
        f"p(corrupted) = {average.corrupted_prob.mean:.3f}; "
        f"{average.config.samples} noise samples; {average.model_name}"
    )
