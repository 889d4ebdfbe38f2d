"""`Remembered`: what an edit leaves to later edits of the same model.

A closed form leaves the keys that it wrote its facts at, so that later edits keep away from them
(`protection`). What a method leaves is saved with its edit: a sequence that is gone on
with another day, or on top of an edit that someone sent, knows as much as one that was never
interrupted.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from factlab.facts import Fact
from factlab.models.language_model import LanguageModel


@dataclass(frozen=True, slots=True, eq=False)
class Remembered:
    """What was left when some facts were written.

    Attributes:
        facts: that were written together.
        tensors: by names that the method knows; none if it leaves nothing.
    """

    facts: tuple[Fact, ...]
    tensors: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def digests(self) -> dict[str, str]:
        """SHA-256 of every tensor: of its type, shape and numbers."""
        return {name: _digest(tensor) for name, tensor in self.tensors.items()}


def remembered_on(lm: LanguageModel) -> list[Remembered]:
    """What the edits that are on a model left, in the order in which they were put on."""
    left: list[Remembered] = []
    for source in lm.patches.sources:
        left += getattr(source, "remembered", ())
    return left


def of_all(
    parts: Sequence[tuple[tuple[Fact, ...], tuple[Remembered, ...]]],
) -> tuple[Remembered, ...]:
    """What several edits leave together.

    Args:
        parts: facts of each edit, and what it leaves.

    Returns:
        Blocks that cover all facts in their order; nothing if no edit leaves anything.
    """
    if not any(left for _, left in parts):
        return ()
    return tuple(block for facts, left in parts for block in left or (Remembered(facts),))


def _digest(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}\n".encode())
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
