"""Small models of families that the architecture table lacks: experts, recurrences, pictures."""

import re

import pytest
import torch
from transformers.models.auto import modeling_auto

from factlab.errors import InvalidRequestError, UnsupportedModelError
from factlab.models.family_names import check_family, family_names
from factlab.models.request import check_request
from factlab.models.tiny import tiny_model, tiny_parts
from model_families import is_present

# Families, and patterns of the classes of parts that must be there.
KINDS = {
    "mixtral": ("MixtralExperts",),
    "qwen2_moe": ("Qwen2MoeExperts", "Qwen2MoeMLP"),
    "qwen3_moe": ("Qwen3MoeExperts", "Qwen3MoeMLP"),
    "gpt_oss": ("GptOssExperts",),
    "deepseek_v2": ("DeepseekV2Experts", "DeepseekV2MLP"),
    "deepseek_v3": ("DeepseekV3(Experts|NaiveMoe)", "DeepseekV3MLP"),
    "llama4_text": ("Llama4TextExperts", "Llama4TextMLP"),
    "granitemoe": ("GraniteMoeMoE",),
    "olmoe": ("OlmoeExperts",),
    "phimoe": ("PhimoeExperts",),
    "dbrx": ("DbrxExperts",),
    "jamba": ("JambaMambaMixer", "JambaAttention", "JambaSparseMoeBlock", "JambaMLP"),
    "qwen3_next": ("Qwen3NextGatedDeltaNet", "Qwen3NextAttention", "Qwen3NextExperts"),
    "falcon_h1": ("FalconH1Mixer", "FalconH1Attention"),
    "mamba": ("MambaMixer",),
    "mamba2": ("Mamba2Mixer",),
    "rwkv": ("RwkvSelfAttention",),
    "recurrent_gemma": ("RecurrentGemmaRecurrentBlock", "RecurrentGemma(Sdpa)?Attention"),
    "zamba2": ("Zamba2MambaMixer", "Zamba2Attention"),
    "lfm2": ("Lfm2ShortConv", "Lfm2Attention"),
    "nemotron_h": (
        "NemotronHMamba2Mixer", "NemotronHMoE", "NemotronHAttention", "NemotronHMLP",
    ),
    "gemma3": ("Gemma3Attention", "SiglipVisionEmbeddings"),
    "mllama": ("MllamaTextCrossAttention", "MllamaTextSelfAttention"),
    "qwen2_vl": ("Qwen2VLAttention", "Qwen2VLVisionBlock"),
    "minicpm3": ("MiniCPM3Attention",),
    "openai-gpt": ("Block",),
}  # fmt: skip
PRESENT = [family for family in KINDS if is_present(family)]


@torch.no_grad()
def logits_of(model, ids):
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


@pytest.mark.parametrize("family", PRESENT)
def test_a_family_that_the_table_lacks(family):
    state = torch.get_rng_state()
    model, tokenizer = tiny_parts(family)
    again, _ = tiny_parts(family)
    assert torch.equal(state, torch.get_rng_state())
    for (name, weight), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(weight, other), name

    assert sum(weight.numel() for weight in model.parameters()) < 500_000
    classes = {type(module).__name__ for module in model.modules()}
    for part in KINDS[family]:
        assert any(re.fullmatch(part, name) for name in classes), sorted(classes)

    ids = tokenizer("The Eiffel Tower is located in the city of Paris.").input_ids
    logits = logits_of(model, ids)
    assert torch.isfinite(logits).all()
    assert not torch.allclose(logits[0], logits[-1], atol=1e-3)
    longer = logits_of(model, [*ids, *ids[:3]])[: len(ids)]
    torch.testing.assert_close(longer, logits, atol=1e-4, rtol=1e-4)
    changed = logits_of(model, [ids[-1], *ids[1:]])
    assert not torch.allclose(changed[-1], logits[-1], atol=1e-4), "the first token is not seen"


def test_another_seed_and_another_type():
    first, second = (tiny_parts("mixtral", seed=seed)[0] for seed in (0, 1))
    assert not torch.equal(first.lm_head.weight, second.lm_head.weight)
    wide, _ = tiny_parts("mixtral", dtype=torch.float64)
    assert {weight.dtype for weight in wide.parameters()} == {torch.float64}
    torch.testing.assert_close(wide.lm_head.weight.float(), first.lm_head.weight)


def test_experts_are_drawn_as_matrices_are():
    model, _ = tiny_parts("mixtral")
    experts = model.model.layers[0].mlp.experts
    assert experts.down_proj.shape == (4, 24, 56)
    assert 0.2 < float(experts.down_proj.detach().std()) < 0.3


def test_special_tokens_are_such_as_no_text_holds():
    model, tokenizer = tiny_parts("gemma3")
    image = model.config.image_token_id
    assert image < len(tokenizer)
    assert "\x00" <= str(tokenizer.decode([image])) <= "\x1f"


def test_the_names_are_those_of_transformers():
    names = set(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    names |= set(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    assert set(family_names()) == names


@pytest.mark.parametrize(
    "refuse", [check_family, tiny_model, lambda name: check_request("tiny:" + name)]
)
def test_a_family_that_does_not_exist(refuse):
    with pytest.raises(InvalidRequestError, match=r"no family 'mixtrall'.* Did you mean 'mixtral'"):
        refuse("mixtrall")


def test_a_family_that_cannot_be_small():
    with pytest.raises(
        UnsupportedModelError, match="A small model of family 'musicgen' cannot be made"
    ):
        tiny_parts("musicgen")


def test_square_is_for_the_table_only():
    with pytest.raises(InvalidRequestError, match="square is only for families in the arch"):
        tiny_parts("mixtral", square=True)
