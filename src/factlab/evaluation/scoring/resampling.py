"""How far a score can be trusted, and whether two runs differ, by drawing records again.

An interval of S: what lies between 2.5 % and 97.5 % of bootstrap draws of its records. Where
records are few, or all the same in one of the three parts (four successes in four records tell less
than draws of them do), it is put together from the intervals of the parts (Zou and Donner 2008).

Two runs on the same records are compared pair by pair: means by flipping signs, S by a paired
bootstrap. Draws depend on the number of records only, so the same records give the same figures.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from factlab.estimate import Estimate
from factlab.evaluation.scoring.metrics import harmonic_mean

N_DRAWS = 1000
_AT_ONCE = 100  # draws; bounds memory
_EXACT_UP_TO = 12  # records: 4096 ways of signs, all of which are tried
_SEED = 0
_FEW = 20  # records, of which draws are too much alike


def mean_score(values: Float[np.ndarray, "record part"]) -> float:
    """S: harmonic mean of the columns' means; NaN entries are left out of their column."""
    everything = np.arange(len(values))[None]
    return float(_scores(values, everything)[0]) if len(values) else float("nan")


def score_estimate(values: Float[np.ndarray, "record part"]) -> Estimate:
    """S and its 95 % interval, which stays between 0 and 1; see above."""
    score = mean_score(values)
    if len(values) < 2 or np.isnan(score):
        return Estimate(score, float("nan"))
    parts = [part[~np.isnan(part)] for part in values.T]
    if min(map(len, parts)) < _FEW or any((part == part[0]).all() for part in parts):
        low, high = _interval_of_parts([Estimate.of_shares(part.tolist()) for part in parts])
    else:
        draws = np.concatenate([_scores(values, rows) for rows in _draws(len(values))])
        low, high = map(float, np.quantile(draws[~np.isnan(draws)], [0.025, 0.975]))
    if math.isnan(low):  # a part has one record only
        return Estimate(score, float("nan"))
    bounds = min(low, score), max(high, score)
    return Estimate(score, (bounds[1] - bounds[0]) / 2, bounds)


def _interval_of_parts(parts: Sequence[Estimate]) -> tuple[float, float]:
    """An interval of the harmonic mean of several shares, put together from theirs.

    The sum of the shares' reciprocals has the distances to its ends as the root of the sum of the
    squares of theirs. A share of 0 leaves nothing above it but what its own upper end allows.
    """
    if any(not part.has_interval for part in parts):
        return math.nan, math.nan
    means = [part.mean for part in parts]
    lows, highs = zip(*(part.interval for part in parts), strict=True)
    if min(means) <= 0:
        best = [high if mean <= 0 else mean for mean, high in zip(means, highs, strict=True)]
        return 0.0, harmonic_mean(best)
    total = math.fsum(1 / mean for mean in means)
    fewer = math.hypot(*(1 / mean - 1 / high for mean, high in zip(means, highs, strict=True)))
    high = min(1.0, len(parts) / max(total - fewer, len(parts)))
    if min(lows) <= 0:
        return 0.0, high
    more = math.hypot(*(1 / low - 1 / mean for mean, low in zip(means, lows, strict=True)))
    return len(parts) / (total + more), high


def paired_p_value(differences: Float[np.ndarray, " record"]) -> float:
    """Two-sided sign-flip test that a mean difference is zero.

    The share of sign patterns whose mean is at least as far from zero as the observed one: of all
    patterns for up to 12 records, else of 1000 drawn ones and the observed.
    """
    n = len(differences)
    if n == 0:
        return float("nan")
    observed = abs(differences.sum()) * (1 - 1e-12)  # equal sums may round differently
    if n <= _EXACT_UP_TO:
        patterns = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float((abs(_flipped(differences, patterns == 1)) >= observed).mean())
    random = np.random.default_rng(_SEED)
    as_far = 1
    for _ in range(N_DRAWS // _AT_ONCE):
        patterns = random.integers(0, 2, size=(_AT_ONCE, n)) == 1
        as_far += int((abs(_flipped(differences, patterns)) >= observed).sum())
    return as_far / (N_DRAWS + 1)


def paired_score_p_value(
    values: Float[np.ndarray, "record part"], others: Float[np.ndarray, "record part"]
) -> float:
    """Two-sided paired bootstrap test that S of two runs on the same records is the same.

    Twice the smaller of the shares of draws in which one or the other is not ahead.
    """
    if not len(values) or np.isnan(mean_score(values)) or np.isnan(mean_score(others)):
        return float("nan")
    leads = np.concatenate(
        [_scores(values, rows) - _scores(others, rows) for rows in _draws(len(values))]
    )
    leads = leads[~np.isnan(leads)]
    smaller = min((leads <= 0).sum(), (leads >= 0).sum())
    return min(1.0, 2 * float(smaller + 1) / (len(leads) + 1))


def _draws(n: int) -> Iterator[Int[np.ndarray, "draw {n}"]]:
    random = np.random.default_rng(_SEED)
    for _ in range(N_DRAWS // _AT_ONCE):
        yield random.integers(0, n, size=(_AT_ONCE, n))


def _scores(
    values: Float[np.ndarray, "record part"], rows: Int[np.ndarray, "draw pick"]
) -> Float[np.ndarray, " draw"]:
    """S of each draw of rows; NaN where a column has no value left."""
    present = ~np.isnan(values)
    sums = np.where(present, values, 0.0)[rows].sum(axis=1)
    counts = present[rows].sum(axis=1)
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    above = means > 0
    inverse = np.divide(1.0, means, out=np.zeros_like(means), where=above).sum(axis=1)
    scores = np.divide(
        values.shape[1], inverse, out=np.zeros_like(inverse), where=above.all(axis=1)
    )
    return np.where(np.isnan(means).any(axis=1), np.nan, scores)


def _flipped(
    differences: Float[np.ndarray, " record"], patterns: Bool[np.ndarray, "draw record"]
) -> Float[np.ndarray, " draw"]:
    """Sums of the differences, those of a pattern with the other sign."""
    return np.where(patterns, differences, -differences).sum(axis=1)
