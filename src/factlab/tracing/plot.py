"""Heat maps of causal traces as in the ROME paper's figure 1: tokens down, layers across."""

from pathlib import Path

from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from factlab.pictures import check_picture_path
from factlab.storage import write_atomically
from factlab.tracing.configs import KIND_NAMES, WINDOWED, TraceConfig
from factlab.tracing.result import CausalTrace

_COLOURS = {
    "block": "Purples",
    "mlp": "Greens",
    "attn": "Reds",
    "mlp_severed": "Purples",
    "attn_severed": "Purples",
}


def plot_trace(trace: CausalTrace, path: Path) -> None:
    """Draw one panel per kind of state, side by side, each on its own scale.

    Args:
        trace: what to draw.
        path: ends in `.png`, `.pdf` or `.svg`.

    Raises:
        InvalidRequestError: the file name's ending is none of these.
        StorageError: the file cannot be written.
    """
    check_picture_path(path)
    n_tokens, n_kinds = len(trace.tokens), len(trace.effects)
    height = 2.1 + 0.26 * n_tokens
    figure = Figure(figsize=(1.4 + 4.1 * n_kinds, height), layout="constrained", dpi=150)
    panels = figure.subplots(1, n_kinds, sharey=True, squeeze=False)[0]
    for panel, (kind, effects) in zip(panels, trace.effects.items(), strict=True):
        panel_title(panel, kind, trace.config)
        heat(figure, panel, effects, kind)
        for edge in trace.corrupted_span:
            if 0 < edge < len(trace.tokens):
                panel.axhline(edge - 0.5, color="0.4", linewidth=0.6, linestyle=(0, (4, 3)))
    _label_tokens(panels[0], trace)
    figure.suptitle(
        f"Which states restore “{trace.answer.strip()}”?   "
        f"p(clean) = {trace.clean_prob:.3f}    p(corrupted) = {trace.corrupted_prob:.3f}",
        fontsize=11,
        parse_math=False,
    )
    samples = f"{trace.config.samples} noise samples"
    noise = (
        "substituted" if trace.noise_level is None else f"{samples}, ν = {trace.noise_level:.3g}"
    )
    figure.supxlabel(
        f"indirect effect on p(“{trace.answer.strip()}”), "
        f"{noise};  * = corrupted token;  {trace.model_name}",
        fontsize=8,
        color="0.35",
        parse_math=False,
    )
    write_atomically(path, figure.savefig)


def heat(figure: Figure, panel: Axes, effects: Float[Tensor, "row layer"], kind: str) -> None:
    """Draw effects as an image with a scale of its own from 0; what was not traced stays grey."""
    panel.set_facecolor("0.93")
    image = panel.imshow(
        effects.numpy(),
        aspect="auto",
        interpolation="nearest",
        cmap=_COLOURS[kind],
        vmin=0.0,
        vmax=max(float(effects.nan_to_num().max()), 1e-6),
    )
    bar = figure.colorbar(image, ax=panel, shrink=0.85, pad=0.02)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)


def panel_title(panel: Axes, kind: str, config: TraceConfig) -> None:
    """Say what a panel shows, and what its layers are."""
    is_window = kind in WINDOWED and config.window != 1
    name = KIND_NAMES[kind]
    panel.set_title(f"{name}, window of {config.window} layers" if is_window else name, fontsize=10)
    panel.set_xlabel("centre layer" if is_window else "layer", fontsize=9)
    clear_spines(panel)


def clear_spines(panel: Axes) -> None:
    """Small ticks and no frame."""
    panel.tick_params(labelsize=8, length=2)
    for side in panel.spines.values():
        side.set_visible(False)


def _label_tokens(panel: Axes, trace: CausalTrace) -> None:
    start, stop = trace.corrupted_span
    labels = trace.token_labels
    panel.set_yticks(range(len(labels)), labels=labels)
    for i, label in enumerate(panel.get_yticklabels()):
        label.set_fontweight("bold" if start <= i < stop else "normal")
        # A dollar sign would otherwise begin a formula.
        label.set_parse_math(False)
