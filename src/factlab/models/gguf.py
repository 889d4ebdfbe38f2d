"""GGUF files: dequantised by transformers, kept as ordinary float32 folders if wanted."""

from pathlib import Path
from typing import Any

import gguf
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from factlab.errors import FactlabError, ModelLoadError, counted
from factlab.models.pretrained import check_complete, one_line
from factlab.models.quiet import quiet_transformers

_MAGIC = b"GGUF"
# Tables that are worked out from the config, and so are no weights.
_TABLES = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def read_gguf(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model and tokenizer from a GGUF file.

    Raises:
        ModelLoadError: the file is not GGUF, is damaged, lacks weights or has some that the model
            has no place for, or holds an architecture that transformers cannot convert.
    """
    with path.open("rb") as file:
        magic = file.read(len(_MAGIC))
    if magic != _MAGIC:
        raise ModelLoadError(f"'{path}' is not a GGUF file: it begins with {magic!r}.")
    place: dict[str, Any] = {
        "pretrained_model_name_or_path": str(path.parent),
        "gguf_file": path.name,
        "local_files_only": True,
        "trust_remote_code": False,
    }
    try:
        # Weights that the file lacks are drawn at random before anyone can refuse them.
        devices = list(range(torch.cuda.device_count()))
        with quiet_transformers(), torch.random.fork_rng(devices):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                **place,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, by name
            )
            tokenizer = AutoTokenizer.from_pretrained(**place)
        model, info = loaded
        unused = _unused_tensors(path, model)
    except FactlabError:
        raise
    # A file of unknown origin can make its readers raise anything.
    except Exception as error:  # what a damaged file makes its readers raise
        raise ModelLoadError(
            f"Cannot read GGUF file '{path}': {one_line(error)} If it is damaged, download or "
            "convert it again. transformers converts the llama, mistral, qwen2, qwen3, gemma2, "
            "gemma3, phi3, gpt2, bloom, falcon and stablelm architectures, among others."
        ) from error
    check_complete(info, str(path))
    if unused:
        raise ModelLoadError(
            f"GGUF file '{path}' holds {counted(len(unused), 'tensor')} that the model its header "
            f"describes has no place for. The first is '{unused[0]}'. Convert the original "
            "checkpoint again."
        )
    # The weights are plain floats now; what says otherwise would keep them from being saved.
    vars(model.config).pop("quantization_config", None)
    vars(model).update(hf_quantizer=None, is_quantized=False)
    return model, tokenizer


def _unused_tensors(path: Path, model: PreTrainedModel) -> list[str]:
    """Tensors of a file that were left out of the model without a word.

    A header that counts too few layers, or a bias that the converted class does not have, gives
    another model than the file's.
    """
    reader = gguf.GGUFReader(path)
    family = reader.get_field("general.architecture")
    name = "" if family is None else str(family.contents())
    arch = next((key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == name), None)
    n_layers = model.config.get_text_config(decoder=True).num_hidden_layers
    names = [tensor.name for tensor in reader.tensors if tensor.name not in _TABLES]
    beyond = [name for name in names if (_block(name) or 0) >= max(n_layers, 1)]
    if beyond or arch is None:
        return beyond
    known = gguf.get_tensor_name_map(arch, n_layers)
    used = [known.get_name(weight, (".weight", ".bias")) for weight in model.state_dict()]
    if None in used:  # the two libraries do not name this family's parts alike
        return []
    return [name for name in names if _block(name) is not None and name not in used]


def _block(name: str) -> int | None:
    """The number of the layer that a tensor belongs to."""
    start, _, rest = name.partition(".")
    number = rest.partition(".")[0]
    return int(number) if start == "blk" and number.isdecimal() else None


def convert_gguf(path: Path, folder: Path) -> None:
    """Write a GGUF file's model as float32 safetensors with its tokenizer."""
    model, tokenizer = read_gguf(path, torch.float32)
    model.config.name_or_path = path.stem
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
