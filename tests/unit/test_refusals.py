"""What can be seen to be wrong without a model is refused before PyTorch is imported."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROMPT, SUBJECT = "The Space Needle is located in", "The Space Needle"
TRACE = ["trace", PROMPT, "--subject", SUBJECT]
EDIT = ["edit", "{} is in", "--subject", SUBJECT, "--target", "Rome"]

# `full` is a folder with a file in it, `file` a file, `run` a folder with a damaged run.
REFUSED = {
    "a method": ([*EDIT, "--method", "rom"], "Did you mean 'rome'"),
    "a trained method": (["eval", "--out", "new", "--method", "mend"], "must be trained"),
    "a method of eval": (["eval", "--out", "new", "--method", "memmit"], "Did you mean 'memit'"),
    "no target": (["edit", "{} is in", "--subject", "a"], "Missing: --target"),
    "an empty target": ([*EDIT[:-1], " "], "target_new is empty"),
    "a template without a slot": (["edit", "Rome is in", "--subject", "Rome", "--target", "b"], "{}"),
    "a subject": (["trace", PROMPT, "--subject", "Space Needles"], "does not occur"),
    "a subject of neurons": (["neurons", PROMPT, "--subject", "Paris"], "does not occur"),
    "a dtype": (["ask", "hi", "--dtype", "float23"], "Did you mean 'float32'"),
    "a device": (["ask", "hi", "--device", "gpu"], "Unknown device 'gpu'"),
    "a place on the cpu": (["ask", "hi", "--device", "cpu:3"], "not available"),
    "a family": (["ask", "hi", "--model", "tiny:gtp2"], "Did you mean 'gpt2'"),
    "a folder of a model": (["ask", "hi", "--model", "./no/such"], "There is no folder"),
    "a gguf file": (["ask", "hi", "--model", "no.gguf"], "There is no file"),
    "an edit": (["ask", "hi", "--edit", "nothing"], "not a saved edit"),
    "an edit to show": (["show", "full"], "not a saved edit"),
    "an edit to export": (["export", "full", "--to", "peft", "--out", "new"], "not a saved edit"),
    "an editor": ([*EDIT, "--method", "ke", "--editor", "full"], "not a trained editor"),
    "a format": (["export", "full", "--to", "pefft", "--out", "new"], "Did you mean 'peft'"),
    "a file of facts": (["edit", "--facts", "no.csv"], "no.csv"),
    "a file of statistics": ([*EDIT, "--stats", "no.safetensors"], "There is no file"),
    "a file of settings": ([*EDIT, "--settings", "no.toml"], "no.toml"),
    "an unknown setting": ([*EDIT, "--set", "value.stpes=3"], "Did you mean 'steps'"),
    "a setting out of range": ([*EDIT, "--set", "value.steps=0"], "'value.steps' of RomeConfig cannot"),
    "half a setting": ([*EDIT, "--set", "legacy"], "Write name=value"),
    "a negative layer": ([*EDIT, "--layer", "-1"], "--layer cannot be -1"),
    "layers": ([*TRACE, "--layers", "1,x"], "--layers cannot be '1,x': 'x' is no number or range; write 0,3,6"),
    "tokens": ([*TRACE, "--tokens", "5-3"], "write the smaller number first"),
    "layers of a sweep": (["sweep", "--out", "new", "--layers", "3-1"], "smaller number first"),
    "tokens of a sweep": (["sweep", "--out", "new", "--tokens", "lst"], "Did you mean 'last'"),
    "no samples": ([*TRACE, "--samples", "0"], "--samples cannot be 0"),
    "noise": ([*TRACE, "--noise", "loud"], "Noise 'loud' is not understood"),
    "a picture": ([*TRACE, "--out", "a.gif"], "must end in one of"),
    "a picture of neurons": (["neurons", PROMPT, "--out", "a.gif"], "must end in one of"),
    "a share of neurons": (["neurons", PROMPT, "--share", "0"], "--share cannot be 0"),
    "where an edit goes": ([*EDIT, "--out", "full"], "something other than a saved edit"),
    "where edits go": (["edit", "--facts", "facts.csv", "--each", "--out", "full"], "is not empty. Empty it"),
    "where a run goes": (["eval", "--out", "full"], "is not empty"),
    "where an average goes": (["trace-average", "known.json", "--out", "full"], "is not empty"),
    "where an editor goes": (["train", "mend", "--out", "full"], "is not empty"),
    "where a sweep goes": (["sweep", "--out", "full"], "is not empty"),
    "where statistics go": (["stats", "--layer", "1", "--out", "full"], "it is a folder"),
    "to resume nothing": (["eval", "--out", "full", "--resume"], "is not empty"),
    "to resume ruins": (["eval", "--out", "run", "--resume"], "damaged"),
    "to resume no average": (["trace-average", "known.json", "--out", "full", "--resume"], "not empty"),
    "to resume no sweep": (["sweep", "--out", "full", "--resume"], "is not empty"),
    "to resume no training": (["train", "mend", "--out", "full", "--resume"], "is not empty"),
    "a shard": (["eval", "--out", "new", "--shard", "6/5"], "6/5"),
    "a mode": (["eval", "--out", "new", "--mode", "eech"], "--mode cannot be 'eech'"),
    "records": (["eval", "--out", "new", "--data", "no.json"], "no.json"),
    "known facts": (["trace-average", "no.json", "--out", "new"], "no.json"),
    "known facts of layers": (["layers", "--facts", "no.json"], "no.json"),
    "an editor's kind": (["train", "mendd", "--out", "new"], "Did you mean 'mend'"),
    "text": (["train", "ke", "--out", "new", "--data", "text", "--text", "no.txt"], "no.txt"),
    "subjects": (["diff", "bundled", "tiny:gpt2", "--subjects-file", "no.txt"], "no.txt"),
    "a model to compare": (["diff", "bundled", "tiny:gtp2"], "Did you mean 'gpt2'"),
    "a relation to study": (["study", "relations", "--out", "new", "--relations", "P91"], "Did you mean 'P19'"),
    "pairs to study": (["study", "mixture", "--out", "new", "--pairs", "P19"], "is no pair"),
    "a method to study": (["study", "scaling", "--out", "new", "--method", "memit:x"], "not understood"),
    "a method of one layer": (["study", "layers", "--out", "new", "--method", "ft"], "several layers"),
    "more facts than there are": (["study", "scaling", "--out", "new", "--numbers", "5000"], "5,000 are needed"),
    "where a study goes": (["study", "layers", "--out", "full"], "is not empty"),
    "to resume no study": (["study", "layers", "--out", "full", "--resume"], "is not empty"),
    "a run to report": (["report", "full"], "holds no run"),
    "a trace to put beside": (["sweep", "--out", "new", "--trace", "full"], "holds no run"),
    "values of a method": (["values", "facts.csv", "--method", "ft", "--out", "new"], "optimises no values"),
    "where values go": (["values", "facts.csv", "--out", "full"], "is not empty"),
    "values of ruins": (["edit", "--facts", "facts.csv", "--values", "run"], "damaged"),
    "values of nothing": (["edit", "--facts", "facts.csv", "--values", "full"], "holds no run"),
    "values to merge": (["merge", "full", "--out", "new"], "holds no run"),
    "two layers in a file": (["stats", "--layer", "1", "--layer", "2", "--out", "a.st"], "one layer"),
}  # fmt: skip

ANSWERED = {
    "version": ["--version"],
    "help": ["--help"],
    "help of a command": ["edit", "-h"],
    "methods": ["methods"],
    "models": ["models", "--json"],
    "data stats": ["data", "stats"],
    "data show": ["data", "show", "--case", "3"],
}

_RUN = """
    import json, sys
    from factlab.cli import main
    sys.modules["torch"] = None  # whatever imports it fails
    for name, arguments in json.loads(sys.argv[1]).items():
        sys.argv = ["factlab", *arguments]
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        print("", name, code, "", file=sys.stderr, sep="\\0")
"""


def outcomes(cases: dict[str, list[str]], folder: Path) -> dict[str, tuple[int, str]]:
    """Exit code and stderr of commands in a process that cannot import PyTorch."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_RUN), json.dumps(cases)],
        capture_output=True, text=True, cwd=folder, check=True,
    )  # fmt: skip
    said = done.stderr.split("\0")
    return {
        name: (int(code), " ".join(error.split()))
        for error, name, code in zip(said[::3], said[1::3], said[2::3], strict=False)
    }


