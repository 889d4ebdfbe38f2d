"""A picture of a `LayerChoice`: the effect of each layer, and which cannot be told apart."""

from pathlib import Path
from typing import TYPE_CHECKING

from factlab.errors import counted
from factlab.figures import Picture, clear_spines, footnote, new_picture, save_picture

if TYPE_CHECKING:
    from factlab.tracing.layers import LayerChoice

_CHOSEN, _CANDIDATE, _OTHER = "#00682a", "#a1d99b", "0.82"


def plot_layers(choice: "LayerChoice", path: str | Path | None = None) -> Picture:
    """Draw a bar for each layer; see `LayerChoice.plot`."""
    layers = range(len(choice.effects))
    colours = [
        _CHOSEN if layer == choice.layer else _CANDIDATE if layer in choice.candidates else _OTHER
        for layer in layers
    ]
    figure = new_picture(max(5.0, 1.4 + 0.22 * len(layers)), 3.0)
    panel = figure.subplots()
    panel.bar(layers, choice.effects.tolist(), color=colours)
    panel.errorbar(
        layers, choice.effects.tolist(), choice.half_widths.tolist(),
        fmt="none", ecolor="0.3", elinewidth=0.7,
    )  # fmt: skip
    panel.axhline(0, color="0.5", linewidth=0.6)
    panel.set_title(
        f"Layer {choice.layer} has the largest effect; light: not told apart from it", fontsize=10
    )
    panel.set_xlabel("centre layer", fontsize=9)
    panel.set_ylabel("average indirect effect", fontsize=9)
    clear_spines(panel)
    footnote(
        figure,
        f"{counted(choice.window, 'MLP')} at a time, at the last subject token;  "
        f"{counted(choice.n_facts, 'fact')}"
        + (", 95 % intervals" if choice.n_facts > 1 else ", no interval"),
    )
    save_picture(figure, path)
    return figure
