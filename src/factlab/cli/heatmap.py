"""A causal trace as coloured cells in the terminal: one row a token, one column a layer."""

from math import isnan

from rich.text import Text

from factlab.tracing.describe import kind_in_words, peak_in_words
from factlab.tracing.result import CausalTrace
from factlab.tracing.scales import scales

_SHADES = " ░▒▓█"
_NEGATIVE = 0.1  # share of the scale from which a negative effect is shown
_HUES = {
    "block": (128, 90, 200),
    "mlp": (40, 160, 80),
    "attn": (215, 60, 60),
    "mlp_severed": (128, 90, 200),
    "attn_severed": (128, 90, 200),
}


def heatmap(trace: CausalTrace, kind: str) -> Text:
    """One kind of state. Shade and colour both grow with the effect, so it reads without colour.

    Kinds that are made to be compared share a scale; negative effects are shown as minus signs.
    """
    effects = trace.effects[kind]
    scale = scales(trace.effects)[kind]
    start, stop = trace.corrupted_span
    labels = trace.token_labels
    margin = max(len(label) for label in labels) + 1
    text = Text()
    text.append(kind_in_words(kind, trace.config), style="bold")
    text.append(f"   {peak_in_words(trace, kind)}\n")
    if trace.config.is_estimate:
        text.append("estimated by a gradient: good for ranks, not for sizes\n", style="dim")
    for i, label in enumerate(labels):
        text.append(label.rjust(margin - 1) + " ", style="bold" if start <= i < stop else "")
        for value in effects[i].tolist():
            cell, style = _cell(value / scale.reach, kind)
            text.append(cell, style=style)
        text.append("\n")
    ruler = "".join(f"{n:<10}" for n in range(0, effects.shape[1], 5))
    text.append(" " * margin + ruler[: 2 * effects.shape[1]].rstrip() + "  layer", style="dim")
    if float(effects.nan_to_num().min()) < -_NEGATIVE * scale.reach:
        text.append("   - negative effect", style="dim")
    return text


def _cell(share: float, kind: str) -> tuple[str, str]:
    """Two characters for an effect as a share of the scale, and their style."""
    if isnan(share):  # not traced
        return "· ", "dim"
    if share < -_NEGATIVE:
        return "- ", "dim"
    share = min(max(share, 0.0), 1.0)
    red, green, blue = (round(90 + (c - 90) * share) for c in _HUES[kind])
    return _SHADES[round(share * (len(_SHADES) - 1))] * 2, f"rgb({red},{green},{blue})"
