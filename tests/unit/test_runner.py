"""Evaluations by mode, against doing it by hand, and what they are made of."""

import json
import math
from dataclasses import replace

import pytest
import torch
from tiny_records import (
    FT,
    LIKELIHOODS,
    MEMIT,
    METHOD,
    PASSAGES,
    REFERENCES,
    ROME,
    TEXTS,
    background,
    make_record,
    make_records,
    make_zsre,
    reports,
)

import factlab as fl
from factlab.editing.methods import METHODS, method_named
from factlab.errors import EditError, InvalidRequestError, StorageError
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.measuring.ordinary_text import OrdinaryText
from factlab.evaluation.measuring.rows import Measurement
from factlab.evaluation.measuring.yardstick import Yardstick
from factlab.evaluation.running.run import evaluate
from factlab.evaluation.running.saved_run import load_run

MODES = ("each", "together", "sequence")


@pytest.fixture
def lm(make_model):
    return make_model("gpt2", dtype=torch.float64)


def start(lm, out, mode="each", records=None, **options):
    method, config = METHOD[mode]
    options = {"config": config, "measure": LIKELIHOODS, "background": background(lm)} | options
    return evaluate(lm, records or make_records(), method, out, mode=mode, **options)


def assert_close(one: Measurement | None, other: Measurement | None) -> None:
    assert one is not None
    assert other is not None
    assert one.written == other.written
    for group in ("rewrite", "paraphrase", "neighborhood"):
        for mine, theirs in zip(getattr(one, group), getattr(other, group), strict=True):
            for kind in ("new", "true"):
                a, b = getattr(mine, kind), getattr(theirs, kind)
                assert (a is None) == (b is None)
                if a is not None:
                    assert a.logprobs == pytest.approx(b.logprobs, abs=1e-7)
                    assert a.top == b.top


def plainly(lm, record, measure=LIKELIHOODS) -> Measurement:
    """The record on the model as it is now."""
    texts = measure.n_generated != 0
    return Yardstick(lm, measure, REFERENCES).measure([record], None, [texts])[0]


# -- modes ------------------------------------------------------------------------------------


def test_each_by_hand(lm, tmp_path):
    records = make_records()
    run = start(lm, tmp_path / "run", measure=TEXTS, references=REFERENCES)
    texts = MeasureConfig(text_tokens=TEXTS.text_tokens)
    assert (run.n_cases, run.n_missing, run.n_unusable, len(run.rows)) == (5, 0, 0, 5)
    for i, (record, row) in enumerate(zip(records, run.rows, strict=True)):
        settings = texts if i < 3 else LIKELIHOODS
        assert_close(row.before, plainly(lm, record, settings))
        with fl.rome(lm, record.fact, ROME, background(lm)).applied(lm):
            assert_close(row.after, plainly(lm, record, settings))
        assert row.after != row.before
        assert (row.prompt, row.subject) == (record.fact.prompt, record.fact.subject)
        assert (row.right_after, row.failed, row.seed) == (None, "", 0)
        assert min(row.edit_s, row.measure_s) > 0
    assert [row.after.written is not None for row in run.rows] == [True] * 3 + [False] * 2


def test_together_by_hand(lm, tmp_path):
    records = make_records()
    run = start(lm, tmp_path / "run", "together")
    facts = [record.fact for record in records]
    with fl.memit(lm, facts, MEMIT, background(lm)).applied(lm):
        for record, row in zip(records, run.rows, strict=True):
            assert_close(row.after, plainly(lm, record))
    for record, row in zip(records, run.rows, strict=True):
        assert_close(row.before, plainly(lm, record))
    assert run.n_edits == 5
    assert len(fl.Edit.load(tmp_path / "run" / "edit").facts) == 5


