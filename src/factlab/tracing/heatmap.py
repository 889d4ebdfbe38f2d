"""A causal trace as characters: one row a token, one column a layer, for terminals and logs."""

from dataclasses import dataclass
from math import isnan
from typing import NamedTuple

from factlab.tracing.describe import kind_in_words, peak_in_words
from factlab.tracing.result import CausalTrace
from factlab.tracing.scales import scales

_SHADES = " ░▒▓█"
_NEGATIVE = 0.1  # share of the scale from which a negative effect is shown
_GREY = 90
_HUES = {
    "block": (128, 90, 200),
    "mlp": (40, 160, 80),
    "attn": (215, 60, 60),
    "mlp_severed": (128, 90, 200),
    "attn_severed": (128, 90, 200),
}

Colour = tuple[int, int, int]


class HeatCell(NamedTuple):
    """One state: two characters, and red, green and blue of an effect that has a colour."""

    text: str
    colour: Colour | None = None


@dataclass(frozen=True, slots=True)
class HeatRow:
    """One token: its label, whether it was corrupted, and a cell for each layer."""

    label: str
    is_corrupted: bool
    cells: tuple[HeatCell, ...]


@dataclass(frozen=True, slots=True)
class HeatMap:
    """One kind of state.

    Shade and colour both grow with the effect, so it reads without colour. Kinds that are made to
    be compared share a scale; negative effects are shown as minus signs. `str` gives it without
    colours.

    Attributes:
        kind: of state, in words.
        peak: where the largest effect is.
        notes: what to beware of, above the rows.
        rows: by token; labels are all of one width.
        ruler: numbers of layers, to be put below the cells.
        legend: what signs mean, behind the ruler.
    """

    kind: str
    peak: str
    notes: tuple[str, ...]
    rows: tuple[HeatRow, ...]
    ruler: str
    legend: str

    def __str__(self) -> str:
        rows = (f"{row.label} {''.join(cell.text for cell in row.cells)}" for row in self.rows)
        below = f"{' ' * (len(self.rows[0].label) + 1)}{self.ruler}{self.legend}"
        return "\n".join([f"{self.kind}   {self.peak}", *self.notes, *rows, below])


def heat_map(trace: CausalTrace, kind: str) -> HeatMap:
    """One kind of state of a trace as characters."""
    effects, scale = trace.effects[kind], scales(trace.effects)[kind]
    corrupted, labels = range(*trace.corrupted_span), trace.token_labels
    width, n_layers = max(map(len, labels)), effects.shape[1]
    rows = tuple(
        HeatRow(
            label=label.rjust(width),
            is_corrupted=position in corrupted,
            cells=tuple(_cell(value / scale.reach, kind) for value in values),
        )
        for position, (label, values) in enumerate(zip(labels, effects.tolist(), strict=True))
    )
    has_negative = float(effects.nan_to_num().min()) < -_NEGATIVE * scale.reach
    estimate = ("estimated by a gradient: good for ranks, not for sizes",)
    return HeatMap(
        kind=kind_in_words(kind, trace.config, trace.part_names),
        peak=peak_in_words(trace, kind),
        notes=estimate if trace.config.is_estimate else (),
        rows=rows,
        ruler="".join(f"{n:<10}" for n in range(0, n_layers, 5))[: 2 * n_layers].rstrip(),
        legend="  layer" + ("   - negative effect" if has_negative else ""),
    )


def _cell(share: float, kind: str) -> HeatCell:
    """The cell of an effect that is a share of the scale."""
    if isnan(share):  # not traced
        return HeatCell("· ")
    if share < -_NEGATIVE:
        return HeatCell("- ")
    share = min(max(share, 0.0), 1.0)
    red, green, blue = (round(_GREY + (full - _GREY) * share) for full in _HUES[kind])
    return HeatCell(_SHADES[round(share * (len(_SHADES) - 1))] * 2, (red, green, blue))
