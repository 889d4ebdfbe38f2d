"""What may be wrapped: one clear sentence for every model and tokenizer that cannot be used."""

import re
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

import factlab as fl
from factlab.errors import (
    InvalidRequestError,
    TokenizationError,
    UnsupportedModelError,
)
from factlab.models.accept import check_model, check_tokenizer
from factlab.models.changes.update import LowRankUpdate
from factlab.projections import layout_of

TEXT = {
    "vocab_size": 400,
    "hidden_size": 24,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
EYE = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 3,  # as many as the text decoder has: it must not be taken for it
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def made(family, **settings):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **settings)
        return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture
def toy():
    return fl.models.tiny_model("llama")


def refusal(model, tokenizer):
    with pytest.raises(UnsupportedModelError) as caught:
        if isinstance(model, PreTrainedModel):
            fl.LanguageModel(model, tokenizer)
        else:  # the types that the tests check forbid what users do
            check_model(model)
    message = str(caught.value)
    assert "\n" not in message
    assert "Did you mean" not in message
    return message


# -- weights ---------------------------------------------------------------------------------------


class Packed(torch.Tensor):
    """A class of its own, as tensors of quantisation libraries; see test_quantised.py for more."""


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
def test_weights_that_its_own_modules_cannot_use(toy, dtype):
    """Packed weights that are left in a plain nn.Linear."""
    module = toy.model.model.layers[1].mlp.down_proj
    module.weight = nn.Parameter(module.weight.detach().to(dtype), requires_grad=False)
    assert "LlamaForCausalLM cannot be called as a decoder" in refusal(toy.model, toy.tokenizer)


def test_weights_of_a_class_of_their_own_are_used_and_not_written(toy):
    module = toy.model.model.layers[1].mlp.down_proj
    said = toy.next_token_probs(["The Eiffel Tower is in"])
    module.weight = nn.Parameter(module.weight.detach().as_subclass(Packed), requires_grad=False)
    lm = fl.LanguageModel(toy.model, toy.tokenizer)
    found = lm.next_token_probs(["The Eiffel Tower is in"])
    torch.testing.assert_close(found.as_subclass(torch.Tensor), said)
    assert lm.fingerprint == toy.fingerprint
    assert lm.abilities.rungs["closed_form"].layers == (0, 1, 2)
    assert lm.abilities.rungs["gradient"].layers == (0, 2)


class ScaledLinear(nn.Linear):
    """Multiplies by something else than its weight, as FP8Linear and Linear8bitLt do."""

    def forward(self, inputs):
        return 2 * super().forward(inputs)


def test_a_weight_that_is_not_what_is_multiplied_by_is_never_written(toy):
    with torch.random.fork_rng([]):
        part = toy.model.model.layers[0].mlp.down_proj = ScaledLinear(56, 24, bias=False)
    lm = fl.LanguageModel(toy.model, toy.tokenizer)
    assert lm.abilities.rungs["gradient"].layers == (1, 2)
    torch.testing.assert_close(lm.mlp_weight(0), 2 * part.weight.detach())
    weight, said = part.weight.detach().clone(), lm.next_token_probs(["The Eiffel Tower is in"])
    left, right = torch.ones(24, 1), torch.ones(1, 56)
    update = LowRankUpdate(lm.mlp_weight_name(0), "out_in", left, right)
    with lm.patches.applied([update]):
        assert torch.equal(part.weight, weight)
        torch.testing.assert_close(lm.mlp_weight(0), 2 * weight + 1)
    assert torch.equal(lm.next_token_probs(["The Eiffel Tower is in"]), said)
    with pytest.raises(UnsupportedModelError, match=r"ScaledLinear is not a plain nn\.Linear"):
        layout_of(part)
    assert layout_of(fl.models.tiny_model("falcon").layer(0).mlp.dense_4h_to_h) == "out_in"


