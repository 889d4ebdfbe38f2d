"""Edits as things: applying, nesting, undoing, saving."""

import itertools
import json
import random
import sys
import warnings

import pytest
import torch

import factlab as fl
from factlab.editing.edit import BaseModelInfo, current_versions
from factlab.errors import EditError, InvalidRequestError, StorageError, WrongModelError
from factlab.models.changes.algebra import factors, summed
from factlab.models.changes.update import DenseUpdate, LowRankUpdate
from model_families import HABITS


def make_edit(lm, seed: int, *layers: int, size: float = 0.1, dense: bool = False) -> fl.Edit:
    """An edit with the same kind of random update in each of the layers, by default in layer 1."""
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.promote_types(lm.dtype, torch.float32)
    updates = []
    for layer in layers or (1,):
        name = lm.mlp_weight_name(layer)
        if dense:
            delta = size * torch.randn(lm.d_model, lm.d_mlp, generator=generator).to(dtype)
            updates.append(DenseUpdate(name, lm.mlp_layout, delta))
        else:
            left = size * torch.randn(lm.d_model, 2, generator=generator).to(dtype)
            right = torch.randn(2, lm.d_mlp, generator=generator).to(dtype)
            updates.append(LowRankUpdate(name, lm.mlp_layout, left, right))
    fact = fl.Fact("{} is in", "Rome", "Paris")
    return fl.Edit(
        "rome", (fact,), tuple(updates), BaseModelInfo.of(lm), {"a": 1}, {"b": [1.5]},
        current_versions(),
    )  # fmt: skip


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", HABITS)
def test_apply_and_undo_is_bit_exact(make_model, family, dtype, dense):
    lm = make_model(family, dtype=dtype)  # the fixture compares the weights at the end
    edit, original = make_edit(lm, 0, dense=dense), lm.mlp_weight(1).detach().clone()
    with edit.applied(lm):
        changed = lm.mlp_weight(1).detach()
        update = edit.updates[0]
        delta = (update.delta if dense else update.left @ update.right).double()
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


def test_twenty_edits_on_and_off_in_random_order(make_model):
    """At each moment the weights are what the edits still on would give, put on in their order."""
    lm, fresh = make_model("llama"), make_model("llama")
    choose = random.Random(0)  # noqa: S311
    edits = [
        make_edit(
            lm, i, *choose.sample(range(3), choose.randint(1, 3)), dense=choose.random() < 0.5
        )
        for i in range(20)
    ]
    waiting, undos = list(range(20)), {}
    choose.shuffle(waiting)
    while waiting or undos:
        if waiting and (not undos or choose.random() < 0.6):
            number = waiting.pop()
            undos[number] = edits[number].apply_(lm)
        else:
            undos.pop(choose.choice(list(undos)))()
        others = [edits[number].apply_(fresh) for number in undos]
        for name, weight in lm.model.named_parameters():
            assert torch.equal(weight, fresh.model.get_parameter(name))
        for undo in others:
            undo()
    assert not lm.patches.originals()


def test_the_same_edit_twice(make_model):
    lm = make_model("gpt2")
    edit = make_edit(lm, 0)
    with edit.applied(lm):
        once = lm.mlp_weight(1).detach().clone()
        with edit.applied(lm):
            assert not torch.equal(lm.mlp_weight(1), once)
        assert torch.equal(lm.mlp_weight(1), once)


def test_an_undo_takes_off_its_own_application(make_model):
    """The same edit on twice with another in between: the rest is to the bit what it would be."""
    lm = make_model("llama")
    edit, other = make_edit(lm, 0), make_edit(lm, 1)
    with other.applied(lm), edit.applied(lm):
        expected = lm.mlp_weight(1).detach().clone()
    first, middle, last = edit.apply_(lm), other.apply_(lm), edit.apply_(lm)
    first()
    assert torch.equal(lm.mlp_weight(1), expected)
    with pytest.raises(EditError, match="can be called once"):
        first()
    assert torch.equal(lm.mlp_weight(1), expected)
    middle()
    last()
    assert not lm.patches.active


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
    good, bad = make_edit(lm, 0).updates[0], make_edit(lm, 1, 2).updates[0]
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
    assert second.base.on_top_of == tuple(u.digest for u in first.updates)
    with pytest.raises(WrongModelError, match="already carried other edits"), second.applied(lm):
        pass
    with first.applied(lm), second.applied(lm):
        assert lm.live_fingerprint != lm.fingerprint


