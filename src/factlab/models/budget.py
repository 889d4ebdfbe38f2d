"""How much goes through a model at once: what keeps the device busy, and what memory holds.

Every batch has two limits, which have nothing to do with each other:

* *enough*: with more tokens it would not be faster. That depends on the device alone. A CPU is
  fastest while a batch fits into its caches; a GPU is busy from some ten thousand tokens on;
* *at most*: what fits into the memory that may be used besides the model's own weights.

The smaller of the two is taken. No result depends on either but by rounding, so neither is a
setting of a method, nor part of what makes two runs the same run: a run that failed for want of
memory goes on with less.

What a token takes is told by `Sizes`. These are upper estimates for decoders of the usual kind, so
that the memory that is really used stays below what is allowed. What no batch can be made smaller
for is not counted: weights, a trained editor's among them, second moments of keys, results, and
what cannot be divided: a single prompt, one example of a training.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import torch

from factlab.errors import FactlabError, MemoryLimitError
from factlab.models.free_memory import free_bytes
from factlab.models.request import check_gib
from factlab.models.stored import device_of

if TYPE_CHECKING:
    from factlab.models.language_model import LanguageModel

GIB = 2**30

# Tokens that keep a device busy: on the CPU, and elsewhere.
_PASS = (4096, 16_384)
_PIECE = (1280, 16_384)
_GRADIENT = (768, 16_384)
_READOUT = (128, 2048)
_FILLED = 384  # on a CPU: wider rows beside those that a batch has would be more padding than gain
# Share of the free memory that is used by default, and the least that is asked for.
_SHARE, _LEAST, _UNKNOWN = 0.5, 0.25, 2.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes that one token takes in a model.

    Attributes:
        state: in the residual stream.
        hidden: in the hidden layer of one MLP.
        layer: on its way through a layer, attention's and the MLP's intermediate results included.
        gradient: what all layers together keep of it for a backward pass.
        cached: its keys and values, all layers together.
        logits: a distribution over the vocabulary, and what is worked out from it.
    """

    state: int
    hidden: int
    layer: int
    gradient: int
    cached: int
    logits: int

    @classmethod
    def of(cls, lm: "LanguageModel", cached: int) -> "Sizes":
        """Those of a model.

        Args:
            lm: the model.
            cached: numbers in the keys and values of a token, all layers together.
        """
        width, n_layers = lm.dtype.itemsize, lm.n_layers
        state, hidden = width * lm.d_model, width * lm.layers.widest
        # Norms, queries, keys, values and what attention makes of them; the MLP's inputs, gate,
        # activation and their product. A backward pass keeps some of them in float32.
        layer = 8 * state + 3 * hidden
        kept = max(1.0, 4 / width) * (8 * state + 4 * hidden)
        return cls(
            state=state,
            hidden=hidden,
            layer=layer,
            gradient=round(n_layers * kept),
            cached=width * cached,
            logits=16 * lm.layers.n_tokens,
        )


