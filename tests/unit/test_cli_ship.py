"""`export`, `diff` and `show` on tiny models."""

import json
from dataclasses import replace

import gguf
import pytest
import torch

import factlab as fl
from factlab.editing.edit import BaseModelInfo, current_versions
from factlab.editing.remembered import Remembered
from factlab.models.changes.update import DenseUpdate, LowRankUpdate

TINY = ["--model", "tiny:gpt2"]


@pytest.fixture
def saved(make_model, tmp_path):
    """Folders of two edits of tiny:gpt2: a thin one, and a dense one made on top of it."""
    lm = make_model("gpt2")
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(lm.d_model, 1, generator=generator)
    right = torch.randn(1, lm.d_mlp, generator=generator)
    delta = 0.1 * torch.randn(lm.d_model, lm.d_mlp, generator=generator)
    updates = (
        LowRankUpdate(lm.mlp_weight_name(1), lm.mlp_layout, left, right),
        DenseUpdate(lm.mlp_weight_name(2), lm.mlp_layout, delta),
    )
    fact = fl.Fact("{} is in", "Rome", "Paris")
    undos = []
    for name, update in zip(("thin", "dense"), updates, strict=True):
        facts = (fact,) if name == "thin" else ()
        edit = fl.Edit(name, facts, (update,), BaseModelInfo.of(lm), {}, {}, current_versions())
        edit.save(tmp_path / name)
        undos.append(edit.apply_(lm))
    for undo in undos:
        undo()
    return tmp_path / "thin", tmp_path / "dense"


