"""`edit` with many facts, and `methods`, on tiny models."""

import json

import pytest

import factlab as fl

TINY = ["--model", "tiny:gpt2"]
HEADER = "template,subject,target_new,target_true\n"
ROWS = "{} is,Rome,Paris,Berlin\nIn {} people speak,New York,Dutch,\n"
QUICK = (
    "[value]\nsteps = 2\n[contexts]\ngroups = []\n[stats]\ntokens_per_dim = 4\nrow_length = 16\n"
)


@pytest.fixture
def files(tmp_path):
    facts, settings = tmp_path / "facts.csv", tmp_path / "quick.toml"
    facts.write_text(HEADER + ROWS)
    settings.write_text(QUICK)
    return ["edit", "--facts", facts, "--settings", settings, "--layer", "1", *TINY]


@pytest.mark.parametrize("mode", ["--together", "--sequence"])
def test_one_folder_for_all(run, files, tmp_path, mode):
    method = "memit" if mode == "--together" else "rome"
    code, out, err = run(*files, mode, "--method", method, "--out", tmp_path / "e", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["mode"] == mode[2:]
    assert document["folders"] == [str(tmp_path / "e")]
    assert [fact["target_new"] for fact in document["facts"]] == ["Paris", "Dutch"]
    edit = fl.Edit.load(tmp_path / "e")
    assert len(edit.facts) == 2
    assert run("ask", "Rome is", "--edit", tmp_path / "e", *TINY)[0] == 0
    assert run("show", tmp_path / "e")[0] == 0


def test_a_folder_for_each(run, files, tmp_path):
    code, out, _ = run(*files, "--each", "--out", tmp_path / "e")
    assert code == 0
    assert "of 2 facts" in out
    assert sorted(p.name for p in (tmp_path / "e").iterdir()) == ["1", "2"]
    assert fl.Edit.load(tmp_path / "e" / "2").facts[0].subject == "New York"
    code, _, err = run(*files, "--each", "--out", tmp_path / "e")
    assert code == 2
    assert "is not empty. Empty it" in err


@pytest.mark.parametrize("method", ["memit", "emmet", "alphaedit"])
def test_every_method_takes_the_same_options(run, files, method):
    code, out, err = run(*files, "--method", method, "--json")
    assert code == 0, err
    assert json.loads(out)["method"] == method


@pytest.mark.parametrize("method", ["ft", "ft+l", "attn"])
def test_fine_tuning(run, files, method):
    files = [arg for arg in files if arg != "--settings" and not str(arg).endswith(".toml")]
    code, out, err = run(*files, "--method", method, "--json")
    assert code == 0, err
    assert json.loads(out)["method"] == method


def test_erasing(run, files):
    args = ["edit", "{} is", "--subject", "Rome", "--true", "Paris", "--erase", "--layer", "1"]
    code, out, err = run(*args, *files[3:5], "--json", *TINY)
    assert code == 0, err
    assert json.loads(out)["edit"]["config"]["erase"] is True


def test_methods(run):
    code, out, _ = run("methods", "--json")
    document = json.loads(out)
    assert code == 0
    assert {m["name"] for m in document["methods"]} >= {"rome", "memit", "ft+l", "attn"}
    xl = next(p for p in document["presets"] if p["model"] == "GPT-2 XL")
    assert (xl["rome_layer"], xl["memit_layers"]) == (17, [13, 14, 15, 16, 17])
    assert run("methods")[0] == 0


BAD = {
    "a missing column": ("subject,target_new\nRome,Paris\n", [], "template"),
    "a bad row": (HEADER + "{} is,Rome,Paris,\nx is,Rome,Paris,\n", [], "Line 3"),
    "the same row twice": (HEADER + "{} is,Rome,Paris,\n{} is,Rome,Paris,\n", [], "ine 3"),
    "contradictions": (HEADER + "{} is,Rome,Paris,\n{} is,Rome,Oslo,\n", [], "Oslo"),
    "two modes": (HEADER + ROWS, ["--each", "--together"], "Choose one of"),
    "both ways": (HEADER + ROWS, ["{} is", "--subject", "Rome"], "not both"),
    "nothing to write": (HEADER + "{} is,Rome,,Paris\n", [], "no target_new"),
    "an unknown setting": (HEADER + ROWS, ["--method", "ft", "--settings", "s.toml"], "'lr'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_facts_are_one_sentence_and_code_2(run, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    text, args, message = BAD[name]
    (tmp_path / "facts.csv").write_text(text)
    (tmp_path / "s.toml").write_text("lr = 3\n")
    code, out, err = run("edit", "--facts", "facts.csv", *args, "--out", "e", *TINY)
    assert code == 2
    assert out == ""
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert not (tmp_path / "e").exists()


def test_a_fact_needs_its_parts(run):
    code, _, err = run("edit", "{} is", *TINY)
    assert code == 2
    assert "Missing: --subject, --target" in err
    code, _, err = run("edit", "{} is", "--subject", "a", "--target", "b", "--sequence", *TINY)
    assert code == 2
    assert "give --facts" in err


# -- settings ---------------------------------------------------------------------------------

ONE = [
    "edit",
    "{} is in",
    "--subject",
    "Rome",
    "--target",
    "Spain",
    "--layer",
    "1",
    "--json",
    *TINY,
]


def _config(run, *arguments):
    code, out, err = run(*ONE, *arguments)
    assert code == 0, err
    return json.loads(out)["edit"]["config"]


def test_none_can_be_written_in_a_file(run, files, tmp_path):
    settings = tmp_path / "published.toml"
    settings.write_text(QUICK.replace("groups = []", 'groups = []\nbare_weight = "none"'))
    assert _config(run, "--settings", settings)["contexts"]["bare_weight"] is None


def test_one_setting_wins_over_the_file(run, files, tmp_path):
    config = _config(
        run, "--settings", tmp_path / "quick.toml", "--set", "contexts.bare_weight=none",
        "--set", "value.steps = 3", "--set", "lookup=first", "--set", "contexts.groups=[[1, 2]]",
    )  # fmt: skip
    assert config["contexts"]["bare_weight"] is None
    assert config["contexts"]["groups"] == [[1, 2]]
    assert config["value"]["steps"] == 3
    assert config["stats"]["row_length"] == 16
    assert config["lookup"] == "first"


def test_neurons_take_settings_too(run, tmp_path):
    saved = tmp_path / "n.safetensors"
    code, _, err = run(
        "neurons", "Rome is in", "--target", "Spain", "--set", "tolerance=none", "--set",
        "rule=right", "--steps", "2", "--save", saved, *TINY,
    )  # fmt: skip
    assert code == 0, err
    config = fl.neurons.NeuronAttribution.load(saved).config
    assert (config.tolerance, config.rule, config.steps) == (None, "right", 2)


# -- what is kept -----------------------------------------------------------------------------


def test_an_edit_that_is_not_kept_says_so(run, files, tmp_path):
    code, out, _ = run(*files)
    assert code == 0
    assert "Nothing was kept" in out
    assert "--out FOLDER" in out
    code, out, _ = run(*files, "--out", tmp_path / "kept")
    assert code == 0
    assert "Nothing was kept" not in out
    assert f"--edit {tmp_path / 'kept'} --model tiny:gpt2" in out


def test_a_saved_edit_is_replaced_only_if_asked_for(run, files, tmp_path):
    assert run(*files, "--out", tmp_path / "e")[0] == 0
    code, _, err = run(*files, "--out", tmp_path / "e")
    assert code == 2
    assert "--overwrite" in err
    assert run(*files, "--out", tmp_path / "e", "--overwrite")[0] == 0
