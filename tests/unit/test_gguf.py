"""GGUF files of unknown origin: what is missing, misnamed, misshapen, lying or cut off."""

import json
import struct

import gguf
import numpy as np
import pytest
import torch

import factlab as fl
from factlab.errors import ModelLoadError

PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


@pytest.fixture
def write(make_model, tmp_path):
    """Write a toy Llama as GGUF, with a change to its tensors (by name) or its header."""
    lm = make_model("llama")
    config, weights = lm.model.config, lm.model.state_dict()
    core = json.loads(lm.tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(core["vocab"], key=core["vocab"].get)

    def tensors():
        names = {
            "model.embed_tokens": "token_embd",
            "model.norm": "output_norm",
            "lm_head": "output",
        }
        for layer in range(config.num_hidden_layers):
            names |= {f"model.layers.{layer}.{a}": f"blk.{layer}.{b}" for a, b in PARTS.items()}
        return {f"{b}.weight": weights[f"{a}.weight"].numpy().copy() for a, b in names.items()}

    def write(change=lambda tensors: None, **header):
        sizes = {
            "block_count": config.num_hidden_layers,
            "feed_forward_length": config.intermediate_size,
            "head_count": config.num_attention_heads,
            "head_count_kv": config.num_key_value_heads,
        } | header
        path = tmp_path / "toy.gguf"
        writer = gguf.GGUFWriter(str(path), "llama")
        writer.add_context_length(256)
        writer.add_embedding_length(config.hidden_size)
        for name, size in sizes.items():
            getattr(writer, f"add_{name}")(size)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_vocab_size(len(tokens))
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_list(tokens)
        writer.add_token_merges([" ".join(pair) for pair in core["merges"]])
        writer.add_token_types([3 if token in ("<s>", "</s>") else 1 for token in tokens])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
        stored = tensors()
        change(stored)
        for name, values in stored.items():
            writer.add_tensor(name, np.ascontiguousarray(values))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def test_a_whole_file_loads(write):
    path = write(lambda t: t.update({"rope_freqs.weight": np.ones(3, dtype=np.float32)}))
    lm = fl.load(path, device="cpu")
    assert (lm.n_layers, lm.d_model, lm.d_mlp) == (3, 24, 56)
    assert lm.fingerprint == fl.load(path, device="cpu").fingerprint


def renamed(tensors):
    tensors["blk.1.ffn_upp.weight"] = tensors.pop("blk.1.ffn_up.weight")


def cut(tensors):
    tensors["blk.1.ffn_up.weight"] = tensors["blk.1.ffn_up.weight"][:40]


def biased(tensors):
    tensors["blk.0.attn_q.bias"] = np.ones(24, dtype=np.float32)


def infinite(tensors):
    tensors["blk.2.ffn_down.weight"][3, 4] = np.inf


@pytest.mark.parametrize(
    ("change", "header", "message"),
    [
        (
            lambda t: t.pop("blk.1.ffn_up.weight"),
            {},
            "lacks 1 weight, .* first is 'model.layers.1.mlp.up_pro",
        ),
        (
            lambda t: t.pop("output_norm.weight"),
            {},
            "lacks 1 weight, .* first is 'model.norm.weight'",
        ),
        (renamed, {}, "lacks 1 weight, .* first is 'model.layers.1.mlp.up_proj.weight'"),
        (cut, {}, "has other shapes there. The first is 'model.layers.1.mlp.up_proj.weight'"),
        (biased, {}, "holds 1 tensor .* no place for. The first is 'blk.0.attn_q.bias'"),
        (infinite, {}, "'model.layers.2.mlp.down_proj.weight' has NaN or infinite"),
        (
            lambda t: None,
            {"block_count": 2},
            "holds 9 tensors .* no place for. The first is 'blk.2",
        ),
        (lambda t: None, {"block_count": 0}, "no place for. The first is 'blk."),
        (lambda t: None, {"block_count": 4}, "lacks 9 weights, .* first is 'model.layers.3"),
        (lambda t: None, {"feed_forward_length": 40}, "or has other shapes there"),
        (lambda t: None, {"head_count_kv": 0}, "Cannot read GGUF file"),
        (lambda t: None, {"head_count": 3}, "has other shapes there|Cannot read GGUF file"),
    ],
)
def test_files_that_are_not_what_their_header_says(write, change, header, message):
    path = write(change, **header)
    before = torch.get_rng_state()
    with pytest.raises(ModelLoadError, match=message) as caught:
        fl.load(path, device="cpu")
    assert "\n" not in str(caught.value)
    assert torch.equal(before, torch.get_rng_state())


HEAD = b"GGUF" + struct.pack("<I", 3)
KEY = struct.pack("<Q", 1) + b"k"


@pytest.mark.parametrize(
    "data",
    [
        b"GGUF",
        HEAD + struct.pack("<QQ", 10, 20) + b"\x14\0",
        HEAD + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 2**40) + b"x" * 100,
        HEAD + struct.pack("<QQ", 0, 1) + KEY + struct.pack("<IIQ", 9, 8, 2**40) + b"\0" * 100,
        HEAD + struct.pack("<QQ", 0, 1) + KEY + struct.pack("<I", 77),
        b"GGUF" + struct.pack("<IQQ", 99, 0, 0),
    ],
)
def test_damaged_headers(tmp_path, data):
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(ModelLoadError, match="Cannot read GGUF file") as caught:
        fl.load(tmp_path / "x.gguf", device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.999])
def test_a_download_that_was_cut(write, share):
    path = write()
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelLoadError, match="Cannot read GGUF file"):
        fl.load(path, device="cpu")
