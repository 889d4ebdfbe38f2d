"""Sequences in turns of several facts, and what is asked on the way."""

import json
from dataclasses import replace

import pytest
import torch
from test_runner_resume import Countdown, Killed, killing_writer, lines
from tiny_records import MEMIT, PASSAGES, ROME, background, make_record, make_records, reports

import factlab as fl
from factlab.editing.methods import METHODS
from factlab.errors import InvalidRequestError, StorageError
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.measuring.yardstick import Yardstick
from factlab.evaluation.running.run import evaluate
from factlab.evaluation.running.saved_run import load_run

MEASURE = MeasureConfig(n_generated=0, drift_tokens=30, checkpoints=(1, 3))


@pytest.fixture
def lm(make_model):
    return make_model("gpt2", dtype=torch.float64)


def start(lm, out, records=None, **options):
    options = {
        "method": "memit", "config": MEMIT, "mode": "sequence", "turn": 2, "measure": MEASURE,
        "ordinary_text": PASSAGES, "background": background(lm), "batch_size": 2,
    } | options  # fmt: skip
    return evaluate(lm, records or make_records(), out=out, **options)


def same(one, other) -> None:
    for group in ("rewrite", "paraphrase", "neighborhood"):
        for mine, theirs in zip(getattr(one, group), getattr(other, group), strict=True):
            assert mine.new.logprobs == pytest.approx(theirs.new.logprobs, abs=1e-9)
            assert mine.true.logprobs == pytest.approx(theirs.true.logprobs, abs=1e-9)


def on_the_way(run) -> list[tuple]:
    """All of the checkpoints that no stopwatch had a hand in."""
    return [(c.n, c.drift, [(row.case_id, row.after) for row in c.rows]) for c in run.checkpoints]


def test_turns_and_checkpoints_by_hand(lm, tmp_path):
    records, run = make_records(), start(lm, tmp_path / "run")
    yardstick = Yardstick(lm, MEASURE, {}, PASSAGES)
    facts = [record.fact for record in records]
    edits = fl.edit_sequence(lm, facts, "memit", MEMIT, background(lm), turn=2).edits
    assert [len(edit.facts) for edit in edits] == [2, 2, 1]
    assert [checkpoint.n for checkpoint in run.checkpoints] == [2, 4]
    for number, edit in enumerate(edits, 1):
        edit.apply_(lm)
        so_far = records[: 2 * number]
        found = yardstick.measure(so_far, None, [False] * len(so_far))
        for row, expected in zip(run.rows[2 * number - 2 :], found[2 * number - 2 :], strict=False):
            same(row.right_after, expected)
            assert row.right_after.drift is None  # that is measured at the checkpoints
        if number == 3:
            for row, expected in zip(run.rows, found, strict=True):
                same(row.after, expected)
                assert row.after.drift.kl == pytest.approx(expected.drift.kl, abs=1e-9)
            break
        checkpoint = run.checkpoints[number - 1]
        assert [row.case_id for row in checkpoint.rows] == [r.case_id for r in so_far]
        assert checkpoint.drift.kl == pytest.approx(found[0].drift.kl, abs=1e-9)
        assert checkpoint.drift.nll == pytest.approx(found[0].drift.nll, abs=1e-9)
        for row, expected in zip(checkpoint.rows, found, strict=True):
            same(row.after, expected)
    lm.patches.remove([update for edit in edits for update in edit.updates])
    first, last = run.checkpoints[0].rows[0], run.rows[0]
    assert first.before == last.before
    assert first.after != last.after


@pytest.mark.parametrize("torn", [False, True])
def test_killed_wherever_it_writes(lm, tmp_path, monkeypatch, torn):
    whole = start(lm, tmp_path / "whole")
    # Two records of a turn and its checkpoint, twice; one more turn; then five rows.
    for after in (0, 1, 2, 3, 4, 5, 6, 8):
        folder = tmp_path / f"killed-{after}"
        with monkeypatch.context() as dying:
            killing_writer(dying, after, torn)
            with pytest.raises(Killed):
                start(lm, folder)
        assert not lm.patches.active
        again = start(lm, folder, resume=True)
        for part in ("", "right-after", "checkpoints"):
            assert lines(folder / part) == lines(tmp_path / "whole" / part), (after, part)
        assert reports(again) == reports(whole)
        assert on_the_way(again) == on_the_way(whole)


