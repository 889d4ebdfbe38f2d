"""`--workers`: the same command in other processes beside this one."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from factlab.cli import workers
from factlab.cli.workers import arguments_of_worker, workers_beside

TINY = ["--model", "tiny:gpt2"]
EVAL = ["eval", "--method", "ft", "--layer", "1", "--limit", "12", "--batch-size", "2", *TINY,
        "--no-generation"]  # fmt: skip


def rows(folder: Path) -> list[dict]:
    lines = (folder / "records-1-of-1.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(n).items() if not k.endswith("_s")} for n in lines]


def test_workers_leave_what_one_process_leaves(run, tmp_path):
    assert run(*EVAL, "--out", tmp_path / "one")[0] == 0
    code, out, err = run(*EVAL, "--out", tmp_path / "two", "--workers", "2", "--devices", "cpu")
    assert code == 0, err
    assert "lost" not in err
    assert rows(tmp_path / "two") == rows(tmp_path / "one")
    assert [path.name for path in (tmp_path / "two").glob("records-*")] == ["records-1-of-1.jsonl"]
    assert "Rows:" in out
    assert (tmp_path / "two" / ".workers" / "2.log").read_text().find("Rows:") == -1
    code, _, err = run(*EVAL, "--out", tmp_path / "two", "--workers", "2")
    assert (code, "Resume it with --resume" in err) == (2, True)


def test_a_worker_that_fails_is_told_of_and_missed_by_nobody(run, tmp_path, monkeypatch):
    given = arguments_of_worker
    monkeypatch.setattr(
        workers, "arguments_of_worker", lambda *args: [*given(*args), "--layer", "99"]
    )
    code, _, err = run(*EVAL, "--out", tmp_path / "run", "--workers", "2")
    assert code == 0, err
    assert "Worker 2 was lost, and the others did its part" in err
    assert "99" in err
    assert len(rows(tmp_path / "run")) == 12


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["eval", "--workers", "3", "--out", "run"], ["eval", "--out", "run"]),
        (["eval", "--workers=3", "--resume", "--out=run"], ["eval", "--out=run"]),
        (["values", "f.csv", "--devices", "cpu,cpu", "--shard", "any"], ["values", "f.csv"]),
        (["eval", "--device", "cpu", "--set", "steps=3"], ["eval", "--set", "steps=3"]),
        (["eval", "--engine", "ray", "--gpus=0.5", "--cpus", "2", "--json"], ["eval", "--json"]),
    ],
)
def test_a_worker_is_given_the_command_without_its_sharing(given, meant):
    assert arguments_of_worker(given, "cuda:1") == [*meant, "--shard", "any", "--device", "cuda:1"]
    assert arguments_of_worker(given, None) == [*meant, "--shard", "any"]


WAITS = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"


@pytest.fixture
def waiting_program(monkeypatch):
    """In the place of factlab a program that says its number and waits for its parent's end."""
    monkeypatch.setattr(workers, "PROGRAM", (sys.executable, "-c", WAITS))


def numbers(log: Path, n: int) -> list[int]:
    """The numbers of the processes that wrote a log, when there are so many."""
    while len(found := log.read_text().split()) < n:
        time.sleep(0.01)  # looks again soon; nothing is measured
    return [int(number) for number in found]


def test_one_that_is_killed_is_started_again(waiting_program, tmp_path):
    with workers_beside(["eval"], [None, None], tmp_path) as beside:
        log = tmp_path / ".workers" / "3.log"
        (first,) = numbers(log, 1)
        os.kill(first, signal.SIGKILL)
        assert numbers(log, 2)[1] != first
        for worker in beside.workers:
            worker.let_go()  # as when this process ends
    assert beside.lost == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--devices", "cpu,cpu"], "--devices is for several processes"),
        (["--workers", "2", "--devices", "cpu", "--device", "cpu"], "one of --device and"),
        (["--workers", "2", "--shard", "1/2"], "Leave --shard out"),
        (["--workers", "2", "--devices", "gpu7"], "gpu7"),
        (["--shard", "auto"], "Nothing says which shard"),
        (["--shard", "third"], "'third' is not understood"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(run, tmp_path, options, told):
    code, _, err = run(*EVAL, "--out", tmp_path / "run", *options)
    assert code == 2
    assert told in err
    assert not (tmp_path / "run").exists()


def test_the_shard_of_a_cluster_is_printed(run, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "6")
    code, _, err = run(*EVAL, "--out", tmp_path / "run", "--shard", "auto")
    assert code == 0, err
    assert "Shard 2/6, from RANK and WORLD_SIZE of torchrun." in err
    assert (tmp_path / "run" / "records-2-of-6.jsonl").exists()


def test_a_study_has_no_numbered_parts(run, tmp_path):
    args = ["sweep", "--records", "2", "--layers", "0", "--trace-facts", "0", *TINY]
    code, _, err = run(*args, "--out", tmp_path / "run", "--shard", "1/2")
    assert (code, "--shard any, or --workers" in err) == (2, True)


def test_workers_share_a_sweep_out(run, tmp_path):
    args = ["sweep", "--records", "4", "--layers", "0,1", "--tokens", "last", "--batch-size", "2",
            "--set", "value.steps=1", "--set", "stats.tokens_per_dim=1", "--trace-facts", "0",
            *TINY]  # fmt: skip
    assert run(*args, "--out", tmp_path / "one")[0] == 0
    code, _, err = run(*args, "--out", tmp_path / "two", "--workers", "2")
    assert code == 0, err
    for cell in ("layer-00-last", "layer-01-last"):
        assert rows(tmp_path / "two" / cell) == rows(tmp_path / "one" / cell)