def test_a_sequence_by_hand(lm, tmp_path):
    records = make_records()
    run = start(lm, tmp_path / "run", "sequence")
    known, edits = background(lm), []
    with (
        fl.edit_sequence(lm, [r.fact for r in records], "rome", ROME, known).combined().applied(lm)
    ):
        for record, row in zip(records, run.rows, strict=True):
            assert_close(row.after, plainly(lm, record))
    for record, row in zip(records, run.rows, strict=True):
        edits += method_named("rome").each(lm, [record.fact], ROME, known, lambda *_: None)
        undo = edits[-1].apply_(lm)
        assert_close(row.right_after, plainly(lm, record))
        edits[-1] = undo
    for undo in reversed(edits):
        undo()
    assert run.rows[0].right_after != run.rows[0].after


def test_zsre(lm, tmp_path):
    records = [make_zsre(i) for i in range(3)]
    run = start(lm, tmp_path / "run", records=records)
    for record, row in zip(records, run.rows, strict=True):
        with fl.rome(lm, record.fact, ROME, background(lm)).applied(lm):
            assert_close(row.after, plainly(lm, record))
        assert row.after.rewrite[0].true is None
        assert row.after.neighborhood[0].new is None
    assert "Specificity" in reports(run)[0]
    with pytest.raises(InvalidRequestError, match="counterfact and zsre"):
        start(lm, tmp_path / "both", records=[*records, make_record(9)])


def test_plain_facts(lm, tmp_path):
    """They are records without other prompts, numbered by their place."""
    facts = [record.fact for record in make_records(2)]
    run = start(lm, tmp_path / "run", records=facts)
    assert [row.case_id for row in run.rows] == [0, 1]
    for fact, row in zip(facts, run.rows, strict=True):
        with fl.rome(lm, fact, ROME, background(lm)).applied(lm):
            assert_close(row.after, plainly(lm, fl.Record(fact=fact)))
    (table,) = fl.report([run]).tables
    assert table.columns == ("rewrite_success", "rewrite_magnitude")


def test_facts_without_a_true_answer_are_scored_by_exact_matches(lm, tmp_path):
    facts = [replace(record.fact, target_true=None) for record in make_records(2)]
    run = start(lm, tmp_path / "run", records=facts)
    (table,) = fl.report([run]).tables
    assert table.columns == ("rewrite_exact",)


@pytest.mark.parametrize("method", ["ft", "memit", "attn"])
def test_methods(lm, tmp_path, method):
    config = {"ft": FT, "memit": MEMIT, "attn": FT.model_copy(update={"epsilon": 0.1})}[method]
    records = make_records(2)
    run = evaluate(
        lm, records, method, tmp_path / "run", config, measure=LIKELIHOODS,
        background=background(lm),
    )  # fmt: skip
    for record, row in zip(records, run.rows, strict=True):
        (edit,) = METHODS[method].each(lm, [record.fact], config, background(lm), lambda *_: None)
        with edit.applied(lm):
            assert_close(row.after, plainly(lm, record))


@pytest.mark.parametrize("mode", MODES)
def test_batch_size_is_a_matter_of_rounding(lm, tmp_path, mode):
    found = []
    for size in (16, 1, 2):
        run = start(
            lm, tmp_path / str(size), mode, batch_size=size, measure=TEXTS, references=REFERENCES,
            cache=tmp_path / f"cache{size}",
        )  # fmt: skip
        found.append((run, reports(run)))
    (first, report), *others = found
    assert "| 5 |" in report[0]
    for other, other_report in others:
        assert other_report == report
        for one, two in zip(first.rows, other.rows, strict=True):
            assert_close(one.after, two.after)


# -- what cannot be asked, what fails ------------------------------------------------------------


