"""A damaged run folder is one sentence, whether it is gone on with, read or reported."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_records import FT, LIKELIHOODS, make_records

import factlab as fl
from factlab.errors import StorageError

MUSEUM = Path(__file__).parent.parent / "museum"


@pytest.fixture
def go_on(make_model, tmp_path):
    lm = make_model("gpt2")

    def go_on(name="run", resume=True):
        return fl.evaluate(
            lm, make_records(2), "ft", tmp_path / name, config=FT, measure=LIKELIHOODS,
            resume=resume, cache=tmp_path / "cache",
        )  # fmt: skip

    return go_on


@pytest.fixture
def folder(go_on, tmp_path):
    go_on(resume=False)
    return tmp_path / "run"


def put(value, *path):
    def change(document):
        for name in path[:-1]:
            document = document[name]
        document[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put(["x"], "findings", "cases"), "it has 'x' among its cases"),
        (put([0, 999], "findings", "cases"), "it has 999 among its cases"),
        (put([0, True], "findings", "cases"), "it has True among its cases"),
        (put([0, 0], "findings", "cases"), "it has a case twice"),
        (put(None, "findings", "cases"), "does not list its cases"),
        (put("x", "findings", "config", "steps"), "is damaged: steps"),
        (put(None, "findings", "config"), "is damaged"),
        (put(7, "findings", "config", "depth"), "newer factlab .*'depth'"),
        (put(7, "author"), "newer factlab .*'author'"),
        (
            put("factlab evaluation 2", "request", "format"),
            "newer factlab .*'factlab evaluation 2'",
        ),
        (put([], "request"), "is damaged"),
    ],
)
def test_a_damaged_header_is_not_gone_on_with(folder, go_on, change, said):
    header = json.loads((folder / "run.json").read_text())
    change(header)
    (folder / "run.json").write_text(json.dumps(header))
    with pytest.raises(StorageError, match=said):
        go_on()


def numbers(value, path=()):
    """Where the numbers of a document are."""
    if isinstance(value, dict | list):
        for name in value if isinstance(value, dict) else range(len(value)):
            yield from numbers(value[name], (*path, name))
    elif type(value) in (int, float):
        yield path


def test_rows_with_impossible_numbers_are_refused_or_reported(folder, tmp_path):
    path = folder / "records-1-of-1.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    places = [place for place in numbers(rows[0]) if place != ("case",)]
    refused = 0
    for place in places:
        for value in (1e9, -1e9, 1e308):
            row = json.loads(json.dumps(rows[0]))
            put(value, *place)(row)
            path.write_text("".join(json.dumps(each) + "\n" for each in (row, rows[1])))
            try:
                fl.report([fl.evaluation.load_run(folder)])
            except StorageError:
                refused += 1
    assert refused >= len(places)
    path.write_text('{"case": Infinity}\n')
    with pytest.raises(StorageError, match=r"Line 1 of .* is damaged"):
        fl.evaluation.load_run(folder)


def test_damaged_traces_are_refused_or_averaged(tmp_path):
    shutil.copytree(MUSEUM / "0.1.0" / "average", tmp_path / "run")
    path = tmp_path / "run" / "records-1-of-1.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    record = json.loads(lines[0])
    refused = 0
    for place in [place for place in numbers(record) if place[0] != "case"]:
        for value in (1e9, -1, 1e308, "x", None):
            changed = json.loads(json.dumps(record))
            put(value, *place)(changed)
            path.write_text(json.dumps(changed) + "\n" + "".join(lines[1:]))
            try:
                fl.AverageTrace.load(tmp_path / "run")
            except StorageError:
                refused += 1
    assert refused > 20
    changed = record | {"n_tokens": 10**12}
    path.write_text(json.dumps(changed) + "\n")
    with pytest.raises(StorageError, match="it has 1000000000000 tokens"):
        fl.AverageTrace.load(tmp_path / "run")


def test_other_versions_go_on_and_are_reported(folder, go_on):
    header = json.loads((folder / "run.json").read_text())
    header["findings"]["versions"]["torch"] = "2.0.0"
    (folder / "run.json").write_text(json.dumps(header))
    lines = (folder / "records-1-of-1.jsonl").read_text().splitlines(keepends=True)
    (folder / "records-1-of-1.jsonl").write_text(lines[0])
    (folder / "versions.jsonl").unlink(missing_ok=True)
    run = go_on()
    assert len(run.rows) == 2
    assert run.versions["torch"].startswith("2.0.0, ")
    assert "," not in run.versions["transformers"]
    (table,) = fl.report([run]).tables
    assert any("ran under different versions (torch 2.0.0, " in note for note in notes_of(table))


def notes_of(table):
    from factlab.evaluation.reporting.notes import notes

    return notes(table)


def rows_of(folder):
    """The records of a run, without what took how long."""
    lines = (folder / "records-1-of-1.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.endswith("_s")} for line in lines]


def test_what_a_kill_left_of_a_block_changes_no_bit(folder, go_on, tmp_path):
    for kept in sorted((tmp_path / "cache").rglob("*.json"))[1:]:
        kept.unlink()
    go_on("again", resume=False)
    assert rows_of(tmp_path / "again") == rows_of(folder)
