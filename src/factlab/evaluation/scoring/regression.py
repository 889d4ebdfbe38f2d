"""Does a second measure explain scores beyond the layer? Nested regressions (Hase et al. 2023, 4).

One row per fact and layer. Three ordinary least squares fits:

    layer    score ~ C(layer)
    effect   score ~ effect
    both     score ~ C(layer) * effect

R² of each, and ΔR² = R²_both − R²_layer: what the effect of a fact at a layer tells of its score
there that the layer does not. The published F-test compares `layer` with `both`:

    F = ((RSS_layer − RSS_both) / (k_both − k_layer)) / (RSS_both / (n − k_both))

The rows of one fact are not independent, which F ignores. So there are two measures more, that go
by facts: an interval of ΔR² from drawing facts again, and a p-value from giving facts the effects
of other facts. ΔR² grows by chance whatever is added to a regression, and more so in draws, where
facts come twice; the interval, 2·ΔR² − what lies between 2.5 % and 97.5 % of the draws (the *basic*
bootstrap, Davison and Hinkley 1997, 5.2), takes that off, and may so reach below 0.
"""

import importlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from factlab.results import known

N_DRAWS = 1000
_AT_ONCE = 100
_SEED = 0


class Observation(NamedTuple):
    """A row of a regression.

    Attributes:
        fact: number of the fact.
        layer: that was edited.
        effect: of the fact at the layer.
        score: of the edit.
    """

    fact: int
    layer: int
    effect: float
    score: float


@dataclass(frozen=True, slots=True)
class Regression:
    """What came of the three fits; NaN where a fit cannot be made.

    Attributes:
        n_rows: of the regression.
        n_facts: distinct facts among them.
        n_layers: distinct layers.
        r2_layer: of the layer alone.
        r2_effect: of the effect alone.
        r2_both: of both, with an effect of its own in every layer.
        adjusted_layer: the first, adjusted for the number of parameters.
        adjusted_effect: the second.
        adjusted_both: the third.
        delta: R² of both − R² of the layer.
        delta_low: lower end of its 95 % interval, over facts.
        delta_high: upper end.
        f: of both against the layer.
        f_df: degrees of freedom of its numerator and denominator.
        f_p: its p-value, as if rows were independent.
        shuffled_p: share of shuffles of facts whose ΔR² is as large.
        correlation: of score and effect, over all rows.
    """

    n_rows: int
    n_facts: int
    n_layers: int
    r2_layer: float = math.nan
    r2_effect: float = math.nan
    r2_both: float = math.nan
    adjusted_layer: float = math.nan
    adjusted_effect: float = math.nan
    adjusted_both: float = math.nan
    delta: float = math.nan
    delta_low: float = math.nan
    delta_high: float = math.nan
    f: float = math.nan
    f_df: tuple[int, int] = (0, 0)
    f_p: float = math.nan
    shuffled_p: float = math.nan
    correlation: float = math.nan

    @property
    def can_be_made(self) -> bool:
        """Whether there were rows enough, and scores that differ."""
        return not math.isnan(self.delta)

    @property
    def adjusted_delta(self) -> float:
        """ΔR² of the adjusted ones."""
        return self.adjusted_both - self.adjusted_layer

    def to_json(self) -> dict[str, Any]:
        """Everything, ready for JSON; null where there is no number."""
        found = asdict(self) | {"adjusted_delta": self.adjusted_delta, "f_df": [*self.f_df]}
        return {
            name: known(value) if isinstance(value, float) else value
            for name, value in found.items()
        }


def regress(observations: Sequence[Observation], n_draws: int = N_DRAWS) -> Regression:
    """Fit the three regressions; rows whose effect or score is NaN are left out.

    Args:
        observations: at most one of each fact and layer.
        n_draws: of facts, for the interval and the shuffled p-value.

    Examples:
        >>> from factlab.evaluation.scoring.regression import Observation, regress
        >>> rows = [
        ...     Observation(fact, layer, (fact * 7 + layer) % 5 / 5, layer + fact % 2)
        ...     for fact in range(8) for layer in range(3)
        ... ]
        >>> found = regress(rows)
        >>> found.n_rows, found.n_facts, round(found.r2_layer, 3)
        (24, 8, 0.727)
    """
    rows = [row for row in observations if not (math.isnan(row.effect) or math.isnan(row.score))]
    layers = sorted({row.layer for row in rows})
    facts = sorted({row.fact for row in rows})
    empty = Regression(len(rows), len(facts), len(layers))
    scores = [row.score for row in rows]
    if len(rows) <= 2 * len(layers) or len(layers) < 2 or max(scores) == min(scores):
        return empty
    fits = _fitted(rows)
    # Where an effect is the same for all facts of a layer, it has no parameter of its own.
    df = round(fits["both"].df_model - fits["layer"].df_model)
    f, p = fits["both"].compare_f_test(fits["layer"])[:2] if df else (math.nan, math.nan)
    table = _Table.of(rows, facts, layers)
    delta = float(fits["both"].rsquared - fits["layer"].rsquared)
    low, high = table.interval(delta, n_draws)
    return Regression(
        len(rows), len(facts), len(layers),
        *(float(fits[name].rsquared) for name in ("layer", "effect", "both")),
        *(float(fits[name].rsquared_adj) for name in ("layer", "effect", "both")),
        delta=delta, delta_low=low, delta_high=high, f=float(f), f_p=float(p),
        f_df=(df, round(fits["both"].df_resid)),
        shuffled_p=table.shuffled_p(n_draws), correlation=_correlation(rows),
    )  # fmt: skip


