"""What the command line says of itself: help, version, completion, and how sentences are set."""

import io
import logging
import os
import re
import subprocess
import sys

import pytest
from rich.console import Console

import factlab as fl
from factlab.cli.prose import print_prose
from factlab.cli.tables import table
from factlab.errors import counted

COMMANDS = """
demo; serve; view; ask; trace; trace-average; trace-compare; layers; neurons; edit; values;
train; show; export; push; diff; eval; merge; report; judge; human make; human score; probe; sweep; study scaling;
study relations; study layers;
study mixture; study localisation; methods; models; memory; stats; data stats; data show; data build; knowns build; slurm
"""
NAMES = [name.strip() for name in COMMANDS.split(";")]
WITHOUT_MODEL = ["view", "show", "push", "report", "judge", "merge", "trace-compare", "methods", "slurm",
                 "human make", "human score", "data show", "data build"]  # fmt: skip


@pytest.fixture
def help_of(run, monkeypatch):
    def help_of(name: str = "", width: int = 80, flag: str = "-h") -> str:
        # typer asks for the width when it is imported, too.
        monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", width)
        code, out, err = run(*name.split(), flag)
        assert code == 0, err
        return out

    return help_of


def _flat(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", NAMES)
def test_every_command_explains_itself(help_of, name, width):
    shown = help_of(name, width)
    assert "Examples:" in shown
    assert f"factlab {name}" in shown.split("Examples:")[1]
    assert "<bool>" not in shown
    assert "list[" not in shown
    assert "\\[" not in shown
    assert max(map(len, shown.splitlines())) <= width


@pytest.mark.parametrize("name", NAMES)
def test_options_of_a_model_are_where_a_model_is(help_of, name):
    shown = help_of(name)
    assert ("--dtype" in shown) == (name not in WITHOUT_MODEL)
    assert ("--memory-gib" in shown) == (name not in WITHOUT_MODEL)
    assert "--json" in shown


def test_no_command_is_forgotten(help_of):
    listed = re.findall(r"^│ ([a-z][a-z-]*) ", help_of(), re.MULTILINE)
    assert {name.split()[0] for name in NAMES} == {*listed}
    inside = [f"{group} {name}" for group in ("data", "human", "knowns", "study")
              for name in re.findall(r"^│ ([a-z][a-z-]*) ", help_of(group), re.MULTILINE)]  # fmt: skip
    assert {name for name in NAMES if " " in name} == {*inside}


def test_commands_are_in_groups(help_of):
    titles = re.findall(r"^╭─ ([^─]+) ─", help_of(), re.MULTILINE)
    assert titles == ["Options", "Start here", "Locate", "Edit", "Measure", "Models and data"]


def test_brackets_are_shown_as_they_are(help_of):
    assert "[l-5, l+4]" in _flat(help_of("trace", 120))
    assert "in [network]" in _flat(help_of("train", 120))


def test_defaults_that_are_shown_are_those_of_the_library(help_of):
    config, neurons = fl.tracing.TraceConfig(), fl.neurons.NeuronConfig()
    shown = _flat(help_of("trace", 120))
    for text in (
        f"Noise samples to average over. [default: {config.samples}]",
        f"Seed of the noise. [default: {config.seed}]",
        f"from one gradient. [default: {config.method}]",
        f"in its text. [default: {config.window_convention}]",
        f"such as 0,3-5. [default: {config.positions}]",
    ):
        assert text in shown
    assert f"for each layer. [default: {neurons.steps}]" in _flat(help_of("neurons", 120))
    assert config.corruption == fl.tracing.GaussianNoise(sigmas=3)
    assert "[default: 3s]" in shown


def test_version(run):
    assert run("--version")[:2] == (0, f"factlab {fl.__version__}\n")


def test_help_has_a_short_name_at_every_level(help_of):
    for name in ("", "data", "edit", "data stats"):
        assert help_of(name) == help_of(name, flag="--help")


def test_the_shell_completes_commands():
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from factlab.cli import main; "
         "sys.argv[0] = 'factlab'; main()"],
        capture_output=True, text=True, check=True,
        env=os.environ | {"_FACTLAB_COMPLETE": "complete_bash", "COMP_WORDS": "factlab tra",
                          "COMP_CWORD": "1"},
    )  # fmt: skip
    assert done.stdout.split() == [
        "trace",
        "trace-average",
        "trace-compare",
        "train",
    ]


