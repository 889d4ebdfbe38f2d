"""Evaluations that are killed, resumed, shared out and merged end as if nothing had happened."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from processes import finished, killed_as_it_writes, started
from tiny_records import (
    FT,
    METHOD,
    PASSAGES,
    REFERENCES,
    ROME,
    background,
    make_record,
    make_records,
    reports,
)

import factlab as fl
from factlab.errors import StorageError
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.measuring.yardstick import Yardstick
from factlab.evaluation.running.run import evaluate
from factlab.evaluation.running.saved_run import load_run
from factlab.journal import Journal, Shard, Writer, merge

MEASURE = MeasureConfig(n_generated=3, text_tokens=12)


@pytest.fixture
def lm(make_model):
    return make_model("gpt2", dtype=torch.float64)


def start(lm, out, mode="each", records=None, **options):
    method, config = METHOD[mode]
    options = {
        "config": config, "measure": MEASURE, "references": REFERENCES, "batch_size": 2,
        "background": background(lm), "resume": True,
    } | options  # fmt: skip
    return evaluate(lm, records or make_records(), method, out, mode=mode, **options)


def lines(folder: Path) -> list[dict]:
    """The records as they were written, without what a stopwatch found."""
    found = [
        json.loads(line)
        for path in sorted(folder.glob("records-*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    return [{k: v for k, v in line.items() if not k.endswith("_s")} for line in found]


class Killed(BaseException):
    """Like a signal, it is caught by nobody."""


def killing_writer(monkeypatch, after: int, torn: bool):
    """Die at the writing of a record: before it, or in the middle of its line."""
    written = 0
    append = Writer.append

    def killed(self, case, record):
        nonlocal written
        if written == after:
            if torn:
                with self._path.open("a") as file:
                    file.write(json.dumps({"case": case} | record)[:50])
            raise Killed
        written += 1
        append(self, case, record)

    monkeypatch.setattr(Writer, "append", killed)


@pytest.mark.parametrize("mode", ["each", "together", "sequence"])
@pytest.mark.parametrize("torn", [False, True])
def test_killed_while_it_writes(lm, tmp_path, monkeypatch, mode, torn):
    whole = start(lm, tmp_path / "whole", mode)
    # A sequence writes what each record says right after its edit, then what it says at the end.
    for after in (1, 7) if mode == "sequence" else (0, 3):
        folder = tmp_path / f"killed-{after}"
        with monkeypatch.context() as dying:
            killing_writer(dying, after, torn)
            with pytest.raises(Killed):
                start(lm, folder, mode)
        assert not lm.patches.active, "an edit was left on"
        again = start(lm, folder, mode)
        assert lines(folder) == lines(tmp_path / "whole")
        assert reports(again) == reports(whole)


@pytest.mark.parametrize("mode", ["each", "sequence"])
def test_killed_while_it_measures(lm, tmp_path, monkeypatch, mode):
    whole = start(lm, tmp_path / "whole", mode, cache=tmp_path / "whole-cache")
    measure, left = Yardstick.measure, Countdown(0)

    def killed(self, *args):
        if left():
            raise Killed
        return measure(self, *args)

    cache = {"cache": tmp_path / "cache"}
    with monkeypatch.context() as dying:
        dying.setattr(Yardstick, "measure", killed)
        for calls in (0, 2, 1, 1):  # before, among and after those of the unedited model
            left.left = calls
            with pytest.raises(Killed):
                start(lm, tmp_path / "run", mode, **cache)
            assert not lm.patches.active
    assert reports(start(lm, tmp_path / "run", mode, **cache)) == reports(whole)
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


@pytest.mark.parametrize("mode", ["each", "together", "sequence"])
def test_asked_to_stop(lm, tmp_path, mode):
    """After what is at hand, wherever that is; no record is done twice."""
    whole = start(lm, tmp_path / "whole", mode, cache=tmp_path / "whole-cache")
    seen = []
    for asked in (0, 2, 4, 6, 8, 9, 10):
        run = start(lm, tmp_path / "run", mode, should_stop=Countdown(asked))
        seen.append(len(run.rows))
    assert run.n_missing == 0
    assert seen[:2] == [0, 0], "the unedited model comes first"
    assert seen == sorted(seen)
    assert len(set(seen)) > 2
    assert reports(run) == reports(whole)
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


class Countdown:
    """Says yes when it has been asked so often."""

    def __init__(self, asked: int) -> None:
        self.left = asked

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_stopping_among_the_edits_of_a_sequence(lm, tmp_path):
    start(lm, tmp_path / "cached", "sequence")  # so that only edits are asked about
    folder = tmp_path / "run"
    run = start(lm, folder, "sequence", should_stop=Countdown(5))
    assert (len(run.rows), run.n_missing) == (0, 5)
    assert len(list((folder / "edits").iterdir())) == 2
    kept = (folder / "edits" / "0" / "edit.safetensors").stat().st_mtime_ns
    assert start(lm, folder, "sequence").n_missing == 0
    assert (folder / "edits" / "0" / "edit.safetensors").stat().st_mtime_ns == kept


def test_another_batch_size_goes_on_with_the_run(lm, tmp_path):
    whole = start(lm, tmp_path / "whole", batch_size=16)
    for size in (2, 3, 1):
        start(lm, tmp_path / "run", batch_size=size, should_stop=Countdown(4))
    run = start(lm, tmp_path / "run", batch_size=16)
    assert reports(run) == reports(whole)
    assert [line["case"] for line in lines(tmp_path / "run")] == [0, 1, 2, 3, 4]


def test_nothing_left_to_do_does_nothing(lm, tmp_path, monkeypatch):
    whole = start(lm, tmp_path / "run")
    monkeypatch.setattr(Yardstick, "measure", None)
    assert start(lm, tmp_path / "run").rows == whole.rows


# -- more records -------------------------------------------------------------------------------


def without_rounding(folder: Path) -> list[dict]:
    """The records as they were written, without what was measured of the unedited model.

    That is measured once and kept, in whichever batch it first was.
    """
    return [{k: v for k, v in line.items() if k != "before"} for line in lines(folder)]


@pytest.mark.parametrize("n_before", [1, 2, 3, 4])
def test_a_run_of_few_records_becomes_one_of_many(lm, tmp_path, n_before):
    whole = start(lm, tmp_path / "whole", cache=tmp_path / "whole-cache")
    few = start(lm, tmp_path / "run", records=make_records(n_before))
    assert few.n_cases == n_before
    run = start(lm, tmp_path / "run")
    assert (run.n_cases, run.n_missing) == (5, 0)
    assert reports(run) == reports(whole)
    assert without_rounding(tmp_path / "run") == without_rounding(tmp_path / "whole")
    assert run.request == whole.request
    settled = [
        json.loads((tmp_path / name / "run.json").read_text())["findings"]
        for name in ("run", "whole")
    ]
    assert settled[0] == settled[1]


def test_full_blocks_are_not_done_again(lm, tmp_path, monkeypatch):
    start(lm, tmp_path / "run", records=make_records(3))
    asked = []
    measure = Yardstick.measure

    def counting(self, records, *more):
        asked.append([record.case_id for record in records])
        return measure(self, records, *more)

    monkeypatch.setattr(Yardstick, "measure", counting)
    start(lm, tmp_path / "run")
    assert [0, 1] not in asked
    assert asked[-2:] == [[2, 3], [4]]


def test_records_that_cannot_be_asked_are_counted_when_there_are_more(lm, tmp_path):
    records = make_records(6)
    for i in (1, 4):
        records[i] = make_record(i, paraphrase_prompts=(" ",))
    start(lm, tmp_path / "run", records=records[:3])
    run = start(lm, tmp_path / "run", records=records)
    assert ([row.case_id for row in run.rows], run.n_unusable) == ([0, 2, 3, 5], 2)
    assert reports(run) == reports(start(lm, tmp_path / "whole", records=records))


def test_killed_among_the_records_that_were_added(lm, tmp_path, monkeypatch):
    whole = start(lm, tmp_path / "whole")
    start(lm, tmp_path / "run", records=make_records(3))
    with monkeypatch.context() as dying:
        killing_writer(dying, 1, torn=True)
        with pytest.raises(Killed):
            start(lm, tmp_path / "run")
    assert load_run(tmp_path / "run").n_missing == 2
    assert reports(start(lm, tmp_path / "run")) == reports(whole)


def test_runs_that_cannot_become_larger(lm, tmp_path):
    three = make_records(3)
    start(lm, tmp_path / "run", records=three)
    with pytest.raises(StorageError, match="3 records, which are not the first ones of the 4"):
        start(lm, tmp_path / "run", records=make_records(4)[::-1])
    with pytest.raises(StorageError, match=r"its config\.layer is 0, not 1"):
        start(lm, tmp_path / "run", config=ROME.model_copy(update={"layer": 1}))
    with pytest.raises(StorageError, match="not empty"):
        start(lm, tmp_path / "run", resume=False)
    for mode in ("together", "sequence"):
        start(lm, tmp_path / mode, mode, records=three)
        with pytest.raises(StorageError, match="3 records with all edits in one model, and 5"):
            start(lm, tmp_path / mode, mode)
    journal = Journal.load(tmp_path / "run")
    with journal.writing(Shard()), pytest.raises(StorageError, match="Another process"):
        start(lm, tmp_path / "run")
    assert load_run(tmp_path / "run").n_cases == 3


# -- shards -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["each", "together", "sequence"])
def test_shards_are_the_whole_run(lm, tmp_path, mode):
    whole = start(lm, tmp_path / "whole", mode)
    for k in (2, 1):
        start(lm, tmp_path / "shared", mode, shard=Shard(k, 2), resume=False)
        # Machines of different sizes take batches of different sizes.
        start(lm, tmp_path / f"own-{k}", mode, shard=Shard(k, 2), batch_size=k, resume=False)
    shared = load_run(tmp_path / "shared")
    assert shared.n_missing == 0
    assert reports(shared) == reports(whole)
    assert 0 < load_run(tmp_path / "own-1").n_missing < 5
    merge([tmp_path / "own-2", tmp_path / "own-1"], tmp_path / "merged")
    merged = load_run(tmp_path / "merged")
    assert merged.n_missing == 0
    assert reports(merged) == reports(whole)
    # The whole can go on with what one of its shards has done.
    assert reports(start(lm, tmp_path / "own-1", mode)) == reports(whole)


@pytest.mark.parametrize("n_cases", [1, 5, 16, 33, 100])
@pytest.mark.parametrize("total", [1, 2, 3, 7])
def test_shards_leave_nothing_out_and_do_nothing_twice(n_cases, total):
    cases = list(range(0, 2 * n_cases, 2))
    for sizes in ([1] * total, [16] * total, [*range(1, total + 1)]):
        blocks = [
            block
            for k, size in enumerate(sizes, 1)
            for block in Shard(k, total).blocks(cases, size, 16)
        ]
        assert sorted(case for block in blocks for case in block) == cases
    whole = Shard().blocks(cases, 16, 16)
    assert [len(block) for block in whole[:-1]] == [16] * (len(whole) - 1)
    if n_cases >= 16 * total:
        parts = [b for k in range(total) for b in Shard(k + 1, total).blocks(cases, 16, 16)]
        assert sorted(parts) == whole, "the same blocks, and so the same bits"


def test_another_process_at_the_same_shard(lm, tmp_path):
    start(lm, tmp_path / "run", should_stop=lambda: True)
    journal = Journal.load(tmp_path / "run")
    with journal.writing(Shard()), pytest.raises(StorageError, match="Another process"):
        start(lm, tmp_path / "run")
    assert start(lm, tmp_path / "run").n_missing == 0


# -- what is refused ----------------------------------------------------------------------------


def test_another_run_is_refused_and_said_why(lm, make_model, tmp_path):
    start(lm, tmp_path / "run")
    other = ROME.model_copy(update={"layer": 1})
    for reason, options in (
        (r"its config\.layer is 0, not 1", {"config": other}),
        (r"its data\.n_records is 5, not 4", {"records": make_records(4)}),
        (r"its data\.sha256", {"records": [*make_records(4), make_record(5)]}),
        (r"its data\.references", {"references": {}}),
        (r"its generation", {"measure": MeasureConfig(n_generated=0)}),
        (r"its essence", {"measure": MEASURE.model_copy(update={"essence": True})}),
        (r"its seed is 0, not 1", {"measure": MEASURE.model_copy(update={"seed": 1})}),
        (r"its drift_tokens|its data\.ordinary", {
            "measure": MEASURE.model_copy(update={"drift_tokens": 9}), "ordinary_text": PASSAGES}),
        (r"its mode is .each., not .sequence.", {"mode": "sequence"}),
    ):  # fmt: skip
        with pytest.raises(StorageError, match=reason):
            start(lm, tmp_path / "run", **options)
    with pytest.raises(StorageError, match=r"its model\.fingerprint"):
        start(make_model("gpt2", dtype=torch.float64, seed=2), tmp_path / "run")
    with pytest.raises(StorageError, match=r"its (config|method)"):
        evaluate(
            lm, make_records(), "ft", tmp_path / "run", FT, measure=MEASURE,
            references=REFERENCES, resume=True,
        )  # fmt: skip
    with pytest.raises(StorageError, match=r"not empty\. Resume it"):
        start(lm, tmp_path / "run", resume=False)
    start(lm, tmp_path / "run", data_name="records")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("…")
    with pytest.raises(StorageError, match=r"not empty\. Empty it"):
        start(lm, tmp_path / "other")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="is a file"):
        start(lm, tmp_path / "file")


def test_a_damaged_line_is_named(lm, tmp_path):
    start(lm, tmp_path / "run")
    path = tmp_path / "run" / "records-1-of-1.jsonl"
    kept = path.read_text().splitlines()
    path.write_text("\n".join([kept[0], "{oops", *kept[2:]]) + "\n")
    with pytest.raises(StorageError, match=r"Line 2 of .* is damaged"):
        start(lm, tmp_path / "run")
    path.write_text("\n".join([kept[0], *kept[2:]]) + "\n")
    assert start(lm, tmp_path / "run").n_missing == 0


@pytest.mark.parametrize("mode", ["each", "sequence"])
@pytest.mark.parametrize("short", [False, True])
def test_a_full_disk(lm, tmp_path, monkeypatch, mode, short):
    """What is written stays valid, and the run goes on when there is room."""
    whole = start(lm, tmp_path / "whole", mode)
    write, left = os.write, 3

    def full(handle, data):
        nonlocal left
        left -= 1
        if left < 0:
            if short:
                return write(handle, data[:20])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, data)

    with monkeypatch.context() as small:
        small.setattr("factlab.appending.os.write", full)
        with pytest.raises(
            StorageError, match=r"(No space left|disk is full).*make room and resume"
        ):
            start(lm, tmp_path / "run", mode)
    assert not lm.patches.active
    assert load_run(tmp_path / "run").n_missing == (2 if mode == "each" else 5)
    assert reports(start(lm, tmp_path / "run", mode)) == reports(whole)
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


# -- killed for good ----------------------------------------------------------------------------


def of_six(folder: Path, mode: str, cache: Path, options: dict | None = None) -> None:
    os.environ["FACTLAB_CACHE"] = str(cache)
    lm = fl.models.tiny_model("gpt2", dtype=torch.float64)
    start(lm, folder, mode, make_records(6), **(options or {}))


@pytest.mark.parametrize(("mode", "n_kills"), [("each", 2), ("sequence", 2)])
def test_killed_by_the_system(lm, tmp_path, mode, n_kills):
    """Again and again, at any moment: the same records and reports."""
    whole = start(lm, tmp_path / "whole", mode, make_records(6))
    folder, cache = tmp_path / "killed", tmp_path / "its-cache"
    for _ in range(n_kills):
        killed_as_it_writes(started(of_six, folder, mode, cache), folder, 0.01)
    assert load_run(folder).n_missing > 0
    finished(of_six, folder, mode, cache)
    assert reports(load_run(folder)) == reports(whole)
    assert lines(folder) == lines(tmp_path / "whole")


# -- whatever is left ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["each", "together", "sequence"])
def test_processes_share_a_run_out_among_themselves(lm, tmp_path, mode):
    """One is killed with a claim in its hands, and the others leave what a single one would."""
    whole = start(lm, tmp_path / "whole", mode, make_records(6))
    folder, options = tmp_path / "run", {"shard": Shard.any(), "resume": False}
    three = [
        started(of_six, folder, mode, tmp_path / f"cache-{number}", options) for number in range(3)
    ]
    killed_as_it_writes(three[0], folder, 0.01)
    for process in three[1:]:
        process.join()
        assert process.exitcode == 0
    assert [path.name for path in folder.glob("records-*")] == ["records-1-of-1.jsonl"]
    assert lines(folder) == lines(tmp_path / "whole")
    assert reports(load_run(folder)) == reports(whole)
    assert start(lm, folder, mode, make_records(6), **options).n_missing == 0  # nothing to do


def test_who_takes_anything_and_who_has_a_fixed_part_do_not_mix(lm, tmp_path):
    start(lm, tmp_path / "run", should_stop=lambda: True)
    journal = Journal.load(tmp_path / "run")
    with (
        journal.writing(Shard(1, 2)),
        pytest.raises(StorageError, match=r"shard 1/2 .*in common with shard any"),
    ):
        start(lm, tmp_path / "run", shard=Shard.any())
    with journal.writing(Shard.any()) as writer:
        with pytest.raises(StorageError, match=r"Processes are sharing .*--shard any"):
            start(lm, tmp_path / "run", shard=Shard(1, 2))
        list(writer.to_do([], lambda: True))
        with pytest.raises(StorageError, match="shared out in blocks of 0, not of 2"):
            start(lm, tmp_path / "run", shard=Shard.any())
    assert start(lm, tmp_path / "run", shard=Shard.any()).n_missing == 0


def test_texts_of_other_random_streams_are_not_mixed(lm, tmp_path, monkeypatch):
    """An earlier version drew otherwise and said nothing of it; its runs can still be read."""
    monkeypatch.setattr("factlab.evaluation.running.run.STREAMS", 1)
    folder, stop = tmp_path / "run", Countdown(3)
    start(lm, folder, should_stop=stop)
    header = json.loads((folder / "run.json").read_text())
    del header["request"]["generation"]["streams"]
    (folder / "run.json").write_text(json.dumps(header))
    monkeypatch.undo()
    for options in ({}, {"resume": False, "shard": Shard(1, 2)}):
        with pytest.raises(StorageError, match="draws other texts from the same seed"):
            start(lm, folder, **options)
    before = load_run(folder)
    assert 0 < len(before.rows) < before.n_cases
    assert reports(before)


def test_runs_without_texts_go_on_whatever_their_streams(lm, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    plain = [make_record(i, generation_prompts=()) for i in range(4)]
    for number, records, measure in (
        (1, make_records(), MeasureConfig(n_generated=0)),
        (2, plain, MEASURE),
    ):
        out, options = folder / str(number), {"records": records, "measure": measure}
        monkeypatch.setattr("factlab.evaluation.running.run.STREAMS", 1)
        start(lm, out, should_stop=Countdown(3), **options)
        monkeypatch.setattr("factlab.evaluation.running.run.STREAMS", 2)
        assert start(lm, out, **options).n_missing == 0
