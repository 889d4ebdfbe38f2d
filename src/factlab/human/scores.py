"""What ratings come to: shares of first and last places, ranks, wins, agreement.

Shares have Wilson's interval. Wins of one method over another have an exact sign test, and an
interval of bootstrap draws of items, since raters of one item have read the same passages.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int

from factlab.estimate import Estimate, wilson
from factlab.evaluation.scoring.association import share
from factlab.human.agreement import coincidences, kendall_w, ordinal_alpha
from factlab.human.answers import FIRST, LAST, Question, Rating

N_DRAWS = 1000
_SEED = 0
_N_PLACES = 3
_NOTHING = Estimate(math.nan, math.nan)


@dataclass(frozen=True, slots=True)
class MethodScores:
    """How a method's passages are placed.

    Attributes:
        method: its label.
        n: ratings.
        most: share of ratings that have it first; Wilson's interval.
        least: share that have it last.
        rank: its mean rank, 1 being first; where more than three are compared, those that are
            neither first nor last share their mean rank. The interval is over items.
    """

    method: str
    n: int
    most: Estimate
    least: Estimate
    rank: Estimate


@dataclass(frozen=True, slots=True)
class Wins:
    """How often one method is placed above another.

    Attributes:
        above: the one that is above more often.
        below: the other.
        wins: ratings that have `above` above.
        losses: ratings that have it below; those that say neither count for nothing.
        share: of wins; the interval is over items.
        p: two-sided sign test that both are as good.
    """

    above: str
    below: str
    wins: int
    losses: int
    share: Estimate
    p: float

    @property
    def times(self) -> Estimate:
        """How many times as often it is above as below; infinite where it is never below."""
        low, high = map(_odds, self.share.interval)
        mean = _odds(self.share.mean)
        half = (high - low) / 2 if math.isfinite(high) else math.nan
        return Estimate(mean, half, (low, high))


@dataclass(frozen=True, slots=True)
class QuestionScores:
    """What came out of one question.

    Attributes:
        question: what was asked.
        n: ratings.
        methods: in their order.
        wins: of every pair of methods.
        alpha: Krippendorff's, of places; the interval is over items.
        n_agreed: items with two or more raters, which `alpha` and `w` are of.
        w: Kendall's, mean over these items.
        w_by_chance: what that would be of raters who guess.
    """

    question: Question
    n: int
    methods: tuple[MethodScores, ...]
    wins: tuple[Wins, ...]
    alpha: Estimate
    n_agreed: int
    w: Estimate
    w_by_chance: float


def score_question(
    ratings: Sequence[Rating], question: Question, labels: Sequence[str]
) -> QuestionScores:
    """Score one question.

    Args:
        ratings: of any questions.
        question: the one.
        labels: of the methods.
    """
    own = [rating for rating in ratings if rating.question == question]
    by_item: dict[int, list[Rating]] = {}
    for rating in own:
        by_item.setdefault(rating.item, []).append(rating)
    items = [by_item[item] for item in sorted(by_item)]
    places = [[rating.places(len(labels)) for rating in several] for several in items]
    rated = [several for several in places if len(several) > 1]
    ranks = [[_ranks(one) for one in several] for several in rated]
    chances = [1 / len(several) for several in rated]
    return QuestionScores(
        question, len(own),
        tuple(_method(label, number, places) for number, label in enumerate(labels)),
        tuple(_wins(labels, first, second, places)
              for first, second in combinations(range(len(labels)), 2)),
        _alpha(rated), len(rated),
        Estimate.of_shares([kendall_w(one) for one in ranks]) if ranks else _NOTHING,
        math.fsum(chances) / len(chances) if chances else math.nan,
    )  # fmt: skip


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact binomial test that wins and losses are as probable; NaN of neither.

    Examples:
        >>> from factlab.human.scores import sign_test
        >>> sign_test(5, 0)
        0.0625
    """
    n, fewer = wins + losses, min(wins, losses)
    if not n:
        return math.nan
    ways = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, 2 * ways / 2**n)


