"""Probes of edits: numbers against direct passes, where edits come from, runs that go on, refusals."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from processes import killed_as_it_writes, started
from tiny_records import FT, LIKELIHOODS, MEMIT, ROME, TEXTS, background, make_records

import factlab as fl
from factlab.data.ripple.axes import Edited, other_subjects
from factlab.data.ripple.world import RippleWorld
from factlab.editing.methods import method_named
from factlab.errors import InvalidRequestError, StorageError, WrongModelError
from factlab.evaluation import ProbeConfig, ProbedEdits, Probes, probe
from factlab.evaluation.localising.effects import fact_effects
from factlab.evaluation.localising.exceptions import Exceptions, TracedFact
from factlab.evaluation.measuring.subject_texts import subject_texts
from factlab.evaluation.probing.inverse import inverse_prompts
from factlab.evaluation.scoring.association import Contrast, Correlation, fisher_exact
from factlab.journal import Shard, merge

SMALL = ProbeConfig(
    candidates=4, essence_texts=2, essence_tokens=30, samples=2, least_prob=0, window=1
)
BARE = ProbeConfig(candidates=3, essence_texts=0, traced=False)


@pytest.fixture(scope="module")
def records():
    found = fl.load_records("builtin", limit=4, seed=3)
    return sorted(found, key=lambda record: record.case_id)


@pytest.fixture
def lm(make_model):
    return make_model("gpt2", dtype=torch.float64)


def direct(lm, prompt, target):
    """Log-probability of a target, by the model's own forward pass."""
    row = lm.continuation(prompt, target)
    return of_ids(lm, row.ids, len(row.target_ids))


def of_ids(lm, ids, n_last):
    with torch.no_grad(), lm.frozen():
        logprobs = lm.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    first = len(ids) - n_last
    return math.fsum(float(logprobs[i - 1, ids[i]]) for i in range(first, len(ids)))


# -- numbers ----------------------------------------------------------------------------------


def test_every_number_is_what_direct_passes_say(lm, records, tmp_path):
    edits = ProbedEdits.of_method(records, "rome", ROME)
    found = probe(lm, edits, tmp_path, SMALL, background=background(lm), batch_size=3)
    assert found.n_missing == found.n_failed == 0
    world = RippleWorld.load()
    facts = [record.fact for record in records]
    made = method_named("rome").attempts(lm, facts, ROME, background(lm))
    for row, record, edit in zip(found.facts, records, made, strict=True):
        prompts = inverse_prompts(record, world, SMALL.candidates, SMALL.seed)
        asked = zip((row.inverse, row.inverse_true), prompts, strict=True)
        for inverse, prompted in asked:
            assert (inverse.prompt, inverse.subjects) == tuple(prompted)
            assert inverse.before == pytest.approx(
                [direct(lm, inverse.prompt, subject) for subject in inverse.subjects], abs=1e-8
            )
        texts = subject_texts(lm, [record.fact.subject], [record.case_id], 2, 30, 0)[0]
        ids = [lm.encode(text).ids[:30] for text in texts]
        opening = lm.encode(f"{record.fact.subject} is a").ids
        next_before = of_next(lm, opening)
        assert row.essence.before == pytest.approx(
            [of_ids(lm, text, len(text) - 1) for text in ids], abs=1e-8
        )
        with edit.applied(lm):
            for inverse in (row.inverse, row.inverse_true):
                assert inverse.after == pytest.approx(
                    [direct(lm, inverse.prompt, subject) for subject in inverse.subjects], abs=1e-8
                )
            assert row.essence.after == pytest.approx(
                [of_ids(lm, text, len(text) - 1) for text in ids], abs=1e-8
            )
            next_after = of_next(lm, opening)
            assert row.new.after == pytest.approx(
                direct(lm, record.fact.prompt, record.fact.target_new), abs=1e-8
            )
        kl = float((next_before.exp() * (next_before - next_after)).sum())
        assert kl > 1e-6, "the edit must do something"
        assert row.kl == pytest.approx(kl, abs=1e-8)
        assert row.true.before == pytest.approx(
            direct(lm, record.fact.prompt, record.fact.target_true), abs=1e-8
        )
        assert row.inverse.before != row.inverse.after