_FORMULAS: Mapping[str, str] = {
    "layer": "score ~ C(layer)",
    "effect": "score ~ effect",
    "both": "score ~ C(layer) * effect",
}


def _fitted(rows: Sequence[Observation]) -> dict[str, Any]:
    """The three fits, by statsmodels."""
    # They take a second to import, and only this needs them.
    api = importlib.import_module("statsmodels.formula.api")
    frames = importlib.import_module("pandas")
    frame = frames.DataFrame([row._asdict() for row in rows])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of effects that are the same everywhere
        return {name: api.ols(formula, frame).fit() for name, formula in _FORMULAS.items()}


def _correlation(rows: Sequence[Observation]) -> float:
    effects, scores = np.array([(row.effect, row.score) for row in rows]).T
    if effects.std() == 0:
        return math.nan
    return float(np.corrcoef(effects, scores)[0, 1])


class _Table(NamedTuple):
    """The rows as matrices, for many regressions at once in closed form.

    With an effect of its own in every layer the fit falls into one line per layer, so that RSS of
    both is the sum over layers of S_yy − S_xy² / S_xx, and RSS of the layer that of S_yy.

    Attributes:
        present: whether a fact has a row at a layer, 0 or 1.
        effects: 0 where it has none.
        scores: likewise.
    """

    present: Float[np.ndarray, "fact layer"]
    effects: Float[np.ndarray, "fact layer"]
    scores: Float[np.ndarray, "fact layer"]

    @classmethod
    def of(
        cls, rows: Sequence[Observation], facts: Sequence[int], layers: Sequence[int]
    ) -> "_Table":
        made = cls(*np.zeros((3, len(facts), len(layers))))
        fact_at = {fact: i for i, fact in enumerate(facts)}
        layer_at = {layer: i for i, layer in enumerate(layers)}
        # Least squares do not see a shift, and sums lose fewer digits around 0.
        mean_x = math.fsum(row.effect for row in rows) / len(rows)
        mean_y = math.fsum(row.score for row in rows) / len(rows)
        for row in rows:
            place = fact_at[row.fact], layer_at[row.layer]
            made.present[place] = 1
            made.effects[place] = row.effect - mean_x
            made.scores[place] = row.score - mean_y
        return made

    def interval(self, delta: float, n_draws: int) -> tuple[float, float]:
        """The basic bootstrap interval of ΔR², facts drawn again."""
        random, n = np.random.default_rng(_SEED), len(self.present)
        drawn: list[Float[np.ndarray, " draw"]] = []
        for start in range(0, n_draws, _AT_ONCE):
            size = min(_AT_ONCE, n_draws - start)
            weights = random.multinomial(n, [1 / n] * n, size=size).astype(float)
            drawn.append(self.deltas(weights, self.effects))
        found = np.concatenate(drawn)
        low, high = np.nanquantile(found, [0.025, 0.975])
        return 2 * delta - float(high), 2 * delta - float(low)

    def shuffled_p(self, n_draws: int) -> float:
        """Share of shuffles, the rows as they are among them, with a ΔR² as large.

        Only facts with a row at every layer can change places. Sums over facts of effects, and of
        their squares, are the same whoever has them; those of products with scores are not.
        """
        complete = self.present.all(axis=1)
        effects, scores = (part[complete] for part in (self.effects, self.scores))
        if len(effects) < 2:
            return math.nan
        effects, scores = effects - effects.mean(axis=0), scores - scores.mean(axis=0)
        s_xx = (effects**2).sum(axis=0)
        has_effect = s_xx > 0
        random, n = np.random.default_rng(_SEED), len(effects)
        own = _explained((effects * scores).sum(axis=0), s_xx, has_effect)
        as_large = 1
        for start in range(0, n_draws, _AT_ONCE):
            orders = random.permuted(
                np.tile(np.arange(n), (min(_AT_ONCE, n_draws - start), 1)), axis=1
            )
            s_xy = (effects[orders] * scores).sum(axis=1)
            as_large += int((_explained(s_xy, s_xx, has_effect) >= own * (1 - 1e-9)).sum())
        return as_large / (n_draws + 1)

    def deltas(
        self, weights: Float[np.ndarray, "draw fact"], effects: Float[np.ndarray, "fact layer"]
    ) -> Float[np.ndarray, " draw"]:
        """ΔR² for each set of weights of the facts."""
        n, x, y = (weights @ part for part in (self.present, effects, self.scores))
        xx, yy = weights @ effects**2, weights @ self.scores**2
        xy = weights @ (effects * self.scores)
        with np.errstate(divide="ignore", invalid="ignore"):
            s_xx = np.where(n > 0, xx - x**2 / n, 0.0)
            s_xy = np.where(n > 0, xy - x * y / n, 0.0)
            explained = np.where(s_xx > 1e-12 * xx, s_xy**2 / s_xx, 0.0).sum(axis=1)
            total = yy.sum(axis=1) - y.sum(axis=1) ** 2 / n.sum(axis=1)
            return np.where(total > 0, explained / total, np.nan)


def _explained(
    s_xy: Float[np.ndarray, "*draw layer"],
    s_xx: Float[np.ndarray, " layer"],
    has_effect: Bool[np.ndarray, " layer"],
) -> Float[np.ndarray, "*draw"]:
    """Sum of squares that one line per layer explains."""
    return np.asarray((s_xy[..., has_effect] ** 2 / s_xx[has_effect]).sum(axis=-1))
