"""`eval`, `merge`, `sweep` and `report` on tiny models, from end to end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_records import REFERENCES, make_record, make_records, make_zsre

import factlab as fl
from factlab.cli.interrupt import finishing_on_interrupt
from factlab.cli.session import Session
from factlab.data.record_files import save_records
from factlab.data.reference_files import save_references
from factlab.evaluation.running.saved_run import load_run

TINY = ["--model", "tiny:gpt2"]
QUICK = (
    "[value]\nsteps = 2\n[contexts]\ngroups = []\n[stats]\ntokens_per_dim = 4\nrow_length = 16\n"
)


@pytest.fixture
def files(tmp_path):
    """What every command is given."""
    data, settings = tmp_path / "facts.json", tmp_path / "quick.toml"
    with_ids = [make_record(i, new_id=f"Q{i}", true_id="Q9") for i in range(5)]
    save_records(with_ids, data)
    settings.write_text(QUICK)
    return ["--data", data, "--settings", settings, *TINY]


@pytest.fixture
def layer(files):
    return [*files, "--layer", "0"]


def test_from_end_to_end(run, layer, tmp_path):
    out = tmp_path / "run"
    code, text, err = run("eval", *layer, "--out", out, "--generate", 1, "--json")
    assert code == 0, err
    document = json.loads(text)
    unedited, rome = document["tables"][0]["rows"]
    assert (unedited["label"], rome["label"]) == ("unedited", "rome")
    assert (rome["n"], rome["n_missing"], rome["n_failed"]) == (5, 0, 0)
    assert rome["metrics"]["entropy_bits"]["n"] == 1
    assert document["tables"][0]["data"]["name"] == "facts.json"
    assert len(load_run(out).rows) == 5
    code, again, _ = run("report", out, "--json")
    assert (code, json.loads(again)) == (0, document)
    code, text, _ = run("eval", *layer, "--out", out, "--generate", 1, "--resume")
    assert code == 0
    assert "n S ES EM PS PM NS NM GE" in " ".join(text.split())
    assert "factlab report" in text


@pytest.mark.parametrize(
    ("mode", "method"), [("together", "memit"), ("sequence", "rome"), ("each", "ft")]
)
def test_modes_and_methods(run, files, tmp_path, mode, method):
    files = files[2:] if method != "ft" else files[4:]
    data = tmp_path / "zsre.json"
    save_records([make_zsre(i) for i in range(3)], data)
    out, layer = tmp_path / "run", ["--layer", "0"]
    code, text, err = run(
        "eval", "--data", data, *files, *layer, "--out", out, "--mode", mode, "--method", method,
        "--json",
    )  # fmt: skip
    assert code == 0, err
    row = json.loads(text)["tables"][0]["rows"][1]
    assert (row["mode"], row["method"], row["n_edits"]) == (
        mode,
        method,
        3 if mode != "each" else 1,
    )
    assert row["metrics"]["efficacy"]["n"] == 3


def test_selections(run, layer, tmp_path):
    code, _, err = run(
        "eval", *layer, "--out", tmp_path / "run", "--no-generation", "--limit", 2, "--offset", 1,
        "--relation", "P36", "--batch-size", 1, "--memory-gib", 0.5,
    )  # fmt: skip
    assert code == 0, err
    assert [row.case_id for row in load_run(tmp_path / "run").rows] == [1, 2]
    code, _, err = run(
        "eval", *layer, "--out", tmp_path / "shuffled", "--no-generation", "--limit", 2,
        "--seed", 1,
    )  # fmt: skip
    assert code == 0, err
    assert len(load_run(tmp_path / "shuffled").rows) == 2


def test_essence_drift_and_references(run, layer, tmp_path):
    texts = tmp_path / "facts-references.json"  # beside the data, and so found
    save_references({("P36", "Q0"): REFERENCES["P36", "Antarctica"]}, texts)
    code, text, err = run(
        "eval", *layer, "--out", tmp_path / "run", "--essence", "--drift", 30, "--generate", 2,
        "--text-seed", 3, "--json",
    )  # fmt: skip
    assert code == 0, err
    metrics = json.loads(text)["tables"][0]["rows"][1]["metrics"]
    assert (metrics["essence"]["n"], metrics["drift_kl_nats"]["n"]) == (2, 5)
    consistency = metrics["consistency"]
    assert consistency["n"] == 1
    assert consistency["unscored"]["there are no references for some objects of relation P36"] == 1
    assert load_run(tmp_path / "run").rows[0].seed == 3
    # A file of another data set has none of them.
    save_references({("P99", "Q1"): REFERENCES["P36", "Antarctica"]}, texts)
    code, text, err = run(
        "eval",
        *layer,
        "--out",
        tmp_path / "other",
        "--generate",
        1,
        "--references",
        texts,
        "--json",
    )
    assert code == 0, err
    consistency = json.loads(text)["tables"][0]["rows"][1]["metrics"]["consistency"]
    assert (consistency["mean"], consistency["n"]) == (None, 0)
    assert consistency["unscored"]["there are no references"] == 1


def test_shards_and_merge(run, layer, tmp_path):
    common = [*layer, "--no-generation"]
    whole = json.loads(run("eval", *common, "--out", tmp_path / "whole", "--json")[1])
    for k in (1, 2):
        code, _, err = run(
            "eval", *common, "--out", tmp_path / f"{k}", "--shard", f"{k}/2", "--batch-size", k
        )
        assert code == 0, err
        assert load_run(tmp_path / f"{k}").n_missing > 0
    parts = [tmp_path / "1", tmp_path / "2"]
    code, text, err = run("merge", *parts, "--out", tmp_path / "merged", "--json")
    assert code == 0, err
    merged = json.loads(text)
    for document in (whole, merged):
        for row in document["tables"][0]["rows"]:
            for metric in row["metrics"].values():
                metric["mean"] = metric["mean"] and pytest.approx(metric["mean"], rel=1e-3)
                metric["half_width"] = None
            row.pop("relations")
    assert merged["tables"][0]["notes"] == whole["tables"][0]["notes"]
    assert [r["n"] for r in merged["tables"][0]["rows"]] == [5, 5]
    assert [row.case_id for row in load_run(tmp_path / "merged").rows] == [0, 1, 2, 3, 4]
    again = json.loads(run("merge", *parts, "--out", tmp_path / "merged", "--json")[1])
    assert again["tables"][0]["notes"] == whole["tables"][0]["notes"]
    assert len(load_run(tmp_path / "merged").rows) == 5
    code, _, err = run("merge", parts[0], "--out", tmp_path / "half")
    assert code == 0
    assert re.search(r"Unfinished: \d rows? missing, all of shard 2/2 among them", err)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    code, _, err = run("merge", *parts, "--out", tmp_path / "mine")
    assert code == 2
    assert "not empty" in err
    code, _, err = run("merge", tmp_path, "--out", tmp_path / "m")
    assert code == 2
    assert "holds no run" in err


CSV = """\
template,subject,target_new,target_true,paraphrase_1,paraphrase_2,neighborhood_1
{} is in the,Rome,Antarctica,city of people,"Where is it? {} is in",,The tower is in the
{} is in the,Paris,Seattle,city of people,See {} in,In {},A museum is in the
"""


def test_two_methods_on_facts_of_ones_own(run, files, tmp_path):
    """Evaluated and put side by side by one command."""
    (tmp_path / "own.csv").write_text(CSV)
    out, settings = tmp_path / "runs", ["--set", "steps=2"]
    code, text, err = run(
        "eval", "--data", tmp_path / "own.csv", *TINY, "--method", "ft", "--method", "ft+l",
        "--layer", 1, *settings, "--out", out, "--json",
    )  # fmt: skip
    assert code == 0, err
    (table,) = json.loads(text)["tables"]
    assert [row["label"] for row in table["rows"]] == ["unedited", "ft", "ft+l"]
    assert table["data"]["name"] == "own.csv"
    for name in ("ft", "ft+l"):
        rows = load_run(out / name).rows
        assert [len(row.after.paraphrase) for row in rows] == [1, 2]
        assert [len(row.after.neighborhood) for row in rows] == [1, 1]
    code, text, err = run("report", out / "ft", out / "ft+l", "--csv")
    assert code == 0, err
    assert {line.split(",")[3] for line in text.splitlines()[1:]} == {"unedited", "ft", "ft+l"}
    # The file that edit reads.
    code, _, err = run(
        "edit", "--facts", tmp_path / "own.csv", *TINY, "--method", "ft", "--layer", 1, *settings,
        "--each",
    )  # fmt: skip
    assert code == 0, err


def test_a_run_of_few_records_goes_on_as_one_of_more(run, layer, tmp_path):
    common = ["eval", *layer, "--out", tmp_path / "run", "--no-generation"]
    assert run(*common, "--limit", 2)[0] == 0
    code, text, err = run(*common, "--limit", 4, "--resume", "--json")
    assert code == 0, err
    assert [row["n"] for row in json.loads(text)["tables"][0]["rows"]] == [4, 4]
    assert run(*common, "--limit", 4, "--resume", "--json")[1] == text


def test_a_sweep_traces_few_facts_first(run, files, tmp_path, monkeypatch):
    beside = "factlab.evaluation.sweeping.trace_beside"
    monkeypatch.setattr(f"{beside}.knows", lambda lm, facts: [True] * len(facts))
    traced = []

    def average_trace(lm, facts, config, folder, limit, *_, **__):
        traced.append(limit)
        raise fl.FactlabError("enough")

    monkeypatch.setattr(f"{beside}.average_trace", average_trace)
    command = ["sweep", *files, "--layers", "0", "--tokens", "last", "--out", tmp_path / "s"]
    code, text, _ = run(*command, "--records", 2)
    assert code == 2
    assert "First a causal trace of 2 well-known facts" in text
    assert run(*command, "--records", 5, "--trace-facts", 3)[0] == 2
    assert run(*command, "--records", 50)[0] == 2
    assert traced == [2, 3, 10]
    assert run(*command, "--records", 2, "--trace-facts", 0)[0] == 0
    assert len(traced) == 3
    code, _, err = run(*command, "--trace", tmp_path, "--trace-facts", 3)
    assert code == 2
    assert "one of --trace and --trace-facts" in err


def test_sweep(run, files, tmp_path):
    out = tmp_path / "sweep"
    code, text, err = run(
        "sweep", *files, "--out", out, "--records", 2, "--layers", "0-1", "--tokens", "last,end",
        "--json",
    )  # fmt: skip
    assert code == 0, err
    document = json.loads(text)
    assert [(c["layer"], c["token"]) for c in document["cells"]] == [
        (0, "last"), (0, "end"), (1, "last"), (1, "end"),
    ]  # fmt: skip
    assert json.loads((out / "sweep.json").read_text()) == document
    assert {"sweep.csv", "sweep.png"} <= {path.name for path in out.iterdir()}
    code, text, err = run(
        "sweep", *files, "--out", out, "--records", 2, "--layers", "2,0", "--tokens", "last",
        "--seed", 1, "--resume",
    )  # fmt: skip
    assert code == 2, "other records"
    assert "not the first ones" in err or "belongs to another run" in err
    code, text, err = run(
        "sweep", *files, "--out", out, "--records", 2, "--layers", "2,0", "--tokens", "last"
    )
    assert code == 2, "not asked to go on"
    assert "is not empty" in err
    code, text, err = run(
        "sweep", *files, "--out", out, "--records", 2, "--layers", "2,0", "--tokens", "last",
        "--resume",
    )  # fmt: skip
    assert code == 0, err
    assert "Layer 2, token last: " in text
    assert "Edit an earlier layer" in text
    assert "Best: layer 0, token last, with S = " in text


# -- what cannot be -------------------------------------------------------------------------------

BAD: dict[str, tuple[list[str], str]] = {
    "method": (["--method", "roma"], "Unknown method 'roma'. Did you mean 'rome'?"),
    "mode": (
        ["--mode", "eech"],
        "--mode cannot be 'eech': it must be 'each', 'together' or 'sequence'.",
    ),
    "data": (["--data", "biultin"], "No data set is called 'biultin'"),
    "no file": (["--data", "missing.json"], "missing.json"),
    "empty name": (["--data", ""], "Error: "),
    "empty slice": (["--offset", "5"], "Offset 5 leaves nothing of the 5 records"),
    "limit": (["--limit", "0"], "--limit cannot be 0"),
    "relation": (["--relation", "P37"], "5 records, none of relation"),
    "shard": (["--shard", "two"], "Shard 'two' is not understood"),
    "far shard": (["--shard", "3/2"], "Shard 3/2 is out of range"),
    "both": (["--no-generation", "--generate", "3"], "one of --no-generation and --generate"),
    "negative": (["--generate", "-1"], "Invalid value for '--generate'"),
    "text seed": (["--text-seed", "-1"], "Invalid value for '--text-seed'"),
    "drift": (["--drift", "-5"], "Invalid value for '--drift'"),
    "one token": (["--drift", "1"], "2 or more drift tokens"),
    "much drift": (["--drift", "99999999"], "fewer drift tokens"),
    "batch": (["--batch-size", "0"], "Invalid value for '--batch-size'"),
    "memory": (
        ["--memory-gib", "0", "--no-generation"],
        "memory_gib=0.0 (--memory-gib) must be a number of GiB above 0",
    ),
    "layer": (["--layer", "7", "--no-generation"], "Layer 7 is out of range"),
    "references": (["--references", "snippets"], "No references are called 'snippets'"),
    "setting": (["--settings", "SETTINGS"], "stepps"),
    "toml": (["--settings", "BROKEN"], "not valid TOML"),
    "malformed": (["--data", "MALFORMED"], "Line 2 of"),
    "field": (["--data", "FIELD"], "requested_rewrite"),
    "folder": (["--out", "FULL"], "is not empty"),
    "file": (["--out", "FILE"], "is a file"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_clear_sentence(run, layer, tmp_path, what):
    options, message = BAD[what]
    (tmp_path / "SETTINGS").write_text("[value]\nstepps = 2\n")
    (tmp_path / "BROKEN").write_text("steps = = 2\n")
    (tmp_path / "MALFORMED.json").write_text('[\n{"case_id": 1,,}]')
    (tmp_path / "FIELD.json").write_text('[{"case": 1}]')
    (tmp_path / "FULL").mkdir()
    (tmp_path / "FULL" / "thesis.tex").write_text("")
    (tmp_path / "FILE").write_text("")
    names = {n: str(tmp_path / n) for n in ("SETTINGS", "BROKEN", "FULL", "FILE")}
    names |= {n: str(tmp_path / f"{n}.json") for n in ("MALFORMED", "FIELD")}
    options = [names.get(option, option) for option in options]
    code, out, err = run("eval", *layer, "--out", tmp_path / "out", *options)
    assert code == 2, err
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "out").exists(), "nothing was begun"


def test_a_folder_of_another_run(run, layer, tmp_path):
    common = ["--out", tmp_path / "run", "--no-generation", "--limit", 2]
    assert run("eval", *layer, *common)[0] == 0
    for options, message in (
        ([*layer, *common], "is not empty. Resume it with --resume"),
        ([*layer, *common, "--resume", "--model", "tiny:llama"], "its model.fingerprint"),
        ([*layer, *common, "--resume", "--layer", "1"], "its config.layer is 0, not 1"),
        ([*layer, *common, "--resume", "--limit", "1"], "its data.n_records is 2, not 1"),
        ([*layer, *common, "--resume", "--offset", "1", "--limit", "3"], "not the first ones"),
        ([*layer, *common, "--resume", "--mode", "sequence"], 'its mode is "each"'),
    ):
        code, _, err = run("eval", *options)
        assert code == 2
        assert message in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "x"], "--layers cannot be 'x': 'x' is no number or range"),
        (["--layers", "²"], "--layers cannot be '²': '²' is no number"),
        (["--layers", "0-2:0"], "--layers cannot be '0-2:0': '0-2:0' is no number or range"),
        (["--layers", "2-0"], "--layers cannot be '2-0': '2-0' names nothing"),
        (["--layers", "0-9"], "Layer 3 is out of range"),
        (["--tokens", "lest"], "--tokens: 'lest' is none of first, last"),
        (["--records", "0"], "Invalid value for '--records'"),
        (["--trace", "nowhere"], "holds no run"),
    ],
)
def test_sweeps_that_cannot_be(run, files, tmp_path, options, message):
    code, _, err = run("sweep", *files, "--out", tmp_path / "s", "--layers", "0", *options)
    assert code == 2, err
    assert message in " ".join(err.split())


def test_a_trace_of_another_model(run, files, tmp_path, make_model):
    config = fl.tracing.TraceConfig(kinds=("mlp",), samples=1, window=1)
    fl.average_trace(make_model("llama"), [fl.Fact("{} is", "Rome")], config, tmp_path / "trace")
    code, _, err = run(
        "sweep", *files, "--out", tmp_path / "s", "--layers", "0", "--trace", tmp_path / "trace"
    )
    assert code == 2
    assert "The trace is of tiny-llama" in err


# -- Ctrl-C ---------------------------------------------------------------------------------------


def test_the_first_interrupt_asks_and_the_second_stops(capsys):
    # Tests that run side by side ignore the signal.
    outside = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        session = Session(None, None, None, [], None, False)
        with pytest.raises(KeyboardInterrupt), finishing_on_interrupt(session) as should_stop:
            assert not should_stop()
            signal.raise_signal(signal.SIGINT)
            assert should_stop()
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, outside)
    assert "press Ctrl-C again" in capsys.readouterr().err


@pytest.mark.parametrize("shard", [[], ["--shard", "1/2"]])
def test_an_interrupt_finishes_what_is_at_hand(run, layer, tmp_path, monkeypatch, shard):
    """Exit code 130, what to do next, and nothing lost."""
    from factlab.evaluation.measuring.yardstick import Yardstick

    measure, calls = Yardstick.measure, 0

    def interrupted(self, *args):
        nonlocal calls
        calls += 1
        if calls == 7:  # of five records without an edit, then with one
            signal.raise_signal(signal.SIGINT)
        return measure(self, *args)

    save_records(make_records(8) if shard else make_records(5), tmp_path / "facts.json")
    command = ["eval", *layer, "--out", tmp_path / "run", "--no-generation", "--batch-size", "1"]
    with monkeypatch.context() as pressing:
        pressing.setattr(Yardstick, "measure", interrupted)
        code, out, err = run(*command, *shard)
    assert code == 130
    assert "Finishing what is at hand" in err
    done = len(load_run(tmp_path / "run").rows)
    assert 0 < done < 4
    how = "the same command" if shard else "--resume"
    assert f"left to do. Go on with {how}." in out
    assert run(*command, *(shard or ["--resume"]))[0] == 0
    assert load_run(tmp_path / "run").n_missing == (4 if shard else 0)


def test_an_interrupted_sweep(run, files, tmp_path, monkeypatch):
    from factlab.evaluation.measuring.yardstick import Yardstick

    measure, calls = Yardstick.measure, 0

    def interrupted(self, *args):
        nonlocal calls
        calls += 1
        if calls == 2:
            signal.raise_signal(signal.SIGINT)
        return measure(self, *args)

    command = ["sweep", *files, "--out", tmp_path / "s", "--records", 2, "--layers", "0,1"]
    with monkeypatch.context() as pressing:
        pressing.setattr(Yardstick, "measure", interrupted)
        code, out, _ = run(*command, "--tokens", "last")
    assert code == 130
    assert "Go on with --resume" in out
    assert not (tmp_path / "s" / "sweep.json").exists()
    assert run(*command, "--tokens", "last", "--resume")[0] == 0


def test_a_real_interrupt(files, tmp_path):
    """Of the whole program, from outside."""
    save_records(make_records(6), tmp_path / "facts.json")
    out = tmp_path / "run"
    command = [sys.executable, "-m", "factlab", "eval", *map(str, files), "--layer", "0"]
    process = subprocess.Popen(
        [*command, "--out", out, "--no-generation", "--batch-size", "1"],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    records = out / "records-1-of-1.jsonl"
    while process.poll() is None and not _size(records):
        time.sleep(0.002)  # looks again soon; nothing is measured
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate()
    run = load_run(out)
    if run.n_missing:  # it may have been at the last one
        assert process.returncode == 130
        assert "left to do. Go on with --resume." in text
    else:
        assert process.returncode == 0


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