def of_next(lm, ids):
    with torch.no_grad(), lm.frozen():
        return lm.model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)


def test_traces_are_those_of_the_study(lm, records, tmp_path):
    found = probe(lm, ProbedEdits.of_method(records, "ft", FT), tmp_path, SMALL)
    noise = fl.editing.SubjectNoise(level=found.found.noise_level, samples=2, seed=0)
    for row, record in zip(found.facts, records, strict=True):
        if row.decided is None:
            assert row.not_traced == "the noise takes nothing of the fact"
            continue
        effects = fact_effects(lm, record.fact, noise, (1,), 1)
        assert row.decided.peak_token == effects.peak_token
        assert row.decided.peak_share == max(effects.by_window[1].by_layer)
        assert row.decided.last_share == max(effects.by_window[1].last_subject)
    traced = [row for row in found.facts if row.traced is not None]
    assert traced
    assert len(found.exceptions.facts) + found.exceptions.n_nothing == len(traced)


def test_compared_subjects_are_of_the_relation_and_do_not_have_the_object(records):
    world = RippleWorld.load()
    for record in records:
        (new, true) = inverse_prompts(record, world, 5, 0)
        subject, *others = new.targets
        assert subject == record.fact.subject
        assert len(set(others)) == 5
        for other in others:
            assert world.source.answers[record.relation_id, other] != record.fact.target_new
        assert record.fact.target_true in true.prompt
        (again, _) = inverse_prompts(record, world, 5, 0)
        assert again == new
        everyone = inverse_prompts(record, world, 10_000, 0)[0].targets[1:]
        assert sorted(everyone) == sorted(other_subjects(Edited(record, world, 0)))


def test_lift_and_place_by_hand():
    from factlab.evaluation.probing.rows import Inverse

    one = Inverse(prompt="", subjects=("s", "a", "b"), before=(-3, -2, -4), after=(-1, -1.5, -3.5))
    assert (one.rank("before"), one.rank("after")) == (2, 1)
    assert (one.place("before"), one.place("after")) == (0.5, 1.0)
    assert one.lift == 2
    assert one.others_lift == 0.5
    assert one.specific_lift == 1.5


def test_what_cannot_be_asked_has_a_reason_and_no_number(lm, records, tmp_path):
    plain = [
        fl.Fact("{} was seen beside a", "Rome", "tower", "museum"),
        fl.Fact("Who plays the trumpet?", "", "Rome", "Paris"),
        replace(records[0].fact, target_new="Rome " * 300),
        records[0].fact,
    ]
    found = probe(lm, ProbedEdits.of_method(plain, "ft", FT), tmp_path, SMALL)
    unknown, without, long, usual = found.rows()
    assert unknown["no_inverse"] == "the relation of the fact is not known"
    assert without["no_inverse"] == without["no_essence"] == "the fact has no subject"
    assert "context" in long["failed"] or "tokens" in long["failed"]
    assert usual["relation"] == records[0].relation_id
    assert usual["inverse_rank_after"] >= 1
    for row in (unknown, without, long):
        assert row["inverse_lift"] is None
        assert row["inverse_rank_after"] is None
    assert (unknown["kl"] is not None, without["kl"], long["kl"]) == (True, None, None)
    assert "1 fact of 4 could not be probed" in " ".join(found.notes)


# -- where edits come from --------------------------------------------------------------------


def test_an_evaluation_is_probed_as_its_method_was(lm, records, tmp_path):
    run = tmp_path / "run"
    fl.evaluate(lm, records, "ft", run, config=FT, measure=TEXTS, cache=tmp_path / "cache")
    again = probe(lm, ProbedEdits.of_paths([run]), tmp_path / "again", SMALL)
    plain = probe(lm, ProbedEdits.of_method(records, "ft", FT), tmp_path / "plain", SMALL)
    assert [row.fact for row in ProbedEdits.of_run(run).records] == [r.fact for r in records]
    for one, other in zip(again.facts, plain.facts, strict=True):
        assert one.model_copy(update={"written_before": None, "written_after": None}) == other
        assert other.written_after is None
    rows = fl.evaluation.load_run(run).rows[:3]
    for one, row in zip(again.facts, rows, strict=False):
        assert one.written_after.entropy == row.after.written.entropy
    assert [one.stage for one in again.written] == ["before", "after", "change"]
    assert again.written[1].n == 3
    assert plain.written == ()


