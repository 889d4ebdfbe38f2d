"""Scores of one record, intervals and tests of significance, against values worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factlab.evaluation.measuring.rows import Asked, TargetScore
from factlab.evaluation.scoring.metrics import (
    exact_match,
    harmonic_mean,
    magnitude,
    success,
    target_logprob,
    target_prob,
    token_accuracy,
)
from factlab.evaluation.scoring.resampling import (
    mean_score,
    paired_p_value,
    paired_score_p_value,
    score_estimate,
)


def heard(*probs: float, top: tuple[bool, ...] | None = None) -> TargetScore:
    return TargetScore(logprobs=tuple(map(math.log, probs)), top=top or (False,) * len(probs))


def asked(new: tuple[float, ...], true: tuple[float, ...]) -> Asked:
    return Asked(new=heard(*new), true=heard(*true))


SHARES = st.floats(0.001, 1.0)

# -- one prompt -------------------------------------------------------------------------------


def test_two_forms_of_probability():
    target = heard(0.9, 0.4, 0.1)
    assert target_prob(target) == pytest.approx(0.036 ** (1 / 3))
    assert target_prob(target, "product") == pytest.approx(0.036)
    assert target_prob(heard(0.3)) == pytest.approx(target_prob(heard(0.3), "product"))
    tiny = TargetScore(logprobs=(-600.0, -600.0), top=(False, False))
    assert target_prob(tiny, "product") == 0
    assert target_logprob(tiny, "product") == -1200


def test_the_form_can_decide_who_wins():
    # geometric means 0.5 and 0.4; products 0.25 and 0.4
    prompts = (asked(new=(0.5, 0.5), true=(0.4,)),)
    assert success(prompts, "new", "mean").value == 1
    assert success(prompts, "new", "product").value == 0
    assert success(prompts, "true", "product").value == 1
    assert magnitude(prompts, "new", "mean").value == pytest.approx(0.1)
    assert magnitude(prompts, "new", "product").value == pytest.approx(-0.15)
    assert magnitude(prompts, "true", "product").value == pytest.approx(0.15)


def test_too_small_for_a_float_is_still_compared():
    pair = Asked(
        new=TargetScore(logprobs=(-800.0,), top=(False,)),
        true=TargetScore(logprobs=(-900.0,), top=(False,)),
    )
    assert success((pair,), "new").value == 1


# -- one record -------------------------------------------------------------------------------


def test_shares_and_means_over_prompts():
    prompts = (asked((0.6,), (0.1,)), asked((0.2,), (0.4,)), asked((0.3,), (0.3,)))
    assert success(prompts, "new").value == pytest.approx(1 / 3)  # a tie is no success
    assert success(prompts, "true").value == pytest.approx(1 / 3)
    assert magnitude(prompts, "new").value == pytest.approx(0.1)  # (0.5 − 0.2 + 0) / 3
    assert magnitude(prompts, "true").value == pytest.approx(-0.1)


def test_exact_match_wants_every_token_and_accuracy_counts_them():
    prompts = (
        Asked(new=heard(0.9, 0.8, top=(True, True)), true=heard(0.1, top=(False,))),
        Asked(new=heard(0.9, 0.1, top=(True, False)), true=heard(0.1, top=(True,))),
    )
    assert exact_match(prompts, "new").value == 0.5
    assert token_accuracy(prompts, "new").value == 0.75
    assert exact_match(prompts, "true").value == 0.5
    assert token_accuracy(prompts, "true").value == 0.5


@pytest.mark.parametrize("score", [success, magnitude, exact_match, token_accuracy])
def test_nothing_to_score_is_nan_with_a_reason(score):
    assert math.isnan(score((), "new").value)
    assert score((), "new").reason == "the record has no such prompts"
    half = (asked((0.5,), (0.5,)), Asked())
    assert math.isnan(score(half, "new").value)
    assert "not asked for" in score(half, "new").reason


@given(st.lists(st.tuples(SHARES, SHARES), min_size=1), st.sampled_from(["mean", "product"]))
def test_the_two_targets_mirror_each_other(pairs, form):
    prompts = tuple(asked((new,), (true,)) for new, true in pairs)
    new, true = success(prompts, "new", form).value, success(prompts, "true", form).value
    assert 0 <= new + true <= 1 + 1e-9
    lead = magnitude(prompts, "new", form).value
    assert lead == pytest.approx(-magnitude(prompts, "true", form).value)
    assert -1 <= lead <= 1


# -- S ----------------------------------------------------------------------------------------


def test_harmonic_mean_of_the_published_rows():
    assert 100 * harmonic_mean([1.0, 0.964, 0.754]) == pytest.approx(89.2, abs=0.05)  # ROME
    assert 100 * harmonic_mean([0.222, 0.247, 0.781]) == pytest.approx(30.5, abs=0.05)  # GPT-2 XL
    assert harmonic_mean([1.0, 0.0, 1.0]) == 0
    assert math.isnan(harmonic_mean([]))
    assert math.isnan(harmonic_mean([1.0, math.nan]))


@given(st.lists(SHARES, min_size=1, max_size=5))
def test_harmonic_mean_lies_between_the_smallest_and_the_mean(values):
    mean = harmonic_mean(values)
    assert min(values) - 1e-9 <= mean <= min(sum(values), len(values) * min(values)) + 1e-9
    assert mean <= sum(values) / len(values) + 1e-9


def test_score_is_of_the_means_not_the_mean_of_scores():
    values = np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    assert mean_score(values) == pytest.approx(0.6)  # of 1, ½, ½; each record alone has 0
    assert mean_score(np.array([[1.0, np.nan, 1.0], [1.0, 0.5, 0.0]])) == pytest.approx(0.6)
    assert math.isnan(mean_score(np.array([[1.0, np.nan, 1.0]])))
    assert math.isnan(mean_score(np.zeros((0, 3))))
    assert mean_score(np.array([[0.0, 1.0, 1.0]])) == 0


def test_interval_of_the_score():
    random = np.random.default_rng(1)
    # All three parts of a record are the same, so S is their mean, whose error is known.
    same = random.integers(0, 2, size=(400, 1)) * 1.0
    estimate = score_estimate(np.repeat(same, 3, axis=1))
    assert estimate.mean == pytest.approx(same.mean())
    expected = 1.96 * float(same.std(ddof=1)) / 20
    assert estimate.half_width == pytest.approx(expected, rel=0.1)
    assert estimate == score_estimate(np.repeat(same, 3, axis=1))
    certain = score_estimate(np.ones((5, 3)))
    assert certain.mean == 1
    assert 0.4 < certain.interval[0] < 0.8  # five records are no certainty
    assert certain.interval[1] == 1
    assert math.isnan(score_estimate(np.ones((1, 3))).half_width)


# -- significance -----------------------------------------------------------------------------


def test_signs_of_a_few_records_are_all_tried():
    assert paired_p_value(np.ones(6)) == 2 / 64
    assert paired_p_value(np.array([1.0, 1.0, -1.0])) == 1.0  # 8 of 8 sums are 1 or more apart
    assert paired_p_value(np.array([3.0, 1.0])) == 0.5
    assert paired_p_value(np.zeros(4)) == 1.0
    assert math.isnan(paired_p_value(np.zeros(0)))


def test_signs_of_many_records_are_drawn():
    assert paired_p_value(np.ones(40)) == pytest.approx(1 / 1001)
    balanced = np.array([1.0, -1.0] * 20)
    assert paired_p_value(balanced) == 1.0
    noise = np.random.default_rng(0).normal(size=200)
    assert paired_p_value(noise - noise.mean() + 0.25 * noise.std()) < 0.01
    assert paired_p_value(noise - noise.mean() + 0.02 * noise.std()) > 0.5


def test_score_of_two_runs_on_the_same_records():
    good, bad = np.full((30, 3), 0.9), np.full((30, 3), 0.5)
    assert paired_score_p_value(good, bad) == pytest.approx(2 / 1001)
    assert paired_score_p_value(good, good) == 1.0
    assert math.isnan(paired_score_p_value(np.zeros((0, 3)), np.zeros((0, 3))))
