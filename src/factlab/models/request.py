"""What can be said about a wish for a model before anything is loaded: its name, device and dtype.

Loading takes seconds to minutes, a wrong name or a missing GPU shows at once. Nothing here imports
transformers, and torch only where a device other than the CPU is asked for.
"""

import ctypes
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from factlab.errors import InvalidRequestError, ModelLoadError, nearest
from factlab.models.family_names import check_family

if TYPE_CHECKING:
    import torch

Kind = Literal["bundled", "tiny", "gguf", "folder", "hub"]

DTYPE_NAMES = ("float32", "bfloat16", "float16", "float64")
TINY = "tiny:"

# Names to suggest when one is mistyped; any other Hub id works just as well.
WELL_KNOWN = (
    "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl",
    "EleutherAI/gpt-j-6b", "EleutherAI/gpt-neo-1.3B", "EleutherAI/gpt-neox-20b",
    "EleutherAI/pythia-1.4b", "facebook/opt-1.3b", "bigscience/bloom-1b7",
    "meta-llama/Llama-3.1-8B", "mistralai/Mistral-7B-v0.3", "Qwen/Qwen2.5-1.5B", "Qwen/Qwen3-1.7B",
    "google/gemma-2-2b", "google/gemma-3-1b-pt", "microsoft/Phi-3-mini-4k-instruct",
    "allenai/OLMo-2-0425-1B", "HuggingFaceTB/SmolLM2-135M",
)  # fmt: skip

