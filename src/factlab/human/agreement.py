"""Do raters agree? Krippendorff's alpha for ordered values, and Kendall's W.

Sources: Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), which has the example that
the tests hold this against; Kendall and Babington Smith (1939), with the correction for ties.

    symbol   here             meaning
    o_ck     coincidences     how often values c and k meet in a unit, weighted by 1 / (m_u − 1)
    n_c      totals           sums of its rows
    δ²_ck    differences      (Σ_{g=c..k} n_g − (n_c + n_k)/2)², for ordered values
    α        alpha            1 − (n − 1)·Σ o_ck δ²_ck / Σ n_c n_k δ²_ck
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def coincidences(units: Sequence[Sequence[int]], n_values: int) -> Float[np.ndarray, "value value"]:
    """How often values meet in a unit, such as a passage that several people have placed.

    Args:
        units: the values that each got, from 0; one with fewer than two tells nothing.
        n_values: how many different values there can be.
    """
    found = np.zeros((n_values, n_values))
    for values in units:
        if len(values) > 1:
            counts = np.bincount(values, minlength=n_values).astype(float)
            found += (np.outer(counts, counts) - np.diag(counts)) / (len(values) - 1)
    return found


def ordinal_alpha(
    coincidences: Float[np.ndarray, "group value value"],
) -> Float[np.ndarray, " group"]:
    """Krippendorff's alpha of ordered values: 1 if all agree, 0 if by chance.

    Args:
        coincidences: of several groups of units, or of one.

    Returns:
        Of each group; NaN where all values are the same, or none meet.

    Examples:
        >>> from factlab.human.agreement import coincidences, ordinal_alpha
        >>> ordinal_alpha(coincidences([[0, 0], [1, 1], [2, 2]], 3)[None]).tolist()
        [1.0]
    """
    totals = coincidences.sum(axis=-1)
    n = totals.sum(axis=-1)
    middles = np.cumsum(totals, axis=-1) - totals / 2
    differences = (middles[..., :, None] - middles[..., None, :]) ** 2
    observed = (coincidences * differences).sum(axis=(-2, -1))
    pairs = totals[..., :, None] * totals[..., None, :]
    expected = (pairs * differences).sum(axis=(-2, -1))
    ratio = np.divide(
        (n - 1) * observed, expected, out=np.full(n.shape, np.nan), where=expected > 0
    )
    return 1 - ratio


def kendall_w(rankings: Sequence[Sequence[int | float]]) -> float:
    """Kendall's W of several rankings of the same things: 1 if all are the same.

    Of rankings at random it is 1 / number of rankings in the mean.

    Args:
        rankings: the ranks that each rater gives; ties share their mean rank. NaN of fewer than two
            rankings.

    Examples:
        >>> from factlab.human.agreement import kendall_w
        >>> kendall_w([[1, 2, 3], [1, 2, 3]])
        1.0
    """
    if len(rankings) < 2:
        return math.nan
    ranks = np.array(rankings, dtype=np.float64)
    m, n = ranks.shape
    sums = ranks.sum(axis=0)
    spread = float(((sums - sums.mean()) ** 2).sum())
    sizes = [np.unique(own, return_counts=True)[1].astype(float) for own in ranks]
    ties = sum(float((own**3 - own).sum()) for own in sizes)
    most = m**2 * (n**3 - n) - m * ties
    return 12 * spread / most if most else math.nan