def test_an_interrupt_says_so(run, monkeypatch, tmp_path):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("factlab.cli.session.Session.load_model", interrupted)
    for arguments in (["demo", "--out", tmp_path / "demo"], ["ask", "hi"]):
        code, _, err = run(*arguments)
        assert code == 130
        assert err == "Stopped.\n"


def test_a_command_leaves_the_log_as_it_was(run):
    before = list(logging.getLogger("factlab").handlers)
    assert run("models")[0] == 0
    assert logging.getLogger("factlab").handlers == before


# -- sentences ------------------------------------------------------------------------------------


def _printed(text: str, width: int, is_terminal: bool, monkeypatch) -> str:
    monkeypatch.delenv("COLUMNS", raising=False)
    file = io.StringIO()
    print_prose(Console(file=file, width=width, force_terminal=is_terminal, no_color=True), text)
    return file.getvalue()


SENTENCE = (
    "Layer 3, one outer product, 12.5% of the weight's norm; 7 steps to p(Rome) = 0.984. "
    "Saved in factlab-demo/eiffel-tower-in-rome/with-a-name-that-is-longer-than-any-line-is-wide. "
    "Next."
)


@pytest.mark.parametrize("width", [20, 80, 120])
def test_sentences_break_between_words(monkeypatch, width):
    lines = _printed(SENTENCE, width, True, monkeypatch).splitlines()
    assert " ".join(lines) == SENTENCE
    assert len(lines) > 1
    assert all(len(line) <= width or " " not in line for line in lines)


def test_sentences_in_a_file_stay_on_one_line(monkeypatch):
    assert _printed(SENTENCE, 20, False, monkeypatch) == f"{SENTENCE}\n"


def test_line_breaks_and_brackets_of_a_text_stay(monkeypatch):
    assert _printed("a\n\n  b [red]c[/red]", 80, True, monkeypatch) == "a\n\n  b [red]c[/red]\n"


def test_wide_letters_take_two_columns(monkeypatch):
    lines = _printed("東京 は 日本 の 首都", 10, True, monkeypatch).splitlines()
    assert lines == ["東京 は", "日本 の", "首都"]


def test_one_is_singular():
    assert counted(1, "fact") == "1 fact"
    assert counted(0, "fact") == "0 facts"
    assert counted(1209, "fact") == "1,209 facts"
    assert counted(2, "entry", "entries") == "2 entries"


# -- tables ---------------------------------------------------------------------------------------

WEIGHT = "model.layers.11.mlp.down_proj.weight"


def _table_at(width: int, title: str) -> str:
    file = io.StringIO()
    rows = [[WEIGHT, "576 × 1,536", "128.38%", "looks like a rank-one edit of many words"]]
    shown = table(["weight", "shape", "change", "verdict"], rows, right={2}, title=title)
    Console(file=file, width=width).print(shown)
    return file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_nothing_is_cut_off_in_a_table_and_no_number_is_broken(width):
    shown = _table_at(width, "Title")
    assert "…" not in shown
    assert "128.38%" in shown
    assert max(map(len, shown.splitlines())) <= width
    offset = next(line.index("shape") for line in shown.splitlines() if "shape" in line)
    names = "".join(line[:offset] for line in shown.splitlines()).replace(" ", "")
    assert WEIGHT in names.replace("─", "")


def test_a_title_is_as_wide_as_the_screen():
    title = f"Subjects that {WEIGHT} was changed for most"
    assert title in _table_at(80, title).splitlines()