@pytest.mark.parametrize("dense", [False, True])
def test_the_folder_round_trips(make_model, tmp_path, dense):
    lm = make_model("gpt2", dtype=torch.float64)
    edit = make_edit(lm, 0, dense=dense)
    edit.save(tmp_path / "e")
    edit.save(tmp_path / "e", overwrite=True)
    again = fl.Edit.load(tmp_path / "e")
    assert again == edit
    assert (again.method, again.facts, again.base) == (edit.method, edit.facts, edit.base)
    assert (again.config, again.diagnostics) == (edit.config, edit.diagnostics)
    assert again.versions == edit.versions
    assert again.updates[0].digest == edit.updates[0].digest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e"]
    assert sorted(p.name for p in (tmp_path / "e").iterdir()) == ["edit.json", "edit.safetensors"]


def test_both_kinds_and_repeats_are_saved_together(make_model, tmp_path):
    lm = make_model("gpt2")
    thin, dense = make_edit(lm, 0), make_edit(lm, 1, 0, 2, dense=True)
    edit = fl.editing.combine([thin, dense, thin])
    edit.save(tmp_path / "e")
    again = fl.Edit.load(tmp_path / "e")
    assert [u.digest for u in again.updates] == [u.digest for u in edit.updates]
    assert [type(u) for u in again.updates] == [type(u) for u in edit.updates]


def test_folders_of_schema_1_are_read(make_model, tmp_path):
    edit = make_edit(make_model("gpt2"), 0)
    edit.save(tmp_path / "e")
    path = tmp_path / "e" / "edit.json"
    document = json.loads(path.read_text()) | {"schema_version": 1}
    del document["updates"][0]["kind"]
    path.write_text(json.dumps(document))
    assert fl.Edit.load(tmp_path / "e").updates[0].digest == edit.updates[0].digest


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
    with pytest.raises(
        StorageError, match=r"by a newer factlab than this .*: its schema version is 9"
    ):
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
    make_edit(make_model("gpt2"), 0, dense=True).save(
        folder, overwrite=True
    )  # a dense change under a thin name
    saying({})
    with pytest.raises(StorageError, match=r"tensor '0\.left' is missing"):
        fl.Edit.load(folder)
    (folder / "edit.safetensors").unlink()
    with pytest.raises(StorageError, match="is damaged"):
        fl.Edit.load(folder)


def test_factors_of_thin_and_dense_changes():
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(9, 3, generator=generator), torch.randn(3, 14, generator=generator)
    thin = LowRankUpdate("w.weight", "out_in", left, right)
    dense = DenseUpdate("w.weight", "out_in", left @ right)
    assert thin.norm == pytest.approx(dense.norm)
    assert (thin.rank, dense.rank, thin.shape, dense.shape) == (3, 9, (9, 14), (9, 14))
    exact = factors(thin)
    assert exact.left is left
    assert exact.kept_energy == 1
    found = factors(dense)
    assert found.left.shape == (9, 3)
    assert found.kept_energy == pytest.approx(1, abs=1e-10)
    assert torch.allclose(found.left @ found.right, dense.delta, atol=1e-5)
    values = torch.linalg.svdvals((left @ right).double())
    for update in (thin, dense):
        best = factors(update, rank=2)
        lost = float((best.left @ best.right - dense.delta).double().norm())
        assert lost == pytest.approx(float(values[2]), rel=1e-4)
        expected = float(values[:2].square().sum() / values.square().sum())
        assert best.kept_energy == pytest.approx(expected)
    nothing = factors(DenseUpdate("w.weight", "out_in", torch.zeros(3, 4)))
    assert nothing.left.shape == (3, 1)
    assert nothing.kept_energy == 1
    with pytest.raises(InvalidRequestError, match="Rank 0 is too small"):
        factors(thin, rank=0)


