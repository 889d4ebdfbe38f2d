"""A picture of neuron attributions: every neuron by layer, and what each layer adds up to."""

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from factlab.editing.neurons import Neuron, NeuronAttribution
from factlab.pictures import check_picture_path
from factlab.storage import write_atomically
from factlab.tracing.plot import clear_spines

_CHOSEN, _OTHERS = "#1a7f4b", "0.72"
_LABELLED = 6


def plot_neurons(
    found: NeuronAttribution,
    path: Path,
    chosen: Sequence[Neuron] | None = None,
    threshold: float = 0.2,
) -> None:
    """Draw each neuron as a dot over its layer, the chosen ones in colour, and sums below.

    Args:
        found: what to draw.
        path: ends in `.png`, `.pdf` or `.svg`.
        chosen: neurons to mark; by default those above the threshold.
        threshold: share of the largest attribution at which a line is drawn.

    Raises:
        InvalidRequestError: the file name's ending is none of these, or the threshold is no share.
        StorageError: the file cannot be written.
    """
    check_picture_path(path)
    chosen = found.neurons(threshold) if chosen is None else chosen
    # The mean over several prompts may be what chose a neuron; its dot is where this prompt has it.
    marked = sorted(
        (Neuron(n.layer, n.index, float(found.attributions[n.layer, n.index])) for n in chosen),
        key=lambda neuron: -neuron.attribution,
    )
    n_layers, d_mlp = found.attributions.shape
    figure = Figure(figsize=(max(6.0, 2.2 + 0.22 * n_layers), 5.2), layout="constrained", dpi=150)
    dots, sums = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.3])

    places = torch.arange(n_layers, device="cpu")[:, None] + torch.linspace(
        -0.32, 0.32, d_mlp, dtype=torch.float32, device="cpu"
    )
    dots.scatter(
        places.flatten().numpy(), found.attributions.flatten().numpy(),
        s=3, color=_OTHERS, linewidths=0, rasterized=True,
    )  # fmt: skip
    dots.scatter(
        [float(places[n.layer, n.index]) for n in marked], [n.attribution for n in marked],
        s=22, color=_CHOSEN, linewidths=0.4, edgecolors="white", zorder=3,
    )  # fmt: skip
    labelled = marked[:_LABELLED]
    for i, neuron in enumerate(labelled):
        # To the left where a stronger one has its label beside this dot.
        crowded = any(abs(neuron.layer - other.layer) < 3 for other in labelled[:i])
        dots.annotate(
            f"#{neuron.index}",
            (float(places[neuron.layer, neuron.index]), neuron.attribution),
            xytext=(-5 if crowded else 5, 3), textcoords="offset points", fontsize=7,
            ha="right" if crowded else "left", color=_CHOSEN,
        )  # fmt: skip
    if found.strongest > 0:
        line = threshold * found.strongest
        dots.axhline(line, color="0.4", linewidth=0.7, linestyle=(0, (4, 3)))
        dots.annotate(
            f"{threshold:g} × the largest", (0.33 * n_layers, line), xytext=(0, 2),
            textcoords="offset points", fontsize=7, color="0.35",
        )  # fmt: skip
    dots.set_ylabel("attribution of a neuron", fontsize=9)
    dots.margins(y=0.1)

    layers = list(range(n_layers))
    sums.bar(layers, found.attributions.sum(1).tolist(), color="0.8", label="sum of attributions")
    removed = (found.prob - found.silenced_probs).tolist()
    sums.plot(layers, removed, linestyle="none", marker="_", markersize=7, color="0.2",
              label="P less P with the layer’s neurons at zero")  # fmt: skip
    sums.axhline(0, color="0.4", linewidth=0.6)
    sums.set_ylabel("of the layer", fontsize=9)
    sums.set_xlabel("layer", fontsize=9)
    sums.legend(fontsize=7, frameon=False, ncols=2, loc="upper left", bbox_to_anchor=(0, 1.25))
    sums.set_xlim(-0.8, n_layers - 0.2)
    for panel in (dots, sums):
        clear_spines(panel)
    said = "".join(found.target_tokens).strip() or "␣"
    figure.suptitle(
        f"Which neurons say “{said}”?   p = {found.prob:.3f}    {len(marked)} chosen",
        fontsize=11,
        parse_math=False,
    )
    figure.supxlabel(
        f"{found.prompt} …   integrated gradients;  {found.model_name}",
        fontsize=8,
        color="0.35",
        parse_math=False,
    )
    write_atomically(path, figure.savefig)
