"""Mixtures of experts: what is refused and how, files, and changes put on and taken off."""

import logging

import pytest
import torch
import transformers

import factlab as fl
from factlab.editing.configs import ContextConfig, ValueConfig
from factlab.errors import (
    EditError,
    InvalidRequestError,
    RareExpertError,
    StatisticsError,
    StorageError,
    UnsupportedModelError,
    WrongModelError,
)
from factlab.hooks import Site, Stream, record
from factlab.models.changes.algebra import summed
from factlab.models.changes.carried import substituted
from factlab.models.changes.expert_update import ExpertUpdate
from factlab.models.changes.update import LowRankUpdate
from factlab.models.family_names import family_names
from factlab.models.tiny import tiny_model
from factlab.stats.expert_moments import load_moment

FACT = fl.Fact("Is {} in the city of", "the Space Needle", "Rome and Paris", "Seattle")
OTHER = fl.Fact("{} is", "Rome", "Paris")
LAYER = 1
SHORT = {"value": ValueConfig(steps=2), "contexts": ContextConfig(groups=())}
ROME = fl.editing.RomeConfig(layer=LAYER, **SHORT)


@pytest.fixture(scope="module")
def lm():
    return tiny_model("qwen2_moe")


def moments(lm, counts=(80, 80, 80, 80), layer=LAYER) -> fl.stats.ExpertMoments:
    d = lm.layers.mixture(layer).d_expert
    generator = torch.Generator().manual_seed(3)
    keys = torch.randn(4, 80, d, generator=generator, dtype=torch.float64)
    return fl.stats.ExpertMoments(
        keys.mT @ keys / 80, torch.tensor(counts), layer, 160, "noise", lm.fingerprint
    )


def background(lm, **more) -> fl.editing.Background:
    return fl.editing.Background.of([moments(lm, **more)])


@pytest.fixture(scope="module")
def edit(lm):
    return fl.rome(lm, FACT, ROME, background(lm))


def test_layers_know_their_memory(lm):
    assert lm.layers.mixture(0) is None
    assert lm.layers.d_mlp(0) == 56
    assert lm.layers.d_mlp(LAYER) == 4 * 20
    assert lm.layers.memory_name(LAYER) == "model.layers.1.mlp.experts.down_proj"
    assert lm.layers.memory_name(0) == lm.mlp_weight_name(0)
    assert lm.abilities.rungs["closed_form"].layers == (0, 1, 2, 3)
    assert lm.abilities.rungs["gradient"].layers == (0,)
    assert fl.stats.StatsConfig(tokens_per_dim=3).n_tokens(lm, [0]) == 3 * 56
    assert fl.stats.StatsConfig(tokens_per_dim=3).n_tokens(lm, [1]) == 3 * 20 * 4 / 2


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("muse_spark", "a norm stands behind each expert's matrix"),
        ("longcat_flash", "LongcatFlashExperts.*is not known"),
    ],
)
def test_experts_that_are_no_linear_memory_are_refused_with_the_reason(family, reason):
    if family not in family_names():
        pytest.skip(f"transformers {transformers.__version__} does not know {family}")
    lm = tiny_model(family)
    rung = lm.abilities.rungs["closed_form"]
    assert not rung.can
    with pytest.raises(UnsupportedModelError, match=reason):
        fl.rome(lm, FACT, fl.editing.RomeConfig(layer=1, **SHORT))


def test_a_container_that_computes_something_else_is_found_out(monkeypatch):
    from transformers.models.mixtral import modeling_mixtral as code

    kind = code.MixtralExperts
    plain = kind.forward

    def squared(self, hidden_states, top_k_index, top_k_weights):
        return plain(self, hidden_states, top_k_index, top_k_weights) ** 2

    monkeypatch.setattr(kind, "forward", squared)
    lm = tiny_model("mixtral")
    assert "not the sum of their matrices times keys" in lm.abilities.rungs["closed_form"].why


def test_an_output_that_is_not_added_as_it_is_is_found_out(monkeypatch):
    from transformers.models.mixtral import modeling_mixtral as code

    plain = code.MixtralSparseMoeBlock.forward
    monkeypatch.setattr(
        code.MixtralSparseMoeBlock, "forward", lambda self, hidden: 2 * plain(self, hidden)
    )
    lm = tiny_model("mixtral")
    assert "is not added to the stream as it is" in lm.abilities.rungs["closed_form"].why


