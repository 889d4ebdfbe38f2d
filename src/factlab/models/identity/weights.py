"""SHA-256 of weights, remade where their bits have changed, however they were changed.

A digest reads and rounds every weight and costs a second for each gigabyte. So it is kept, with
what shows whether it still holds:

* the count of changes that PyTorch keeps of a tensor, and where its numbers lie. Both are free, but
  writing through `.data`, NumPy or a merge of adapters goes unnoticed by the first;
* sums of the bits of every 512 bytes: as fast as memory is read, and only numbers that change
  places within 512 bytes escape them;
* the same of a sample of those stretches, where even that is too slow: whole matrices that were
  changed are noticed, single rows perhaps not.
"""

import hashlib
import os
import weakref
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from factlab.progress import ProgressCallback, silent

_STRETCH = 512  # bytes whose bits are summed
_N_SAMPLED = 32  # stretches of each weight
_LABEL = "hashing the model"


@dataclass(slots=True)
class _Known:
    """A digest and what shows whether it still holds.

    Attributes:
        weight: whose digest it is.
        version: how often the weight had been changed, or None if nobody counts.
        place: of its numbers in memory, and their type.
        sums: of its bits.
        sample: of some of its bits.
        digest: SHA-256.
        seen: the last block (see `steady`) in which the sums were compared.
    """

    weight: weakref.ref[Tensor]
    version: int | None
    place: tuple[int, torch.dtype]
    sums: bytes
    sample: bytes
    digest: bytes
    seen: int


class WeightDigests:
    """Digests of tensors, each made once for the same bits.

    Values are rounded to bfloat16 first, so that a checkpoint has the same digest loaded in float32
    and in bfloat16 (in float16 only if it was stored in 16 bits).
    """

    def __init__(self) -> None:
        self._known: dict[str, list[_Known]] = {}
        self._block, self._depth = 0, 0

    @contextmanager
    def steady(self) -> Generator[None, None, None]:
        """A block in which only counted changes happen: bits are compared once."""
        if self._depth == 0:
            self._block += 1
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def of(
        self,
        weights: Mapping[str, Tensor],
        roughly: bool = False,
        progress: ProgressCallback = silent,
    ) -> dict[str, bytes]:
        """The digest of every weight, by name.

        Args:
            weights: by name, which is part of the digest.
            roughly: compare only a sample of the bits of those that are known.
            progress: called with MiB done and in all, if any are to be hashed.
        """
        digests: dict[str, bytes] = {}
        missing: dict[str, Tensor] = {}
        for name, weight in weights.items():
            known = self._still_known(name, weight, roughly)
            if known is None:
                missing[name] = weight
            else:
                digests[name] = known
        total, done = sum(weight.nbytes for weight in missing.values()), 0
        for name, made in _made(missing, self._block):
            progress(_LABEL, done >> 20, total >> 20)
            others = [each for each in self._known.get(name, []) if _is_other(each, missing[name])]
            self._known[name] = [*others, made]
            digests[name] = made.digest
            done += missing[name].nbytes
        if missing:
            progress(_LABEL, total >> 20, total >> 20)
        return digests

    def _still_known(self, name: str, weight: Tensor, roughly: bool) -> bytes | None:
        known = next((k for k in self._known.get(name, []) if k.weight() is weight), None)
        if known is None or (known.version, known.place) != (_version(weight), _place(weight)):
            return None
        if self._depth and known.seen == self._block and known.version is not None:
            return known.digest
        if roughly:
            return known.digest if known.sample == _sums(weight, _N_SAMPLED) else None
        if known.sums != _sums(weight):
            return None
        known.seen = self._block
        return known.digest


def _is_other(known: _Known, weight: Tensor) -> bool:
    tensor = known.weight()
    return tensor is not None and tensor is not weight


def _made(weights: Mapping[str, Tensor], block: int) -> Iterable[tuple[str, _Known]]:
    """Hash weights, several at a time: hashing holds no lock of Python."""
    if not weights:
        return
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        digests = pool.map(_sha256, weights.keys(), weights.values())
        for (name, weight), digest in zip(weights.items(), digests, strict=True):
            yield name, _Known(
                weakref.ref(weight), _version(weight), _place(weight), _sums(weight),
                _sums(weight, _N_SAMPLED), digest, block,
            )  # fmt: skip


def _version(weight: Tensor) -> int | None:
    return None if weight.is_inference() else weight._version


def _place(weight: Tensor) -> tuple[int, torch.dtype]:
    return weight.data_ptr(), weight.dtype


def _sha256(name: str, weight: Tensor) -> bytes:
    made = hashlib.sha256(f"{name} {tuple(weight.shape)}\n".encode())
    rounded = weight.detach().to(torch.bfloat16).contiguous().view(torch.int16)
    made.update(rounded.cpu().numpy().data)
    return made.digest()


def _sums(weight: Tensor, n_sampled: int | None = None) -> bytes:
    """A digest of sums of the bits of all stretches, or of some."""
    flat = weight.detach().reshape(-1)
    if flat.storage_offset() * flat.element_size() % 8:
        flat = flat.clone()  # begins at no multiple of 8 bytes
    bits = flat.view(torch.uint8)
    whole = len(bits) // _STRETCH * _STRETCH
    stretches = bits[:whole].view(torch.int64).view(-1, _STRETCH // 8)
    if n_sampled is not None:
        stretches = stretches[:: max(1, len(stretches) // n_sampled)]
    made = hashlib.blake2b(stretches.sum(1).cpu().numpy().data)
    made.update(bits[whole:].cpu().numpy().data)
    return made.digest()