def test_unusable_records_are_counted(lm, tmp_path):
    endless = make_record(1, paraphrase_prompts=("Rome " * 300,))
    merged = make_record(2, paraphrase_prompts=(" ",))
    nothing = make_record(3, fact=fl.Fact("{} is in the", "Rome", None, "Paris"))
    records = [make_record(0), endless, merged, nothing, make_record(4)]
    run = start(lm, tmp_path / "run", records=records)
    assert [row.case_id for row in run.rows] == [0, 4]
    assert (run.n_cases, run.n_unusable, run.n_missing) == (2, 3, 0)
    assert "3 more records cannot be asked of this model" in reports(run)[0]
    reasons = json.loads((tmp_path / "run" / "run.json").read_text())["findings"]["unusable"]
    assert list(reasons) == ["1", "2", "3"]
    assert "Shorten it" in reasons["1"]
    assert "empty" in reasons["2"]
    assert "no new target" in reasons["3"]
    without = start(lm, tmp_path / "without", records=[records[0], records[4]])
    assert_close(run.rows[1].after, without.rows[1].after)
    with pytest.raises(InvalidRequestError, match=r"None of the records .* Shorten it"):
        start(lm, tmp_path / "none", records=[endless, nothing])
    assert not (tmp_path / "none").exists()


@pytest.fixture
def failing(monkeypatch):
    """ROME that cannot write one fact."""

    def compute(lm, facts, settled, background, progress):
        edits = real.compute(lm, facts, settled, background, progress)
        return [
            EditError("Seattle cannot be written.") if fact.subject == "Seattle" else edit
            for fact, edit in zip(facts, edits, strict=True)
        ]

    real = METHODS["rome"]
    monkeypatch.setitem(METHODS, "rome", replace(real, compute=compute))


@pytest.mark.parametrize("mode", ["each", "sequence"])
def test_a_fact_that_fails_leaves_the_others(lm, tmp_path, failing, mode):
    run = start(lm, tmp_path / "run", mode)
    failed = run.rows[2]
    assert (failed.after, failed.right_after) == (None, None)
    assert failed.failed == "Seattle cannot be written."
    assert [row.case_id for row in run.failed] == [2]
    markdown, document = reports(run)
    assert "1 of 5 edits failed: case 2: Seattle cannot be written." in markdown
    assert document["tables"][0]["rows"][1]["n_failed"] == 1
    others = [record for record in make_records() if record.fact.subject != "Seattle"]
    without = start(lm, tmp_path / "without", mode, records=others)
    for one, other in zip((*run.rows[:2], *run.rows[3:]), without.rows, strict=True):
        assert_close(one.after, other.after)


def test_nothing_can_be_written(lm, tmp_path, failing):
    with pytest.raises(EditError, match=r"No fact could be written\. The first: Seattle"):
        start(lm, tmp_path / "run", records=[make_record(2)])
    assert load_run(tmp_path / "run").rows[0].failed == "Seattle cannot be written."
    with pytest.raises(InvalidRequestError, match=r"Layer 99 is out of range"):
        start(lm, tmp_path / "out", config=ROME.model_copy(update={"layer": 99}))
    assert not (tmp_path / "out").exists()


def test_the_first_fact_need_not_be_one_that_succeeds(lm, tmp_path, failing):
    run = start(lm, tmp_path / "run", records=[make_record(2), make_record(3)])
    assert [bool(row.failed) for row in run.rows] == [True, False]
    assert run.config["layer"] == 0


def broken(edit: fl.Edit) -> fl.Edit:
    """So large that probabilities overflow, though every weight is finite."""
    (update,) = edit.updates
    return replace(edit, updates=(replace(update, left=update.left * 1e160),))


