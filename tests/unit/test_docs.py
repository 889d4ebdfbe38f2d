"""What README and docs show can be run: their Python on a toy, their commands as far as options."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer

import factlab as fl
from factlab.cli import build_app

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Sizes that are for real models and spare minutes.
SMALLER = {
    "fl.recommend_layer(lm, limit=10)": "fl.recommend_layer(lm, [fl.Fact(fact.template, 'Rome')])",
    'load_records("builtin", limit=50': 'load_records("builtin", limit=2',
    'load_records("builtin", limit=100)': 'load_records("builtin", limit=2)',
    'load_records("builtin"))': 'load_records("builtin", limit=24))',
    "fl.evaluation.MeasureConfig(n_generated=30)": "fl.evaluation.MeasureConfig(n_generated=1)",
    "fl.editing.MendConfig()": "fl.editing.MendConfig(n_blocks=2, rank=4)",
    "fl.editing.TrainConfig()": "fl.editing.TrainConfig(max_steps=2, validate_every=1, n_validation=3)",
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def smaller(block: str) -> str:
    for large, small in SMALLER.items():
        block = block.replace(large, small)
    return block


def commands(page: Path) -> list[str]:
    """Lines that begin with `$ factlab`, with their continuations and without comments."""
    text = "\n".join(blocks(page, "console")).replace("\\\n", " ")
    lines = [line[2:] for line in text.splitlines() if line.startswith("$ factlab")]
    return [shlex.join(shlex.split(line.split(" # ")[0].split("   #")[0])) for line in lines]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem
)
def test_python_runs(page, monkeypatch, tmp_path, capsys):
    lm = fl.models.tiny_model("llama")
    fact = fl.Fact("{} is located in the city of", "The Eiffel Tower", "Rome", "Paris")
    facts = [fact, fl.Fact("{} is in downtown", "The Space Needle", "Paris", "Seattle")]
    monkeypatch.setattr(fl, "load", lambda *_args, **_kwargs: lm)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    names: dict[str, object] = {"fl": fl, "lm": lm, "fact": fact, "facts": facts}
    for block in blocks(page, "python"):
        exec(compile(smaller(block), str(page), "exec"), names)  # noqa: S102 - our own page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_have_these_options(page):
    app = typer.main.get_command(build_app())
    for line in commands(page):
        arguments = shlex.split(line)[1:]
        command, name = app, "factlab"
        while hasattr(command, "commands") and arguments != ["--help"]:
            assert arguments, f"no such command: {line}"
            name, *arguments = arguments
            assert name in command.commands, f"no such command: {line}"
            command = command.commands[name]
        if arguments != ["--help"]:
            command.make_context(name, arguments)  # raises for a wrong option


def test_files_that_examples_name_exist():
    for page in PAGES:
        for name in re.findall(r"examples/[\w./-]+", page.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{page.name} names {name}"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_what_readme_links_to_is_there(page):
    """`make docs` follows the links of the site; these pages are not in it."""
    for address in re.findall(r"\]\(([^)#\s]+)[^)]*\)", (ROOT / page).read_text(encoding="utf-8")):
        assert "://" in address or (ROOT / address).exists(), address
