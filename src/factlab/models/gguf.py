"""GGUF files: dequantised by transformers, kept as ordinary float32 folders if wanted.

Which families are read, how their tensors are called and which way round they lie is transformers'
own table (`factlab.transformers_api`). Sizes that its reading of the header leaves at what the
family's first model had are put right here, and what the file holds beyond the model is refused.
"""

from pathlib import Path
from typing import Any

import gguf
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from factlab.errors import FactlabError, ModelLoadError, counted
from factlab.models.pretrained import check_complete, one_line
from factlab.models.quiet import quiet_transformers
from factlab.transformers_api import auto_class, gguf_families, gguf_names

_MAGIC = b"GGUF"
# Tables that are worked out from the config, and so are no weights.
_TABLES = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
# Entries of a header that transformers leaves aside, and the entry of a config that each is.
_LEFT_ASIDE = {
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
_OF_GPT2 = {"feed_forward_length": "n_inner", "context_length": "n_positions"}


def read_gguf(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model and tokenizer from a GGUF file.

    Raises:
        ModelLoadError: the file is not GGUF, is damaged, lacks weights or has some that the model
            has no place for, or holds an architecture that transformers cannot convert.
        UnsupportedModelError: it holds an encoder.
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
            config = AutoConfig.from_pretrained(**place)
            auto_class(config)  # a decoder, or an error that says what it is
            _complete(config, gguf.GGUFReader(path))
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                **place,
                config=config,
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
            f"convert it again. The installed transformers reads {', '.join(gguf_families())}."
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


def _complete(config: PreTrainedConfig, reader: gguf.GGUFReader) -> None:
    """Set sizes that the header has and transformers leaves aside."""
    family = _architecture(reader)
    renamed = _LEFT_ASIDE | (_OF_GPT2 if family == "gpt2" else {})
    for entry, name in renamed.items():
        field = reader.get_field(f"{family}.{entry}")
        if field is not None and hasattr(config, name):
            setattr(config, name, int(field.contents()))
    padding = getattr(config, "pad_token_id", None)
    if padding is not None and padding >= config.vocab_size:
        config.pad_token_id = None  # the first model's of the family, not this one's


def _architecture(reader: gguf.GGUFReader) -> str:
    field = reader.get_field("general.architecture")
    return "" if field is None else str(field.contents())


def _unused_tensors(path: Path, model: PreTrainedModel) -> list[str]:
    """Tensors of a file's layers that were left out of the model without a word.

    A header that counts too few layers, or a bias that the converted class does not have, gives
    another model than the file's.
    """
    reader = gguf.GGUFReader(path)
    used = gguf_names(model, _architecture(reader))
    names = [tensor.name for tensor in reader.tensors if tensor.name not in _TABLES]
    return [n for n in names if _block(n) is not None and not {n, n.removesuffix(".weight")} & used]


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