@pytest.fixture(scope="module")
def refused(tmp_path_factory) -> dict[str, tuple[int, str]]:
    folder = tmp_path_factory.mktemp("refusals")
    (folder / "full").mkdir()
    (folder / "full" / "file").write_text("text")
    (folder / "run").mkdir()
    (folder / "run" / "run.json").write_text("{}")
    (folder / "facts.csv").write_text("template,subject,target_new\n{} is in,Rome,Spain\n")
    known = {"subject": "Rome", "prompt": "Rome is in", "attribute": "Italy"}
    (folder / "known.json").write_text(json.dumps([known]))
    return outcomes({name: arguments for name, (arguments, _) in REFUSED.items()}, folder)


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_before_pytorch_is_imported(refused, case):
    code, error = refused[case]
    assert REFUSED[case][1] in error
    assert code == 2
    assert error.count("Error: ") == 1


def test_what_needs_no_model_needs_no_pytorch(tmp_path):
    found = outcomes(ANSWERED, tmp_path)
    assert found.keys() == ANSWERED.keys()
    assert {name: error for name, (code, error) in found.items() if code} == {}


def test_a_command_that_needs_pytorch_fails_without_it(tmp_path):
    """The tests above can fail."""
    code, error = outcomes({"ask": ["ask", "hi", "--model", "tiny:gpt2"]}, tmp_path)["ask"]
    assert code == 1
    assert "torch" in error