_DEVICES = ("cpu", "cuda", "mps", "auto")
# The Hub's rule for ids: an optional owner and a name, of letters, digits and -._
_HUB_ID = re.compile(r"(?:[\w.-]+/)?[\w.-]{1,96}", re.ASCII)
# Files that tell what a folder without a model is instead.
_OTHER_FOLDERS = {
    "edit.json": "a saved edit. Load its base model and apply the edit (--edit FOLDER)",
    "editor.json": "a trained editor. Load the model it was trained for",
    "run.json": "a run. Load the model it was made with",
    "model_index.json": "a pipeline of the diffusers library, which writes no text",
}


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A wish for a model that holds together.

    Attributes:
        kind: where the model comes from.
        name: as given; None for the bundled model.
        dtype: name of the float type of its weights.
        placement: `cpu`, `cuda`, `cuda:1`, `mps`, or `auto` for all devices there are.
    """

    kind: Kind
    name: str | None
    dtype: str
    placement: str


def check_request(
    name_or_path: str | Path | None = None,
    device: "str | torch.device | None" = None,
    dtype: "str | torch.dtype | None" = None,
    memory_gib: int | float | None = None,
) -> ModelRequest:
    """Settle what model is wanted, and refuse what cannot be there, without loading it.

    Whether a Hub id exists is not known before the Hub is asked; everything else is.

    Args:
        name_or_path: as for `load`.
        device: as for `load`.
        dtype: as for `load`.
        memory_gib: as for `load`.

    Raises:
        InvalidRequestError: unknown dtype, device or family, a device that is not there, or no
            memory.
        ModelLoadError: the file or folder is not there, or is something other than a model.
    """
    if memory_gib is not None:
        check_gib(memory_gib)
    settled_dtype, placement = check_dtype(dtype), check_device(device)
    kind = _kind(name_or_path)
    name = None if name_or_path is None else str(name_or_path)
    return ModelRequest(kind, name, settled_dtype, placement)


def check_gib(gib: int | float) -> None:
    """Refuse what is no amount of memory.

    Raises:
        InvalidRequestError: it is not a number above 0.
    """
    if isinstance(gib, bool) or not isinstance(gib, int | float) or not 0 < gib < math.inf:
        raise InvalidRequestError(
            f"memory_gib={gib!r} (--memory-gib) must be a number of GiB above 0, such as 4."
        )


def check_dtype(dtype: "str | torch.dtype | None") -> str:
    """The name of a float type that models can be loaded in.

    Raises:
        InvalidRequestError: it is another.
    """
    name = "float32" if dtype is None else str(dtype).removeprefix("torch.")
    if name not in DTYPE_NAMES:
        raise InvalidRequestError(
            f"Unknown dtype '{name}'.{nearest(name, DTYPE_NAMES)} "
            f"Choose from {', '.join(DTYPE_NAMES)}."
        )
    return name


def check_device(device: "str | torch.device | None") -> str:
    """The name of a device that is there; by default CUDA if there is any, else the CPU.

    Raises:
        InvalidRequestError: there is no such kind of device, or fewer of it.
    """
    if device is not None:
        _check_kind(str(device))
    if device in ("cpu", "auto"):
        return str(device)
    import torch  # noqa: PLC0415 - slow to import, and the CPU is known without it

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        placed = torch.device(device)
    except RuntimeError as error:
        raise _unknown_device(str(device)) from error
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


def _check_kind(device: str) -> None:
    """Refuse a device that shows to be wrong without PyTorch: by its name, or for want of a driver.

    A driver that is there says nothing: PyTorch may have been built without CUDA.
    """
    kind, colon, number = device.partition(":")
    is_number = number.isascii() and number.isdigit()
    if kind not in _DEVICES or (colon and (kind == "auto" or not is_number)):
        raise _unknown_device(device)
    reason = ""
    if kind == "cpu" and is_number and int(number) > 0:
        reason = "there is one CPU, cpu"
    elif kind == "mps" and sys.platform != "darwin":
        reason = "it is a Mac's"
    elif kind == "cuda" and not _has_gpu_driver():
        reason = "no driver of a GPU is installed here"
    if reason:
        raise InvalidRequestError(f"Device '{device}' is not available: {reason}.")


def _has_gpu_driver() -> bool:
    """Whether the library or device is there by which PyTorch reaches NVIDIA's or AMD's GPUs."""
    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return True
    return Path("/dev/kfd").exists()


def _unknown_device(device: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"Unknown device '{device}'.{nearest(device, _DEVICES)} "
        f"Choose from {', '.join(_DEVICES)}; a number goes behind a colon, as in cuda:1."
    )


def _kind(name_or_path: str | Path | None) -> Kind:
    if name_or_path is None:
        return "bundled"
    name, path = str(name_or_path), Path(name_or_path)
    if not name.strip():
        raise InvalidRequestError(
            "The model's name is empty. Give a Hub id, a folder, a .gguf file, or tiny:gpt2."
        )
    if name.startswith(TINY):
        check_family(name.removeprefix(TINY))
        return "tiny"
    if path.suffix == ".gguf":
        if not _is(path.is_file):
            raise ModelLoadError(f"There is no file '{path}'.")
        return "gguf"
    if _is(path.is_dir):
        _check_folder(path)
        return "folder"
    if _is(path.is_file):
        raise ModelLoadError(
            f"'{path}' is a file. A model is a folder with config.json and safetensors, or a file "
            "that ends in .gguf."
        )
    if isinstance(name_or_path, Path) or name.count("/") > 1 or name[0] in "/.~" or "\\" in name:
        raise ModelLoadError(f"There is no folder '{name}'. Check the path.")
    if not _HUB_ID.fullmatch(name):
        raise ModelLoadError(
            f"'{name}' is neither a folder here nor a Hub id (owner/name, in letters, digits and "
            f"-._).{nearest(name, WELL_KNOWN)}"
        )
    return "hub"


def _is(question: Callable[[], bool]) -> bool:
    """The answer to a question about a path; a name that no file can have is no file."""
    try:
        return question()
    except (OSError, ValueError):
        return False


def adapter_instead(name: str) -> ModelLoadError:
    """The complaint about an adapter that is given as a model."""
    return ModelLoadError(
        f"'{name}' is a PEFT adapter, not a model. Load its base model, and make the adapter an "
        "edit of it with Edit.from_peft; or merge it into its base with peft's merge_and_unload() "
        "and load what save_pretrained() writes."
    )


def _check_folder(folder: Path) -> None:
    # transformers would follow an adapter to its base model, wherever that is.
    if (folder / "adapter_config.json").is_file():
        raise adapter_instead(str(folder))
    if (folder / "config.json").is_file():
        return
    for file, what in _OTHER_FOLDERS.items():
        if (folder / file).is_file():
            raise ModelLoadError(f"'{folder}' is not a model but {what}.")
    ggufs = sorted(path.name for path in folder.glob("*.gguf"))
    hint = f" To load '{ggufs[0]}' in it, name that file." if ggufs else ""
    raise ModelLoadError(f"Cannot load '{folder}': there is no config.json in it.{hint}")
