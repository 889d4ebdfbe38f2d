"""Sums in place of integrals from 0 to 1."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from factlab.neurons.configs import Rule

# What the number of nodes is multiplied by where a sum was not exact enough.
GROWTH = 4


class Nodes(NamedTuple):
    """∫ f ≈ Σ weight · f(share).

    Attributes:
        shares: where the function is taken.
        weights: they add up to 1.
    """

    shares: Sequence[float]
    weights: Sequence[float]


@dataclass(frozen=True, slots=True)
class Quadrature:
    """How to integrate, and how exactly.

    Attributes:
        rule: where nodes lie, see `nodes`.
        steps: how many at first.
        tolerance: where the result is further off than this share of its scale, take more nodes;
            None to take it as it is.
        max_steps: most nodes.
    """

    rule: Rule
    steps: int
    tolerance: float | None = None
    max_steps: int = 640

    def nodes(self, m: int) -> Nodes:
        """Place m nodes: Gauss and Legendre's, or evenly with equal weights."""
        if self.rule == "gauss":
            places, weights = np.polynomial.legendre.leggauss(m)
            return Nodes(((places + 1) / 2).tolist(), (weights / 2).tolist())
        k = np.arange(m)
        places = {
            "midpoint": (k + 0.5) / m,
            "right": (k + 1) / m,
            "left": k / m,
            "closed": k / max(1, m - 1),
        }[self.rule]
        return Nodes(places.tolist(), [1 / m] * m)
