"""What came from elsewhere is shown and never obeyed; what cannot be written is written otherwise."""

import io
import json
import sys
from dataclasses import replace

import pytest
from rich.table import Table
from rich.text import Text
from test_edit import make_edit

import factlab as fl
from factlab.cli import main
from factlab.cli.terminal import Terminal, json_line, visible
from factlab.progress import ProgressBar

HOSTILE = "x\x1b[2J\x1b]0;owned\x07\x9b5n\u202ey"


def is_harmless(text: str) -> bool:
    return not {*"\x1b\x07\x9b\u202e\x08\x00"} & {*text}


@pytest.fixture
def folder(make_model, tmp_path):
    edit = make_edit(make_model("gpt2"), 0)
    fact = fl.Fact("{} is", HOSTILE, "y\x00\x08")
    hostile = replace(
        edit, method=f"rome{HOSTILE}", facts=(fact,), diagnostics={HOSTILE: HOSTILE},
        base=edit.base.model_copy(update={"name": HOSTILE}), versions={"torch": HOSTILE},
    )  # fmt: skip
    hostile.save(tmp_path / "e")
    return tmp_path / "e"


def test_an_edit_from_elsewhere_is_shown(folder, run):
    code, out, err = run("show", folder)
    assert code == 0
    assert is_harmless(out + err)
    assert "rome" + visible(HOSTILE.replace("\x07", "")) in out  # which rich leaves out
    assert r"\x1b[2J\x1b]0;owned\x9b5n\u202ey" in out
    code, out, _ = run("show", folder, "--json")
    assert is_harmless(out)
    assert json.loads(out)["facts"][0]["subject"] == HOSTILE


def test_errors_and_arguments_are_shown(tmp_path, run):
    for name in (HOSTILE, "caf\udce9"):
        code, out, err = run("show", tmp_path / name)
        assert code == 2
        assert is_harmless(out + err)
        assert r"\x1b]0;owned\x9b5n" in err or r"caf\udce9" in err


def test_whatever_is_printed_goes_through_one_place():
    file = io.StringIO()
    terminal = Terminal(file=file, force_terminal=True, width=200)
    inner = Table(HOSTILE)
    inner.add_row(Text(HOSTILE, style="bold"))
    terminal.print(HOSTILE, inner, markup=False)
    with ProgressBar(terminal) as bar:
        bar(HOSTILE, 0, 2)
        bar(HOSTILE, 2, 2)
    assert "\x1b[1m" in file.getvalue()  # rich's own codes stay
    assert not {*"\x07\x9b\u202e"} & {*file.getvalue()}
    assert "\x1b[2J" not in file.getvalue()
    assert "\x1b]0" not in file.getvalue()


class Pipe(io.TextIOWrapper):
    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)

    def text(self) -> str:
        return self.buffer.getvalue().decode(self.encoding)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_a_pipe_cannot_write_is_written_otherwise(folder, monkeypatch, encoding):
    shown = {}
    for option in ("", "--json"):
        pipes = Pipe(encoding), Pipe(encoding)
        monkeypatch.setattr(sys, "stdout", pipes[0])
        monkeypatch.setattr(sys, "stderr", pipes[1])
        monkeypatch.setattr(sys, "argv", ["factlab", "show", str(folder), *option.split()])
        try:
            main()
        except SystemExit as stop:
            assert not stop.code
        shown[option] = pipes[0].text()
    sign = "x" if encoding == "ascii" else "×"
    assert f"24 {sign} 56" in shown[""]
    assert json.loads(shown["--json"])["facts"][0]["subject"] == HOSTILE


def test_json_says_what_was_meant(monkeypatch):
    document = {"a": "é × 語 \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")}
    for encoding in ("ascii", "utf-8"):
        monkeypatch.setattr(sys, "stdout", Pipe(encoding))
        assert json.loads(json_line(document)) == document
        assert json_line(document).isascii() == (encoding == "ascii")
