"""SHA-256 of weights, remade where their bits have changed, however they were changed.

A digest reads and rounds every weight and costs a second for each gigabyte. So it is kept, with
what shows whether it still holds:

* the count of changes that PyTorch keeps of a tensor, and where its numbers lie. Both are free, but
  writing through `.data`, NumPy or a merge of adapters goes unnoticed by the first;
* sums of the bits of every 512 bytes: as fast as memory is read, and only numbers that change
  places within 512 bytes escape them;
* some numbers of each weight, where even that is too slow: whole matrices that were changed are
  noticed, single rows perhaps not.
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

from factlab.models.stored import Elsewhere
from factlab.progress import ProgressCallback, silent
from factlab.projections import FLOATS

_STRETCH = 512  # bytes whose bits are summed
_N_SAMPLED = 64  # numbers of each weight
_LABEL = "hashing the model"
_WORTH_TELLING = 2**28  # bytes that take long enough for somebody to wonder


@dataclass(slots=True)
class _Known:
    """A digest and what shows whether it still holds.

    Attributes:
        weight: whose digest it is.
        version: how often the weight had been changed, or None if nobody counts.
        place: of its numbers in memory, and their type.
        sums: of its bits.
        sample: some of its numbers.
        digest: SHA-256.
        seen: the last block (see `steady`) in which the sums were compared.
    """

    weight: weakref.ref[Tensor]
    version: int | None
    place: tuple[int, torch.dtype]
    sums: bytes
    sample: Tensor
    digest: bytes
    seen: int


class WeightDigests:
    """Digests of tensors, each made once for the same bits.

    Values are rounded to bfloat16 first, so that a checkpoint has the same digest loaded in float32
    and in bfloat16 (in float16 only if it was stored in 16 bits).
    """

    def __init__(self) -> None:
        self._known: dict[str, list[_Known]] = {}
        self._others: dict[str, tuple[tuple[object, ...] | None, bytes]] = {}
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
        weights: Mapping[str, Tensor | Elsewhere],
        roughly: bool = False,
        progress: ProgressCallback = silent,
    ) -> dict[str, bytes]:
        """The digest of every weight, by name.

        Args:
            weights: by name, which is part of the digest.
            roughly: compare only some numbers of each, unless one of these differs.
            progress: called with MiB done and in all, if there is much to be hashed.
        """
        held = {name: each for name, each in weights.items() if isinstance(each, Tensor)}
        others = {n: each for n, each in weights.items() if not isinstance(each, Tensor)}
        read = {name: self._of_other(name, each) for name, each in others.items()}
        return read | self._of_held(held, roughly, progress)

    def _of_other(self, name: str, weight: Elsewhere) -> bytes:
        """The digest of a weight that is read from elsewhere, anew if what is there is other."""
        place, digest = self._others.get(name, (None, b""))
        if place != weight.place:
            place, digest = weight.place, _sha256(name, weight.read())
            self._others[name] = (place, digest)
        return digest

    def _of_held(
        self, weights: Mapping[str, Tensor], roughly: bool, progress: ProgressCallback
    ) -> dict[str, bytes]:
        known = {name: self._known_of(name, weight) for name, weight in weights.items()}
        unsure = {name: each for name, each in known.items() if each and not self._is_sure(each)}
        if roughly:  # what PyTorch counted, such as an edit that came off again, is looked at whole
            counted = {n: k for n, k in unsure.items() if k.version != _version(weights[n])}
            others = {name: each for name, each in unsure.items() if name not in counted}
            unsure = counted if _samples_hold(others, weights) else unsure
        for name, each in unsure.items():
            if each.sums == _sums(weights[name]):
                each.version, each.seen = _version(weights[name]), self._block
            else:
                known[name] = None
        digests = {name: each.digest for name, each in known.items() if each}
        missing = {name: weights[name] for name, each in known.items() if not each}
        total, done = sum(weight.nbytes for weight in missing.values()), 0
        tell = progress if total >= _WORTH_TELLING else silent
        for name, made in _made(missing, self._block):
            tell(_LABEL, done >> 20, total >> 20)
            others = [each for each in self._known.get(name, []) if _is_other(each, missing[name])]
            self._known[name] = [*others, made]
            digests[name] = made.digest
            done += missing[name].nbytes
        if missing:
            tell(_LABEL, total >> 20, total >> 20)
        return digests

    def _known_of(self, name: str, weight: Tensor) -> _Known | None:
        """What is known of a weight, unless its numbers have moved."""
        known = next((k for k in self._known.get(name, []) if k.weight() is weight), None)
        return known if known and known.place == _place(weight) else None

    def _is_sure(self, known: _Known) -> bool:
        """Whether its bits were compared in this block, and nothing was counted since then."""
        weight = known.weight()
        is_as_counted = weight is not None and known.version == _version(weight) is not None
        return bool(self._depth) and known.seen == self._block and is_as_counted


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
                _sample(weight).clone(), digest, block,
            )  # fmt: skip


def _version(weight: Tensor) -> int | None:
    return None if weight.is_inference() else weight._version


def _place(weight: Tensor) -> tuple[int, torch.dtype]:
    return weight.data_ptr(), weight.dtype


def _sha256(name: str, weight: Tensor) -> bytes:
    made = hashlib.sha256(f"{name} {tuple(weight.shape)}\n".encode())
    plain = _plainly(weight)
    if plain.dtype not in FLOATS:  # packed: each bit counts
        made.update(f"{plain.dtype}\n".encode())
        made.update(_bytes(plain).cpu().numpy().data)
        return made.digest()
    rounded = plain.to(torch.bfloat16).contiguous().view(torch.int16)
    made.update(rounded.cpu().numpy().data)
    return made.digest()


def _samples_hold(known: Mapping[str, _Known], weights: Mapping[str, Tensor]) -> bool:
    """Whether the sampled numbers of all weights are what they were."""
    kinds: dict[tuple[torch.device, torch.dtype], list[str]] = {}
    for name, each in known.items():
        kinds.setdefault((each.sample.device, each.sample.dtype), []).append(name)
    return all(
        torch.equal(
            torch.cat([known[name].sample for name in names]),
            torch.cat([_sample(weights[name]) for name in names]),
        )
        for names in kinds.values()
    )


def _sample(weight: Tensor) -> Tensor:
    """Some numbers from all over a weight."""
    plain = _plainly(weight).contiguous()
    plain = plain if plain.dtype in FLOATS else _bytes(plain)
    count = plain.numel()
    step = max(1, count // _N_SAMPLED)
    return plain.as_strided((-(-count // step),), (step,))  # one operation: there are many weights


def _plainly(weight: Tensor) -> Tensor:
    """The same numbers without a class of their own."""
    plain = weight.detach()
    return plain if type(plain) is Tensor else plain.as_subclass(Tensor)


def _bytes(weight: Tensor) -> Tensor:
    return weight.contiguous().reshape(-1).view(torch.uint8)


def _sums(weight: Tensor) -> bytes:
    """A digest of the sums of the bits of all stretches."""
    flat = _plainly(weight).reshape(-1)
    if flat.storage_offset() * flat.element_size() % 8:
        flat = flat.clone()  # begins at no multiple of 8 bytes
    bits = _bytes(flat)
    whole = len(bits) // _STRETCH * _STRETCH
    stretches = bits[:whole].view(torch.int64).view(-1, _STRETCH // 8)
    # Fetched together: a GPU is waited for once a weight.
    kept = torch.cat([stretches.sum(1).view(torch.uint8), bits[whole:]])
    return hashlib.blake2b(kept.cpu().numpy().data).digest()
