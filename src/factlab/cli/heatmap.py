"""A causal trace as coloured cells in the terminal: one row a token, one column a layer."""

from math import isnan

from rich.text import Text

from factlab.tracing.configs import KIND_NAMES, WINDOWED
from factlab.tracing.result import CausalTrace

_SHADES = " ░▒▓█"
_HUES = {
    "block": (128, 90, 200),
    "mlp": (40, 160, 80),
    "attn": (215, 60, 60),
    "mlp_severed": (128, 90, 200),
    "attn_severed": (128, 90, 200),
}


def heatmap(trace: CausalTrace, kind: str) -> Text:
    """One kind of state. Shade and colour both grow with the effect, so it reads without colour."""
    effects = trace.effects[kind]
    strongest = max(float(effects.nan_to_num().max()), 1e-6)
    start, stop = trace.corrupted_span
    labels = trace.token_labels
    margin = max(len(label) for label in labels) + 1
    position, layer, effect = trace.peak(kind)
    text = Text()
    window = f", {trace.config.window} layers at a time" if kind in WINDOWED else ""
    text.append(f"{KIND_NAMES[kind]}{window}", style="bold")
    text.append(f"   strongest {effect:+.3f} at {labels[position]!r}, layer {layer}")
    if trace.total_effect > 0:
        text.append(f" ({effect / trace.total_effect:.0%} of the drop)")
    text.append("\n")
    for i, label in enumerate(labels):
        text.append(label.rjust(margin - 1) + " ", style="bold" if start <= i < stop else "")
        for value in effects[i].tolist():
            if isnan(value):  # not traced
                text.append("· ", style="dim")
                continue
            share = min(max(value / strongest, 0.0), 1.0)
            shade = _SHADES[round(share * (len(_SHADES) - 1))]
            red, green, blue = (round(90 + (c - 90) * share) for c in _HUES[kind])
            text.append(shade * 2, style=f"rgb({red},{green},{blue})")
        text.append("\n")
    ruler = "".join(f"{n:<10}" for n in range(0, effects.shape[1], 5))
    text.append(" " * margin + ruler[: 2 * effects.shape[1]].rstrip() + "  layer", style="dim")
    return text
