"""Which states are restored: for each layer and kind, one state or a window of outputs."""

from collections.abc import Sequence
from dataclasses import dataclass

from factlab.errors import UnsupportedModelError
from factlab.hooks import Site, Stream
from factlab.models.layers import Layers
from factlab.tracing.configs import KIND_NAMES, ORDINARY_KINDS, Kind, TraceConfig

RESTORED: dict[Kind, Stream] = {"mlp": Stream.MLP, "attn": Stream.ATTN}
SEVERED: dict[Kind, Stream] = {"mlp_severed": Stream.MLP, "attn_severed": Stream.ATTN}


@dataclass(frozen=True, slots=True)
class Cell:
    """One restoration: a kind of state at layers `first` up to `stop`, entered at `layer`."""

    kind: Kind
    layer: int
    first: int
    stop: int


def cells_of(layers: Layers, config: TraceConfig) -> list[Cell]:
    """Every restoration at one position, by the layer at which it begins, long windows first.

    A window in which no layer has such a part is none, nor is a layer that a text passes over.
    """
    n_layers = len(layers)
    width = config.window_of(n_layers)
    below = width // 2 if config.window_convention == "code" else (width - 1) // 2
    cells = [
        Cell(kind, layer, max(0, layer - below), min(n_layers, layer - below + width))
        if kind in RESTORED
        else Cell(kind, layer, layer, layer + 1)
        for kind in config.kinds
        for layer in config.layers_of(n_layers)
    ]
    there = [cell for cell in cells if restored_sites(layers, cell)]
    return sorted(there, key=lambda cell: (cell.first, -cell.stop))


def redrawn(cell: Cell, config: TraceConfig) -> bool:
    """Whether a cell's run has noise of its own, so that no part of the corrupted run is its."""
    return config.redraws and cell.kind in SEVERED


def restored_sites(layers: Layers, cell: Cell) -> list[Site]:
    """The states that a cell puts back to what they are in the clean run."""
    stream = RESTORED.get(cell.kind, Stream.BLOCK)
    sites = [Site(layer, stream) for layer in range(cell.first, cell.stop)]
    return [site for site in sites if layers.has(site)]


def parents_of(cells: Sequence[Cell]) -> dict[Cell, Cell]:
    """For each window the longest other one that begins at the same layer, if there is one.

    Until the shorter one ends, the two are one and the same run.
    """
    longest: dict[tuple[Kind, int], Cell] = {}
    parents: dict[Cell, Cell] = {}
    for cell in sorted(cells, key=lambda cell: -cell.stop):
        if cell.kind in RESTORED:
            parent = longest.setdefault((cell.kind, cell.first), cell)
            if parent is not cell:
                parents[cell] = parent
    return parents


def with_kinds_of(layers: Layers, config: TraceConfig, name: str) -> TraceConfig:
    """A config without the kinds of states that a model has none of, if nobody asked for them.

    Args:
        layers: of the model.
        config: the config.
        name: of the model.

    Raises:
        UnsupportedModelError: a kind was asked for that the model has none of.
    """
    here = {
        kind
        for kind in config.kinds
        for stream in (RESTORED.get(kind) or SEVERED.get(kind),)
        if stream is None or any(layers.has(Site(i, stream)) for i in range(len(layers)))
    }
    absent = [kind for kind in config.kinds if kind not in here]
    if absent and config.kinds != ORDINARY_KINDS:
        raise UnsupportedModelError(
            f"{name} has no layer of which '{absent[0]}' ({KIND_NAMES[absent[0]]}) could be "
            f"restored. Choose from {', '.join(sorted(here)) or 'block'}."
        )
    if not absent:
        return config
    return config.model_copy(update={"kinds": tuple(k for k in config.kinds if k in here)})
