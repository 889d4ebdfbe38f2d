"""Prompts of several kinds: those that come with factlab, and averages beside each other."""

from collections import Counter

import pytest

import factlab as fl
from factlab.data.known_sources import BUILTIN_KNOWN, known_facts, load_reasoning
from factlab.errors import InvalidRequestError, StorageError
from factlab.tracing.groups import GROUPS

CONFIG = fl.tracing.TraceConfig(samples=1, window=2, corruption="0.5")
FACTS = [fl.Fact("See {} is in", "Space Needle"), fl.Fact("{} is", "Rome")]


def test_prompts_of_four_kinds():
    known = known_facts("builtin-reasoning")
    counts = Counter(fact.relation_id for fact in known)
    assert sorted(counts) == ["arithmetic", "logical", "spatial", "temporal"]
    assert min(counts.values()) >= 20
    assert len({fact.prompt for fact in known}) == len(known)
    assert [fact.known_id for fact in known] == [*range(len(known))]
    for entry in known:
        # The subject is where the pattern has it, not where its words come first by chance.
        assert entry.fact == fl.Fact(entry.template, entry.subject, target_true=entry.attribute)
    assert known_facts("builtin-reasoning", "spatial") == [
        fact for fact in known if fact.relation_id == "spatial"
    ]


def test_no_premise_or_operand_is_left_that_gives_the_answer_away():
    """What is corrupted is the only place from which the answer can be read off."""
    told = [
        fact.prompt
        for fact in known_facts("builtin-reasoning", "logical")
        if fact.attribute in fact.prompt.replace(fact.subject, "").split()
    ]
    assert told == []


def test_built_in_facts_are_those_of_the_records():
    known, records = known_facts("builtin"), fl.load_records("builtin")
    assert len(known) == len(records)
    assert [k.fact.prompt for k in known] == [r.fact.prompt for r in records]
    assert {k.relation_id for k in known_facts("builtin", "P30")} == {"P30"}


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(InvalidRequestError, match=r"'temporale'\. Did you mean 'temporal'"):
        known_facts("builtin-reasoning", "temporale")
    with pytest.raises(StorageError, match="Did you mean 'builtin-reasoning'"):
        known_facts("builtin-reasonin")
    bad = tmp_path / "bad.tsv"
    bad.write_text("relation\tpattern\tsubject\tobject\nx\t[Y] is [X]\tA\tB\n")
    with pytest.raises(StorageError, match=r"'\[Y\] is \[X\]' needs \[X\] once"):
        load_reasoning(bad)
    assert set(BUILTIN_KNOWN) == {"builtin", "builtin-reasoning"}


def test_averages_beside_each_other(make_model, tmp_path):
    lm = make_model("gpt2", seed=1)
    averages = {
        "some": fl.average_trace(lm, FACTS, CONFIG),
        "other": fl.average_trace(lm, FACTS[1:], CONFIG),
    }
    comparison = fl.tracing.compare_averages(averages)
    rows = comparison.rows()
    assert {row["name"] for row in rows} == {"some", "other"}
    for row in rows:
        group = GROUPS.index(row["group"])
        layer, peak = averages[row["name"]].peak(row["kind"], group)
        assert (row["layer"], row["effect"]) == (layer, peak.mean)
    comparison.save(tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    layer, peak = averages["some"].peak("mlp", GROUPS.index("last subject token"))
    assert f"{peak.in_words()} ({layer})" in text
    assert "| other | 1 |" in text
    assert "every fact counts once" in text
    assert (tmp_path / "comparison.png").stat().st_size > 5000


def test_averages_that_were_not_made_alike_are_refused(make_model):
    lm, compare = make_model("gpt2", seed=1), fl.tracing.compare_averages
    one = fl.average_trace(lm, FACTS[:1], CONFIG)
    more = fl.average_trace(lm, FACTS[:1], CONFIG.model_copy(update={"samples": 2}))
    by_tokens = fl.average_trace(lm, FACTS[:1], CONFIG, pooling="tokens")
    other = fl.average_trace(make_model("gpt2", seed=2), FACTS[:1], CONFIG)
    with pytest.raises(InvalidRequestError, match=r"different settings.*samples is 1, and 2"):
        compare({"a": one, "b": more})
    with pytest.raises(InvalidRequestError, match="different poolings"):
        compare({"a": one, "b": by_tokens})
    with pytest.raises(InvalidRequestError, match="different models"):
        compare({"a": one, "b": other})
    with pytest.raises(InvalidRequestError, match="nothing to compare"):
        compare({})
