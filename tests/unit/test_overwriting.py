"""No command replaces a file of the user's that it was not told to replace, and none works first."""

import pytest

MODEL = ("--model", "tiny:gpt2")
TABLES = {
    "facts.tsv": "relation\tsubject\tobject\nP36\tRome\tItaly\n",
    "templates.tsv": "relation\tpattern\nP36\t[X] is [Y]\n",
}
COMMANDS = {
    "stats": ("stats", "--layer", "1", "--tokens-per-dim", "1", "--out"),
    "trace": ("trace", "Rome is in", "--subject", "Rome", "--samples", "1", "--save"),
    "a picture of a trace": ("trace", "Rome is in", "--subject", "Rome", "--samples", "1", "--out"),
    "neurons": ("neurons", "Rome is in", "--target", "Paris", "--steps", "2", "--save"),
    "knowns": ("knowns", "build", "--facts", "facts.tsv", "--templates", "templates.tsv", "--out"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_files_are_replaced_only_if_asked_for(run, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    for name, text in TABLES.items():
        (tmp_path / name).write_text(text)
    path = tmp_path / ("mine.png" if "picture" in command else "mine.json")
    path.write_text("precious")
    arguments = (*COMMANDS[command], path, *MODEL)
    monkeypatch.setattr("factlab.models.loading.load", lambda *_a, **_k: pytest.fail("work"))
    code, _, err = run(*arguments)
    assert code == 2
    assert "mine" in err
    assert "is there already; nothing was written" in err
    assert "--overwrite" in err
    assert path.read_text() == "precious"


def test_a_file_is_replaced_if_asked_for(run, tmp_path):
    path = tmp_path / "trace.safetensors"
    path.write_text("old")
    code, _, err = run(
        "trace", "Rome is in", "--subject", "Rome", "--samples", 1, "--save", path, "--overwrite", *MODEL
    )  # fmt: skip
    assert code == 0, err
    assert path.read_bytes() != b"old"


def test_records_are_built_beside_no_file_of_the_users(run, tmp_path):
    for name, text in TABLES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "mine-references.json").write_text("precious")
    code, _, err = run(
        "data", "build", "--facts", tmp_path / "facts.tsv", "--patterns", tmp_path / "templates.tsv",
        "--out", tmp_path / "mine.json",
    )  # fmt: skip
    assert code == 2
    assert "mine-references.json' is there already" in err
    assert (tmp_path / "mine-references.json").read_text() == "precious"
