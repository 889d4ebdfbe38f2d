"""Edits as GGUF adapters: what llama.cpp adds to a file's tensors is what the edit adds."""

import json
import shutil

import gguf
import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from test_adapter import attention_name, edit_of, thin
from test_gguf_families import toy, write

import factlab as fl
from factlab.errors import EditError, InvalidRequestError, StorageError

FAMILIES = ("gpt2", "llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "stablelm",
            "starcoder2", "nemotron", "falcon", "bloom")  # fmt: skip


def text_of(reader: gguf.GGUFReader, key: str) -> object:
    return reader.get_field(key).contents()


def as_llama_cpp_adds_it(adapter, file) -> list[str]:
    """Add an adapter to a file in place, by `get_scale` of llama-adapter.h; the names."""
    read = gguf.GGUFReader(adapter)
    alpha = text_of(read, "adapter.lora.alpha")
    halves = {tensor.name: np.array(tensor.data) for tensor in read.tensors}
    base = gguf.GGUFReader(file, "r+")
    changed = []
    for tensor in base.tensors:
        if f"{tensor.name}.lora_a" in halves:
            a, b = halves.pop(f"{tensor.name}.lora_a"), halves.pop(f"{tensor.name}.lora_b")
            rank = b.shape[1]
            tensor.data[:] += (alpha / rank) * b @ a
            changed.append(tensor.name)
    assert not halves
    base.data.flush()
    return changed


def logits(lm: fl.LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return lm.model(torch.arange(3, 20)[None]).logits


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_file_with_the_adapter_is_the_edited_model(architecture, tmp_path):
    write(toy(architecture), architecture, tmp_path / "base.gguf")
    lm = fl.load(tmp_path / "base.gguf", device="cpu")
    edit = edit_of(
        lm,
        thin(lm, lm.mlp_weight_name(1), 3, 0),
        thin(lm, lm.mlp_weight_name(2), 1, 1),
        thin(lm, attention_name(lm, 0), 2, 2),
    )
    made = edit.to_gguf(tmp_path / "edit.gguf")
    assert [m.rank for m in made.modules] == [2, 3, 1]
    shutil.copy(tmp_path / "base.gguf", tmp_path / "merged.gguf")
    changed = as_llama_cpp_adds_it(tmp_path / "edit.gguf", tmp_path / "merged.gguf")
    assert {*changed} == {
        "blk.0.attn_output.weight",
        "blk.1.ffn_down.weight",
        "blk.2.ffn_down.weight",
    }
    plain = logits(lm)
    with edit.applied(lm):
        edited = logits(lm)
    assert not torch.allclose(plain, edited, atol=1e-2)
    merged = fl.load(tmp_path / "merged.gguf", device="cpu")
    torch.testing.assert_close(logits(merged), edited, rtol=1e-4, atol=1e-5)
