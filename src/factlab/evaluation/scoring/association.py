"""Whether two things go together: two numbers of the same records, or two kinds of cases.

Sources: Fisher's exact test (1935), two-sided as the sum of all tables that are no more probable;
odds ratio and its interval with a half added to every count (Gart 1966), so that none is infinite;
rank correlation as Spearman's. Intervals of correlations are of bootstrap draws of records.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from factlab.estimate import Estimate

N_DRAWS = 1000
_AT_ONCE = 100  # draws; bounds memory
_SEED = 0
_NORMAL = 1.959963984540054
_FEWEST = 3  # records of a correlation


@dataclass(frozen=True, slots=True)
class Correlation:
    """How two numbers of the same records go together; NaN where that cannot be said.

    Attributes:
        n: records that have both.
        linear: Pearson's correlation.
        ranks: Spearman's.
    """

    n: int
    linear: Estimate
    ranks: Estimate

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> "Correlation":
        """Of pairs without NaN.

        Examples:
            >>> from factlab.evaluation.scoring.association import Correlation
            >>> round(Correlation.of([(1.0, 1.0), (2.0, 4.0), (3.0, 9.0)]).ranks.mean, 6)
            1.0
        """
        if len(pairs) < _FEWEST:
            nothing = Estimate(math.nan, math.nan)
            return cls(len(pairs), nothing, nothing)
        both = np.array(pairs, dtype=np.float64)
        ranks = np.stack([_ranks(column) for column in both.T], axis=1)
        return cls(len(pairs), _estimate(both), _estimate(ranks))


@dataclass(frozen=True, slots=True)
class Contrast:
    """How often something is so of cases with a mark, and of those without.

    Attributes:
        mark: what some cases have.
        n_with: cases that have it.
        hits_with: of these, how many it is so of.
        n_without: cases that do not.
        hits_without: likewise.
    """

    mark: str
    n_with: int
    hits_with: int
    n_without: int
    hits_without: int

    @property
    def share_with(self) -> Estimate:
        """Of cases with the mark; Wilson's interval."""
        return share(self.hits_with, self.n_with)

    @property
    def share_without(self) -> Estimate:
        """Of cases without it."""
        return share(self.hits_without, self.n_without)

    @property
    def odds_ratio(self) -> Estimate:
        """Odds with the mark over odds without; NaN if all cases have it, or none."""
        if not self.n_with or not self.n_without:
            return Estimate(math.nan, math.nan)
        counts = (
            self.hits_with, self.n_with - self.hits_with,
            self.n_without - self.hits_without, self.hits_without,
        )  # fmt: skip
        log = sum(
            sign * math.log(count + 0.5) for sign, count in zip((1, -1, 1, -1), counts, strict=True)
        )
        half = _NORMAL * math.sqrt(math.fsum(1 / (count + 0.5) for count in counts))
        low, high = math.exp(log - half), math.exp(log + half)
        return Estimate(math.exp(log), (high - low) / 2, (low, high))

    @property
    def p(self) -> float:
        """Fisher's exact test, two-sided; NaN if all cases have the mark, or none."""
        if not self.n_with or not self.n_without:
            return math.nan
        return fisher_exact(self.hits_with, self.n_with, self.hits_without, self.n_without)


def share(hits: int, n: int) -> Estimate:
    """A share of cases and Wilson's interval; NaN of no case."""
    return Estimate.of_shares([1.0] * hits + [0.0] * (n - hits))


def fisher_exact(hits: int, n: int, other_hits: int, other_n: int) -> float:
    """Two-sided p-value that two shares are one: of all tables with the same sums.

    Args:
        hits: of the first kind of cases.
        n: cases of the first kind.
        other_hits: of the others.
        other_n: others.

    Examples:
        >>> from factlab.evaluation.scoring.association import fisher_exact
        >>> round(fisher_exact(8, 10, 1, 6), 4)
        0.035
    """
    total = hits + other_hits
    ways = {
        k: math.comb(n, k) * math.comb(other_n, total - k)
        for k in range(max(0, total - other_n), min(n, total) + 1)
    }
    # Whole numbers, so that tables of the same probability are the same.
    return sum(one for one in ways.values() if one <= ways[hits]) / sum(ways.values())


def _estimate(both: Float[np.ndarray, "record 2"]) -> Estimate:
    """The correlation of two columns, and what lies between 2.5 % and 97.5 % of the draws."""
    (found,) = _correlations(both[None])
    random, n = np.random.default_rng(_SEED), len(both)
    drawn = (random.integers(0, n, size=(_AT_ONCE, n)) for _ in range(N_DRAWS // _AT_ONCE))
    draws = np.concatenate([_correlations(both[each]) for each in drawn])
    draws = draws[~np.isnan(draws)]
    if math.isnan(found) or not len(draws):
        return Estimate(float(found), math.nan)
    low, high = map(float, np.quantile(draws, [0.025, 0.975]))
    bounds = min(low, float(found)), max(high, float(found))
    return Estimate(float(found), (bounds[1] - bounds[0]) / 2, bounds)


def _correlations(draws: Float[np.ndarray, "draw record 2"]) -> Float[np.ndarray, " draw"]:
    """Of each draw; NaN where a column is the same everywhere."""
    apart = draws - draws.mean(axis=1, keepdims=True)
    squares = (apart**2).sum(axis=1)
    scale = np.sqrt(squares.prod(axis=1))
    # Of equal numbers a mean may be off by rounding.
    flat = (draws == draws[:, :1]).all(axis=1).any(axis=1) | (scale == 0)
    products = apart.prod(axis=2).sum(axis=1)
    return np.divide(products, scale, out=np.full(len(draws), np.nan), where=~flat)


def _ranks(values: Float[np.ndarray, " record"]) -> Float[np.ndarray, " record"]:
    """Ranks from 0; those of equal values are their mean."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    below = np.cumsum(counts) - counts
    return (below + (counts - 1) / 2)[places]