def test_weights_of_several_float_types(toy):
    toy.model.model.layers[1].to(torch.bfloat16)
    said = refusal(toy.model, toy.tokenizer)
    assert "'model.embed_tokens.weight' is float32" in said
    assert "'model.layers.1.self_attn.q_proj.weight' is bfloat16" in said
    assert "Give them one type" in said


# -- wrappers and models of another kind -----------------------------------------------------------


def lora(target):
    config = LoraConfig(target_modules=[target], r=2, init_lora_weights=False)
    return get_peft_model(fl.models.tiny_model("llama").model, config)


def compiled_inside():
    model = fl.models.tiny_model("llama").model
    model.model.layers[1].mlp = torch.compile(model.model.layers[1].mlp)
    return model


def sharing_keys_by_a_cache_alone():
    """As transformers ran Gemma 3n and Gemma 4 for a while."""
    model = fl.models.tiny_model("llama").model

    class Sharing(type(model)):
        def forward(self, *args, use_cache=None, **kwargs):
            said = super().forward(*args, use_cache=False, **kwargs)
            said.logits = said.logits.roll(1, -1) if use_cache else said.logits
            return said

    model.__class__ = Sharing
    model.config.num_kv_shared_layers = 1
    return model


def headless(auto):
    return auto.from_config(fl.models.tiny_model("llama").model.config)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: nn.DataParallel(fl.models.tiny_model("llama").model),
            "Pass its attribute 'module'",
        ),
        (
            lambda: torch.compile(fl.models.tiny_model("llama").model),
            "The model was wrapped by torch.compile",
        ),
        (compiled_inside, "'model.layers.1.mlp' of LlamaForCausalLM was wrapped by torch.compile"),
        (lambda: lora("q_proj"), r"merge_and_unload\(\)"),
        (lambda: lora("down_proj").base_model.model, r"merge_and_unload\(\)"),
        (lambda: headless(AutoModel), "no language model head.*AutoModelForCausalLM"),
        (lambda: headless(AutoModelForSequenceClassification), "AutoModelForCausalLM"),
        (lambda: headless(AutoModelForTokenClassification), "AutoModelForCausalLM"),
        (lambda: nn.Linear(2, 3), "Linear is not a model of transformers"),
        (
            lambda: made("bert", is_decoder=False, **TEXT),
            "BertLMHeadModel is no decoder",
        ),
        (sharing_keys_by_a_cache_alone, "Sharing says something else with a cache of keys than"),
    ],
)
def test_models_that_are_no_bare_causal_language_models(make, message):
    with torch.random.fork_rng([]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the other libraries' own
        model = make()
    assert re.search(message, refusal(model, fl.models.tiny_model("llama").tokenizer))


@pytest.mark.parametrize("model", [None, "gpt2", {}])
def test_what_is_no_model_at_all(model):
    with pytest.raises(InvalidRequestError, match=r"The model is .*AutoModelForCausalLM"):
        check_model(model)


# -- layers that differ ----------------------------------------------------------------------------


def test_a_layer_of_a_known_family_without_a_part(toy, fact):
    toy.model.model.layers[2].mlp = nn.Identity()
    lm = fl.LanguageModel(toy.model, toy.tokenizer)
    assert [parts.mlp is None for parts in lm.layers] == [False, False, False]
    assert not lm.layers.is_dense(2)
    assert not lm.abilities.rungs["neurons"].can
    with pytest.raises(UnsupportedModelError, match=r"Layers that have one: 0, 1\."):
        fl.editing.fine_tune(lm, [fact], "ft", fl.editing.FineTuneConfig(layer=2, steps=1))


def test_layers_of_different_width(toy, fact):
    mlp = toy.model.model.layers[1].mlp
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        mlp.gate_proj, mlp.up_proj = (nn.Linear(24, 40, bias=False) for _ in range(2))
        mlp.down_proj = nn.Linear(40, 24, bias=False)
    lm = fl.LanguageModel(toy.model, toy.tokenizer)
    assert [lm.layers.d_mlp(layer) for layer in range(3)] == [56, 40, 56]
    with pytest.raises(
        UnsupportedModelError, match=r"differ in width: .* 56, that of layer 1 of 40"
    ):
        _ = lm.d_mlp
    edit = fl.rome(lm, fact, fl.editing.RomeConfig(layer=1, value=fl.editing.ValueConfig(steps=2)))
    assert edit.updates[0].shape == (24, 40)


def test_the_mlp_is_not_mistaken_for_another_writer(toy):
    """A layer with more than attention and MLP that ends at the width of the stream."""
    model = toy.model
    with torch.random.fork_rng([]):
        for layer in model.model.layers:
            layer.per_layer_projection = nn.Linear(8, 24, bias=False)
    model.config.model_type = "unheard_of"
    lm = fl.LanguageModel(model, toy.tokenizer)
    assert {part.mlp.output for part in lm.layers} == {"mlp.down_proj"}
    model.config.model_type = "llama"


# -- models that also see --------------------------------------------------------------------------

SEEING = {
    "gemma3": {
        "text_config": dict(head_dim=8, **TEXT),
        "vision_config": EYE,
        "image_token_index": 399,
    },
    "mistral3": {
        "text_config": dict(model_type="mistral", **TEXT),
        "vision_config": dict(model_type="pixtral", **EYE),
    },
    "llava": {
        "text_config": dict(model_type="llama", max_position_embeddings=64, **TEXT),
        "vision_config": dict(model_type="clip_vision_model", **EYE),
    },
}


@pytest.mark.parametrize("family", SEEING)
def test_the_text_decoder_of_a_model_that_also_sees(toy, fact, family, tmp_path):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(family, **SEEING[family])
        model = AutoModelForImageTextToText.from_config(config).eval()
        for name, parameter in model.named_parameters():
            if "language_model" in name and parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.25)
    lm = fl.LanguageModel(model, toy.tokenizer)
    assert "language_model" in lm.layers.anatomy.layers
    assert (lm.n_layers, lm.d_model, lm.d_mlp) == (3, 24, 56)
    if family == "llava":
        assert lm.context_length == 64

    edit = fl.editing.fine_tune(lm, [fact], "ft+l", fl.editing.FineTuneConfig(layer=1, steps=2))
    before = lm.next_token_probs([fact.prompt])
    with edit.applied(lm):
        after = lm.next_token_probs([fact.prompt])
    assert not torch.equal(before, after)
    assert torch.equal(lm.next_token_probs([fact.prompt]), before)

    model.save_pretrained(tmp_path / "model")
    toy.tokenizer.save_pretrained(tmp_path / "model")
    again = fl.load(tmp_path / "model", device="cpu")
    torch.testing.assert_close(again.next_token_probs([fact.prompt]), before)