def test_updates_of_one_weight_add_up(make_model):
    lm = make_model("gpt2")
    thin, other = make_edit(lm, 0).updates[0], make_edit(lm, 1).updates[0]
    dense = make_edit(lm, 2, dense=True).updates[0]
    both = summed([thin, other])
    assert isinstance(both, LowRankUpdate)
    assert both.rank == 4
    expected = thin.left @ thin.right + other.left @ other.right
    assert torch.allclose(both.left @ both.right, expected, atol=1e-6)
    assert torch.allclose(summed([thin, other, dense]).delta, expected + dense.delta, atol=1e-6)
    with pytest.raises(EditError, match="differ in layout or shape"):
        summed([thin, LowRankUpdate(thin.weight_name, "out_in", thin.left, thin.right)])


def test_combined_edits_do_what_they_do_in_order(make_model):
    lm = make_model("gpt2")
    first, second = make_edit(lm, 0, 1), make_edit(lm, 1, 1, 2, dense=True)
    both = fl.editing.combine([first, second])
    assert both.method == "rome+rome"
    assert both.facts == first.facts + second.facts
    assert both.config == {"edits": [{"a": 1}, {"a": 1}]}
    with first.applied(lm), second.applied(lm):
        expected = [lm.mlp_weight(i).detach().clone() for i in range(3)]
    with both.applied(lm):
        assert all(torch.equal(lm.mlp_weight(i), expected[i]) for i in range(3))


def test_combining_knows_what_builds_on_what(make_model):
    lm = make_model("gpt2")
    first = make_edit(lm, 0)
    with first.applied(lm):
        second = make_edit(lm, 1)
    assert fl.editing.combine([first, second]).base.on_top_of == ()
    assert fl.editing.combine([second]).base.on_top_of == second.base.on_top_of
    with pytest.raises(EditError, match=r"Edit 1 of 2 .* comes after it"):
        fl.editing.combine([second, first])
    with pytest.raises(WrongModelError, match="for different models"):
        fl.editing.combine([first, make_edit(make_model("gpt2", seed=1), 0)])
    with pytest.raises(InvalidRequestError, match="no edits"):
        fl.editing.combine([])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_merged_checkpoint_is_the_edited_model(make_model, tmp_path, family, dtype):
    lm = make_model(family, dtype=dtype)
    config = dict(vars(lm.model.config))
    edit, other = make_edit(lm, 0), make_edit(lm, 1, 2, dense=True)
    with other.applied(lm):
        edit.merge_into(lm, tmp_path / "merged")
        assert [p.digest for p in lm.patches.active] == [u.digest for u in other.updates]
        with edit.applied(lm):
            again = fl.load(tmp_path / "merged", dtype=dtype)
            for name, weight in lm.model.named_parameters():
                assert torch.equal(weight, again.model.get_parameter(name))
            assert again.fingerprint == lm.live_fingerprint
            with pytest.raises(EditError, match="on the model already"):
                edit.merge_into(lm, tmp_path / "twice")
    assert vars(lm.model.config) == config
    assert again.encode("Rome").ids == lm.encode("Rome").ids
    assert [p.name for p in tmp_path.iterdir()] == ["merged"]


def test_merging_writes_over_nothing(make_model, tmp_path):
    lm, other = make_model("gpt2"), make_model("gpt2", seed=1)
    edit = make_edit(lm, 0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    for folder in (tmp_path / "full", tmp_path / "full" / "thesis.txt"):
        with pytest.raises(StorageError, match=r"is not empty|is a file"):
            edit.merge_into(lm, folder)
    with pytest.raises(WrongModelError, match="made for tiny-gpt2"):
        edit.merge_into(other, tmp_path / "new")
    (tmp_path / "empty").mkdir()
    edit.merge_into(lm, tmp_path / "empty")
    assert (tmp_path / "empty" / "model.safetensors").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "full"]