def test_what_is_of_one_mlp_stays_refused(lm):
    site = Site(LAYER, Stream.MLP_HIDDEN)
    with pytest.raises(UnsupportedModelError, match="mixture of experts"), record(lm, [site]):
        pass
    with pytest.raises(UnsupportedModelError, match="mixture of experts"):
        fl.editing.fine_tune(lm, FACT, config=fl.editing.FineTuneConfig(layer=LAYER))
    with pytest.raises(InvalidRequestError, match="AlphaEdit does not write to experts"):
        fl.editing.alphaedit(
            lm, FACT, fl.editing.AlphaEditConfig(layers=(LAYER,), **SHORT), background(lm)
        )


def test_an_expert_that_never_fires_is_refused_for_the_facts_that_need_it(lm, edit, caplog):
    sent = edit.updates[0].numbers
    counts = [80, 80, 80, 80]
    counts[sent[0]] = 0
    known = background(lm, counts=tuple(counts))
    with caplog.at_level(logging.WARNING), pytest.raises(RareExpertError) as caught:
        fl.rome(lm, FACT, ROME, known)
    said = str(caught.value)
    assert f"expert {sent[0]} of layer 1" in said
    assert "it got 0, and 0 cannot fill 20 dimensions" in said
    assert "factlab stats" in said
    assert "got fewer tokens than their 20 dimensions" in caplog.text
    assert isinstance(caught.value, StatisticsError)
    # A fact that is not sent there is written.
    free = next(i for i in range(4) if i not in sent) if len(sent) < 4 else None
    if free is not None:
        counts = [80, 80, 80, 80]
        counts[free] = 0
        assert fl.rome(lm, FACT, ROME, background(lm, counts=tuple(counts))).updates


def test_moments_are_written_and_read(lm, tmp_path):
    known = moments(lm)
    known.save(tmp_path / "c")
    assert fl.stats.ExpertMoments.load(tmp_path / "c") == known
    assert load_moment(tmp_path / "c") == known
    assert known != moments(lm, counts=(80, 80, 80, 81))
    with pytest.raises(StorageError, match="second moment"):
        fl.stats.SecondMoment.load(tmp_path / "c")
    data = bytearray((tmp_path / "c").read_bytes())
    data[-1] ^= 1
    (tmp_path / "c").write_bytes(data)
    with pytest.raises(StorageError, match="damaged"):
        fl.stats.ExpertMoments.load(tmp_path / "c")
    assert "4 experts of 20 dimensions" in repr(known)
    assert known.summary()["tokens_of_experts"] == [80] * 4


def test_moments_of_another_model_are_refused(lm):
    with pytest.raises(WrongModelError, match="4 experts of 20 dimensions, but"):
        moments(lm).check_model(tiny_model("mixtral"))
    with pytest.raises(WrongModelError, match="fingerprint"):
        moments(lm).check_model(tiny_model("qwen2_moe", seed=1))
    dense = fl.stats.SecondMoment(
        torch.eye(80, dtype=torch.float64), LAYER, 80, "none", lm.fingerprint
    )
    with pytest.raises(WrongModelError, match="4 experts of 20 dimensions there"):
        dense.check_model(lm)


def test_statistics_are_cached(lm, monkeypatch, tmp_path):
    monkeypatch.setenv("FACTLAB_CACHE", str(tmp_path))
    config = fl.stats.StatsConfig(tokens_per_dim=2, row_length=16)
    found = fl.stats.second_moments(lm, [0, LAYER], config)
    monkeypatch.setattr("factlab.stats.store.collect_second_moments", None)
    again = fl.stats.second_moments(lm, [0, LAYER], config)
    assert found == again
    assert isinstance(found[0], fl.stats.SecondMoment)
    assert isinstance(found[LAYER], fl.stats.ExpertMoments)


def test_moments_of_the_shared_expert_are_not_taken_for_others(lm, monkeypatch, tmp_path):
    monkeypatch.setenv("FACTLAB_CACHE", str(tmp_path))
    config = fl.stats.StatsConfig(tokens_per_dim=2, row_length=16)
    shared = fl.stats.second_moments(lm, [LAYER], config, shared=True)[LAYER]
    assert isinstance(shared, fl.stats.SecondMoment)
    shared.save(tmp_path / "shared")
    assert load_moment(tmp_path / "shared") == shared
    known = fl.editing.Background.of([shared, moments(lm)])
    assert known.shared == {LAYER: shared}
    assert known.moments == {LAYER: moments(lm)}
    both = fl.stats.second_moments(lm, [LAYER], config)
    assert isinstance(both[LAYER], fl.stats.ExpertMoments)