def test_stopped_between_turns(lm, tmp_path):
    whole = start(lm, tmp_path / "whole", cache=tmp_path / "cache")
    n_rows = [
        len(
            start(
                lm, tmp_path / "run", cache=tmp_path / "cache", resume=True,
                should_stop=Countdown(asked),
            ).rows
        )
        for asked in (4, 5, 7, 20)
    ]  # fmt: skip
    assert n_rows == [0, 0, 4, 5]
    assert on_the_way(load_run(tmp_path / "run")) == on_the_way(whole)


def test_a_run_is_gone_on_with_as_it_was_begun(lm, tmp_path):
    start(lm, tmp_path / "run", should_stop=Countdown(3))
    with pytest.raises(StorageError, match="its turn is 2, not 3"):
        start(lm, tmp_path / "run", turn=3, resume=True)
    with pytest.raises(StorageError, match=r"its checkpoints is \[1, 3\], not \[2\]"):
        other = MEASURE.model_copy(update={"checkpoints": (2,)})
        start(lm, tmp_path / "run", measure=other, resume=True)
    with pytest.raises(StorageError, match=r"its config\.remember is true, not false"):
        forgetful = MEMIT.model_copy(update={"remember": False})
        start(lm, tmp_path / "run", config=forgetful, resume=True)


def test_facts_of_one_turn_must_not_contradict_each_other(lm, tmp_path):
    records = make_records()
    other = fl.Fact(records[0].fact.template, records[0].fact.subject, "Paris", "city of people")
    both = [records[0], make_record(1, fact=other), *records[2:]]
    with pytest.raises(InvalidRequestError, match="Rome is in the"):
        start(lm, tmp_path / "run", both)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InvalidRequestError, match="Rome is in the"):
        fl.edit_sequence(lm, [r.fact for r in both], "memit", MEMIT, background(lm), turn=2)
    # One turn later it is a fact that is written anew.
    assert start(lm, tmp_path / "later", [records[0], records[2], both[1]]).n_missing == 0


def test_what_makes_no_sequence_is_refused(lm, tmp_path, run):
    with pytest.raises(InvalidRequestError, match="cannot write 2 facts at a time"):
        single = replace(METHODS["rome"], compute_together=None)
        start(lm, tmp_path / "run", method=single, config=ROME)
    with pytest.raises(InvalidRequestError, match="turn=0"):
        start(lm, tmp_path / "run", turn=0)
    with pytest.raises(InvalidRequestError, match=r"of a sequence, and the mode is 'together'"):
        start(lm, tmp_path / "run", mode="together")
    for arguments in (["--turn", "2"], ["--checkpoints", "2"]):
        code, _, err = run("eval", "--out", tmp_path / "run", "--method", "memit", *arguments)
        assert code == 2
        assert "add --mode sequence" in err
    code, _, err = run(
        "eval", "--out", tmp_path / "run", "--mode", "sequence", "--checkpoints", "0"
    )
    assert code == 2
    assert "--checkpoints" in err
    code, _, err = run("edit", "--facts", tmp_path / "facts.csv", "--turn", "2")
    assert code == 2
    assert "--sequence" in err


def test_a_damaged_checkpoint_is_named(lm, tmp_path):
    start(lm, tmp_path / "run")
    (path,) = (tmp_path / "run" / "checkpoints").glob("records-*.jsonl")
    first, *others = path.read_text().splitlines()
    broken = json.loads(first) | {"drift": {"kl": "far", "nll": 1.0}}
    path.write_text("\n".join([json.dumps(broken), *others]) + "\n")
    with pytest.raises(StorageError, match=r"Checkpoint 2 of .*checkpoints"):
        load_run(tmp_path / "run")


def test_an_edit_names_the_one_before_it_only(lm):
    facts = [record.fact for record in make_records()]
    run = fl.edit_sequence(lm, facts, "memit", MEMIT, background(lm))
    first, second, third, *_ = run.edits
    assert [len(edit.base.on_top_of) for edit in run.edits] == [0, 2, 2, 2, 2]
    assert set(third.base.on_top_of) == {update.digest for update in second.updates}
    undo_first, undo_second = first.apply_(lm), second.apply_(lm)
    undo_first()
    # The second is still there, but not what it was computed on top of.
    with pytest.raises(fl.errors.WrongModelError, match="already carried other edits"):
        third.apply_(lm)
    undo_second()
