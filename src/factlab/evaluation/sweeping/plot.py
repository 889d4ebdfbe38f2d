"""The figure of a sweep: scores by layer, a line per token, beside the averaged causal trace."""

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from factlab.errors import counted
from factlab.evaluation.scoring.scores import SCORE
from factlab.evaluation.sweeping.groups import GROUP_OF
from factlab.figures import Picture, clear_spines, new_picture, printable, save_picture

if TYPE_CHECKING:
    from factlab.evaluation.sweeping.result import Sweep

_COLOURS = {
    "first": "#56b4e9",
    "last": "#d55e00",
    "first_after_last": "#009e73",
    "end": "#7a5195",
}
_TITLES = {
    SCORE: "S: harmonic mean of the three",
    "rewrite_success": "ES: the edited prompt",
    "paraphrase_success": "PS: its paraphrases",
    "neighborhood_success": "NS: other subjects",
    "efficacy": "Efficacy: the edited question",
    "paraphrase": "Paraphrase: asked otherwise",
    "specificity": "Specificity: other questions",
}
_PER_LINE = 3  # panels, so that letters can be read at the width of a page
_APART = 0.12  # of the distance between layers, by which tokens stand beside each other


def plot_sweep(found: "Sweep", path: str | Path | None = None) -> Picture:
    """Draw scores and trace by layer: after figure 5 of the ROME paper.

    Args:
        found: what to draw.
        path: where to write it too, as .png, .pdf or .svg.

    Raises:
        InvalidRequestError: the file name's ending is none of these.
        StorageError: the file cannot be written.
    """
    n_cells = len(found.columns) + (found.trace is not None) + 1  # the last one explains
    n_lines = -(-n_cells // _PER_LINE)
    figure = new_picture(9.0, 2.75 * n_lines)
    panels = [*figure.subplots(n_lines, _PER_LINE, squeeze=False).flat]
    for panel, column in zip(panels, found.columns, strict=False):
        _draw_scores(panel, found, column)
    if found.trace is not None:
        _draw_trace(panels[len(found.columns)], found)
    for panel in panels[n_cells - 1 :]:
        panel.set_axis_off()
    _explain(panels[n_cells - 1], found)
    save_picture(figure, path)
    return figure


def _draw_scores(panel: Axes, found: "Sweep", column: str) -> None:
    distance = min((b - a for a, b in zip(found.layers, found.layers[1:], strict=False)), default=1)
    for number, token in enumerate(found.tokens):
        estimates = [found.scores[layer, token][column] for layer in found.layers]
        shift = (number - (len(found.tokens) - 1) / 2) * _APART * distance
        places = [layer + shift for layer in found.layers]
        means = [100 * estimate.mean for estimate in estimates]
        below = [100 * max(0.0, e.mean - e.interval[0]) for e in estimates]
        above = [100 * max(0.0, e.interval[1] - e.mean) for e in estimates]
        panel.errorbar(
            places, means, [below, above], color=_COLOURS[token], marker="o", markersize=3,
            linewidth=1.4, elinewidth=0.7,
        )  # fmt: skip
    panel.axhline(100 * found.unedited[column].mean, color="0.45", linewidth=1.0, ls=":")
    panel.set_title(_TITLES[column], fontsize=10)
    panel.set_ylim(0, 103)
    panel.set_ylabel("score × 100", fontsize=9)
    _finish(panel, "edited layer")


def _draw_trace(panel: Axes, found: "Sweep") -> None:
    if found.trace is None:
        return
    for token in found.tokens:
        line = found.trace_line(token)
        panel.plot(range(len(line)), line, color=_COLOURS[token], linewidth=1.4)
    panel.axhline(0, color="0.85", linewidth=0.8)
    panel.set_title("Causal trace of MLP outputs", fontsize=10)
    panel.set_ylabel("average indirect effect", fontsize=9)
    _finish(panel, "restored layer")


def _explain(panel: Axes, found: "Sweep") -> None:
    """What colours, lines and bars are, and what it was measured on."""
    marks = [
        Line2D([], [], color=_COLOURS[token], marker="o", markersize=4, linewidth=1.4)
        for token in found.tokens
    ]
    names = [GROUP_OF[token] for token in found.tokens]
    marks.append(Line2D([], [], color="0.45", linewidth=1.0, ls=":"))
    names.append("unedited model")
    panel.legend(
        marks, names, loc="upper left", frameon=False, fontsize=9, title="Edited at the ...",
        title_fontsize=9, alignment="left", borderaxespad=0.0,
    )  # fmt: skip
    lines = [f"{found.model_name}", f"{counted(found.n_records, 'record')}, bars: 95 % intervals"]
    if found.trace is not None:
        lines.append(f"trace: mean of {counted(found.trace.n_facts, 'known fact')}")
    panel.text(
        0.0, 0.0, printable("\n".join(lines)), fontsize=8, color="0.35", va="bottom",
        parse_math=False, transform=panel.transAxes,
    )  # fmt: skip


def _finish(panel: Axes, label: str) -> None:
    clear_spines(panel)
    panel.set_xlabel(label, fontsize=9)
    panel.tick_params(labelsize=8)
