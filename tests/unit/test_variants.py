"""The five problems as requests: what is refused, what is asked, and what stays as it was."""

import pytest
import torch
from tiny_records import FT, MEMIT, ROME, background

import factlab as fl
from factlab.editing import (
    METHODS,
    FineTuneConfig,
    RomeConfig,
    SubjectNoise,
    edit_variant,
    variant_edits,
)
from factlab.editing.values.recipe import Asked, ValuePlan, ValueRecipe
from factlab.editing.variants import VARIANTS, check_variant, problem, variant_named
from factlab.errors import InvalidRequestError, UnsupportedModelError
from factlab.models.altered_tokens import AlteredTokens

FACTS = [
    fl.Fact("{} is located in the city of", "The Eiffel Tower", "Rome", "Paris"),
    fl.Fact("See {} in", "Seattle", "Antarctica", "a tower"),
]
NOISE = SubjectNoise(level=0.4, samples=2)


def test_a_variant_that_a_method_cannot_do_is_refused_without_a_model():
    cannot = {"erasure": {"ultraedit", "in-context"}, "forcing": {"ultraedit", "in-context", "kn"}}
    for name in METHODS:
        for variant in VARIANTS:
            if name in cannot.get(variant, set()):
                with pytest.raises(InvalidRequestError, match=f"Method '{name}' cannot"):
                    check_variant(METHODS[name], variant)
            else:
                check_variant(METHODS[name], variant)


def test_a_variant_has_a_name():
    assert variant_named("fact erasure") == "erasure"
    with pytest.raises(InvalidRequestError, match=r"no variant 'forcin'\. Did you mean 'forcing'"):
        variant_named("forcin")


def test_problems_say_what_is_written():
    rome, fact = METHODS["rome"], FACTS[0]
    asked = {v: problem(rome, fact, v, ROME, "there", NOISE) for v in VARIANTS}
    targets = {variant: one.target for variant, one in asked.items()}
    assert targets == {
        "injection": "Rome", "reversal": "there", "erasure": "Paris", "amplification": "Paris",
        "forcing": "Paris",
    }  # fmt: skip
    assert {v for v, one in asked.items() if one.config.is_erasing} == {"erasure"}
    assert {v for v, one in asked.items() if one.noise} == {"forcing"}
    assert asked["injection"].config is ROME


def test_a_fact_that_lacks_what_a_variant_needs_is_refused():
    rome = METHODS["rome"]
    with pytest.raises(InvalidRequestError, match="no target_new to inject"):
        problem(rome, fl.Fact("{} is in", "Rome", target_true="Italy"), "injection")
    for variant in ("erasure", "amplification", "forcing"):
        with pytest.raises(InvalidRequestError, match="no target_true"):
            problem(rome, fl.Fact("{} is in", "Rome", "Italy"), variant, noise=NOISE)
    with pytest.raises(InvalidRequestError, match="no output of the corrupted run"):
        problem(rome, FACTS[0], "reversal", said="")
    with pytest.raises(InvalidRequestError, match="needs noise"):
        problem(rome, FACTS[0], "forcing")


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("rome", ROME), ("memit", MEMIT), ("emmet", None), ("alphaedit", None), ("ft", FT),
        ("ft+l", FineTuneConfig(layers=(0, 1), steps=2, epsilon=0.01)), ("attn", None),
    ],
)  # fmt: skip
def test_any_method_is_asked_for_forcing_and_facts_do_not_depend_on_each_other(
    method, config, make_model
):
    lm = make_model("gpt2")
    config = config or METHODS[method].config(
        **({"layers": (0, 1), "contexts": ROME.contexts} if method != "attn" else {"layer": 1})
    )
    if method != "attn" and "value" in type(config).model_fields:
        config = config.model_copy(update={"value": ROME.value})
    both = edit_variant(lm, FACTS, "forcing", method, config, NOISE, background(lm))
    for fact, edit in zip(FACTS, both, strict=True):
        (alone,) = edit_variant(lm, [fact], "forcing", method, config, NOISE, background(lm))
        for one, other in zip(alone.updates, edit.updates, strict=True):
            assert one.norm == pytest.approx(other.norm, rel=1e-3)
    (clean,) = edit_variant(lm, FACTS[:1], "amplification", method, config, None, background(lm))
    pairs = zip(clean.updates, both[0].updates, strict=True)
    for one, other in ((x.tensors(), y.tensors()) for x, y in pairs):
        assert any(not torch.allclose(one[name], other[name], rtol=1e-2) for name in one)