@pytest.mark.parametrize("mode", ["each", "sequence"])
def test_a_model_that_breaks_is_a_failed_edit(lm, tmp_path, monkeypatch, mode):
    """NaN is no number that JSON has, and no score."""

    def compute(lm, facts, settled, background, progress):
        edits = real.compute(lm, facts, settled, background, progress)
        is_him = [fact.subject == "Miles Davis" for fact in facts]
        return [broken(e) if him else e for e, him in zip(edits, is_him, strict=True)]

    real = METHODS["rome"]
    monkeypatch.setitem(METHODS, "rome", replace(real, compute=compute))
    measure = MeasureConfig(n_generated=1, text_tokens=9, drift_tokens=20)
    options = {"measure": measure, "ordinary_text": PASSAGES}
    run = start(lm, tmp_path / "run", mode, **options)
    reason = "The edited model's probabilities are not finite."
    if mode == "each":
        assert [row.failed for row in run.rows] == ["", "", "", reason, ""]
    else:
        assert run.rows[0].failed == reason
        assert [row.right_after is None for row in run.rows] == [False, False, False, True, True]
    assert "edits failed" in reports(run)[0]
    again = start(lm, tmp_path / "run", mode, resume=True, **options)
    assert again.rows == run.rows


def test_an_unedited_model_that_is_broken(lm, tmp_path, monkeypatch):
    def measure(self, records, *more):
        found = real(self, records, *more)
        return [one.model_copy(update={"essence_nll": math.inf}) for one in found]

    real = Yardstick.measure
    monkeypatch.setattr(Yardstick, "measure", measure)
    with pytest.raises(fl.FactlabError, match="of record 0 is not finite, without any edit"):
        start(lm, tmp_path / "run")


def test_what_is_refused_before_anything_is_computed(lm, tmp_path, monkeypatch):
    monkeypatch.setattr("factlab.evaluation.running.run.Yardstick", None)
    records, single = make_records(2), replace(METHODS["rome"], compute_together=None)
    for message, options in (
        ("one fact at a time", {"mode": "together", "method": single, "config": ROME}),
        ("list of records is empty", {"records": []}),
        ("batch_size=0", {"batch_size": 0}),
        ("takes a RomeConfig, not a MemitConfig", {"config": MEMIT}),
        ("Did you mean 'rome'", {"method": "roem"}),
        ("out of range", {"shard": fl.Shard(3, 2)}),
    ):
        values = {"records": records, "method": "rome", "out": tmp_path / "run"} | options
        with pytest.raises(InvalidRequestError, match=message):
            evaluate(lm, **values)
    assert not (tmp_path / "run").exists()


def test_settings_that_cannot_be_leave_no_folder(lm, tmp_path):
    for message, options in (
        ("takes at most 256", {"measure": MeasureConfig(text_tokens=300)}),
        ("ordinary text has 0 tokens", {"measure": MeasureConfig(drift_tokens=9)}),
    ):
        with pytest.raises(InvalidRequestError, match=message):
            start(lm, tmp_path / "run", **options)
    same = [make_record(0), make_record(6)]  # of one subject, with one target
    with pytest.raises(InvalidRequestError, match="Conflicts between facts"):
        start(lm, tmp_path / "run", "together", records=same)
    assert not (tmp_path / "run").exists()


# -- the unedited model -------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch):
    """How many records were measured on the model as it is."""
    counts: list[int] = []
    real = Yardstick.measure

    def measure(self, records, *more):
        counts.append(len(records) if more[0] is None else 0)
        return real(self, records, *more)

    monkeypatch.setattr(Yardstick, "measure", measure)
    return counts


def test_the_unedited_model_is_measured_once(lm, tmp_path, measured):
    options = {"measure": TEXTS, "references": REFERENCES}
    first = start(lm, tmp_path / "rome", **options)
    assert sum(measured) == 5
    second = evaluate(lm, make_records(), "ft", tmp_path / "ft", FT, **options)
    assert sum(measured) == 5
    assert [row.before for row in first.rows] == [row.before for row in second.rows]
    # More records, and texts for more of them: the block that has something new, as a whole.
    more = TEXTS.model_copy(update={"n_generated": 4})
    evaluate(lm, make_records(6), "ft", tmp_path / "more", FT, measure=more, references=REFERENCES)
    assert sum(measured) == 5 + 6
    # Another seed, other references, another folder, another model: all again.
    other = TEXTS.model_copy(update={"seed": 1})
    evaluate(lm, make_records(), "ft", tmp_path / "seed", FT, measure=other, references=REFERENCES)
    evaluate(lm, make_records(), "ft", tmp_path / "bare", FT, measure=TEXTS)
    evaluate(lm, make_records(), "ft", tmp_path / "c", FT, cache=tmp_path / "mine", **options)
    with fl.editing.fine_tune(lm, [make_record(0).fact], "ft", FT).applied(lm):
        evaluate(lm, make_records(), "ft", tmp_path / "edited", FT, **options)
    assert sum(measured) == 5 + 6 + 4 * 5
    assert (tmp_path / "mine").is_dir()


