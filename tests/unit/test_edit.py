"""Edits as things: applying, nesting, undoing, saving."""

import itertools
import json

import pytest
import torch

import factlab as fl
from conftest import HABITS
from factlab.editing.edit import BaseModelInfo, current_versions
from factlab.editing.update import LowRankUpdate
from factlab.errors import EditError, StorageError, WrongModelError


def make_edit(lm, seed: int, layer: int = 1, size: float = 0.1) -> fl.Edit:
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.promote_types(lm.dtype, torch.float32)
    left = size * torch.randn(lm.d_model, 2, generator=generator).to(dtype)
    right = torch.randn(2, lm.d_mlp, generator=generator).to(dtype)
    update = LowRankUpdate(lm.mlp_weight_name(layer), lm.mlp_layout, left, right)
    fact = fl.Fact("{} is in", "Rome", "Paris")
    return fl.Edit(
        "rome", (fact,), (update,), BaseModelInfo.of(lm), {"a": 1}, {"b": [1.5]}, current_versions()
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", HABITS)
def test_apply_and_undo_is_bit_exact(make_model, family, dtype):
    lm = make_model(family, dtype=dtype)  # the fixture compares the weights at the end
    edit, original = make_edit(lm, 0), lm.mlp_weight(1).detach().clone()
    with edit.applied(lm):
        changed = lm.mlp_weight(1).detach()
        delta = (edit.updates[0].left @ edit.updates[0].right).double()
        if lm.mlp_layout == "in_out":
            delta = delta.T
        expected = (original.double() + delta).to(dtype)
        assert torch.allclose(changed, expected, atol=1e-2 if dtype.itemsize == 2 else 1e-6)
    assert torch.equal(lm.mlp_weight(1), original)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_undo_in_any_order_leaves_the_rest_exact(make_model, order):
    lm = make_model("gpt2")
    edits = [make_edit(lm, i) for i in range(3)]
    undos = [edit.apply_(lm) for edit in edits]
    remaining = [0, 1, 2]
    for number in order:
        undos[number]()
        remaining.remove(number)
        left = lm.mlp_weight(1).detach().clone()
        fresh = make_model("gpt2")
        for other in remaining:
            edits[other].apply_(fresh)
        assert torch.equal(left, fresh.mlp_weight(1))
        fresh.patches.remove([u for i in remaining for u in edits[i].updates])


def test_the_same_edit_twice(make_model):
    lm = make_model("gpt2")
    edit = make_edit(lm, 0)
    with edit.applied(lm):
        once = lm.mlp_weight(1).detach().clone()
        with edit.applied(lm):
            assert not torch.equal(lm.mlp_weight(1), once)
        assert torch.equal(lm.mlp_weight(1), once)


def test_undone_after_an_error(make_model):
    lm = make_model("gpt2")
    with pytest.raises(KeyError), make_edit(lm, 0).applied(lm):
        raise KeyError
    assert not lm.patches.active


def test_undo_once_only(make_model):
    lm = make_model("gpt2")
    undo = make_edit(lm, 0).apply_(lm)
    undo()
    with pytest.raises(EditError, match="is not applied"):
        undo()


def test_foreign_changes_are_noticed(make_model):
    lm = make_model("gpt2")
    undo = make_edit(lm, 0).apply_(lm)
    weight = lm.mlp_weight(1)
    with torch.no_grad():
        weight += 1
    with pytest.raises(EditError, match="changed by other code"):
        undo()
    with pytest.raises(EditError, match="changed by other code"):
        make_edit(lm, 1).apply_(lm)
    changed = lm.mlp_weight(1).detach().clone()
    other = LowRankUpdate(lm.mlp_weight_name(2), lm.mlp_layout, torch.ones(1, 1), torch.ones(1, 1))
    with pytest.raises(EditError, match="has shape"):
        lm.patches.add([other])
    assert torch.equal(lm.mlp_weight(1), changed), "a failed apply touched somebody else's change"
    weight.data -= 1  # not even autograd's version counter sees this
    weight.data += 0.5
    with pytest.raises(EditError, match="changed by other code"):
        undo()
    with torch.no_grad():
        weight.copy_(lm.patches.originals()[lm.mlp_weight_name(1)])


def test_all_or_nothing(make_model):
    lm = make_model("gpt2")
    good, bad = make_edit(lm, 0).updates[0], make_edit(lm, 1, layer=2).updates[0]
    wrong = LowRankUpdate(bad.weight_name, bad.layout, bad.left[:3], bad.right)
    broken = LowRankUpdate(bad.weight_name, bad.layout, bad.left * torch.nan, bad.right)
    missing = LowRankUpdate("no.such.weight", bad.layout, bad.left, bad.right)
    for last, message in ((wrong, "has shape"), (broken, "NaN"), (missing, "no weight 'no.such")):
        with pytest.raises(EditError, match=message):
            lm.patches.add([good, last])
        assert not lm.patches.active
        assert not lm.patches.originals()


def test_the_wrong_model_is_refused_unless_forced(make_model):
    lm, other = make_model("gpt2"), make_model("gpt2", seed=1)
    edit = make_edit(lm, 0)
    with pytest.raises(WrongModelError, match="made for tiny-gpt2"), edit.applied(other):
        pass
    with edit.applied(other, force=True):
        assert other.patches.active


def test_an_edit_of_an_edited_model_needs_the_first_edit(make_model):
    lm = make_model("gpt2")
    first = make_edit(lm, 0)
    with first.applied(lm):
        second = make_edit(lm, 1)
    assert second.base.fingerprint == first.base.fingerprint == lm.fingerprint
    with pytest.raises(WrongModelError, match="already carried other edits"), second.applied(lm):
        pass
    with first.applied(lm), second.applied(lm):
        assert lm.live_fingerprint != lm.fingerprint


def test_the_folder_round_trips(make_model, tmp_path):
    lm = make_model("gpt2", dtype=torch.float64)
    edit = make_edit(lm, 0)
    edit.save(tmp_path / "e")
    edit.save(tmp_path / "e")  # an edit may be replaced
    again = fl.Edit.load(tmp_path / "e")
    assert (again.method, again.facts, again.base) == (edit.method, edit.facts, edit.base)
    assert (again.config, again.diagnostics) == (edit.config, edit.diagnostics)
    assert again.versions == edit.versions
    assert again.updates[0].digest == edit.updates[0].digest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e"]
    assert sorted(p.name for p in (tmp_path / "e").iterdir()) == ["edit.json", "edit.safetensors"]


def test_other_peoples_folders_are_left_alone(make_model, tmp_path):
    edit = make_edit(make_model("gpt2"), 0)
    edit.save(tmp_path / "mine")
    (tmp_path / "mine" / "README.md").write_text("notes")
    with pytest.raises(StorageError, match="something other than a saved edit"):
        edit.save(tmp_path / "mine")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(StorageError, match="something other than a saved edit"):
        edit.save(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_damaged_folders_are_named(make_model, tmp_path):
    folder = tmp_path / "e"
    with pytest.raises(StorageError, match=r"has no edit\.json"):
        fl.Edit.load(folder)
    make_edit(make_model("gpt2"), 0).save(folder)
    good = json.loads((folder / "edit.json").read_text())

    def saying(change: dict) -> None:
        (folder / "edit.json").write_text(json.dumps(good | change))

    saying({"schema_version": 9})
    with pytest.raises(StorageError, match="schema version 9"):
        fl.Edit.load(folder)
    saying({"method": 3})
    with pytest.raises(StorageError, match="is damaged: method"):
        fl.Edit.load(folder)
    saying({"facts": [good["facts"][0] | {"template": "no slot"}]})
    with pytest.raises(StorageError, match="is damaged: Template"):
        fl.Edit.load(folder)
    (folder / "edit.json").write_text("{")
    with pytest.raises(StorageError, match="not valid JSON"):
        fl.Edit.load(folder)
    saying({})
    tensors = (folder / "edit.safetensors").read_bytes()
    (folder / "edit.safetensors").write_bytes(tensors[:100])
    with pytest.raises(StorageError, match="is damaged"):
        fl.Edit.load(folder)
    (folder / "edit.safetensors").unlink()
    with pytest.raises(StorageError, match="is damaged"):
        fl.Edit.load(folder)
