"""What is kept of tokens, layer by layer, for the tokens that come after them.

Where attention is all that mixes tokens, a layer's keys and values of the tokens on the left are
enough to run the rest (`keys, values`, one entry a head). Where something else mixes them too, the
states that entered the layer are kept (one entry, as if of one head), and the layer runs over them
again. Everything here is the same for both.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Of one layer, each (row, head, pos, width); widths may differ.
Kept = tuple[Tensor, ...]


class _Growing:
    """What one layer keeps of a sequence that grows, in room reserved at its first token."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self.length = capacity, 0
        self._room: Kept | None = None

    def append(self, new: Kept) -> Kept:
        """Write what comes of new tokens behind the old, in place, and return all so far."""
        if not new:
            return self.stored
        if self._room is None:
            self._room = tuple(self._reserve(each) for each in new)
        start, stop = self.length, self.length + new[0].shape[2]
        for room, each in zip(self._room, new, strict=True):
            room[:, :, start:stop] = each
        self.length = stop
        return self.stored

    def _reserve(self, like: Tensor) -> Tensor:
        rows, heads, _, width = like.shape
        return like.new_empty(rows, heads, self._capacity, width)

    @property
    def device(self) -> torch.device | None:
        """Where it is; None before the first token."""
        return None if self._room is None else self._room[0].device

    def keep(self, index: Int[Tensor, " row"]) -> None:
        """Go on with these rows only."""
        if self._room is not None:
            self._room = tuple(room[index] for room in self._room)

    @property
    def stored(self) -> Kept:
        """All so far; nothing of a layer that was passed over."""
        return tuple(room[:, :, : self.length] for room in self._room or ())


class Recording:
    """What every layer keeps of every token that is run.

    Args:
        n_layers: of the model.
        capacity: most tokens it will hold.
    """

    def __init__(self, n_layers: int, capacity: int) -> None:
        self._layers = [_Growing(capacity) for _ in range(n_layers)]

    def append(self, layer: int, *new: Tensor) -> Kept:
        """Add what a layer keeps of new tokens; returns it of all tokens so far."""
        return self._layers[layer].append(new)

    def length(self, layer: int) -> int:
        """How many tokens a layer has seen."""
        return self._layers[layer].length

    @property
    def kept(self) -> list[Kept]:
        """All so far, layer by layer."""
        return [layer.stored for layer in self._layers]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        devices = {layer.device for layer in self._layers}
        index = {device: torch.tensor(rows, device=device or "cpu") for device in devices}
        for layer in self._layers:
            layer.keep(index[layer.device])

    def begin_with(self, prefix: "Prefix", repeats: int = 1) -> None:
        """Put a prefix, its rows repeated as a whole, in front of an empty recording."""
        for layer, kept in zip(self._layers, prefix.kept, strict=True):
            layer.append(tuple(each.repeat(repeats, 1, 1, 1) for each in kept))

    def prefix(
        self,
        stops: int | Sequence[int],
        starts: Sequence[int] | None = None,
        rows: Sequence[int] | None = None,
    ) -> "Prefix":
        """The first tokens of each row.

        Args:
            stops: how many tokens, for all rows or for each; rows that keep fewer are shifted so
                that all end in one column, as `tokens.pad` aligns them.
            starts: the column in which each row's first token is; 0 for all by default.
            rows: the recorded rows to take, in this order, with `stops` for each; all by default.
        """
        if isinstance(stops, int):
            if starts is None and rows is None:
                return Prefix([tuple(x[:, :, :stops] for x in kept) for kept in self.kept])
            n_rows = len(rows or ()) or (self.kept[0][0].shape[0] if self._layers else 0)
            stops = [stops] * n_rows
        lengths = torch.tensor(stops, device="cpu")
        width = int(lengths.max())
        columns = (torch.arange(width, device="cpu") - (width - lengths[:, None])).clamp(min=0)
        if starts is not None:
            columns += torch.tensor(starts, device="cpu")[:, None]
        index = (
            torch.arange(len(lengths), device="cpu")
            if rows is None
            else torch.tensor(rows, device="cpu")
        )
        stored = self.kept
        at_rows, at_columns = _beside(stored, index), _beside(stored, columns)
        return Prefix(
            [
                tuple(_take(x, at_rows[x.device], at_columns[x.device]) for x in kept)
                for kept in stored
            ]
        )


class Prefix:
    """What every layer keeps of the tokens left of those that are run. Read-only.

    With n rows kept, a run of m·n rows is served row r from kept row r mod n: variants of the same
    rows ride along as long as the kept rows are the inner index.
    """

    def __init__(self, kept: Sequence[Kept]) -> None:
        self.kept = list(kept)

    @property
    def width(self) -> int:
        """How many tokens."""
        return self.kept[0][0].shape[2]

    def rows(self, numbers: Sequence[int]) -> "Prefix":
        """Some of the rows."""
        index = _beside(self.kept, torch.tensor(numbers, device="cpu"))
        return Prefix([tuple(x[index[x.device]] for x in kept) for kept in self.kept])

    def without(self, n: int) -> "Prefix":
        """All but the first n tokens."""
        return Prefix([tuple(x[:, :, n:] for x in kept) for kept in self.kept])


def behind(kept: Kept, new: Kept) -> Kept:
    """New tokens behind those that are kept, whose rows are repeated to as many as come."""
    repeats = new[0].shape[0] // kept[0].shape[0]
    return tuple(
        torch.cat([old.repeat(repeats, 1, 1, 1), each], dim=2)
        for old, each in zip(kept, new, strict=True)
    )


def _beside(stored: Sequence[Kept], index: Int[Tensor, "..."]) -> dict[torch.device, Tensor]:
    """An index on every device where something is kept; sent once, and not for every layer."""
    return {device: index.to(device) for device in {x.device for kept in stored for x in kept}}


def _take(
    states: Float[Tensor, "_ head pos width"],
    rows: Int[Tensor, " row"],
    columns: Int[Tensor, "row column"],
) -> Float[Tensor, "row head column width"]:
    """Rows' states at their own columns; a column that repeats is padding, to be masked."""
    taken = states[rows[:, None], :, columns]
    return taken.transpose(1, 2)
