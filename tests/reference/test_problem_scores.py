"""Scores of the five problems against the published formulas, written out in float64."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factlab.editing.variants import VARIANTS
from factlab.evaluation.scoring.problem_scores import (
    Told,
    erased,
    essence_kept,
    perplexity,
    problem_scores,
    recovered,
    untouched,
)

PROBS = st.floats(1e-6, 1 - 1e-6)


@given(PROBS, PROBS)
def test_each_formula(pre, post):
    logs = math.log(pre), math.log(post)
    assert recovered(*logs) == pytest.approx(max(2e-8, 1 - (1 - post) / (1 - pre)), abs=1e-9)
    assert erased(*logs) == pytest.approx(max(0, (pre - post) / pre), abs=1e-9)
    assert untouched(*logs) == pytest.approx(1 - abs(post - pre) / (abs(pre - 0.5) + 0.5), abs=1e-9)


def test_ends():
    assert recovered(math.log(0.5), 0.0) == 1
    assert recovered(math.log(0.5), math.log(0.4)) == 2e-8
    assert math.isnan(recovered(0.0, 0.0))
    assert erased(math.log(0.5), -800.0) == 1
    assert erased(-800.0, math.log(0.5)) == 0
    assert untouched(math.log(0.3), math.log(0.3)) == 1
    # What is nearly certain has a headroom that 1 − p in floats does not see.
    assert recovered(-1e-20, -5e-21) == pytest.approx(0.5)


def told(random, n_texts=5):
    return Told(
        rewrite=math.log(random.uniform(0.05, 0.9)),
        paraphrase=[math.log(p) for p in random.uniform(0.05, 0.9, 3)],
        neighborhood=[math.log(p) for p in random.uniform(0.05, 0.9, 4)],
        essence=-random.uniform(30, 90, n_texts),
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("prompts", ["first", "all"])
def test_all_scores_against_numpy(variant, prompts):
    random = np.random.default_rng(3)
    lengths = [20, 31, 40, 25, 33]
    for _ in range(20):
        before, after = told(random), told(random)
        found = problem_scores(before, after, variant, lengths, prompts)
        n = 1 if prompts == "first" else None

        def gain(pre, post):
            pre, post = np.exp(np.float64(pre)), np.exp(np.float64(post))
            if variant == "erasure":
                return np.maximum(0, (pre - post) / pre)
            return np.maximum(2e-8, 1 - (1 - post) / (1 - pre))

        p, q = np.exp(before.neighborhood[:n]), np.exp(after.neighborhood[:n])
        expected = {
            "rewrite": gain(before.rewrite, after.rewrite),
            "paraphrase": gain(before.paraphrase[:n], after.paraphrase[:n]).mean(),
            "neighborhood": (1 - np.abs(q - p) / (np.abs(p - 0.5) + 0.5)).mean(),
        }
        ppl = [np.exp(-np.array(one.essence) / np.array(lengths)).mean() for one in (before, after)]
        expected["essence"] = 1 - np.clip(ppl[1] - ppl[0], 0, 5) / 5
        expected["overall"] = np.mean(
            [expected[k] for k in ("rewrite", "paraphrase", "neighborhood")]
        )
        expected["overall_essence"] = np.mean(
            [expected[k] for k in ("rewrite", "paraphrase", "neighborhood", "essence")]
        )
        assert found == pytest.approx(expected, abs=1e-12)


def test_what_a_record_lacks_is_nan():
    alone = Told(rewrite=-1.0)
    found = problem_scores(alone, Told(rewrite=-0.5), "injection")
    assert found["rewrite"] > 0
    assert all(math.isnan(value) for name, value in found.items() if name != "rewrite")


def test_perplexity_counts_the_first_token():
    assert perplexity(-30.0, 10) == pytest.approx(math.exp(3))
    assert perplexity(-1e9, 10) > 1e300
    assert essence_kept(10.0, 12.5) == 0.5
    assert essence_kept(10.0, 3.0) == 1
    assert essence_kept(10.0, 99.0) == 0


def test_a_log_probability_is_not_above_zero():
    with pytest.raises(ValueError, match="at most 0"):
        Told(rewrite=0.5)
    with pytest.raises(ValueError, match="at most 0"):
        Told(rewrite=math.nan)
