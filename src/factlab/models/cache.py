"""Keys and values of tokens: recorded by one run, read by others.

transformers hands a cache object to every layer, which gives it its new keys and values and gets
back all that attention should see. These two caches use that: one keeps, one only adds.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factlab.transformers_api import Cache, CacheLayer

# (row, head, pos, width) each; the widths of keys and values may differ.
KeysValues = tuple[Tensor, Tensor]


class _PrefixLayer(CacheLayer):
    """One layer's keys and values of tokens that do not change. Reading adds nothing to it."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.stored = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """The prefix, repeated to the number of rows that come, followed by the new tokens."""
        keys, values = self.stored
        repeats = key_states.shape[0] // keys.shape[0]
        return (
            torch.cat([keys.repeat(repeats, 1, 1, 1), key_states], dim=2),
            torch.cat([values.repeat(repeats, 1, 1, 1), value_states], dim=2),
        )

    def get_seq_length(self) -> int:
        return self.stored[0].shape[2]


class _GrowingLayer(CacheLayer):
    """One layer's keys and values of a sequence that grows, in room reserved at its first token."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity, self._length = capacity, 0
        self._room: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the new tokens behind the old ones, in place, and return all so far."""
        if self._room is None:
            self._room = (self._reserve(key_states), self._reserve(value_states))
        start, stop = self._length, self._length + key_states.shape[2]
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, start:stop] = new
        self._length = stop
        return self.stored

    def _reserve(self, like: Tensor) -> Tensor:
        rows, heads, _, width = like.shape
        return like.new_empty(rows, heads, self._capacity, width)

    @property
    def device(self) -> torch.device | None:
        """Where the keys and values are; None before the first."""
        return None if self._room is None else self._room[0].device

    def keep(self, index: Int[Tensor, " row"]) -> None:
        """Go on with these rows only."""
        if self._room is not None:
            keys, values = self._room
            self._room = keys[index], values[index]

    @property
    def stored(self) -> KeysValues:
        """Keys and values so far."""
        if self._room is None:
            raise RuntimeError("nothing has been recorded yet")
        keys, values = self._room
        return keys[:, :, : self._length], values[:, :, : self._length]

    def get_seq_length(self) -> int:
        return self._length


class RecordingCache(Cache):
    """A cache that keeps every token at every layer, sliding windows or not.

    Args:
        n_layers: of the model.
        capacity: most tokens it will hold.
    """

    def __init__(self, n_layers: int, capacity: int) -> None:
        self._growing = [_GrowingLayer(capacity) for _ in range(n_layers)]
        super().__init__(layers=[*self._growing])

    @property
    def keys_values(self) -> list[KeysValues]:
        """Keys and values so far, layer by layer."""
        return [layer.stored for layer in self._growing]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        devices = {layer.device for layer in self._growing}
        index = {device: torch.tensor(rows, device=device or "cpu") for device in devices}
        for layer in self._growing:
            layer.keep(index[layer.device])

    def begin_with(self, prefix: "Prefix", repeats: int = 1) -> None:
        """Put a prefix, its rows repeated as a whole, in front of an empty cache."""
        for layer, (keys, values) in zip(self._growing, prefix.keys_values, strict=True):
            layer.update(keys.repeat(repeats, 1, 1, 1), values.repeat(repeats, 1, 1, 1))


class Prefix(Cache):
    """Keys and values of the tokens left of a replay, at every layer. Read-only.

    With n rows stored, a replay of m·n rows is served row r from stored row r mod n: variants of
    the same rows ride along as long as the stored rows are the inner index.
    """

    def __init__(self, keys_values: Sequence[KeysValues]) -> None:
        self.keys_values = list(keys_values)
        super().__init__(layers=[_PrefixLayer(keys, values) for keys, values in keys_values])

    @classmethod
    def of(
        cls,
        cache: RecordingCache,
        stops: int | Sequence[int],
        starts: Sequence[int] | None = None,
        rows: Sequence[int] | None = None,
    ) -> "Prefix":
        """The first tokens of each row of what a forward pass has recorded.

        Args:
            cache: what was recorded.
            stops: how many tokens, for all rows or for each; rows that keep fewer are shifted so
                that all end in one column, as `tokens.pad` aligns them.
            starts: the column in which each row's first token is; 0 for all by default.
            rows: the recorded rows to take, in this order, with `stops` for each; all by default.
        """
        if isinstance(stops, int):
            if starts is None and rows is None:
                return cls([(k[:, :, :stops], v[:, :, :stops]) for k, v in cache.keys_values])
            n_rows = cache.keys_values[0][0].shape[0] if rows is None else len(rows)
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
        return cls(
            [(_take(k, index, columns), _take(v, index, columns)) for k, v in cache.keys_values]
        )

    def rows(self, numbers: Sequence[int]) -> "Prefix":
        """Some of the rows."""
        index = torch.tensor(numbers, device="cpu")
        return Prefix([(k[index.to(k.device)], v[index.to(v.device)]) for k, v in self.keys_values])


def _take(
    states: Float[Tensor, "_ head pos width"],
    rows: Int[Tensor, " row"],
    columns: Int[Tensor, "row column"],
) -> Float[Tensor, "row head column width"]:
    """Rows' states at their own columns; a column that repeats is padding, to be masked."""
    taken = states[rows.to(states.device)[:, None], :, columns.to(states.device)]
    return taken.transpose(1, 2)
