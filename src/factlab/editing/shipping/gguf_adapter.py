"""Edits as GGUF adapters, for llama.cpp and what is built on it.

llama.cpp adds (alpha / rank) · B A to the weight of a tensor, with the rank of that tensor
(`src/llama-adapter.h`), and looks tensors up by GGUF's names (`src/llama-adapter.cpp`). Its own
converter, `convert_lora_to_gguf.py`, writes the same entries from an adapter of peft; it takes one
alpha for modules of different ranks, which a `rank_pattern` needs to be otherwise.
"""

from functools import partial
from pathlib import Path

import gguf
import torch
from torch import Tensor

from factlab.editing.shipping.thinned import Thinned
from factlab.errors import EditError, nearest
from factlab.models.changes.algebra import Factors
from factlab.storage import write_atomically

# By the family that an edit's base is of, the architecture of its GGUF files.
_ARCHITECTURES = {
    "bloom": "bloom", "cohere": "command-r", "falcon": "falcon", "gemma": "gemma",
    "gemma2": "gemma2", "gemma3_text": "gemma3", "gpt2": "gpt2", "gpt_neox": "gptneox",
    "granite": "granite", "llama": "llama", "mistral": "llama", "mpt": "mpt",
    "nemotron": "nemotron", "olmo": "olmo", "olmo2": "olmo2", "phi": "phi2", "phi3": "phi3",
    "qwen2": "qwen2", "qwen3": "qwen3", "smollm3": "smollm3", "stablelm": "stablelm",
    "starcoder2": "starcoder2",
}  # fmt: skip
# What a layer's matrices are called whose rows and columns stay in order. Those of queries and
# keys do not in all families, and those of several matrices in one.
_IN_ORDER = ("ffn_down", "ffn_up", "ffn_gate", "attn_output")


def write_gguf(made: Thinned, family: str, name: str, path: Path) -> None:
    """Write thin changes as a GGUF adapter in float32: all of it or nothing.

    Args:
        made: changes of weights of linear modules.
        family: of the model that they are for.
        name: of that model.
        path: of the file.

    Raises:
        EditError: llama.cpp knows no model of this family, or keeps a weight in another order.
        StorageError: the file cannot be written.
    """
    named = {_tensor_name(module, family): found for module, found in made.factors.items()}
    write_atomically(path, partial(_write, named, made.report.rank, _architecture(family), name))


def _architecture(family: str) -> str:
    if family not in _ARCHITECTURES:
        raise EditError(
            f"factlab knows no GGUF names for models of family {family}."
            f"{nearest(family, _ARCHITECTURES)} Write the edit as an adapter (--to peft) and "
            "convert that with llama.cpp's convert_lora_to_gguf.py, or merge it into a checkpoint."
        )
    return _ARCHITECTURES[family]


def _tensor_name(module: str, family: str) -> str:
    """What GGUF calls the weight of a module."""
    number = next((int(part) for part in module.split(".") if part.isdecimal()), 0)
    architectures = {called: key for key, called in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(architectures[_architecture(family)], number + 1)
    found = names.get_name(module)
    if found is None or found.rpartition(".")[2] not in _IN_ORDER:
        raise EditError(
            f"'{module}' of a {family} has another name or order of rows in GGUF files"
            f"{f' ({found})' if found else ''}. Merge the edit into a checkpoint (--to checkpoint) "
            "and convert that with llama.cpp's convert_hf_to_gguf.py."
        )
    return f"{found}.weight"


def _write(
    factors: dict[str, Factors], alpha: int, architecture: str, name: str, path: Path
) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(f"Edit of {name}")
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(alpha))
    for tensor, found in factors.items():
        rank = found.left.shape[1]
        _add(writer, f"{tensor}.lora_a", found.right)
        _add(writer, f"{tensor}.lora_b", found.left * (rank / alpha))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: gguf.GGUFWriter, name: str, tensor: Tensor) -> None:
    writer.add_tensor(name, tensor.detach().to("cpu", torch.float32).contiguous().numpy())