def test_ordinary_text_is_part_of_what_was_measured(lm, tmp_path, measured):
    measure = MeasureConfig(n_generated=0, drift_tokens=12)
    found = [
        start(lm, tmp_path / str(i), measure=measure, ordinary_text=(text,))
        for i, text in enumerate(("Rome is a city of people. " * 5, "The tower, the river. " * 5))
    ]
    assert sum(measured) == 10
    nlls = [run.rows[0].before.drift.nll for run in found]
    assert nlls[0] != pytest.approx(nlls[1])
    with pytest.raises(StorageError, match=r"its data\.ordinary_text"):
        start(lm, tmp_path / "0", measure=measure, ordinary_text=("A " * 99,), resume=True)
    assert found[0].rows[0].before.drift.kl == 0


@pytest.mark.parametrize("content", ["{", "[]", '{"rewrite": 3}', ""])
def test_a_damaged_file_of_the_cache_is_named(lm, tmp_path, content):
    start(lm, tmp_path / "one", cache=tmp_path / "cache")
    path = next((tmp_path / "cache").rglob("*.json"))
    kept = path.read_text()
    path.write_text(content)
    with pytest.raises(StorageError, match=f"{path.name}.* is damaged. Delete it"):
        start(lm, tmp_path / "two", cache=tmp_path / "cache")
    path.unlink()
    start(lm, tmp_path / "three", cache=tmp_path / "cache")
    assert_close(*map(Measurement.model_validate_json, (path.read_text(), kept)))


# -- scores -------------------------------------------------------------------------------------


def test_missing_references_are_a_reason_and_no_zero(lm, tmp_path):
    run = start(lm, tmp_path / "run", measure=TEXTS, references=REFERENCES)
    _, document = reports(run)
    consistency = document["tables"][0]["rows"][1]["metrics"]["consistency"]
    assert consistency["n"] == 2
    assert consistency["unscored"] == {
        "no texts were generated": 2,
        "there are no references for some objects of relation P36": 1,
    }
    bare = start(lm, tmp_path / "bare", measure=TEXTS)
    consistency = reports(bare)[1]["tables"][0]["rows"][1]["metrics"]["consistency"]
    assert (consistency["mean"], consistency["n"]) == (None, 0)


def test_large_case_ids(lm, tmp_path):
    """They are part of the seed of every text."""
    run = start(lm, tmp_path / "run", records=[make_record(10**18)], measure=TEXTS)
    assert math.isfinite(run.rows[0].after.written.entropy)


@pytest.mark.parametrize("mode", ["together", "sequence"])
def test_the_drift_of_one_model_is_measured_once(lm, tmp_path, monkeypatch, mode):
    """Not again for every block of records; in a sequence each edit makes another model."""
    asked, drift = [], OrdinaryText.drift

    def counting(self, n_owners, changes):
        asked.append(n_owners)
        return drift(self, n_owners, changes)

    monkeypatch.setattr(OrdinaryText, "drift", counting)
    measure = MeasureConfig(n_generated=0, drift_tokens=20)
    run = start(lm, tmp_path / "run", mode, measure=measure, ordinary_text=PASSAGES, batch_size=2)
    assert asked == [1] * {"together": 2, "sequence": 6}[mode]
    assert len({row.after.drift for row in run.rows}) == 1
    assert run.rows[0].after.drift != run.rows[0].before.drift
