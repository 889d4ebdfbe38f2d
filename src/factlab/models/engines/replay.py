"""The replay engine: layers one at a time, from any token on, with keys and values of the others.

The floor of what must be computed: nothing below the first changed layer, nothing left of the first
changed token. It takes a model in which attention alone mixes tokens, and whose forward pass does
no more than call its layers in order; loading a model checks that.
"""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from factlab.models.engines.engine import Engine, Frame, Hidden, first_tensor
from factlab.models.engines.kept import Kept, Prefix, Recording, behind
from factlab.models.engines.shell import Shell
from factlab.tokens import TokenBatch
from factlab.transformers_api import Cache, CacheLayer


class Replay(Engine):
    """See the module.

    Args:
        layers: the decoder layers.
        shell: the model without them.
    """

    name: ClassVar[str] = "replay"

    def __init__(self, layers: list[nn.Module], shell: Shell) -> None:
        self._layers, self._shell = layers, shell

    @property
    def n_layers(self) -> int:
        """See `Engine`."""
        return len(self._layers)

    def frame(
        self,
        batch: TokenBatch,
        left: Recording | Prefix | None = None,
        start: int = 0,
        rows: int | None = None,
    ) -> Frame:
        """See `Engine`."""
        cache = None if left is None else _cache(left, self.n_layers)
        entry, calls = self._shell.front(batch, cache, start, rows)
        return Frame(entry, calls, left)

    def step(self, frame: Frame, hidden: Hidden, layer: int) -> Hidden:
        """See `Engine`."""
        call = frame.calls[layer]
        if call is None:
            return hidden
        args, kwargs = call
        return first_tensor(self._layers[layer](hidden, *args, **kwargs))

    def readout(self, hidden: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocab"]:
        """See `Engine`."""
        return self._shell.readout(hidden)


def _cache(left: Recording | Prefix, n_layers: int) -> Cache:
    """What transformers hands to every layer, which gives it the keys and values of new tokens."""
    if isinstance(left, Recording):
        return Cache(layers=[_RecordingLayer(left, i) for i in range(n_layers)])
    return Cache(layers=[_PrefixLayer(kept) for kept in left.kept])


class _PrefixLayer(CacheLayer):
    """One layer's keys and values of tokens that do not change. Reading adds nothing to it."""

    def __init__(self, kept: Kept) -> None:
        super().__init__()
        self._kept = kept

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        keys, values = behind(self._kept, (key_states, value_states))
        return keys, values

    def get_seq_length(self) -> int:
        return self._kept[0].shape[2]


class _RecordingLayer(CacheLayer):
    """One layer's keys and values of every token, sliding windows or not."""

    def __init__(self, recording: Recording, layer: int) -> None:
        super().__init__()
        self._recording, self._layer = recording, layer

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        keys, values = self._recording.append(self._layer, key_states, value_states)
        return keys, values

    def get_seq_length(self) -> int:
        return self._recording.length(self._layer)