def _method(label: str, number: int, places: Sequence[Sequence[list[int]]]) -> MethodScores:
    own = [[one[number] for one in several] for several in places]
    flat = [place for several in own for place in several]
    n_methods = len(places[0][0]) if places else 0
    ranks = [[_rank(place, n_methods) for place in several] for several in own]
    return MethodScores(
        label,
        len(flat),
        share(flat.count(FIRST), len(flat)),
        share(flat.count(LAST), len(flat)),
        Estimate.of_clusters([*map(math.fsum, ranks)], [*map(len, ranks)]),
    )


def _wins(
    labels: Sequence[str], first: int, second: int, places: Sequence[Sequence[list[int]]]
) -> Wins:
    """Of two methods, the one that is above more often against the other."""
    above = [sum(one[first] < one[second] for one in several) for several in places]
    below = [sum(one[first] > one[second] for one in several) for several in places]
    if sum(above) < sum(below):
        first, second, above, below = second, first, below, above
    wins, losses = sum(above), sum(below)
    counts = np.array([above, below], dtype=np.float64).T.reshape(-1, 2)
    return Wins(
        labels[first], labels[second], wins, losses, _share_of_items(counts),
        sign_test(wins, losses),
    )  # fmt: skip


def _share_of_items(counts: Float[np.ndarray, "item 2"]) -> Estimate:
    """Share of the first column, and an interval over items.

    Where all go one way draws are all the same, and tell less than Wilson's interval for as many
    items, which then takes their place.
    """
    counts = counts[counts.sum(axis=1) > 0]
    if not len(counts):
        return _NOTHING
    wins, losses = map(float, counts.sum(axis=0))
    mean = wins / (wins + losses)
    if mean in (0.0, 1.0) and len(counts) > 1:
        bounds = wilson(mean, len(counts))
        return Estimate(mean, (bounds[1] - bounds[0]) / 2, bounds)
    return _interval(mean, len(counts), partial(_shares, counts))


def _shares(
    counts: Float[np.ndarray, "item 2"], drawn: Int[np.ndarray, "draw pick"]
) -> Float[np.ndarray, " draw"]:
    sums = counts[drawn].sum(axis=1)
    return sums[:, 0] / sums.sum(axis=1)


def _alpha(places: Sequence[Sequence[list[int]]]) -> Estimate:
    """Over the passages of all items: each was placed by all raters of its item."""
    if not places:
        return _NOTHING
    met = np.stack([coincidences([*zip(*several, strict=True)], _N_PLACES) for several in places])
    (mean,) = map(float, ordinal_alpha(met.sum(axis=0)[None]))
    return _interval(mean, len(met), partial(_alphas, met))


def _alphas(
    met: Float[np.ndarray, "item value value"], drawn: Int[np.ndarray, "draw pick"]
) -> Float[np.ndarray, " draw"]:
    return ordinal_alpha(met[drawn].sum(axis=1))


def _interval(
    mean: float,
    n_items: int,
    of_draws: Callable[[Int[np.ndarray, "draw pick"]], Float[np.ndarray, " draw"]],
) -> Estimate:
    """What lies between 2.5 % and 97.5 % of draws of items; none of one item."""
    if n_items < 2:
        return Estimate(mean, math.nan)
    random = np.random.default_rng(_SEED)
    draws = of_draws(random.integers(0, n_items, size=(N_DRAWS, n_items)))
    draws = draws[~np.isnan(draws)]
    if math.isnan(mean) or not len(draws):
        return Estimate(mean, math.nan)
    low, high = map(float, np.quantile(draws, [0.025, 0.975]))
    low, high = min(low, mean), max(high, mean)
    return Estimate(mean, (high - low) / 2, (low, high))


def _ranks(places: Sequence[int]) -> list[float]:
    return [_rank(place, len(places)) for place in places]


def _rank(place: int, n_methods: int) -> float:
    """A place as a rank: those in the middle share their mean."""
    return 1.0 if place == FIRST else float(n_methods) if place == LAST else (n_methods + 1) / 2


def _odds(share: float) -> float:
    return math.inf if share == 1 else share / (1 - share)
