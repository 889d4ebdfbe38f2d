"""GGUF files of families whose tensors lie otherwise than Llama's: Conv1D, experts, state spaces."""

import json

import gguf
import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AutoModelForCausalLM
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

import factlab as fl
from factlab.errors import ModelLoadError, UnsupportedModelError
from factlab.transformers_api import gguf_families, gguf_names

# Entries of a header that transformers leaves aside, or reads into another entry of the config.
MORE = {
    "gpt2": {"context_length": "n_positions", "feed_forward_length": "n_inner"},
    "qwen2moe": {
        "expert_feed_forward_length": "moe_intermediate_size",
        "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    },
    "qwen3moe": {"expert_feed_forward_length": "moe_intermediate_size"},
}
OURS = {"qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe", "gemma3": "gemma3_text"}


def toy(architecture):
    """A random model without layers of another kind, which no header tells of."""
    lm = fl.models.tiny_model(OURS.get(architecture, architecture))
    config = lm.model.config
    if "moe" in architecture:
        config.mlp_only_layers, config.norm_topk_prob = [], architecture == "qwen3moe"
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config).eval()
        return fl.LanguageModel(model, lm.tokenizer)
    return lm


def write(lm, architecture, path):
    """Write a model as llama.cpp's converter does."""
    config, state = lm.model.config, lm.model.state_dict()
    writer = gguf.GGUFWriter(str(path), architecture)
    entries = GGUF_CONFIG_MAPPING[
        {"gemma3_text": "gemma3"}.get(config.model_type, config.model_type)
    ]
    for entry, name in (entries | MORE.get(architecture, {})).items():
        value = getattr(config, name, None) if name else None
        if value is not None:
            add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
            add(f"{architecture}.{entry}", value)
    core = json.loads(lm.tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(core["vocab"], key=core["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_merges([" ".join(pair) for pair in core["merges"]])
    for name, source in names_of(lm, architecture).items():
        whole = name if name.endswith((".weight", ".bias")) or "ssm_" in name else f"{name}.weight"
        values = as_written(architecture, name, state[source].numpy().copy())
        writer.add_tensor(whole, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def names_of(lm, architecture):
    """GGUF's names of a model's weights, without those of a tied head."""
    from transformers import modeling_gguf_pytorch_utils as utils

    make = utils.TENSOR_PROCESSORS.get(architecture, utils.TensorProcessor)
    names = utils.get_gguf_hf_weights_map(lm.model, make(config=lm.model.config.to_dict()))
    assert set(names) == gguf_names(lm.model, architecture)
    tied = getattr(lm.model.config, "tie_word_embeddings", False)
    return {a: b for a, b in names.items() if not (tied and a == "output.weight")}


def as_written(architecture, name, values):
    """How llama.cpp keeps a tensor."""
    if architecture == "gpt2" and values.ndim == 2 and ("attn_" in name or "ffn_" in name):
        return values.T
    if "_gate_exps" in name:
        return values[:, : values.shape[1] // 2]
    if "_up_exps" in name:
        return values[:, values.shape[1] // 2 :]
    if "gate_inp_shexp" in name:
        return values[0]
    if architecture == "gemma3" and "norm.weight" in name:
        return values + 1
    if "ssm_conv1d.weight" in name:
        return values[:, 0]
    return -np.exp(values) if name.endswith("ssm_a") else values


@pytest.mark.parametrize(
    "architecture", ["gpt2", "phi3", "gemma3", "mamba", "qwen2moe", "qwen3moe"]
)
def test_a_file_is_the_model_that_it_was_made_of(architecture, tmp_path):
    if architecture in {"phi3", "gemma3"} and Version(transformers.__version__) < Version("5.1"):
        pytest.skip(f"transformers {transformers.__version__} asks for protobuf to read it")
    lm = toy(architecture)
    write(lm, architecture, tmp_path / "toy.gguf")
    loaded = fl.load(tmp_path / "toy.gguf", device="cpu")
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.model(ids).logits, lm.model(ids).logits, rtol=1e-4, atol=1e-5
        )
    assert loaded.engine.name == lm.engine.name
    assert loaded.abilities.rungs.keys() == lm.abilities.rungs.keys()
    for name, rung in lm.abilities.rungs.items():
        assert loaded.abilities.rungs[name].can == rung.can


def test_experts_of_another_size_than_the_header_says(tmp_path):
    lm = toy("qwen3moe")
    lm.model.config.moe_intermediate_size += 8
    write(lm, "qwen3moe", tmp_path / "toy.gguf")
    with pytest.raises(ModelLoadError, match=r"has other shapes there. The first is .*experts"):
        fl.load(tmp_path / "toy.gguf", device="cpu")


def test_families_are_those_of_transformers(tmp_path):
    assert {"llama", "gpt2", "qwen3_moe", "mamba"} <= set(gguf_families())
    assert not {"t5", "umt5", "tokenizer", "general"} & set(gguf_families())
    for architecture, error, message in (
        ("rwkv9", ModelLoadError, r"rwkv9 is not supported yet.* reads .*gpt2.*starcoder2"),
        ("t5", UnsupportedModelError, r"family 't5' is not a decoder-only language model"),
    ):
        writer = gguf.GGUFWriter(str(tmp_path / "other.gguf"), architecture)
        writer.add_vocab_size(10)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with pytest.raises(error, match=message) as caught:
            fl.load(tmp_path / "other.gguf", device="cpu")
        assert "\n" not in str(caught.value)
