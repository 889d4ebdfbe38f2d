"""`factlab train`, and trained editors in `factlab edit` and `factlab eval`."""

import json

import pytest
from test_training import records

import factlab as fl
from factlab.data.record_files import save_records

SETTINGS = """
examples_per_step = 3
n_validation = 2
[network]
n_blocks = 2
rank = 4
"""


@pytest.fixture
def folder(tmp_path, make_model, monkeypatch):
    """Where a model, records and settings are."""
    lm = make_model("llama")
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    save_records(records(), tmp_path / "records.json")
    (tmp_path / "settings.toml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(run, *more):
    return run(
        "train", "mend", "--data", "records.json", "--out", "editor", "--steps", "2",
        "--settings", "settings.toml", "--model", "model", *more,
    )  # fmt: skip


def test_train_then_edit_and_evaluate(run, folder):
    code, out, err = train(run, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["editor"] == "MEND-CF"
    assert document["finished"]
    assert [found["step"] for found in document["history"]] == [0, 2]
    assert (folder / "editor" / "curve.png").exists()
    code, out, _ = train(run, "--resume")
    assert code == 0
    assert "all 2 steps are done" in out
    assert "factlab eval --method mend --editor editor --data records.json --held-out" in out

    chosen = ("--method", "mend", "--editor", "editor", "--model", "model")
    code, out, err = run(
        "edit", "{} is in", "--subject", "Nowhere", "--target", "Rome", "--out", "edit", *chosen
    )
    assert code == 0, err
    assert fl.Edit.load(folder / "edit").method == "mend-cf"

    evaluate = ("eval", "--data", "records.json", "--no-generation", *chosen)
    code, _, err = run(*evaluate, "--out", "refused")
    assert code == 2
    assert "was trained on 'Place" in err
    assert not (folder / "refused").exists()
    code, _, err = run(*evaluate, "--held-out", "--limit", "2", "--out", "scores")
    assert code == 0, err
    header = json.loads((folder / "scores" / "run.json").read_text())
    assert header["request"]["method"] == "mend-cf"
    assert len((folder / "scores" / "records-1-of-1.jsonl").read_text().splitlines()) == 2


def test_the_subjects_of_a_benchmark_are_kept_out(run, folder):
    save_records(records()[:6], folder / "benchmark.json")
    assert train(run, "--keep-out", "benchmark.json")[0] == 0
    code, _, err = run(
        "eval", "--data", "benchmark.json", "--no-generation", "--method", "mend", "--editor",
        "editor", "--model", "model", "--out", "scores",
    )  # fmt: skip
    assert code == 0, err


def test_train_on_text(run, folder):
    words = "The Eiffel Tower is in Paris and the Colosseum in Rome; people speak many languages. "
    (folder / "text.txt").write_text("\n".join(f"{i} {words * 3}{i * i}" for i in range(60)))
    code, out, err = run(
        "train", "ke", "--data", "text", "--text", "text.txt", "--passages", "60", "--out",
        "editor", "--steps", "1", "--validation-share", "0.3", "--settings", "ke.toml", "--model",
        "model",
    )  # fmt: skip
    assert code == 2
    assert "ke.toml" in err
    (folder / "ke.toml").write_text("examples_per_step = 2\n[network]\nhidden = 4\nn_blocks = 1\n")
    code, out, err = run(
        "train", "ke", "--data", "text", "--text", "text.txt", "--passages", "60", "--out",
        "editor", "--steps", "1", "--validation-share", "0.3", "--settings", "ke.toml", "--model",
        "model",
    )  # fmt: skip
    assert code == 0, err
    assert "KE: all 1 steps are done" in out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("train", "mand", "--out", "x"), "Did you mean 'mend'?"),
        (("train", "mend", "--out", "x", "--steps", "0"), "--steps cannot be 0"),
        (("train", "mend", "--out", "x", "--test-share", "1"), "must leave something"),
        (("train", "mend", "--out", "x", "--text", "nowhere.txt"), "Check --text"),
        (("train", "mend", "--out", "x", "--passages", "0"), "at least 1"),
        (
            ("train", "mend", "--out", "x", "--data", "text", "--keep-out", "records.json"),
            "--keep-out goes with records",
        ),
        (("eval", "--method", "mend", "--out", "x"), "must be trained"),
        (("eval", "--method", "mend", "--editor", "model", "--out", "x"), "not a trained editor"),
        (("eval", "--held-out", "--out", "x"), "--held-out needs --editor"),
    ],
)
def test_bad_requests(run, folder, arguments, complaint):
    code, _, err = run(*arguments, "--model", "model")
    assert code == 2
    assert complaint in err


def test_an_editor_goes_with_its_method_only(run, folder):
    assert train(run)[0] == 0
    code, _, err = run(
        "edit", "{} is in", "--subject", "Rome", "--target", "Paris", "--method", "ke",
        "--editor", "editor", "--model", "model",
    )  # fmt: skip
    assert code == 2
    assert "is a MEND-CF, which goes with --method mend" in err
    code, _, err = run(
        "eval", "--method", "mend", "--editor", "editor", "--layer", "1", "--out", "x",
        "--model", "model",
    )  # fmt: skip
    assert code == 2
    assert "--layer does not go with method 'mend-cf'" in err
