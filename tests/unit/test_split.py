"""Shares of records that have no subject in common."""

import random

import pytest

import factlab as fl
from factlab.data.records import Record
from factlab.data.split import share_of, split_by_subject, subject_hash


def records(n: int, per_subject: int = 2) -> list[Record]:
    return [
        Record(
            case_id=i,
            relation_id="P36",
            fact=fl.Fact("{} is in", f"Place {i // per_subject}", "Rome", "Paris"),
            neighborhood_prompts=("Elsewhere is in",),
        )
        for i in range(n)
    ]


def subjects(share) -> set[str]:
    return {record.fact.subject for record in share}


def test_no_subject_is_in_two_shares():
    split = split_by_subject(records(300), seed=3)
    shares = (split.train, split.validation, split.test)
    assert sum(map(len, shares)) == 300
    for i, one in enumerate(shares):
        for other in shares[i + 1 :]:
            assert not subjects(one) & subjects(other)
    assert 180 < len(split.train) < 240
    assert 10 < len(split.validation) < 60
    assert 30 < len(split.test) < 90


def test_a_subject_lands_in_the_same_share_in_any_file():
    every = records(200)
    split = split_by_subject(every)
    shuffled = random.Random(1).sample(every, 120)  # noqa: S311 - not a secret
    again = split_by_subject(shuffled)
    assert subjects(again.test) <= subjects(split.test)
    assert subjects(again.train) <= subjects(split.train)
    assert split_by_subject(every).digest == split.digest
    assert split_by_subject(list(reversed(every))).digest == split.digest
    assert split_by_subject(every, seed=1).digest != split.digest


def test_spelling_does_not_make_another_subject():
    assert subject_hash("The  Eiffel tower ") == subject_hash("the Eiffel Tower")
    assert subject_hash("Ｒome") == subject_hash("Rome")
    assert subject_hash("Rome") != subject_hash("Roma")
    assert share_of("PARIS", 0, 0.3, 0.3) == share_of("Paris", 0, 0.3, 0.3)


def test_subjects_that_are_kept_out_are_among_the_tests():
    every = records(100)
    before = split_by_subject(every)
    benchmark = [record.fact.subject.upper() for record in before.train[:20]]
    split = split_by_subject(every, kept_out=benchmark)
    assert split.train == before.train[20:]
    assert split.validation == before.validation
    assert set(split.test) == {*before.test, *before.train[:20]}
    assert split.digest != before.digest


def test_too_few_records_are_refused():
    with pytest.raises(fl.FactlabError, match="too few to split: none are left for"):
        split_by_subject(records(2))
    with pytest.raises(fl.FactlabError, match="must leave something for training"):
        split_by_subject(records(50), validation_share=0.5, test_share=0.5)
    with pytest.raises(fl.FactlabError, match="must not be negative"):
        split_by_subject(records(50), validation_share=-0.1)


def test_a_share_may_be_left_out():
    split = split_by_subject(records(100), test_share=0.0)
    assert not split.test
    assert split.train
    assert split.validation
