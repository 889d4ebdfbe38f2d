"""Heat maps of causal traces as in the ROME paper's figure 1: tokens down, layers across.

White is no effect, a kind's own colour a positive one, and the colour opposite to it on the wheel a
negative one. Kinds of one colour, such as a hidden state and the same with a path severed, are made
to be compared and share a scale; every panel says its own maximum.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from factlab.figures import (
    Picture,
    clear_spines,
    footnote,
    new_picture,
    printable,
    save_picture,
    shortened,
)
from factlab.tracing.configs import TraceConfig
from factlab.tracing.corruption_kinds import Substitution
from factlab.tracing.describe import kind_in_words, noise_in_words
from factlab.tracing.scales import COLOURED_LIKE, Scale, scales

if TYPE_CHECKING:
    from factlab.tracing.result import CausalTrace

# A negative and a positive colour for each family of kinds, told apart by the colour-blind too.
_COLOURS = {
    "block": ("#b35806", "#fee0b6", "white", "#bcbddc", "#54278f"),
    "mlp": ("#8e0152", "#f1b6da", "white", "#a1d99b", "#00682a"),
    "attn": ("#08519c", "#9ecae1", "white", "#fcae91", "#99000d"),
}
_BAR_INCHES, _BAR_WIDTH_INCHES = 2.6, 0.12


def plot_trace(trace: "CausalTrace", path: str | Path | None = None) -> Picture:
    """Draw one panel per kind of state, side by side.

    Args:
        trace: what to draw.
        path: where to write it too; ends in `.png`, `.pdf` or `.svg`.

    Raises:
        InvalidRequestError: the file name's ending is none of these.
        StorageError: the file cannot be written.
    """
    n_tokens, n_kinds = len(trace.tokens), len(trace.effects)
    height = 2.7 + 0.26 * n_tokens
    figure = new_picture(1.8 + 4.1 * n_kinds, height)
    panels = figure.subplots(1, n_kinds, sharey=True, squeeze=False)[0]
    of_kind = scales(trace.effects)
    for panel, (kind, effects) in zip(panels, trace.effects.items(), strict=True):
        panel_title(panel, kind, trace.config, _maximum(trace, kind), trace.part_names)
        heat(panel, effects, kind, of_kind[kind], trace.config, height - 1.6)
        for edge in trace.corrupted_span:
            if 0 < edge < len(trace.tokens):
                panel.axhline(edge - 0.5, color="0.4", linewidth=0.6, linestyle=(0, (4, 3)))
    _label_tokens(panels[0], trace)
    figure.suptitle(printable(_title(trace, 55 * n_kinds)), fontsize=11, parse_math=False)
    footnote(figure, _footnote(trace, of_kind.values()))
    save_picture(figure, path)
    return figure


def _title(trace: "CausalTrace", n_characters: int) -> str:
    estimated = "   gradient estimate" if trace.config.is_estimate else ""
    return (
        f"{shortened(trace.prompt, n_characters)} …\n"
        f"Which states restore “{trace.answer.strip()}”?   p(clean) = {trace.clean_prob:.3f}    "
        f"p(corrupted) = {trace.corrupted_prob:.3f}{estimated}"
    )


def _maximum(trace: "CausalTrace", kind: str) -> str:
    if trace.effects[kind].isnan().all():
        return "not traced"
    position, layer, effect = trace.peak(kind)
    about = "largest estimate" if trace.config.is_estimate else "maximum"
    return f"{about} {effect:.3f} at “{trace.token_labels[position]}”, layer {layer}"


def _footnote(trace: "CausalTrace", shown: Iterable[Scale]) -> str:
    corruption = trace.config.corruption
    how = noise_in_words(trace.config, trace.noise_level)
    if isinstance(corruption, Substitution):
        others = " or ".join(f"“{subject}”" for subject in corruption.subjects)
        how = f"{others} instead of “{trace.subject}”"
    parts = [
        f"{trace.config.effect_name} on p(“{trace.answer.strip()}”)",
        f"{how};  * = corrupted token",
        trace.model_name,
    ]
    if trace.config.is_estimate:
        parts.insert(1, "good for ranks, not for sizes")
    if any(scale.low < 0 for scale in shown):
        parts.insert(1, "opposite colours: negative effects")
    return ";  ".join(parts)


def heat(
    panel: Axes,
    effects: Float[Tensor, "row layer"],
    kind: str,
    scale: Scale,
    config: TraceConfig,
    height_inches: float,
) -> None:
    """Draw effects as an image with a colour bar beside it; what was not traced stays grey.

    Args:
        panel: where.
        effects: NaN where nothing was traced.
        kind: chooses the colour.
        scale: see `scales`.
        config: says what the numbers are.
        height_inches: about how tall the panel is, for a bar that is not wider the taller it is.
    """
    panel.set_facecolor("0.93")
    image = panel.imshow(
        effects.numpy(),
        aspect="auto",
        interpolation="nearest",
        cmap=LinearSegmentedColormap.from_list(kind, _COLOURS[COLOURED_LIKE[kind]]),
        vmin=-scale.reach,
        vmax=scale.reach,
    )
    figure = panel.get_figure()
    if not isinstance(figure, Figure):
        return
    shrink = min(0.85, _BAR_INCHES / height_inches)
    bar = figure.colorbar(
        image, ax=panel, shrink=shrink, pad=0.02, anchor=(0.0, 1.0),
        aspect=shrink * height_inches / _BAR_WIDTH_INCHES,
    )  # fmt: skip
    bar.ax.set_ylim(scale.low, scale.high)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(config.effect_name, fontsize=7)
    bar.outline.set_visible(False)  # type: ignore[operator]


def panel_title(
    panel: Axes,
    kind: str,
    config: TraceConfig,
    maximum: str,
    part_names: Mapping[str, str] | None,
) -> None:
    """Say what a panel shows, what its largest effect is, and what its layers are."""
    title = f"{kind_in_words(kind, config, part_names)}\n{maximum}"
    panel.set_title(printable(title), fontsize=9, parse_math=False)
    panel.set_xlabel("centre layer" if config.is_window(kind) else "layer", fontsize=9)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    clear_spines(panel)


def _label_tokens(panel: Axes, trace: "CausalTrace") -> None:
    start, stop = trace.corrupted_span
    labels = [printable(label) for label in trace.token_labels]
    panel.set_yticks(range(len(labels)), labels=labels)
    for i, label in enumerate(panel.get_yticklabels()):
        label.set_fontweight("bold" if start <= i < stop else "normal")
        # A dollar sign would otherwise begin a formula.
        label.set_parse_math(False)