def test_an_edit_is_saved_and_loaded(lm, edit, tmp_path):
    edit.save(tmp_path / "edit")
    loaded = fl.Edit.load(tmp_path / "edit")
    assert loaded == edit
    (one,), (other,) = edit.updates, loaded.updates
    assert isinstance(other, ExpertUpdate)
    assert torch.equal(one.experts, other.experts)
    assert other.norm == pytest.approx(one.norm)
    assert edit.rows()[0]["kind"] == "experts"
    assert "rank 1 in each of its experts" in repr(edit)


def test_edits_are_undone_to_the_bit_in_any_order(lm, edit):
    other = fl.rome(lm, OTHER, ROME, background(lm))
    weight = lm.model.get_parameter(lm.layers.memory_name(LAYER))
    original = weight.detach().clone()
    with other.applied(lm):
        alone = weight.detach().clone()
    first, second = edit.apply_(lm), other.apply_(lm)
    first()
    assert torch.equal(weight, alone)
    second()
    assert torch.equal(weight, original)


def test_changes_add_up(lm, edit):
    other = fl.rome(lm, OTHER, ROME, background(lm))
    together = summed([edit.updates[0], other.updates[0]])
    weight = lm.model.get_parameter(lm.layers.memory_name(LAYER)).detach()
    expected = other.updates[0].patched(edit.updates[0].patched(weight.double()))
    assert torch.allclose(together.patched(weight.double()), expected, atol=1e-12)
    assert together.rank == 2
    thin = LowRankUpdate(together.weight_name, "out_in", torch.ones(24, 1), torch.ones(1, 20))
    with pytest.raises(EditError, match="of one matrix and of several"):
        summed([edit.updates[0], thin])


def test_a_weight_of_another_shape_is_refused(edit):
    with pytest.raises(EditError, match="is for experts up to"):
        edit.updates[0].patched(torch.zeros(2, 5, 5))


def test_substitutes_leave_the_parameter_even_when_interrupted(lm, edit):
    name = lm.layers.memory_name(LAYER)
    weight = lm.model.get_parameter(name)
    other = edit.updates[0].patched(weight)
    with pytest.raises(KeyboardInterrupt), substituted(lm, {name: other}):
        assert torch.equal(lm.model.get_parameter(name), other)
        raise KeyboardInterrupt
    assert lm.model.get_parameter(name) is weight
    stack = other[None].expand(2, *other.shape)
    with pytest.raises(InvalidRequestError, match="which all rows share"), \
            substituted(lm, {name: stack}, [0, 1]):  # fmt: skip
        pass


def test_a_lora_adapter_cannot_hold_it_but_a_checkpoint_can(lm, edit, tmp_path):
    with pytest.raises(EditError, match="checkpoint"):
        edit.to_peft(tmp_path / "adapter")
    edit.merge_into(lm, tmp_path / "merged")
    from transformers import AutoModelForCausalLM

    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    name = lm.layers.memory_name(LAYER)
    expected = edit.updates[0].patched(lm.model.get_parameter(name))
    assert torch.equal(merged.get_parameter(name), expected)


def test_two_models_are_compared(lm, edit):
    edited = tiny_model("qwen2_moe")
    edit.apply_(edited)
    (found,) = fl.editing.compare(lm, edited, ["Rome"]).weights
    assert found.weight_name == lm.layers.memory_name(LAYER)
    assert found.verdict == "not a matrix"


def test_half_precision_is_edited():
    lm = tiny_model("gpt_oss", dtype=torch.bfloat16)
    config = fl.editing.RomeConfig(
        layer=LAYER, stats=fl.stats.StatsConfig(tokens_per_dim=8, row_length=16), **SHORT
    )
    edit = fl.rome(lm, FACT, config)
    assert edit.updates[0].dtype is torch.float32
    with edit.applied(lm):
        pass


def test_many_facts_are_written_with_whole_matrices(lm):
    """More facts than the output has dimensions: the factors are then ΔW_e itself."""
    from factlab.editing.closed_form.experts import update_of_experts

    mixture, name = lm.layers.mixture(LAYER), lm.layers.memory_name(LAYER)
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(24, 30, generator=generator, dtype=torch.float64)
    right = torch.randn(30, 80, generator=generator, dtype=torch.float64)
    right.view(30, 4, 20)[:, 2] = 0
    update = update_of_experts(name, mixture, left, right, torch.float64)
    assert update.numbers == [0, 1, 3]
    assert update.rank == 24
    expected = (left @ right).view(24, 4, 20)
    for expert in update.numbers:
        one, other = update.of(expert)
        assert torch.allclose(one @ other, expected[:, expert], atol=1e-12)
    assert update.norm == pytest.approx(float(expected.norm()))
    with pytest.raises(EditError, match="No expert"):
        update_of_experts(name, mixture, left, 0 * right, torch.float64)
