"""A causal trace as coloured cells in the terminal: one row a token, one column a layer."""

from rich.text import Text

from factlab.tracing.result import KIND_NAMES, CausalTrace

_SHADES = " ░▒▓█"
_HUES = {"block": (128, 90, 200), "mlp": (40, 160, 80), "attn": (215, 60, 60)}


def heatmap(trace: CausalTrace, kind: str) -> Text:
    """One kind of state. Shade and colour both grow with the effect, so it reads without colour."""
    effects = trace.effects[kind]
    strongest = max(float(effects.max()), 1e-6)
    start, stop = trace.subject_span
    labels = trace.token_labels
    margin = max(len(label) for label in labels) + 1
    position, layer, effect = trace.peak(kind)
    text = Text()
    window = "" if kind == "block" else f", {trace.config.window} layers at a time"
    text.append(f"{KIND_NAMES[kind]}{window}", style="bold")
    text.append(f"   strongest {effect:+.3f} at {labels[position]!r}, layer {layer}\n")
    for i, label in enumerate(labels):
        text.append(label.rjust(margin - 1) + " ", style="bold" if start <= i < stop else "")
        for value in effects[i].tolist():
            share = min(max(value / strongest, 0.0), 1.0)
            shade = _SHADES[round(share * (len(_SHADES) - 1))]
            red, green, blue = (round(90 + (c - 90) * share) for c in _HUES[kind])
            text.append(shade * 2, style=f"rgb({red},{green},{blue})")
        text.append("\n")
    ruler = "".join(f"{n:<10}" for n in range(0, effects.shape[1], 5))
    text.append(" " * margin + ruler[: 2 * effects.shape[1]].rstrip() + "  layer", style="dim")
    return text