@dataclass(frozen=True, slots=True)
class Budget:
    """How many tokens go through one model at once, for each kind of work.

    Attributes:
        gib: how much memory may be used besides the weights.
        sizes: what a token takes.
        on_cpu: whether the model is on a CPU.

    Raises:
        InvalidRequestError: the memory is no positive number.
    """

    gib: int | float
    sizes: Sizes
    on_cpu: bool

    def __post_init__(self) -> None:
        check_gib(self.gib)

    def at_most(self, bytes_each: int | float, share: float = 1.0) -> int:
        """How many things of a size fit into a share of the memory: one at least."""
        return max(1, int(share * self.gib * GIB / bytes_each))

    def limit(self, enough: tuple[int, int], bytes_each: int | float, share: float = 1.0) -> int:
        """The same, but no more than keeps the device busy.

        Args:
            enough: how many do that on a CPU, and elsewhere.
            bytes_each: what one takes.
            share: of the memory.
        """
        return min(enough[0] if self.on_cpu else enough[1], self.at_most(bytes_each, share))

    def pass_tokens(self, kept: int = 0) -> int:
        """Tokens of a forward pass without gradients.

        Args:
            kept: bytes that are kept of each, besides what leaves the last layer.
        """
        return self.limit(_PASS, self.sizes.layer + 2 * self.sizes.state + kept, 0.5)

    def cached_tokens(self, kept: int = 0) -> int:
        """Tokens of a forward pass whose keys and values are kept at every layer, and read again.

        Args:
            kept: as for `pass_tokens`.
        """
        sizes = self.sizes
        return self.limit(_PASS, 2 * sizes.cached + sizes.layer + 2 * sizes.state + kept, 0.75)

    @property
    def enough_tokens(self) -> int | None:
        """Tokens in a batch from which on it is not worth padding rows to wider ones."""
        return _FILLED if self.on_cpu else None

    @property
    def piece_tokens(self) -> int:
        """Tokens that go through one layer together, of many more that wait their turn."""
        return self.limit(_PIECE, self.sizes.layer, 0.25)

    def gradient_tokens(self, read: float = 0.0, left: float = 0.0, share: float = 1.0) -> int:
        """Tokens of a forward pass that is followed by a backward pass.

        Args:
            read: at what share of them logits are read that wait for the backward pass too.
            left: most tokens in place of one of them whose keys and values alone are held.
            share: of the memory.
        """
        sizes = self.sizes
        here = sizes.gradient + read * sizes.logits
        return self.limit(_GRADIENT, max(here, left * (2 * sizes.cached + sizes.layer)), share)

    @property
    def readout_tokens(self) -> int:
        """Tokens whose logits are held together."""
        return self.limit(_READOUT, self.sizes.logits, 0.25)


def default_gib(devices: Iterable[torch.device]) -> float:
    """What may be used if nobody says: half of what is free where least is, in powers of two.

    In powers of two, so that what other programs do in the meantime rarely changes it.
    """
    free = [n for n in map(free_bytes, devices) if n is not None]
    if not free:
        return _UNKNOWN
    return max(_LEAST, 2.0 ** math.floor(math.log2(max(1, min(free)) * _SHARE / GIB)))


class MemoryLimit:
    """`memory_gib` of a model: what was set, or else what is found free when it is first needed."""

    @overload
    def __get__(self, lm: None, owner: type) -> "MemoryLimit": ...
    @overload
    def __get__(self, lm: "LanguageModel", owner: type) -> float: ...
    def __get__(self, lm: "LanguageModel | None", owner: type) -> "float | MemoryLimit":
        if lm is None:
            return self
        if vars(lm)["_memory_gib"] is None:
            vars(lm)["_memory_gib"] = default_gib(
                {p.device for p in lm.model.parameters() if not p.is_meta} | {device_of(lm.model)}
            )
        return vars(lm)["_memory_gib"]

    def __set__(self, lm: "LanguageModel", gib: int | float | None) -> None:
        if gib is not None:
            check_gib(gib)
        vars(lm)["_memory_gib"] = gib


@contextmanager
def told_of_memory(lm: "LanguageModel") -> Iterator[None]:
    """Where memory runs out inside the block, say how much less to allow.

    Raises:
        MemoryLimitError: memory ran out.
    """
    try:
        yield
    except FactlabError:
        raise
    except (RuntimeError, MemoryError) as error:
        # torch has a class of its own for GPUs only.
        is_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if is_memory or "allocate memory" in str(error) or "not enough memory" in str(error):
            gib = lm.memory_gib
            raise MemoryLimitError(
                f"Memory ran out, with {gib:g} GiB allowed besides the model's weights. Allow "
                f"less: --memory-gib {gib / 2:g} on the command line, lm.memory_gib = {gib / 2:g} "
                "in Python. A run that was begun can be resumed with it."
            ) from error
        raise
