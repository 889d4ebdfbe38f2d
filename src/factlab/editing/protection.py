"""Keys of facts that were written earlier, kept from being overwritten.

Where one edit follows another, the keys K_p of what was written before are added to those that a
change must leave alone (MEMIT paper, equation 14, with the old facts among the old keys; the
literature's MEMIT_seq, arXiv 2601.15686):

    ΔW = R Kᵀ (A + K_p K_pᵀ + K Kᵀ)⁻¹

The inverse M = (A + K_p K_pᵀ)⁻¹ is not made anew for every edit. By Woodbury's identity, keys K
come in, or go out again when their fact is written anew, by

    M ← M − F (S + Kᵀ F)⁻¹ Fᵀ,     F = M K,     S = +1 for keys that come in, −1 for those that go

which takes as long whatever was written before. (In the equations keys are columns, in the code
rows.)
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from operator import is_

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.editing.metric import Keys, Metric
from factlab.editing.remembered import Remembered
from factlab.errors import EditError, counted
from factlab.large_matrices import product, solve

Key = Float[Tensor, " d_mlp"]
Question = tuple[str, str]

_AT_ONCE = 1024  # keys that come or go in one step
_FEW = 32  # keys that are not worth the inverse


def keys_name(layer: int) -> str:
    """What the keys at a layer are called among what an edit leaves."""
    return f"keys.{layer}"


def written_keys(block: Remembered, layer: int, width: int) -> Keys | None:
    """The keys at a layer that an edit left; None if it wrote elsewhere.

    Raises:
        EditError: they are of another model, or damaged.
    """
    keys = block.tensors.get(keys_name(layer))
    if keys is None:
        return None
    if tuple(keys.shape) != (len(block.facts), width) or not keys.isfinite().all():
        raise EditError(
            f"An earlier edit of {counted(len(block.facts), 'fact')} remembers keys at layer "
            f"{layer} that are no finite numbers of shape {(len(block.facts), width)}. Make that "
            "edit again."
        )
    return keys.cpu().double()


class Protection:
    """The metrics of a sequence, kept from one edit to the next."""

    def __init__(self) -> None:
        self._first: Remembered | None = None
        self._metrics: dict[tuple[Hashable, int], Protected] = {}

    def metric(
        self,
        settings: Hashable,
        layer: int,
        base: Callable[[Keys], Metric],
        keys: Keys,
        past: Sequence[Remembered],
        questions: Sequence[Question],
    ) -> Metric:
        """A layer's metric with the keys of earlier edits, but for those that are written anew.

        Args:
            settings: all that tells `base` from others.
            layer: 0-based.
            base: the metric without them, from the keys of the first edit.
            keys: that are to be written at now.
            past: what earlier edits left, in their order.
            questions: that the facts to write now answer.

        Raises:
            EditError: what an edit left is of another model, or damaged.
            StatisticsError: A is singular.
        """
        if past[0] is not self._first:  # another sequence
            self._first, self._metrics = past[0], {}
        if (settings, layer) not in self._metrics:
            width = keys.shape[1]
            found = (written_keys(block, layer, width) for block in past)
            first_keys = next((each for each in found if each is not None), None)
            if first_keys is None:  # nothing was written there: the next edit may be the first
                return Protected(base(keys), layer, width).hold(past, questions)
            self._metrics[settings, layer] = Protected(base(first_keys), layer, width)
        return self._metrics[settings, layer].hold(past, questions)


class Protected:
    """The metric of a layer, with keys that were written earlier added to it.

    Args:
        base: A without them.
        layer: 0-based.
        width: of the keys.
    """

    def __init__(self, base: Metric, layer: int, width: int) -> None:
        self._base, self._layer, self._width = base, layer, width
        self._forget()

    def _forget(self) -> None:
        self._seen: tuple[Remembered, ...] = ()
        self._written: dict[Question, Key] = {}  # by all blocks that were seen
        self._held: dict[Question, Key] = {}  # of these, what the inverse has now
        self._replaced: tuple[Question, ...] = ()
        self._inverse: Float[Tensor, "d_mlp d_mlp"] | None = None

    def hold(self, past: Sequence[Remembered], replaced: Sequence[Question] = ()) -> Metric:
        """Protect what was written before, and nothing else.

        Args:
            past: what earlier edits left, in their order; where two answer the same question, the
                later one counts.
            replaced: questions that are being answered anew.

        Returns:
            The metric; good until the next call.

        Raises:
            EditError: what an edit left is of another model, or damaged.
            StatisticsError: A is singular.
        """
        n_seen = len(self._seen)
        if len(past) < n_seen or not all(map(is_, self._seen, past)):
            self._forget()
            n_seen = 0
        touched = dict.fromkeys((*self._replaced, *replaced))
        for block in past[n_seen:]:
            keys = written_keys(block, self._layer, self._width)
            if keys is not None:
                written = {fact.question: key for fact, key in zip(block.facts, keys, strict=True)}
                self._written |= written
                touched |= dict.fromkeys(written)
        self._seen, self._replaced = tuple(past), tuple(replaced)
        anew = {*replaced}
        wanted = {
            question: self._written[question]
            for question in touched
            if question in self._written and question not in anew
        }
        come = [key for q, key in wanted.items() if self._held.get(q) is not key]
        stale = [q for q in touched if q in self._held and self._held[q] is not wanted.get(q)]
        gone = [self._held.pop(question) for question in stale]
        self._held |= wanted
        return self._changed(come, gone)

    def _changed(self, come: Sequence[Key], gone: Sequence[Key]) -> Metric:
        if self._inverse is None:
            if not self._held:
                return self._base
            inverse = self._base.inverse() if len(self._held) > _FEW else None
            if inverse is None:
                return _Beside(self._base, torch.stack([*self._held.values()]))
            self._inverse = inverse.clone()
            come, gone = [*self._held.values()], []
        rows = [(key, sign) for keys, sign in ((come, 1.0), (gone, -1.0)) for key in keys]
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            keys = torch.stack([key for key, _ in some])
            signs = torch.tensor([sign for _, sign in some], dtype=torch.float64, device="cpu")
            add_keys_(self._inverse, keys, signs)
        return _Inverse(self._inverse)


def add_keys_(
    inverse: Float[Tensor, "d_mlp d_mlp"], keys: Keys, signs: Float[Tensor, " fact"]
) -> None:
    """(A + Kᵀ S K)⁻¹ from A⁻¹, in place: keys come in (sign 1), or go (sign −1)."""
    solved = product(keys, inverse)
    middle = torch.diag(signs) + product(solved, keys.T)
    inverse.addmm_(solved.T, solve(middle, solved), alpha=-1)


@dataclass(frozen=True, slots=True)
class _Inverse:
    """A metric that is at hand as a matrix."""

    matrix: Float[Tensor, "d_mlp d_mlp"]

    def solve(self, keys: Keys) -> Keys:
        """M k of every key."""
        return product(keys, self.matrix)

    def inverse(self) -> Float[Tensor, "d_mlp d_mlp"]:
        """M itself."""
        return self.matrix


@dataclass(frozen=True, slots=True)
class _Beside:
    """A metric with keys beside it, one by one: for few keys, or where a matrix is too large.

    Attributes:
        base: A without the keys.
        held: the keys.
    """

    base: Metric
    held: Keys

    def solve(self, keys: Keys) -> Keys:
        """M k of every key, by Woodbury's identity."""
        held = self.base.solve(self.held)
        middle = torch.eye(len(held), dtype=torch.float64, device="cpu") + held @ self.held.T
        solved = self.base.solve(keys)
        return solved - solved @ self.held.T @ torch.linalg.solve(middle, held)

    def inverse(self) -> Float[Tensor, "d_mlp d_mlp"] | None:
        """M itself; None where it is too large."""
        inverse = self.base.inverse()
        if inverse is not None:
            inverse = inverse.clone()
            ones = torch.ones(len(self.held), dtype=torch.float64, device="cpu")
            add_keys_(inverse, self.held, ones)
        return inverse
