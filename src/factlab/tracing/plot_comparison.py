"""A picture of a `TraceComparison`: effects by layer, a column a kind of state, a line a run."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from factlab.figures import Picture, footnote, new_picture, printable, save_picture
from factlab.tracing.groups import GROUPS, LAST, LAST_SUBJECT
from factlab.tracing.plot import panel_title

if TYPE_CHECKING:
    from factlab.tracing.comparison import TraceComparison

# Okabe and Ito's colours, told apart by the colour-blind, and a mark for each.
_COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARKS = "osD^vPX"


def plot_comparison(comparison: "TraceComparison", path: str | Path | None = None) -> Picture:
    """Draw the last subject token above, the prompt's last token below, with 95 % intervals."""
    first = next(iter(comparison.averages.values()))
    kinds = comparison.kinds
    figure = new_picture(1.0 + 3.7 * len(kinds), 5.6)
    panels = figure.subplots(2, len(kinds), sharex=True, sharey=True, squeeze=False)
    for row, group in enumerate((LAST_SUBJECT, LAST)):
        for panel, kind in zip(panels[row], kinds, strict=True):
            for i, (name, average) in enumerate(comparison.averages.items()):
                mean = average.effects[kind][group].numpy()
                width = average.half_widths[kind][group].numpy()
                layers = np.flatnonzero(~np.isnan(mean))
                # Beside each other, so that bars of different runs do not hide each other.
                places = layers + 0.25 * (i - (len(comparison.averages) - 1) / 2)
                panel.errorbar(
                    places, mean[layers], np.nan_to_num(width[layers]),
                    color=_COLOURS[i % len(_COLOURS)], marker=_MARKS[i % len(_MARKS)],
                    markersize=3.5, linewidth=1.2, elinewidth=0.7,
                    label=printable(f"{name} ({average.n_facts})"),
                )  # fmt: skip
            panel_title(panel, kind, first.config, GROUPS[group], first.part_names)
            panel.axhline(0, color="0.7", linewidth=0.6)
        panels[row][0].set_ylabel(f"average {first.config.effect_name}", fontsize=9)
    panels[0][0].legend(fontsize=8, frameon=False)
    footnote(
        figure,
        f"{first.config.effect_name} on p(answer), mean and 95 % interval over prompts;  (number "
        f"of prompts);  {printable(first.model_name)}",
    )
    save_picture(figure, path)
    return figure
