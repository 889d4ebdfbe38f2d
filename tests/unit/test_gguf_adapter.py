"""Edits as GGUF adapters: what llama.cpp adds to a file's tensors is what the edit adds."""

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
from factlab.models.changes.update import LowRankUpdate

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
    if architecture in {"phi3", "gemma3"} and Version(transformers.__version__) < Version("5.1"):
        pytest.skip(f"transformers {transformers.__version__} asks for protobuf to read it")
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


def test_the_entries_are_those_that_llama_cpp_reads(make_model, tmp_path):
    lm = make_model("gpt2")
    edit = edit_of(lm, thin(lm, lm.mlp_weight_name(1), 4, 0), thin(lm, lm.mlp_weight_name(2), 1, 1))
    edit.to_gguf(tmp_path / "edit.gguf", max_rank=3)
    reader = gguf.GGUFReader(tmp_path / "edit.gguf")
    assert {key: text_of(reader, key) for key in reader.fields if not key.startswith("GGUF.")} == {
        "general.architecture": "gpt2",
        "general.type": "adapter",
        "general.name": "Edit of tiny-gpt2",
        "adapter.type": "lora",
        "adapter.lora.alpha": 3.0,
    }
    # GGUF lists the fastest-running dimension first: (d_in, rank) and (rank, d_out).
    assert {tensor.name: tensor.shape.tolist() for tensor in reader.tensors} == {
        "blk.1.ffn_down.weight.lora_a": [lm.d_mlp, 3],
        "blk.1.ffn_down.weight.lora_b": [3, lm.d_model],
        "blk.2.ffn_down.weight.lora_a": [lm.d_mlp, 1],
        "blk.2.ffn_down.weight.lora_b": [1, lm.d_model],
    }
    assert {tensor.tensor_type for tensor in reader.tensors} == {gguf.GGMLQuantizationType.F32}


def test_what_gguf_cannot_say_is_refused(make_model, tmp_path):
    lm = make_model("llama")
    good = thin(lm, lm.mlp_weight_name(1), 1, 0)

    def refused(edit: fl.Edit, said: str, name: str = "e.gguf", error: type = EditError) -> None:
        with pytest.raises(error, match=said):
            edit.to_gguf(tmp_path / name)
        assert not (tmp_path / name).exists()

    def named(module: str) -> fl.Edit:
        name = f"model.layers.1.{module}.weight"
        return edit_of(lm, LowRankUpdate(name, "out_in", good.left, good.right))

    refused(edit_of(lm, good), r"does not end in .gguf.*Call it 'e.gguf'", "e", InvalidRequestError)
    refused(named("self_attn.q_proj"), r"another name or order of rows .*\(blk.1.attn_q\)")
    refused(named("mlp.nothing"), r"'model.layers.1.mlp.nothing' of a llama has another name")
    other = make_model("opt")
    refused(edit_of(other, thin(other, other.mlp_weight_name(1), 1, 0)), "models of family opt")
    with edit_of(lm, good).applied(lm):
        refused(edit_of(lm, good), "does not stand alone")
    (tmp_path / "there.gguf").write_bytes(b"mine")
    with pytest.raises(StorageError, match="is there already"):
        edit_of(lm, good).to_gguf(tmp_path / "there.gguf")
    assert (tmp_path / "there.gguf").read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ""] == ["there.gguf"]