# -- tokenizers ------------------------------------------------------------------------------------


class Slow:
    """A tokenizer that is not transformers'."""

    def __call__(self, text):
        return {"input_ids": [1]}


class Processor:
    """What AutoProcessor gives for a model that also sees."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer


def test_tokenizers_that_cannot_be_used(toy):
    from transformers import PreTrainedTokenizerBase

    class MistralCommonBackend(PreTrainedTokenizerBase):
        def __init__(self):
            pass

        def __getattr__(self, name):
            raise AttributeError(name)

    for tokenizer, message in (
        (None, "The tokenizer is None. Pass AutoTokenizer"),
        ("gpt2", "The tokenizer is a str"),
        (Slow(), "The tokenizer is a Slow"),
        (toy.tokenizer.backend_tokenizer, r"Wrap it: .*PreTrainedTokenizerFast"),
        (Processor(toy.tokenizer), "Pass its attribute 'tokenizer'"),
        (MistralCommonBackend(), "MistralCommonBackend does not report character offsets"),
    ):
        with pytest.raises(TokenizationError, match=message):
            check_tokenizer(tokenizer)


def test_the_context_length_is_found_however_the_config_calls_it():
    lm = fl.models.tiny_model("mpt")
    del lm.model.config.max_position_embeddings  # which configs of MPT do not have
    assert lm.context_length == lm.model.config.max_seq_len == 2048
