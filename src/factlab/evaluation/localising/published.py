"""R² of Hase et al. 2023, table 1 and appendix: GPT-J, 652 facts of CounterFact, rewrite score."""

from collections.abc import Mapping
from typing import NamedTuple

from factlab.editing.variants import Variant


class PublishedR2(NamedTuple):
    """A cell of the published table.

    Attributes:
        layer: of the layer alone.
        effect: of the tracing effect alone.
        both: of both, with their interaction.
        delta: both minus layer, as printed.
    """

    layer: float
    effect: float
    both: float
    delta: float


# Method and how many layers it edits, as the study here names them.
_METHODS = (("ft+l", 1), ("ft+l", 5), ("rome", 1), ("memit", 5))
_TABLE: Mapping[Variant, tuple[tuple[float, float, float, float], ...]] = {
    "injection": (
        (0.756, 0.062, 0.758, 0.002), (0.775, 0.055, 0.777, 0.002),
        (0.947, 0.016, 0.948, 0.001), (0.677, 0.024, 0.678, 0.001),
    ),
    "reversal": (
        (0.067, 0.000, 0.067, 0.000), (0.751, 0.045, 0.752, 0.001),
        (0.294, 0.017, 0.310, 0.015), (0.212, 0.036, 0.218, 0.006),
    ),
    "erasure": (
        (0.643, 0.028, 0.646, 0.003), (0.698, 0.025, 0.700, 0.002),
        (0.857, 0.019, 0.858, 0.000), (0.925, 0.019, 0.925, 0.000),
    ),
    "amplification": (
        (0.383, 0.014, 0.393, 0.010), (0.424, 0.010, 0.436, 0.011),
        (0.880, 0.020, 0.880, 0.000), (0.905, 0.018, 0.906, 0.001),
    ),
    "forcing": (
        (0.697, 0.104, 0.724, 0.027), (0.634, 0.100, 0.666, 0.032),
        (0.422, 0.004, 0.425, 0.003), (0.345, 0.041, 0.354, 0.009),
    ),
}  # fmt: skip


def published_r2(name: str, width: int, variant: Variant) -> PublishedR2 | None:
    """What was published for a method of such a width; None for others."""
    if (name, width) not in _METHODS:
        return None
    return PublishedR2(*_TABLE[variant][_METHODS.index((name, width))])
