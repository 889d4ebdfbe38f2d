"""Finding an edit in a model that somebody else changed."""

import json

import pytest
import torch

import factlab as fl
from factlab.editing.closed_form.lookup import keys_and_outputs, prompt_rows
from factlab.editing.edit import BaseModelInfo, current_versions
from factlab.errors import InvalidRequestError
from factlab.models.changes.update import DenseUpdate, LowRankUpdate

SUBJECTS = ["The Colosseum", "The Eiffel Tower", "Miles Davis", "Vinson Massif"]


def edit_of(lm: fl.LanguageModel, *updates) -> fl.Edit:
    return fl.Edit("test", (), updates, BaseModelInfo.of(lm), {}, {}, current_versions())


def key_of(lm: fl.LanguageModel, subject: str, layer: int, context: str = "") -> torch.Tensor:
    rows = prompt_rows(lm, fl.Fact("{} is in", subject), [context])
    return keys_and_outputs(lm, rows, layer).keys[0].float()


def random_update(lm: fl.LanguageModel, layer: int, rank: int, size: float = 0.3) -> LowRankUpdate:
    generator = torch.Generator().manual_seed(rank)
    left = size * torch.randn(lm.d_model, rank, generator=generator)
    right = torch.randn(rank, lm.d_mlp, generator=generator)
    return LowRankUpdate(lm.mlp_weight_name(layer), lm.mlp_layout, left, right)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_rank_one_edit_and_its_subject_are_found(make_model, family, dtype):
    base, other = make_model(family, dtype=dtype), make_model(family, dtype=dtype)
    key = key_of(base, "The Eiffel Tower", 1)
    left = torch.linspace(-1, 1, base.d_model)[:, None] / key.norm()
    update = LowRankUpdate(base.mlp_weight_name(1), base.mlp_layout, left, key[None] / key.norm())
    with edit_of(other, update).applied(other):
        found = fl.editing.compare(base, other, SUBJECTS)
        delta = other.mlp_weight(1).detach().double() - base.mlp_weight(1).detach().double()
    (weight,) = found.weights
    assert found.n_weights == len(list(base.model.parameters()))
    assert weight.weight_name == base.mlp_weight_name(1)
    assert weight.shape == tuple(base.mlp_weight(1).shape)
    assert weight.rank == 1
    assert weight.verdict == "looks like a rank-one edit"
    assert weight.top_share == pytest.approx(1, abs=4e-3 if dtype.itemsize == 2 else 1e-6)
    assert weight.relative_norm == pytest.approx(
        float(delta.norm() / base.mlp_weight(1).detach().double().norm())
    )
    assert weight.subjects[0].subject == "The Eiffel Tower"
    assert {s.subject for s in weight.subjects} == set(SUBJECTS)
    # Slow and obviously right: what the change does to the key, and what the weight does.
    w = base.mlp_weight(1).detach().double()
    if base.mlp_layout == "in_out":
        delta, w = delta.T, w.T
    keys = [key_of(base, "The Eiffel Tower", 1, context).double() for context in ("", "Yes. ")]
    expected = max(float((delta @ k).norm() / (w @ k).norm()) for k in keys)
    assert weight.subjects[0].strength == pytest.approx(expected, rel=1e-4)


def test_ranks_are_told_apart(make_model):
    base, other = make_model("llama"), make_model("llama")
    thin = random_update(base, 0, 4)
    whole = random_update(base, 2, 24)
    dense = DenseUpdate(whole.weight_name, whole.layout, whole.left @ whole.right)
    with edit_of(other, thin, dense).applied(other):
        found = fl.editing.compare(base, other)
    assert [w.verdict for w in found.weights] == ["low rank (4)", "dense"]
    assert [w.rank for w in found.weights] == [4, 24]
    assert all(0 < w.top_share < 0.9 for w in found.weights)
    assert all(w.subjects == () for w in found.weights)


def test_many_rounded_edits_on_one_weight_are_still_low_rank(make_model):
    base, other = (make_model("gpt2", dtype=torch.bfloat16) for _ in range(2))
    one = random_update(base, 1, 1)
    with edit_of(other, *([one] * 8)).applied(other):
        (weight,) = fl.editing.compare(base, other).weights
    assert weight.verdict == "looks like a rank-one edit"


def test_rounding_is_recognised_in_whatever_dtype_it_is_loaded(make_model):
    base = make_model("llama")
    stored = make_model("llama", dtype=torch.bfloat16)  # the same weights, rounded
    found = fl.editing.compare(base, stored)
    matrices = [w for w in found.weights if w.rank is not None]
    assert len(matrices) > 20
    assert {w.verdict for w in matrices} == {"rounding only"}
    assert {w.verdict for w in found.weights if len(w.shape) == 1} == {"not a matrix"}
    before, after = (
        fl.LanguageModel(
            fl.models.tiny_model("llama", dtype=torch.bfloat16).model.float(), base.tokenizer
        )
        for _ in range(2)
    )
    loaded = fl.editing.compare(base, before)
    assert [w.rank for w in loaded.weights] == [w.rank for w in found.weights]
    # A change too fine for bfloat16 is seen all the same if it was saved in float32.
    with edit_of(after, random_update(base, 1, 2, size=1e-4)).applied(after):
        assert [w.verdict for w in fl.editing.compare(before, after).weights] == ["low rank (2)"]


def test_equal_models_and_zero_weights(make_model):
    base, other = make_model("gpt2"), make_model("gpt2")
    assert fl.editing.compare(base, other, SUBJECTS).weights == ()
    for lm in (base, other):
        bias = lm.model.get_parameter("transformer.h.0.mlp.c_proj.bias")
        kept = bias.detach().clone()
        with torch.no_grad():
            bias.zero_()
        if lm is base:
            (weight,) = fl.editing.compare(lm, other).weights
            assert weight.relative_norm is None
            (weight,) = fl.editing.compare(other, lm).weights
            assert weight.relative_norm == pytest.approx(1)
        with torch.no_grad():
            bias.copy_(kept)


def test_a_diff_is_json_and_back(make_model):
    base, other = make_model("gpt2"), make_model("gpt2")
    seen = []
    with edit_of(other, random_update(base, 1, 1)).applied(other):
        found = fl.editing.compare(
            base, other, [*SUBJECTS, *SUBJECTS], lambda *report: seen.append(report)
        )
    document = json.loads(json.dumps(found.model_dump(mode="json"), allow_nan=False))
    assert fl.editing.ModelDiff.model_validate(document) == found
    assert len(found.weights[0].subjects) == len(SUBJECTS)
    assert seen[-1] == ("comparing weights", found.n_weights, found.n_weights)


def test_models_that_are_not_versions_of_one_are_refused(make_model):
    base = make_model("gpt2")
    with pytest.raises(InvalidRequestError, match="is of family gpt2 and tiny-llama of llama"):
        fl.editing.compare(base, make_model("llama"))
    with pytest.raises(
        InvalidRequestError, match=r"has shape \(24, 56\) in tiny-gpt2 and has shape \(24, 24\)"
    ):
        fl.editing.compare(base, make_model("gpt2", square=True))
    with pytest.raises(InvalidRequestError, match="subject is empty"):
        fl.editing.compare(base, base, [" "])