def test_texts_are_those_of_an_evaluation(lm, records, tmp_path):
    references = fl.data.load_references("builtin")
    run = fl.evaluate(
        lm, records, "ft", tmp_path / "run", config=FT, references=references,
        measure=TEXTS.model_copy(update={"n_generated": None}), cache=tmp_path / "cache",
    )  # fmt: skip
    edits = ProbedEdits.of_method(records, "ft", FT, references=references)
    config = BARE.model_copy(update={"generated": True, "text_tokens": 14})
    found = probe(lm, edits, tmp_path / "probes", config)
    for one, row in zip(found.facts, run.rows, strict=True):
        assert one.written_before.entropy == row.before.written.entropy
        assert one.written_after.entropy == row.after.written.entropy
        assert one.written_after.consistency == row.after.written.consistency
    assert found.written[0].together.n == len(records)
    names = {file.name for file in found.save(tmp_path / "probes")}
    assert names == {"report.md", "report.html", "rows.csv", "written.png"}


def test_saved_edits_of_one_fact_and_of_many(lm, records, tmp_path):
    facts = [record.fact for record in records]
    (many,) = fl.edit_together(lm, facts[:3], "memit", MEMIT, background(lm)).edits
    one = fl.edit_each(lm, facts[3], "ft", FT).edits[0]
    many.save(tmp_path / "edits" / "many")
    one.save(tmp_path / "edits" / "one")
    found = probe(lm, ProbedEdits.of_paths([tmp_path / "edits"]), tmp_path / "probes", BARE)
    assert [row.prompt for row in found.facts] == [fact.prompt for fact in facts]
    assert [row.relation_id for row in found.facts] == [r.relation_id for r in records]
    for row, edit in zip(found.facts, [many, many, many, one], strict=True):
        with edit.applied(lm):
            after = [direct(lm, row.inverse.prompt, each) for each in row.inverse.subjects]
        assert row.inverse.after == pytest.approx(after, abs=1e-8)


def test_an_edit_that_is_a_text_stands_before_prompts_and_leaves_texts_alone(lm, records, tmp_path):
    edit = fl.edit_each(lm, records[0].fact, "in-context").edits[0]
    assert edit.prefix
    config = SMALL.model_copy(update={"traced": False})
    (row,) = probe(lm, ProbedEdits.of_saved([edit]), tmp_path, config).facts
    asked = edit.in_front_of(row.inverse.prompt)
    after = [direct(lm, asked, subject) for subject in row.inverse.subjects]
    assert row.inverse.after == pytest.approx(after, abs=1e-8)
    assert row.essence is None
    assert "the edit is a text in front of prompts" in row.no_essence
    assert row.kl > 0


# -- runs -------------------------------------------------------------------------------------


def test_what_a_kill_left_is_gone_on_with(lm, records, tmp_path):
    edits = ProbedEdits.of_method(records, "ft", FT)
    whole = probe(lm, edits, tmp_path / "whole", SMALL, batch_size=2)
    part = probe(lm, edits, tmp_path / "part", SMALL, batch_size=2, should_stop=lambda: True)
    assert part.n_missing == 2
    assert "Unfinished: 2 facts to do." in part.notes
    path = tmp_path / "part" / "records-1-of-1.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{second[: len(second) // 2]}")
    again = probe(lm, edits, tmp_path / "part", SMALL, batch_size=2, resume=True)
    assert again.facts == whole.facts
    for number in (1, 2):
        probe(lm, edits, tmp_path / f"{number}", SMALL, batch_size=2, shard=Shard(number, 2))
    merge([tmp_path / "1", tmp_path / "2"], tmp_path / "merged")
    alone = probe(lm, edits, tmp_path / "alone", SMALL, batch_size=1)
    for other in (Probes.load(tmp_path / "merged"), alone):
        for one, row in zip(other.facts, whole.facts, strict=True):
            assert one.inverse.after == pytest.approx(row.inverse.after, abs=1e-8)
            assert one.essence.after == pytest.approx(row.essence.after, abs=1e-8)
            assert one.decided == row.decided
    with pytest.raises(StorageError, match=r"belongs to another run: its config\.seed"):
        other = SMALL.model_copy(update={"seed": 1})
        probe(lm, edits, tmp_path / "part", other, resume=True)
    with pytest.raises(StorageError, match="Resume it"):
        probe(lm, edits, tmp_path / "part", SMALL)


