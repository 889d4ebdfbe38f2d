"""How much a change of a linear memory matters, direction by direction.

A closed form weighs what a change ΔW does to keys that are to stay as they are: Σ ‖ΔW k‖² is
tr(ΔW A ΔWᵀ) with A = Σ k kᵀ. All that it needs of A is M = A⁻¹, and of M what it makes of keys:

| method | A | M |
|---|---|---|
| MEMIT, EMMET | λC, ordinary keys (`OrdinaryKeys`) | (λC)⁻¹ |
| AlphaEdit (`NullSpace`) | ε on the null space of C, infinite elsewhere | P / ε |
| either, in a sequence | the same + Σ k kᵀ of keys written earlier (`protection.Protected`) | |
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from factlab.stats.expert_moments import ExpertMoments, Moment

Keys = Float[Tensor, "fact d_mlp"]


@runtime_checkable
class Metric(Protocol):
    """M = A⁻¹ of one layer's keys, in float64 on the CPU."""

    def solve(self, keys: Keys) -> Keys:
        """M k of every key.

        Raises:
            StatisticsError: A is singular.
        """
        ...

    def inverse(self) -> Float[Tensor, "d_mlp d_mlp"] | None:
        """M itself; None where it is far too large, as of the stacked keys of experts.

        Raises:
            StatisticsError: A is singular.
        """
        ...


@dataclass(frozen=True, slots=True)
class OrdinaryKeys:
    """A = λC: what the model's keys are like in ordinary text, which count as λ keys.

    Attributes:
        moment: C.
        weight: λ.
    """

    moment: Moment
    weight: float

    def solve(self, keys: Keys) -> Keys:
        """M k of every key; see `Metric`."""
        return self.moment.solve(keys) / self.weight

    def inverse(self) -> Float[Tensor, "d_mlp d_mlp"] | None:
        """M itself; see `Metric`."""
        if isinstance(self.moment, ExpertMoments):
            return None
        return self.moment.inverse() / self.weight
