"""GGUF files: dequantised by transformers, kept as ordinary float32 folders if wanted."""

from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from factlab.errors import ModelLoadError
from factlab.models.quiet import quiet_transformers

_MAGIC = b"GGUF"


def read_gguf(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model and tokenizer from a GGUF file.

    Raises:
        ModelLoadError: the file is not GGUF, is damaged, or holds an architecture that
            transformers cannot convert.
    """
    with path.open("rb") as file:
        magic = file.read(len(_MAGIC))
    if magic != _MAGIC:
        raise ModelLoadError(f"'{path}' is not a GGUF file: it begins with {magic!r}.")
    place = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        with quiet_transformers():
            model = AutoModelForCausalLM.from_pretrained(**place, dtype=dtype)
            tokenizer = AutoTokenizer.from_pretrained(**place)
    # What transformers raises for an unknown architecture, quantisation or a damaged file.
    except (ValueError, KeyError, OSError, NotImplementedError, ImportError) as error:
        raise ModelLoadError(
            f"Cannot read GGUF file '{path}': {_first_line(error)} transformers converts the "
            "llama, mistral, qwen2, qwen3, gemma2, gemma3, phi3, gpt2, bloom, falcon and stablelm "
            "architectures, among others. Convert the original checkpoint instead."
        ) from error
    # The weights are plain floats now; what says otherwise would keep them from being saved.
    vars(model.config).pop("quantization_config", None)
    vars(model).update(hf_quantizer=None, is_quantized=False)
    return model, tokenizer


def convert_gguf(path: Path, folder: Path) -> None:
    """Write a GGUF file's model as float32 safetensors with its tokenizer."""
    model, tokenizer = read_gguf(path, torch.float32)
    model.config.name_or_path = path.stem
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _first_line(error: Exception) -> str:
    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return line if line.endswith(".") else f"{line}."
