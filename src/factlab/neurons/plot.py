"""A picture of neuron attributions: every neuron by layer, and what each layer adds up to.

With several prompts for one answer everything is a mean over them, as in the table of neurons that
they have in common; so a neuron may lie above the threshold and not be chosen, because it is above
it in too few of them. Such neurons have a colour of their own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from factlab.errors import InvalidRequestError, counted
from factlab.figures import (
    Picture,
    clear_spines,
    footnote,
    new_picture,
    printable,
    save_picture,
    shortened,
)

if TYPE_CHECKING:
    from factlab.neurons.attribution import Neuron, NeuronAttribution

_CHOSEN, _LEFT_OUT, _OTHERS = "#1a7f4b", "#e08214", "0.72"
_LABELLED = 6
_DASHES = (0, (4, 3))


def plot_neurons(
    found: Sequence["NeuronAttribution"],
    path: str | Path | None = None,
    chosen: "Sequence[Neuron] | None" = None,
    threshold: float = 0.2,
) -> Picture:
    """Draw each neuron as a dot over its layer, the chosen ones in colour, and sums below.

    Args:
        found: what to draw, one attribution per prompt for an answer.
        path: where to write it too; ends in `.png`, `.pdf` or `.svg`.
        chosen: neurons to mark; by default those above the threshold in all prompts.
        threshold: share of a prompt's largest attribution that a neuron must exceed.

    Raises:
        InvalidRequestError: the file name's ending is none of these, the threshold is no share, or
            the prompts are for models of different sizes.
        StorageError: the file cannot be written.
    """
    shapes = {tuple(one.attributions.shape) for one in found}
    if len(shapes) != 1:
        raise InvalidRequestError(
            f"{counted(len(shapes), 'size')} of attributions cannot be drawn together. Give those "
            "of one model."
        )
    mean = torch.stack([one.attributions for one in found]).mean(0)
    counts = _counts(found, threshold)
    if chosen is None:
        marked = counts == len(found)
    else:
        marked = torch.zeros_like(counts, dtype=torch.bool)
        for neuron in chosen:
            marked[neuron.layer, neuron.index] = True
    n_layers = len(mean)
    figure = new_picture(max(6.4, 2.2 + 0.22 * n_layers), 5.6)
    dots, sums = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.3])
    _draw_dots(dots, mean, marked, (counts > 0) & ~marked, found, threshold)
    _draw_sums(sums, mean, found)
    for panel in (dots, sums):
        clear_spines(panel)
    figure.suptitle(printable(_title(found, int(marked.sum()))), fontsize=11, parse_math=False)
    footnote(figure, _footnote(found))
    save_picture(figure, path)
    return figure


def _counts(found: Sequence["NeuronAttribution"], threshold: float) -> Tensor:
    """In how many prompts each neuron is above the threshold."""
    counts = torch.zeros(found[0].attributions.shape, dtype=torch.int64, device="cpu")
    for one in found:
        for neuron in one.neurons(threshold):
            counts[neuron.layer, neuron.index] += 1
    return counts


def _draw_dots(
    panel: Axes,
    mean: Float[Tensor, "layer d_mlp"],
    marked: Tensor,
    left_out: Tensor,
    found: Sequence["NeuronAttribution"],
    threshold: float,
) -> None:
    n_layers, d_mlp = mean.shape
    places = torch.arange(n_layers, device="cpu")[:, None] + torch.linspace(
        -0.32, 0.32, d_mlp, dtype=torch.float32, device="cpu"
    )
    panel.scatter(
        places.flatten().numpy(), mean.flatten().numpy(),
        s=3, color=_OTHERS, linewidths=0, rasterized=True,
    )  # fmt: skip
    why = (
        "above the threshold, not chosen"
        if len(found) == 1
        else "above the threshold in too few prompts"
    )
    for some, size, colour, label in (
        (left_out, 14, _LEFT_OUT, why),
        (marked, 22, _CHOSEN, "chosen"),
    ):
        if some.any():
            panel.scatter(
                places[some].numpy(), mean[some].numpy(), s=size, color=colour, label=label,
                linewidths=0.4, edgecolors="white", zorder=3,
            )  # fmt: skip
    _label(panel, mean, marked, places)
    of_all = "mean " if len(found) > 1 else ""
    line = threshold * sum(one.strongest for one in found) / len(found)
    if line > 0:
        panel.axhline(line, color="0.4", linewidth=0.7, linestyle=_DASHES,
                      label=f"threshold: {threshold:g} × the {of_all}largest")  # fmt: skip
    panel.set_ylabel(f"{of_all}attribution of a neuron", fontsize=9)
    panel.margins(y=0.1)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=7, frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1.0))


def _label(panel: Axes, mean: Tensor, marked: Tensor, places: Tensor) -> None:
    """Write the numbers of the strongest chosen neurons beside them."""
    at = sorted(marked.nonzero().tolist(), key=lambda place: -float(mean[tuple(place)]))[:_LABELLED]
    for i, (layer, index) in enumerate(at):
        # To the left where a stronger one has its label beside this dot.
        crowded = any(abs(layer - other) < 3 for other, _ in at[:i])
        panel.annotate(
            f"#{index}",
            (float(places[layer, index]), float(mean[layer, index])),
            xytext=(-5 if crowded else 5, 3), textcoords="offset points", fontsize=7,
            ha="right" if crowded else "left", color=_CHOSEN,
        )  # fmt: skip


def _draw_sums(panel: Axes, mean: Tensor, found: Sequence["NeuronAttribution"]) -> None:
    layers = list(range(len(mean)))
    panel.bar(layers, mean.sum(1).tolist(), color="0.8", label="sum of attributions")
    removed = torch.stack([one.prob - one.silenced_probs for one in found]).mean(0)
    panel.plot(layers, removed.tolist(), linestyle="none", marker="_", markersize=7, color="0.2",
               label="P less P with the layer’s neurons at zero")  # fmt: skip
    panel.axhline(0, color="0.4", linewidth=0.6)
    panel.set_ylabel("of the layer", fontsize=9)
    panel.set_xlabel("layer", fontsize=9)
    panel.legend(fontsize=7, frameon=False, ncols=2, loc="upper left", bbox_to_anchor=(0, 1.25))
    panel.set_xlim(-0.8, len(mean) - 0.2)


def _title(found: Sequence["NeuronAttribution"], n_chosen: int) -> str:
    said = "".join(found[0].target_tokens).strip() or "␣"
    prob = sum(one.prob for one in found) / len(found)
    several = len(found) > 1
    return (
        f"Which neurons say “{said}”?   {'mean ' if several else ''}p = {prob:.3f}    "
        f"{n_chosen} chosen{f' from {len(found)} prompts' if several else ''}"
    )


def _footnote(found: Sequence["NeuronAttribution"]) -> str:
    first = f"{shortened(found[0].prompt, 70)} …"
    if len(found) > 1:
        first += f" and {counted(len(found) - 1, 'other prompt')}, means over all"
    return f"{first};   integrated gradients;  {found[0].model_name}"
