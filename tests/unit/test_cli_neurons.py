"""`factlab neurons` on a tiny model."""

import json

import pytest

import factlab as fl

TINY = ["--model", "tiny:gpt2"]
PROMPT = "The Space Needle is in the city of"


def test_neurons_are_listed_and_drawn(run, tmp_path):
    picture, numbers = tmp_path / "n.png", tmp_path / "n.safetensors"
    code, out, err = run(
        "neurons",
        PROMPT,
        "--target",
        "Rome",
        "--top",
        3,
        "--out",
        picture,
        "--save",
        numbers,
        *TINY,
    )
    assert code == 0, err
    assert "neurons for 'Rome'" in out
    assert "with these neurons silenced" in out
    assert picture.stat().st_size > 5000
    assert fl.neurons.NeuronAttribution.load(numbers).target == "Rome"


def test_documents(run):
    args = ["neurons", "{} is in", "--subject", "The Space Needle", "--json", "--steps", "4", *TINY]
    code, out, _ = run(*args, "--paraphrase", "{} stands in", "--share", "0.5", "--top", "2")
    document = json.loads(out)
    assert code == 0
    assert document["prompts"] == ["The Space Needle is in", "The Space Needle stands in"]
    assert len(document["neurons"]) <= 2
    assert set(document["neurons"][0]) == {"layer", "index", "attribution"}
    assert len(document["layer_sums"]) == 3
    assert document["config"]["steps"] == 4
    code, out, _ = run(*args, "--target", "Rome and Paris", "--whole")
    assert len(json.loads(out)["target_ids"]) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threshold", "1.5"], "--threshold cannot be 1.5"),
        (["--share", "0"], "--share cannot be 0"),
        (["--steps", "0"], "--steps cannot be 0"),
        (["--top", "0"], "List 1 or more"),
        (["--target", " "], "The target is empty"),
        (["--paraphrase", " "], "The prompt is empty"),
        (["--paraphrase", "{} is in"], "Say with --subject"),
        (["--subject", "Rome"], "Subject 'Rome' does not occur"),
        (["--out", "picture.gif"], "must end in one of"),
    ],
)
def test_what_cannot_be(run, options, message):
    code, _, err = run("neurons", PROMPT, *options, *TINY)
    assert code == 2
    assert message in err


def test_kn_is_a_method(run, tmp_path):
    code, _, err = run(
        "edit", "{} is in", "--subject", "Rome", "--target", "Paris", "--method", "kn",
        "--out", tmp_path / "edit", *TINY,
    )  # fmt: skip
    assert code == 0, err
    assert fl.Edit.load(tmp_path / "edit").method == "kn"
