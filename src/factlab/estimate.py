"""A mean and how far it can be trusted."""

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import NamedTuple

_LEVEL = 0.95
_NORMAL = NormalDist().inv_cdf((1 + _LEVEL) / 2)  # 1.96
_MANY = 100  # degrees of freedom from which a series in 1/n is exact to nine digits


class Estimate(NamedTuple):
    """A mean over cases and its 95 % confidence interval.

    Attributes:
        mean: over the cases; NaN if there is none.
        half_width: half of the interval's width; NaN where there is no interval, as with one case.
        bounds: the interval's ends where the mean is not in its middle; None where it is.
    """

    mean: float
    half_width: float
    bounds: tuple[float, float] | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end; NaN where there is no interval."""
        return self.bounds or (self.mean - self.half_width, self.mean + self.half_width)

    @property
    def has_interval(self) -> bool:
        """Whether there were cases enough to say how far the mean can be trusted."""
        return not math.isnan(self.half_width)

    def in_words(self, digits: int = 3, signed: bool = False) -> str:
        """Such as `0.123 ± 0.045`; the mean alone where there is no interval."""
        mean = f"{self.mean:{'+' if signed else ''}.{digits}f}"
        return f"{mean} ± {self.half_width:.{digits}f}" if self.has_interval else mean

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Mean of one value per case, and Student's interval: t·s/√n with n − 1 degrees of freedom.

        One case has a mean and no interval; no case has neither.
        """
        if not values:
            return cls(math.nan, math.nan)
        mean = math.fsum(values) / len(values)
        if len(values) < 2:
            return cls(mean, math.nan)
        variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
        return cls(mean, t_quantile(len(values) - 1) * math.sqrt(variance / len(values)))

    @classmethod
    def of_clusters(cls, sums: Sequence[float], counts: Sequence[int]) -> "Estimate":
        """Mean of values that come in clusters, each value counted once.

        Values of a cluster are not independent, so clusters are what varies: the mean is a ratio
        of two sums, Σ sums / Σ counts, and its variance is that of the ratio to first order, with
        Student's t of clusters − 1 degrees of freedom (Cochran 1977, section 6.3). With clusters of
        one size it is `of` their means. One cluster has a mean and no interval.

        Args:
            sums: of the values of each cluster.
            counts: how many values each cluster has, at least one.

        Examples:
            >>> from factlab.estimate import Estimate
            >>> Estimate.of_clusters([3.0, 1.0], [3, 1]).mean
            1.0
        """
        if not sums:
            return cls(math.nan, math.nan)
        n, total = len(sums), sum(counts)
        mean = math.fsum(sums) / total
        if n < 2:
            return cls(mean, math.nan)
        pairs = zip(sums, counts, strict=True)
        squares = math.fsum((one - mean * count) ** 2 for one, count in pairs)
        return cls(mean, t_quantile(n - 1) * math.sqrt(n / (n - 1) * squares) / total)

    @classmethod
    def of_shares(cls, values: Sequence[float]) -> "Estimate":
        """Mean of values from 0 to 1, one per case, and an interval that stays in that range.

        Of values that are all 0 or 1 it is Wilson's interval for a proportion, which is honest
        where Student's is not: four successes in four cases are 0.51 to 1, not 1 ± 0. It also
        stands in where all values are the same. Other values get Student's, cut off at 0 and 1.
        One case has no interval, as in `of`.
        """
        if len(values) < 2:
            return cls.of(values)
        mean = math.fsum(values) / len(values)
        if set(values) <= {0.0, 1.0} or len(set(values)) == 1:
            return cls._between(mean, *wilson(mean, len(values)))
        low, high = cls.of(values).interval
        return cls._between(mean, max(low, 0.0), min(high, 1.0))

    @classmethod
    def of_paired_shares(
        cls, before: Sequence[float] | Sequence[int], after: Sequence[float] | Sequence[int]
    ) -> "Estimate":
        """How much a share has grown, of the same cases that are 0 or 1 before and after.

        The interval is Bonett and Price's (2012): that of a difference of paired proportions, with
        one case added to either kind of change, so that it stays honest where hardly any case has
        changed. One case has no interval.

        Examples:
            >>> from factlab.estimate import Estimate
            >>> Estimate.of_paired_shares([1, 1, 0, 0], [1, 0, 0, 0]).mean
            -0.25
        """
        n = len(before)
        if n < 2:
            return cls.of([float(now - was) for was, now in zip(before, after, strict=True)])
        gained = sum(now > was for was, now in zip(before, after, strict=True))
        lost = sum(now < was for was, now in zip(before, after, strict=True))
        mean, middle = (gained - lost) / n, (gained - lost) / (n + 2)
        changed = (gained + lost + 2) / (n + 2)
        half = _NORMAL * math.sqrt((changed - middle**2) / (n + 2))
        return cls._between(mean, max(middle - half, -1.0), min(middle + half, 1.0))

    @classmethod
    def _between(cls, mean: float, low: float, high: float) -> "Estimate":
        return cls(mean, (high - low) / 2, (low, high))


def wilson(share: float, n_cases: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a proportion (1927): lower and upper end.

    Raises:
        ValueError: there is no case.
    """
    if n_cases < 1:
        raise ValueError("an interval for a proportion needs a case")
    weight = _NORMAL**2 / n_cases
    centre = (share + weight / 2) / (1 + weight)
    half = math.sqrt(weight * (share * (1 - share) + weight / 4)) / (1 + weight)
    return max(centre - half, 0.0), min(centre + half, 1.0)


@cache  # a pure function of an integer, asked for once per layer and group
def t_quantile(freedom: int) -> float:
    """How many standard errors a 95 % interval reaches to each side: Student's t.

    Args:
        freedom: degrees of freedom: cases less one.

    Raises:
        ValueError: there is no degree of freedom.
    """
    if freedom < 1:
        raise ValueError("an interval for a mean needs two cases")
    z, n = _NORMAL, freedom
    if n >= _MANY:  # Abramowitz and Stegun 26.7.5
        first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
        third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
        return z + first / n + second / n**2 + third / n**3
    low, high = 0.0, 16.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, n) < _LEVEL else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """P(|T| < t) for a whole number of degrees of freedom (Abramowitz and Stegun 26.7.3, .4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2 == 1
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= square * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
