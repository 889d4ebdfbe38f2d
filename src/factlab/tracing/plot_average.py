"""Figures of averaged traces: heat maps by token group, lines with bands, severed bars.

After figures 2 and 3 of the ROME paper and the line plots of its appendix B.2.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from factlab.errors import InvalidRequestError, counted, nearest
from factlab.figures import Picture, clear_spines, footnote, new_picture, save_picture
from factlab.tracing.describe import REDRAWN, noise_in_words
from factlab.tracing.groups import GROUPS, LAST, LAST_SUBJECT, POOLED
from factlab.tracing.plot import heat, panel_title
from factlab.tracing.scales import scales

if TYPE_CHECKING:
    from factlab.tracing.average import AverageTrace

_LINES = {"block": "#6a51a3", "mlp": "#238b45", "attn": "#cb181d"}
# Far apart in lightness as well as in hue.
_BARS = {"block": "#3f2d82", "mlp_severed": "#a6dba0", "attn_severed": "#e08214"}
_BAR_NAMES = {
    "block": "single state",
    "mlp_severed": "MLP severed",
    "attn_severed": "attention severed",
}


def average_figures(average: "AverageTrace") -> dict[str, Picture]:
    """Every figure that the traced kinds and tokens allow: `heatmaps`, `lines`, `severed`."""
    if not average.n_facts:
        return {}
    figures: dict[str, Picture] = {}
    if average.config.positions != "last_subject":
        figures["heatmaps"] = _heatmaps(average)
        if {*_LINES} & {*average.effects}:
            figures["lines"] = _lines(average)
    if _is_severed(average):
        figures["severed"] = _severed_bars(average)
    return figures


def plot_average(average: "AverageTrace", folder: Path) -> list[Path]:
    """Draw all of them as PNG files in a folder, and give the files."""
    figures = {folder / f"{name}.png": one for name, one in average_figures(average).items()}
    for path, figure in figures.items():
        save_picture(figure, path)
    return [*figures]


def plot_figure(average: "AverageTrace", path: str | Path | None, name: str | None) -> Picture:
    """One figure; see `AverageTrace.plot`."""
    figures = average_figures(average)
    name = next(iter(figures), "heatmaps") if name is None else name
    if name not in figures:
        able = f"There is {', '.join(figures)}." if figures else "There is none."
        raise InvalidRequestError(
            f"What was traced allows no figure '{name}'.{nearest(name, figures)} {able}"
        )
    save_picture(figures[name], path)
    return figures[name]


def _is_severed(average: "AverageTrace") -> bool:
    return any(kind.endswith("severed") for kind in average.effects)


def _heatmaps(average: "AverageTrace") -> Picture:
    """A row for each group of tokens, one panel per kind."""
    kinds, config = list(average.effects), average.config
    # Where every subject is one token, its first token is its last, and its row would be the same.
    first = LAST_SUBJECT if average.n_one_token == average.n_facts else 0
    rows = list(range(first, len(GROUPS)))
    figure = new_picture(2.3 + 4.1 * len(kinds), 3.0)
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    of_kind = scales(average.effects)
    for panel, kind in zip(panels, kinds, strict=True):
        title = ""
        if not average.effects[kind][LAST_SUBJECT].isnan().all():
            layer, peak = average.peak(kind, LAST_SUBJECT)
            title = f"last subject token: {peak.in_words()} at layer {layer}"
            at = (layer, rows.index(LAST_SUBJECT))
            for size, colour, width in ((7, "black", 2.6), (7, "white", 1.2)):
                panel.plot(*at, marker="o", markersize=size, mfc="none", mec=colour, mew=width)
        panel_title(panel, kind, config, title, average.part_names)
        heat(panel, average.effects[kind][rows], kind, of_kind[kind], config, 1.7)
    counts = average.group_counts if average.pooling == "facts" else average.token_counts
    labels = [f"{GROUPS[i]} ({counts[i]})" for i in rows]
    panels[0].set_yticks(range(len(rows)), labels=labels)
    counted_once = "facts that have such a token" if average.pooling == "facts" else "such tokens"
    notes = f"○ peak at the last subject token;  ({counted_once});  {POOLED[average.pooling]}"
    if 0 < average.n_one_token < average.n_facts:
        notes += f";  {counted(average.n_one_token, 'one-token subject')} in both first and last"
    if any(scale.low < 0 for scale in of_kind.values()):
        notes += ";  opposite colours: negative effects"
    footnote(figure, f"{_caption(average)}\n{notes}")
    return figure


def _lines(average: "AverageTrace") -> Picture:
    """Effect by layer at the last subject token and at the last token, with 95 % bands."""
    kinds = [kind for kind in average.effects if kind in _LINES]
    figure = new_picture(1.0 + 3.9 * len(kinds), 3.2)
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for panel, kind in zip(panels, kinds, strict=True):
        for group, style in ((LAST_SUBJECT, "-"), (LAST, "--")):
            mean, width = _row(average, kind, group)
            layers = range(len(mean))
            panel.plot(layers, mean, style, color=_LINES[kind], label=GROUPS[group], linewidth=1.6)
            panel.fill_between(
                layers, mean - width, mean + width, color=_LINES[kind], alpha=0.18, linewidth=0
            )
        panel_title(panel, kind, average.config, _bands(average), average.part_names)
        panel.axhline(0, color="0.7", linewidth=0.6)
        panel.legend(fontsize=8, frameon=False)
    panels[0].set_ylabel(f"average {average.config.effect_name}", fontsize=9)
    footnote(figure, _caption(average))
    return figure


def _severed_bars(average: "AverageTrace") -> Picture:
    """Effect of a hidden state at the last subject token, its paths whole and severed."""
    kinds = [kind for kind in _BARS if kind in average.effects]
    figure = new_picture(8.6, 3.2)
    panel = figure.subplots()
    for i, kind in enumerate(kinds):
        mean, width = _row(average, kind, LAST_SUBJECT)
        places = np.arange(len(mean)) + (i - (len(kinds) - 1) / 2) * 0.28
        panel.bar(places, mean, 0.28, color=_BARS[kind], label=_BAR_NAMES[kind])
        panel.errorbar(places, mean, width, fmt="none", ecolor="0.2", elinewidth=0.6)
    clear_spines(panel)
    panel.axhline(0, color="0.5", linewidth=0.6)
    panel.set_xlabel("layer at which the state is restored", fontsize=9)
    panel.set_ylabel(f"average {average.config.effect_name}", fontsize=9)
    panel.set_title(f"Hidden state at the last subject token{_bands(average, ': ')}", fontsize=10)
    panel.legend(fontsize=8, frameon=False)
    footnote(figure, _caption(average))
    return figure


def _row(average: "AverageTrace", kind: str, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean effects and half-widths by layer."""
    return average.effects[kind][group].numpy(), average.half_widths[kind][group].numpy()


def _bands(average: "AverageTrace", before: str = "") -> str:
    """What the bands are; one fact has none."""
    return f"{before}mean and 95 % interval" if average.n_facts > 1 else f"{before}one fact"


def _caption(average: "AverageTrace") -> str:
    level = getattr(average.config.corruption, "level", None)
    parts = [
        f"{average.config.effect_name} on p(answer)",
        f"{counted(average.n_facts, 'known fact')}, p(clean) = {average.clean_prob.mean:.3f}, "
        f"p(corrupted) = {average.corrupted_prob.mean:.3f}",
        noise_in_words(average.config, level),
        average.model_name,
    ]
    if average.config.is_estimate:
        parts.insert(1, "good for ranks, not for sizes")
    if average.config.redraws:
        parts.append(f"severed: {REDRAWN} in the second pass")
    return ";  ".join(parts)