def test_values_under_noise_are_kept_under_another_name_and_others_as_before(make_model):
    lm = make_model("gpt2")
    asked, config = Asked("{} is", "Rome", "Paris"), RomeConfig(layer=0)
    recipes = {
        noise: ValueRecipe.of(
            lm, ValuePlan.of(config.model_copy(update={"subject_noise": noise})), [""]
        )
        for noise in (None, NOISE, SubjectNoise(level=0.4, samples=2, seed=1))
    }
    assert len({recipe.key(asked) for recipe in recipes.values()}) == 3
    assert "noise" not in recipes[None].plan.model_dump(mode="json")
    assert "subject_noise" not in config.model_dump(mode="json")


def test_one_layer_or_several():
    with pytest.raises(InvalidRequestError, match="not both"):
        FineTuneConfig(layer=1, layers=(1, 2))
    assert FineTuneConfig(layers=(2, 0)).edited_layers == (0, 2)


def test_a_layer_that_is_not_there_is_refused(make_model):
    lm = make_model("gpt2")
    with pytest.raises(InvalidRequestError, match="99"):
        edit_variant(lm, FACTS, "forcing", "ft", FineTuneConfig(layers=(0, 99)), NOISE)


def test_noise_needs_a_model_that_embeds_its_tokens_once(make_model, monkeypatch):
    lm = make_model("gpt2")
    monkeypatch.setattr(lm.engine, "takes_embedding", True)
    with pytest.raises(UnsupportedModelError, match="a second time"):
        edit_variant(lm, FACTS, "forcing", "ft", FT, NOISE)


def test_equal_altered_tokens_have_one_id_and_leave_no_hooks(make_model):
    lm = make_model("gpt2")
    tokens = AlteredTokens(lm)
    added = lm.embedding.weight[:2].detach().float()
    first = tokens.ids([5, 6], added)
    assert tokens.ids([5, 6], added) == first
    assert tokens.ids([6, 5], added) != first
    hooks = len(lm.embedding._forward_hooks)
    with pytest.raises(RuntimeError, match="stop"), tokens.present():
        raise RuntimeError("stop")
    assert len(lm.embedding._forward_hooks) == hooks


@pytest.mark.parametrize("method", ["rome", "memit", "ft"])
def test_a_fact_that_is_hardly_known_is_erased_all_the_same(make_model, method):
    """Its loss, -log(1 - P), is below any bound that suits -log P before the first step."""
    lm = make_model("gpt2", dtype=torch.float64)
    config = {"rome": ROME, "memit": MEMIT, "ft": FT.model_copy(update={"stop_nll": 0.01})}[method]
    if method != "ft":
        value = fl.editing.ValueConfig(steps=6, kl_factor=0)
        config = config.model_copy(update={"value": value})
    (edit,) = edit_variant(lm, FACTS[:1], "erasure", method, config, None, background(lm))
    (before,) = lm.score([FACTS[0].prompt], ["Paris"])
    assert before.length_normalised_prob < 0.05
    with edit.applied(lm):
        (after,) = lm.score([FACTS[0].prompt], ["Paris"])
    assert after.logprob < before.logprob - 1e-3


def test_a_fact_about_which_nothing_is_said_does_not_end_the_others(make_model, monkeypatch):
    lm = make_model("gpt2")
    monkeypatch.setattr(variant_edits, "said_under_noise", lambda *_: ["", "there"])
    refused, edit = edit_variant(lm, FACTS, "reversal", "ft", FT, NOISE)
    assert str(refused).startswith("The model says nothing after 'The Eiffel Tower is located")
    assert edit.facts[0].target_new == "there"
