"""Scores of rows and their means, on rows written by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factlab.estimate import Estimate
from factlab.evaluation.measuring.rows import Asked, Drift, Measurement, Row, TargetScore, Written
from factlab.evaluation.scoring.resampling import _interval_of_parts, score_estimate
from factlab.evaluation.scoring.scores import (
    METRICS,
    SCORE_PARTS,
    p_values,
    relation_means,
    score_row,
    summarise,
)


def ask(new: float, true: float, new_top: bool = False, true_top: bool = False) -> Asked:
    return Asked(
        new=TargetScore(logprobs=(math.log(new),), top=(new_top,)),
        true=TargetScore(logprobs=(math.log(true),), top=(true_top,)),
    )


def measure(rewrite, paraphrase=(), neighborhood=(), **more) -> Measurement:
    return Measurement(
        rewrite=tuple(rewrite), paraphrase=tuple(paraphrase), neighborhood=tuple(neighborhood),
        **more,
    )  # fmt: skip


WON, LOST = ask(0.8, 0.1, new_top=True), ask(0.1, 0.5, true_top=True)
UNEDITED = measure([LOST], [LOST, LOST], [LOST, LOST])
EDITED = measure([WON], [WON, LOST], [LOST, WON])


def row(case_id: int, after: Measurement | None = EDITED, **changes) -> Row:
    values = {
        "case_id": case_id, "benchmark": "counterfact", "relation_id": "P36", "subject": "Paris",
        "prompt": "Paris is in", "target_new": "Italy", "target_true": "France",
        "before": UNEDITED, "after": after, "edit_s": 1.0, "measure_s": 2.0, "seed": 0,
    } | changes  # fmt: skip
    return Row(**values)


def scored(rows, stage="after"):
    return [score_row(one, stage) for one in rows]


def test_a_record_of_counterfact():
    after = score_row(row(3), "after").values
    assert {name: score.value for name, score in after.items() if not score.reason} == {
        "rewrite_success": 1,
        "rewrite_magnitude": pytest.approx(0.7),
        "paraphrase_success": 0.5,
        "paraphrase_magnitude": pytest.approx(0.15),  # (0.7 − 0.4) / 2
        "neighborhood_success": 0.5,
        "neighborhood_magnitude": pytest.approx(-0.15),
        "rewrite_exact": 1,
        "paraphrase_exact": 0.5,
        "neighborhood_exact": 0.5,
    }
    assert after["entropy_bits"].reason == "no texts were generated"
    before = score_row(row(3), "before").values
    assert before["rewrite_success"].value == 0
    assert before["neighborhood_success"].value == 1
    assert before["neighborhood_magnitude"].value == pytest.approx(0.4)


def test_texts_essence_and_drift():
    before = measure([LOST], essence_nll=math.log(20), drift=Drift(kl=0.0, nll=math.log(8)))
    after = measure(
        [WON], essence_nll=math.log(22), drift=Drift(kl=0.03, nll=math.log(9)),
        written=Written(texts=("a b",), entropy=6.2, consistency=0.4, words="nltk"),
    )  # fmt: skip
    values = score_row(row(1, after, before=before), "after").values
    assert values["essence"].value == pytest.approx(0.6)
    assert values["drift_kl_nats"].value == 0.03
    assert values["perplexity"].value == pytest.approx(9)
    assert values["entropy_bits"].value == 6.2
    assert values["consistency"].value == 0.4
    lonely = measure([WON], written=Written(texts=("a",), entropy=1.0, no_consistency="P1 is new"))
    assert score_row(row(1, lonely), "after").values["consistency"].reason == "P1 is new"


def test_fluency_of_earlier_versions_is_worked_out_again():
    """They had words of their own: here eight words, whose pairs and triples are all different."""
    old = Written(texts=("He isn't here, she is.",), entropy=9.9, no_consistency="none")
    pairs, triples = math.log2(7), math.log2(6)  # He is n't here , she is .
    fluency = score_row(row(1, measure([WON], written=old)), "after").values["entropy_bits"]
    assert fluency.value == pytest.approx(pairs / 3 + triples * 2 / 3)
    assert "words" not in old.model_dump(mode="json")


def test_a_record_of_zsre():
    question = Asked(new=TargetScore(logprobs=(-0.1, -2.0), top=(True, False)))
    other = Asked(
        true=TargetScore(logprobs=(-1.0, -1.0, -1.0, -1.0), top=(True, True, True, False))
    )
    after = measure([question], [question], [other])
    values = score_row(row(1, after, benchmark="zsre", target_true=None), "after").values
    assert set(values) == set(METRICS["zsre"])
    assert values["efficacy"].value == values["paraphrase"].value == 0.5
    assert values["specificity"].value == 0.75
    assert values["rewrite_exact"].value == values["neighborhood_exact"].value == 0


def test_means_over_records():
    rows = [row(1), row(2, UNEDITED), row(3, measure([WON]))]
    summary = summarise(scored(rows), "counterfact")
    assert summary.n_records == 3
    success = summary.metrics["rewrite_success"]
    assert success.estimate.mean == pytest.approx(2 / 3)
    assert success.estimate == Estimate.of_shares([1.0, 0.0, 1.0])
    assert summary.metrics["rewrite_magnitude"].estimate.bounds is None
    assert (success.n, success.n_nan) == (3, 0)
    paraphrases = summary.metrics["paraphrase_success"]
    assert paraphrases.estimate.mean == 0.25
    assert (paraphrases.n, paraphrases.n_nan) == (2, 1)
    assert paraphrases.unscored == {"the record has no such prompts": 1}
    # of 2/3, 1/4 and 3/4
    assert summary.metrics["score"].estimate.mean == pytest.approx(3 / (3 / 2 + 4 + 4 / 3))
    assert (summary.metrics["score"].n, summary.metrics["score"].n_nan) == (2, 1)


def test_a_failed_edit_is_counted_and_not_zero():
    rows = [row(1), row(2, None, failed="The value did not converge.")]
    summary = summarise(scored(rows), "counterfact")
    assert summary.metrics["rewrite_success"].estimate.mean == 1
    assert summary.metrics["rewrite_success"].unscored == {"the edit failed": 1}
    unedited = summarise(scored(rows, "before"), "counterfact")
    assert unedited.metrics["rewrite_success"].n == 2
    missing = score_row(row(1), "right_after").values["rewrite_success"]
    assert missing.reason == "not measured at this stage"


def test_nothing_at_all():
    summary = summarise([], "counterfact")
    assert summary.n_records == 0
    assert math.isnan(summary.metrics["score"].estimate.mean)
    assert p_values([], [], "counterfact").keys() == summary.metrics.keys()


OUTCOMES = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=8)


@given(OUTCOMES, st.randoms())
def test_the_order_of_rows_changes_nothing(outcomes, random):
    rows = [
        row(i, measure(*([WON if won else LOST] for won in outcome)))
        for i, outcome in enumerate(outcomes)
    ]
    records = scored(rows)
    shuffled = records[:]
    random.shuffle(shuffled)
    first, second = (summarise(r, "counterfact") for r in (records, shuffled))
    assert repr(first) == repr(second)
    assert relation_means(records, "counterfact") == relation_means(shuffled, "counterfact")
    means = [first.metrics[name].estimate.mean for name in SCORE_PARTS["counterfact"]]
    assert first.metrics["score"].estimate.mean <= 3 * min(means) + 1e-9


def test_relations_apart():
    rows = [row(1), row(2, relation_id="P17"), row(3, UNEDITED)]
    means = relation_means(scored(rows), "counterfact")
    assert [*means] == ["P17", "P36"]
    assert means["P36"] == {
        "n": 2,
        "score": pytest.approx(3 / (2 + 4 + 4 / 3)),
        "rewrite_success": 0.5,
        "paraphrase_success": 0.25,
        "neighborhood_success": 0.75,
    }


def test_two_runs_are_compared_on_the_cases_that_both_have():
    ours = scored([row(i) for i in range(6)] + [row(90, None, failed="no")])
    theirs = scored([row(i, UNEDITED) for i in range(6)] + [row(i) for i in range(80, 99)])
    found = p_values(ours, theirs, "counterfact")
    assert found["rewrite_success"] == 2 / 64
    assert found["score"] == pytest.approx(2 / 1001)
    assert math.isnan(found["essence"])
    assert p_values(ours, ours, "counterfact")["rewrite_success"] == 1


# -- intervals of S -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 4, 20, 100])
@pytest.mark.parametrize(
    "shares", [(1.0, 1.0, 1.0), (1.0, 0.5, 0.5), (0.0, 1.0, 0.5), (0.0, 0.0, 0.0)]
)
def test_records_that_are_all_the_same_do_not_make_it_certain(n, shares):
    estimate = score_estimate(np.array([shares] * n))
    low, high = estimate.interval
    assert 0 <= low <= estimate.mean <= high <= 1
    assert high - low > 1 / n / 2
    assert estimate.half_width == pytest.approx((high - low) / 2)
    if all(shares):
        parts = [Estimate.of_shares([share] * n).interval for share in shares]
        assert low > min(lower for lower, _ in parts) * 0.9


def test_the_interval_of_parts_is_near_the_draws_where_both_hold():
    random = np.random.default_rng(1)
    values = (random.random((200, 3)) < (0.9, 0.6, 0.7)).astype(float)
    drawn = score_estimate(values).interval
    parts = [Estimate.of_shares(part.tolist()) for part in values.T]
    assert _interval_of_parts(parts) == pytest.approx(drawn, abs=0.015)


def test_a_score_of_one_record_has_no_interval():
    assert not score_estimate(np.ones((1, 3))).has_interval
    assert not score_estimate(np.array([[1.0, 1.0, math.nan], [1.0, 1.0, 0.5]])).has_interval