def probed(folder: Path, options: dict) -> None:
    lm = fl.models.tiny_model("gpt2")
    edits = ProbedEdits.of_method(make_records(8), "rome", ROME)
    probe(lm, edits, folder, SMALL, background=background(lm), batch_size=2, **options)


def test_probes_that_are_killed_are_the_whole_probes(tmp_path):
    """Byte for byte; and so are those that processes share, of which one is killed."""
    probed(tmp_path / "whole", {})
    whole = Probes.load(tmp_path / "whole")
    assert whole.n_missing == whole.n_failed == 0
    name = "records-1-of-1.jsonl"
    written = (tmp_path / "whole" / name).read_bytes()
    folder = tmp_path / "killed"
    for _ in range(2):
        killed_as_it_writes(started(probed, folder, {"resume": True}), folder, 0.1)
    assert Probes.load(folder).n_missing, "killed too late to test"
    probed(folder, {"resume": True})
    assert (folder / name).read_bytes() == written

    shared, options = tmp_path / "shared", {"shard": Shard.any()}
    three = [started(probed, shared, options) for _ in range(3)]
    killed_as_it_writes(three[0], shared)
    for process in three[1:]:
        process.join()
        assert process.exitcode == 0
    assert [path.name for path in shared.glob("records-*")] == [name]
    assert (shared / name).read_bytes() == written
    assert Probes.load(shared).facts == whole.facts


def test_refusals(lm, make_model, records, tmp_path):
    with pytest.raises(InvalidRequestError, match="list of edits is empty"):
        ProbedEdits.of_saved([])
    with pytest.raises(InvalidRequestError, match="list of facts is empty"):
        ProbedEdits.of_method([], "ft")
    edit = fl.edit_each(lm, records[0].fact, "ft", FT).edits[0]
    with pytest.raises(InvalidRequestError, match="lists no facts"):
        ProbedEdits.of_saved([replace(edit, facts=())])
    with pytest.raises(WrongModelError, match="This edit was made for"):
        probe(make_model("gpt2", seed=5), ProbedEdits.of_saved([edit]), tmp_path / "p", BARE)
    with pytest.raises(StorageError, match=r"neither edit\.json nor run\.json"):
        ProbedEdits.of_paths([tmp_path])
    with pytest.raises(InvalidRequestError, match="no beginnings of texts"):
        config = BARE.model_copy(update={"generated": True})
        probe(lm, ProbedEdits.of_saved([edit]), tmp_path / "p", config)
    with pytest.raises(InvalidRequestError, match="wider than the model"):
        config = SMALL.model_copy(update={"window": 99})
        probe(lm, ProbedEdits.of_saved([edit]), tmp_path / "p", config)
    assert not (tmp_path / "p").exists()


def test_evaluations_that_cannot_be_probed(lm, make_model, tmp_path):
    more = {"config": FT, "measure": LIKELIHOODS, "cache": tmp_path / "cache"}
    fl.evaluate(lm, make_records(2), "ft", tmp_path / "s", mode="sequence", **more)
    with pytest.raises(InvalidRequestError, match="one after the other into one model"):
        ProbedEdits.of_run(tmp_path / "s")
    fl.evaluate(lm, make_records(2), "ft", tmp_path / "part", shard=Shard(1, 2), **more)
    with pytest.raises(InvalidRequestError, match="has 1 record left to do"):
        ProbedEdits.of_run(tmp_path / "part")
    fl.evaluate(lm, make_records(2), "ft", tmp_path / "t", mode="together", **more)
    edits = ProbedEdits.of_run(tmp_path / "t")
    assert len(edits.saved) == 1
    assert probe(lm, edits, tmp_path / "probes", BARE).n_failed == 0
    with pytest.raises(WrongModelError, match="Load that model"):
        probe(make_model("gpt2", seed=5), edits, tmp_path / "other", BARE)