def test_fingerprints_follow_the_weights(make_model):
    """Originals under an edit may lie where an earlier original lay."""
    lm = make_model("gpt2")
    edit = make_edit(lm, 0)
    name = edit.updates[0].weight_name
    seen = set()
    start = lm.model.get_parameter(name).detach().clone()
    for _ in range(8):
        with torch.no_grad():
            lm.model.get_parameter(name).mul_(1.5)
        plain = lm.fingerprint
        seen.add(plain)
        with edit.applied(lm, force=True):
            assert lm.fingerprint == plain
            assert lm.live_fingerprint != plain
    with torch.no_grad():
        lm.model.get_parameter(name).copy_(start)
    assert len(seen) == 8


# -- merging what cannot be read back ------------------------------------------------------------


def test_a_model_with_an_adapter_inside_is_not_merged(make_model, fact, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = fl.models.tiny_model("llama")
    with torch.random.fork_rng([]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own
        config = LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False)
        inside = get_peft_model(model.model, config).base_model.model
    lm = fl.LanguageModel(inside, model.tokenizer)  # it can be traced and edited as it is
    edit = make_edit(lm, 0)
    with pytest.raises(EditError, match=r"an adapter's layer .*merge_and_unload\(\)"):
        edit.merge_into(lm, tmp_path / "merged")
    assert not list(tmp_path.glob("merged*"))


def test_a_model_that_its_config_does_not_describe_is_not_merged(tmp_path):
    lm = fl.models.tiny_model("llama")
    lm.model.lm_head = torch.nn.Linear(24, 402, bias=False, device="meta").to_empty(device="cpu")
    with pytest.raises(EditError, match=r"one of shape \(402, 24\) for 'lm_head.weight'"):
        make_edit(lm, 0).merge_into(lm, tmp_path / "merged")
    lm = fl.models.tiny_model("llama")
    lm.model.model.layers[0].extra = torch.nn.Linear(2, 3, device="meta").to_empty(device="cpu")
    with pytest.raises(EditError, match=r"config stands for no such weight"):
        make_edit(lm, 0).merge_into(lm, tmp_path / "merged")


# -- interrupts ----------------------------------------------------------------------------------


def test_an_interrupt_wherever_it_falls_leaves_no_edit_on(make_model):
    """As Ctrl-C may come at any line of what applies and undoes."""
    lm = make_model("llama")
    edit, other = make_edit(lm, 0, 0, 1, 2), make_edit(lm, 1, 1)
    other.apply_(lm)
    before = {name: weight.detach().clone() for name, weight in lm.model.named_parameters()}
    files = ("changes/board.py", "editing/edit.py")
    at, done = 0, False
    while not done:
        at += 5
        line = itertools.count(1)

        def step(frame, event, _argument, line=line, at=at):
            if event == "line" and next(line) == at:
                raise KeyboardInterrupt
            return step if frame.f_code.co_filename.endswith(files) else None

        before_trace = sys.gettrace()
        try:
            sys.settrace(step)
            with edit.applied(lm):
                pass
            done = True
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before_trace)
        for name, weight in lm.model.named_parameters():
            assert torch.equal(weight, before[name])
        assert lm.patches.active == list(other.updates)
    lm.patches.remove(other.updates)
    assert at > 100


def test_a_sequence_goes_off_at_once_to_the_bit(make_model):
    lm = make_model("gpt2")
    before = lm.mlp_weight(1).detach().clone()
    under = make_edit(lm, 99)
    with under.applied(lm):
        alone = lm.mlp_weight(1).detach().clone()
        with fl.editing.EditSequence(lm, fl.editing.METHODS["rome"], None, None) as sequence:
            for i in range(12):
                sequence.put(make_edit(lm, i))
            assert len(lm.patches.active) == 13
        assert torch.equal(lm.mlp_weight(1), alone)
    assert torch.equal(lm.mlp_weight(1), before)