def test_export_to_peft(run, saved, tmp_path):
    thin, dense = saved
    code, out, err = run("export", thin, "--to", "peft", "--out", tmp_path / "a", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert [(m["module"], m["rank"], m["kept_energy"]) for m in document["modules"]] == [
        ("transformer.h.1.mlp.c_proj", 1, 1.0)
    ]
    args = ["export", dense, "--edit", thin, "--to", "peft", "--rank", "2", "--out", tmp_path / "b"]
    code, out, err = run(*args)
    assert code == 0, err
    assert "energy kept" in out
    assert "transformer.h.2.mlp.c_proj" in out
    config = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert config["r"] == 2
    assert config["base_model_name_or_path"] == "tiny-gpt2"


def test_a_cut_says_what_it_keeps(run, saved, make_model, tmp_path):
    thin, dense = saved
    both = fl.editing.combine([fl.Edit.load(thin), fl.Edit.load(dense)])
    lm = make_model("gpt2")
    keys = {"keys.2": torch.ones(1, lm.d_mlp)}
    left = (Remembered(both.facts, keys),)
    replace(both, remembered=left).save(tmp_path / "both")
    args = ["export", tmp_path / "both", "--to", "peft", "--max-rank", "3"]
    code, out, err = run(*args, "--out", tmp_path / "a")
    assert code == 0, err
    assert "moved at its keys" in out
    assert "3 of 24" in out
    code, out, err = run(*args, "--out", tmp_path / "b", "--json")
    document = json.loads(out)
    first, second = document["modules"]
    assert (first["rank"], first["full_rank"], first["kept_energy"], first["moved"]) == (
        1,
        1,
        1,
        None,
    )
    assert (second["rank"], second["full_rank"]) == (3, 24)
    assert 0 < second["moved"] < 1.5
    energies = [first["norm"] ** 2, second["norm"] ** 2 * second["kept_energy"]]
    total = first["norm"] ** 2 + second["norm"] ** 2
    assert document["kept_energy"] == pytest.approx(sum(energies) / total)
    assert f"keeps {document['kept_energy']:.6%}" in run(*args, "--out", tmp_path / "c")[1]
    code, out, err = run(
        "export",
        tmp_path / "both",
        "--to",
        "peft",
        "--rank",
        "3",
        "--out",
        tmp_path / "d",
        "--json",
    )
    assert json.loads(out)["modules"] == document["modules"], "by its former name"


def test_export_for_other_servers(run, saved, tmp_path):
    thin, dense = saved
    args = ["export", dense, "--edit", thin, "--to", "gguf", "--max-rank", "2"]
    code, out, err = run(*args, "--out", tmp_path / "e.gguf")
    assert code == 0, err
    assert f"llama-server -m MODEL.gguf --lora {tmp_path / 'e.gguf'}" in out
    names = {tensor.name for tensor in gguf.GGUFReader(tmp_path / "e.gguf").tensors}
    assert names == {f"blk.{n}.ffn_down.weight.lora_{x}" for n in (1, 2) for x in "ab"}
    args = ["export", dense, "--edit", thin, "--to", "peft", "--every-layer", *TINY]
    code, out, err = run(*args, "--max-rank", "2", "--out", tmp_path / "a")
    assert code == 0, err
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    lm = fl.load("tiny:gpt2")
    assert len(config["target_modules"]) == lm.n_layers
    assert (config["r"], config["rank_pattern"]) == (2, {})


def test_export_to_a_checkpoint_that_the_command_line_loads(run, saved, tmp_path):
    thin, dense = saved
    args = ["export", dense, "--edit", thin, "--to", "checkpoint", "--out", tmp_path / "m", *TINY]
    code, out, err = run(*args)
    assert code == 0, err
    assert f"factlab ask PROMPT --model {tmp_path / 'm'}" in out
    ask = ["ask", "Rome is in", "--json"]
    merged = json.loads(run(*ask, "--model", tmp_path / "m")[1])
    edited = json.loads(run(*ask, *TINY, "--edit", thin, "--edit", dense)[1])
    assert [one["token"] for one in merged["top"]] == [one["token"] for one in edited["top"]]
    # The weights are the same to the bit (next test). Those from a file lie in memory as they lay in
    # it, and sums over numbers that lie otherwise are rounded otherwise.
    probs = [[one["prob"] for one in document["top"]] for document in (merged, edited)]
    assert probs[0] == pytest.approx(probs[1], rel=1e-6)
    code, out, err = run("diff", "tiny:gpt2", tmp_path / "m", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert [w["verdict"] for w in document["weights"]] == ["looks like a rank-one edit", "dense"]
    assert len(document["weights"][0]["subjects"]) > 30


def test_a_checkpoint_has_the_edited_weights_to_the_bit(saved, tmp_path):
    thin, dense = map(fl.Edit.load, saved)
    lm = fl.load("tiny:gpt2")
    thin.apply_(lm)
    dense.merge_into(lm, tmp_path / "m")
    dense.apply_(lm)
    written = fl.load(tmp_path / "m").model.state_dict()
    for name, weight in lm.model.state_dict().items():
        assert torch.equal(weight, written[name]), name


def test_diff(run, saved, tmp_path):
    thin, _ = saved
    subjects = tmp_path / "subjects.txt"
    subjects.write_text("Rome\n\nMiles Davis\n")
    args = ["diff", "tiny:gpt2", "tiny:gpt2", "--edit", thin]
    code, out, err = run(*args, "--subjects-file", subjects, "--subject", "The Louvre")
    assert code == 0, err
    assert "1 of 40 weights differ" in out
    assert "looks like a rank-one edit" in out
    assert all(name in out for name in ("Rome", "Miles Davis", "The Louvre", "change of output"))
    code, out, _ = run("diff", "tiny:gpt2", "tiny:gpt2")
    assert code == 0
    assert out.startswith("0 of 40 weights differ")


def test_show_says_which_updates_are_dense(run, saved):
    thin, dense = saved
    for folder, kind in ((thin, "low rank"), (dense, "dense")):
        update = json.loads(run("show", folder, "--json")[1])["updates"][0]
        assert update["kind"] == kind
        assert update["shape"] == [24, 56]
    assert "dense" in run("show", dense)[1]


BAD = {
    "no such kind": (["export", "thin", "--to", "pfet", "--out", "o"], "Did you mean 'peft'?"),
    "rank of a checkpoint": (["export", "thin", "--to", "checkpoint", "--rank", "2", "--out", "o"], "--max-rank is for --to peft"),
    "rank of nothing": (["export", "thin", "--to", "peft", "--rank", "0", "--out", "o"], "--max-rank 0 must be at least 1"),
    "layers of a checkpoint": (["export", "thin", "--to", "checkpoint", "--every-layer", "--out", "o"], "--every-layer is for --to peft"),
    "a rank below one": (["export", "thin", "--to", "gguf", "--max-rank", "-3", "--out", "o"], "--max-rank -3 must be at least 1"),
    "no gguf": (["export", "thin", "--to", "gguf", "--out", "o"], "does not end in .gguf"),
    "layers of another model": (["export", "thin", "--to", "peft", "--every-layer", "--out", "o", "--model", "tiny:llama"], "made for tiny-gpt2"),
    "over an edit": (["export", "thin", "--to", "peft", "--out", "thin"], "is not empty"),
    "not an edit": (["export", "/", "--to", "peft", "--out", "o"], "is not a saved edit"),
    "unwritable": (["export", "thin", "--to", "peft", "--out", "/dev/null/e"], "is not writable"),
    "half a stack": (["export", "dense", "--to", "peft", "--out", "o"], "does not stand alone"),
    "for another model": (["export", "thin", "--to", "checkpoint", "--out", "o", "--model", "tiny:llama"], "made for tiny-gpt2"),
    "a third model": (["diff", "tiny:gpt2", "tiny:gpt2", *TINY], "No such option"),
    "two families": (["diff", "tiny:gpt2", "tiny:llama"], "of family gpt2"),
    "no subjects": (["diff", "tiny:gpt2", "tiny:gpt2", "--subjects-file", "/dev/null"], "names no subjects"),
    "no such subjects": (["diff", "tiny:gpt2", "tiny:gpt2", "--subjects-file", "/no/such"], "Cannot read"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_code_2(run, saved, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args, message = BAD[name]
    code, out, err = run(*args)
    assert code == 2, err
    assert out == ""
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert {p.name for p in tmp_path.iterdir()} - {"cache"} == {"thin", "dense"}