# -- what marks exceptions --------------------------------------------------------------------


def traced(case_id, peak, n_tokens=3, prompt="The Louvre is in", relation="P276"):
    return TracedFact(case_id, prompt, "The Louvre", relation, n_tokens, peak, 0.6, 0.2)


def test_exceptions_are_told_from_other_facts():
    facts = [
        traced(0, 2), traced(1, 1), traced(2, 4, prompt="Where is The Louvre? In"),
        traced(3, 5, n_tokens=6, relation="P17"), traced(4, None),
    ]  # fmt: skip
    found = Exceptions.of(facts)
    assert [fact.place for fact in found.facts] == ["last", "earlier", "behind", "last"]
    assert [fact.case_id for fact in found.exceptions] == [1, 2]
    assert found.n_nothing == 1
    assert found.share.mean == 0.5
    long, first, pieces = found.marks()
    assert long == Contrast("subject of more than 3 tokens", 1, 0, 3, 2)
    assert first == Contrast("subject begins the prompt", 3, 1, 1, 1)
    assert pieces.n_with == 4
    assert math.isnan(pieces.p)
    assert [(one.n_with, one.hits_with) for one in found.relations()] == [(3, 2), (1, 0)]
    json.dumps(found.to_json(), allow_nan=False)
    assert Exceptions.of([]).marks() == []


@pytest.mark.parametrize("counts", [(8, 10, 1, 6), (0, 5, 5, 5), (3, 9, 2, 40), (4, 4, 4, 4)])
def test_fisher_is_scipys(counts):
    from scipy.stats import fisher_exact as scipys

    hits, n, other_hits, other_n = counts
    table = [[hits, n - hits], [other_hits, other_n - other_hits]]
    assert fisher_exact(*counts) == pytest.approx(scipys(table).pvalue, rel=1e-9)


def test_correlations_are_scipys_and_their_intervals_hold_them():
    from scipy.stats import pearsonr, spearmanr

    generator = torch.Generator().manual_seed(0)
    xs = torch.randn(40, generator=generator).double()
    ys = (xs + torch.randn(40, generator=generator)).round(decimals=1)  # with ties
    found = Correlation.of(list(zip(xs.tolist(), ys.tolist(), strict=True)))
    assert found.linear.mean == pytest.approx(pearsonr(xs, ys).statistic)
    assert found.ranks.mean == pytest.approx(spearmanr(xs, ys).statistic)
    for one in (found.linear, found.ranks):
        low, high = one.interval
        assert 0 < low < one.mean < high < 1
    assert math.isnan(Correlation.of([(1.0, 2.0), (1.0, 3.0), (1.0, 4.0)]).linear.mean)
    assert math.isnan(Correlation.of([(1.0, 2.0)]).ranks.mean)


# -- the command ------------------------------------------------------------------------------


def test_the_command(run, tmp_path):
    common = ("--model", "tiny:gpt2", "--out", tmp_path / "probes", "--candidates", 3,
              "--essence", 1, "--essence-tokens", 12, "--samples", 2, "--least-prob", 0)  # fmt: skip
    method = ("--method", "ft", "--layer", 1, "--set", "steps=2", "--limit", 2)
    code, out, err = run("probe", *method, *common, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["format"] == "factlab probes 1"
    assert len(document["rows"]) == 2
    assert document["inverse"][0]["n"] == 2
    assert (tmp_path / "probes" / "report.html").exists()
    code, out, err = run("probe", *method, *common, "--resume")
    assert code == 0, err
    assert "Backwards" in out
    assert "Facts that another token decides" in out
    code, _, err = run("probe", tmp_path / "none", "--out", tmp_path / "new")
    assert (code, "holds no saved edit and no evaluation" in err) == (2, True)
    code, _, err = run("probe", tmp_path / "probes", "--limit", 2, "--out", tmp_path / "new")
    assert (code, "leave out the options of records" in err) == (2, True)
    code, _, err = run("probe", tmp_path / "probes", "--out", tmp_path / "new")
    assert (code, "is not of an evaluation" in err) == (2, True)
