"""Nested regressions: what comes out where the truth is known, and against numbers by hand."""

import math

import numpy as np
import pytest

from factlab.evaluation.scoring.regression import Observation, regress


def observations(n_facts, n_layers, score, seed=0, effect=None):
    """Scores by a function of fact, layer and effect."""
    random = np.random.default_rng(seed)
    effects = random.uniform(0, 1, (n_facts, n_layers)) if effect is None else effect
    return [
        Observation(
            fact,
            layer,
            float(effects[fact, layer]),
            float(score(fact, layer, effects[fact, layer])),
        )
        for fact in range(n_facts)
        for layer in range(n_layers)
    ]


def of_layers(seed, per_fact=0.3):
    """Scores of layers and facts alone: the rows of a fact are alike, and know of no effect."""
    random = np.random.default_rng(1000 + seed)
    layers, facts = random.normal(0, 1, 8), random.normal(0, per_fact, 30)
    noise = random.normal(0, 0.3, (30, 8))
    return observations(30, 8, lambda f, k, e: layers[k] + facts[f] + noise[f, k], seed)


def test_scores_of_layers_alone_leave_nothing_to_effects():
    found = [regress(of_layers(seed), 200) for seed in range(20)]
    inside = [one.delta_low <= 0 <= one.delta_high for one in found]
    assert sum(inside) >= 17  # of intervals that miss one time in twenty
    assert all(one.r2_layer > 0.5 and one.delta < 0.05 for one in found)
    assert np.mean([one.shuffled_p < 0.05 for one in found]) <= 0.2


def test_a_planted_interaction_is_found():
    slopes = np.array([0, 0, 1.5, 0, -1.5, 0, 0, 1.0])
    noise = np.random.default_rng(5).normal(0, 0.2, (30, 8))
    found = regress(observations(30, 8, lambda f, k, e: k / 4 + slopes[k] * e + noise[f, k], 3))
    assert found.delta_low > 0.05
    assert found.f_p < 1e-6
    assert found.shuffled_p < 0.01
    assert found.r2_both > found.r2_layer > found.r2_effect


def test_f_is_the_one_by_hand():
    """Six facts, three layers: every sum written out."""
    rows = observations(
        6, 3, lambda f, k, e: k + 0.5 * e * (k == 1) + ((f * 5 + k * 3) % 7) / 20, 2
    )
    found = regress(rows, 50)
    rss_layer = rss_both = 0.0
    scores = np.array([row.score for row in rows])
    for layer in range(3):
        x = np.array([row.effect for row in rows if row.layer == layer])
        y = np.array([row.score for row in rows if row.layer == layer])
        rss_layer += ((y - y.mean()) ** 2).sum()
        slope, offset = np.polyfit(x, y, 1)
        rss_both += ((y - offset - slope * x) ** 2).sum()
    n, k_layer, k_both = 18, 3, 6
    f = ((rss_layer - rss_both) / (k_both - k_layer)) / (rss_both / (n - k_both))
    total = ((scores - scores.mean()) ** 2).sum()
    assert found.f == pytest.approx(f, rel=1e-9)
    assert found.f_df == (3, 12)
    assert found.r2_layer == pytest.approx(1 - rss_layer / total)
    assert found.r2_both == pytest.approx(1 - rss_both / total)
    assert found.delta == pytest.approx((rss_layer - rss_both) / total)
    adjusted = 1 - (rss_both / (n - k_both)) / (total / (n - 1))
    assert found.adjusted_both == pytest.approx(adjusted)
    effects = np.array([row.effect for row in rows])
    assert found.r2_effect == pytest.approx(np.corrcoef(effects, scores)[0, 1] ** 2)
    assert found.correlation == pytest.approx(np.corrcoef(effects, scores)[0, 1])


def test_the_closed_form_of_draws_is_what_statsmodels_fits():
    """Facts drawn again, rows and all, against a fit of these rows."""
    from statsmodels.formula.api import ols

    from factlab.evaluation.scoring import regression

    rows = of_layers(2)[:-3]  # not every fact has every layer
    table = regression._Table.of(rows, list(range(30)), list(range(8)))
    random = np.random.default_rng(8)
    for _ in range(3):
        picks = random.integers(0, 30, 30)
        weights = np.bincount(picks, minlength=30)[None].astype(float)
        import pandas

        drawn = pandas.DataFrame([r._asdict() for pick in picks for r in rows if r.fact == pick])
        both = ols("score ~ C(layer) * effect", drawn).fit().rsquared
        layer = ols("score ~ C(layer)", drawn).fit().rsquared
        assert table.deltas(weights, table.effects)[0] == pytest.approx(both - layer, abs=1e-9)


def test_the_interval_covers_a_planted_delta():
    """Of all facts there could be, not only of those drawn."""
    slopes = np.linspace(-1, 1, 6)

    def score(random, n):
        noise = random.normal(0, 0.4, (n, 6))
        return lambda f, k, e: slopes[k] * e + noise[f, k]

    large = np.random.default_rng(0)
    truth = regress(observations(4000, 6, score(large, 4000), 77), 20).delta
    inside = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        found = regress(observations(40, 6, score(random, 40), seed + 100), 200)
        inside += found.delta_low <= truth <= found.delta_high
    assert inside >= 16


def test_what_cannot_be_fitted_has_no_numbers():
    two = observations(2, 4, lambda f, k, e: f + k)
    assert not regress(two).can_be_made
    assert (regress(two).n_rows, regress(two).n_facts, regress(two).n_layers) == (8, 2, 4)
    same = observations(9, 4, lambda f, k, e: 1.0)
    assert not regress(same).can_be_made
    one_layer = observations(9, 1, lambda f, k, e: f)
    assert math.isnan(regress(one_layer).delta)
    assert regress(two).to_json()["delta"] is None


def test_rows_without_a_number_are_left_out():
    rows = of_layers(0)
    holes = [
        row._replace(effect=math.nan)
        if row.fact == 3
        else row._replace(score=math.nan)
        if row.fact == 4
        else row
        for row in rows
    ]
    found = regress(holes, 20)
    assert (found.n_rows, found.n_facts) == (28 * 8, 28)
    assert found.delta == pytest.approx(
        regress([r for r in rows if r.fact not in (3, 4)], 20).delta
    )


def test_an_effect_that_is_the_same_everywhere_explains_nothing():
    rows = observations(9, 3, lambda f, k, e: k + f / 9, effect=np.full((9, 3), 0.5))
    found = regress(rows, 20)
    assert found.delta == pytest.approx(0, abs=1e-9)
    assert math.isnan(found.correlation)
