"""Edits and LoRA adapters of the `peft` library, which add the same kind of thing to a weight.

An adapter adds scaling · B A to the weight of a module, so `right` is A, `left` is B, and with
alpha = r the scaling is 1. Only the two files are read and written; `peft` itself is not needed.
"""

import functools
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import regex
import torch
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError
from torch import Tensor

from factlab.documents import described
from factlab.editing.shipping.thinned import Thinned
from factlab.errors import EditError, StorageError, UnsupportedModelError
from factlab.models import bundled
from factlab.models.changes.change import FLOATS
from factlab.models.changes.update import LowRankUpdate
from factlab.models.language_model import LanguageModel
from factlab.projections import is_writer, layout_of, orientation_of, widths_of
from factlab.storage import (
    folder_written_atomically,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)

_log = logging.getLogger(__name__)

_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"

# Config entries that do not change what a finished adapter adds to the weights.
_WITHOUT_EFFECT = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "exclude_modules",
    "fan_in_fan_out", "inference_mode", "lora_dropout", "lora_ga_config", "loftq_config",
    "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config",
    "target_modules", "task_type",
}  # fmt: skip
# Ways to begin training that leave the base model's own weights alone.
_HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")

# For all names together, a pattern takes a thousandth of this, unless it was written never to end.
_PATTERN_TIMEOUT_S = 1.0
_MOST_REPEATS = 10_000

# The largest of the values that vLLM takes for --max-lora-rank: 1, 8, 16, 32, 64, 128, 256, 320
# and 512 (`vllm/config/lora.py`, 0.32).
_LARGEST_SERVED = 512

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class ReadAdapter:
    """What an adapter does to a model.

    Attributes:
        updates: one for each module.
        config: settings that say where it is from, as JSON.
    """

    updates: tuple[LowRankUpdate, ...]
    config: dict[str, Any]


def write_adapter(made: Thinned, base_name: str, folder: Path) -> None:
    """Write thin changes as a LoRA adapter: all of it or nothing.

    A warning says so if a server would refuse its rank, and nobody asked for one.

    Args:
        made: changes of weights of `nn.Linear` modules, or of `Conv1D` modules.
        base_name: of the model they are for.
        folder: where to.

    Raises:
        StorageError: the folder cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for module, found in made.factors.items():
        tensors[f"{_PREFIX}{module}{_A}"] = found.right.clone()
        tensors[f"{_PREFIX}{module}{_B}"] = found.left.clone()
    ranks = {module: found.left.shape[1] for module, found in made.factors.items()}
    largest = max(ranks.values())
    smaller = {module: rank for module, rank in ranks.items() if rank != largest}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        # By its Hub id others find the model; factlab's own name for the bundled one is no id.
        "base_model_name_or_path": bundled.HUB_ID if base_name == bundled.NAME else base_name,
        "inference_mode": True,
        "r": largest,
        "lora_alpha": largest,
        "rank_pattern": smaller,
        "alpha_pattern": smaller,
        "target_modules": [*made.factors],
        "fan_in_fan_out": made.layout == "in_out",
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
    }
    with folder_written_atomically(folder) as unfinished:
        write_tensors(unfinished / _TENSORS, tensors, {"format": "pt"})
        write_json(unfinished / _CONFIG, config)
    if made.max_rank is None and largest > _LARGEST_SERVED:
        _log.warning(
            "The adapter has rank %d, and vLLM serves none above %d. Cut it with --max-rank %d "
            "(max_rank=%d), which says what is lost.",
            largest, _LARGEST_SERVED, _LARGEST_SERVED, _LARGEST_SERVED,
        )  # fmt: skip


class _Config(BaseModel):
    """The entries of `adapter_config.json` that say what a plain LoRA adapter adds."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    peft_type: str
    r: PositiveInt
    lora_alpha: float
    use_rslora: bool = False
    rank_pattern: dict[str, PositiveInt] | None = None
    alpha_pattern: dict[str, float] | None = None
    bias: str = "none"
    init_lora_weights: bool | str | None = True

    def scaling(self, module: str, rank: int) -> float:
        """What B A is multiplied with."""
        alpha = _of_pattern(self.alpha_pattern or {}, module, self.lora_alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def rank(self, module: str) -> int:
        """Rows of A."""
        return _of_pattern(self.rank_pattern or {}, module, self.r)


def _of_pattern(patterns: Mapping[str, _Number], module: str, otherwise: _Number) -> _Number:
    """The value of the first pattern that matches the whole path of a module or its end."""
    for pattern, value in patterns.items():
        if module == pattern or _matches(pattern, module):
            return value
    return otherwise


def _matches(pattern: str, module: str) -> bool:
    """Whether peft applies a pattern to a module; a pattern of others may be written never to end.

    Raises:
        StorageError: it is no regular expression, or does not come to an end.
    """
    repeats = math.prod(max(1, int(n[-9:])) for n in regex.findall(r"\d+(?=[\d,]*\})", pattern))
    try:
        if repeats > _MOST_REPEATS:  # compiling writes them all out
            raise OverflowError(f"it repeats its parts {repeats} times")
        whole = regex.compile(rf"(.*\.)?({pattern})$")
        return whole.match(module, timeout=_PATTERN_TIMEOUT_S) is not None
    except TimeoutError as error:
        problem, cause = f"takes longer than {_PATTERN_TIMEOUT_S:g} s to match a name", error
    except (regex.error, RecursionError, OverflowError, MemoryError) as error:
        problem, cause = f"is not a regular expression ({error})", error
    raise StorageError(
        f"The pattern {pattern[:40]!r} for ranks or alphas in {_CONFIG} {problem}. Write the names "
        "of the modules in its place."
    ) from cause


def read_adapter(folder: Path, lm: LanguageModel) -> ReadAdapter:
    """Read a plain LoRA adapter for a model.

    Raises:
        EditError: the adapter does something other than add low-rank matrices to weights, or does
            not fit the model.
        StorageError: the folder is not an adapter, or is damaged.
    """
    for name in (_CONFIG, _TENSORS):
        if not (folder / name).is_file():
            raise StorageError(
                f"'{folder}' is not a LoRA adapter that factlab reads: it has no {name}. Pass a "
                "folder that peft wrote with save_pretrained, as safetensors."
            )
    try:
        config = _Config.model_validate(read_json(folder / _CONFIG))
    except ValidationError as error:
        raise StorageError(
            f"'{folder / _CONFIG}' is not the config of a LoRA adapter: {described(error)}."
        ) from error
    _check_plain(config, folder)
    tensors, _ = read_tensors(folder / _TENSORS)
    halves = {_A: dict[str, Tensor](), _B: dict[str, Tensor]()}
    for key, tensor in tensors.items():
        ending = next((e for e in halves if key.startswith(_PREFIX) and key.endswith(e)), None)
        if ending is None:
            raise _not_plain(folder, f"it holds the tensor '{key}'")
        halves[ending][key.removeprefix(_PREFIX).removesuffix(ending)] = tensor
    if set(halves[_A]) != set(halves[_B]) or not tensors:
        raise StorageError(f"The adapter in '{folder}' is damaged: factors are missing.")
    updates = tuple(
        _update(lm, config, module, halves[_A][module], halves[_B][module]) for module in halves[_A]
    )
    kept = {"base_model_name_or_path", *_Config.model_fields} - {"peft_type", "init_lora_weights"}
    document = config.model_dump(mode="json")
    return ReadAdapter(updates, {k: v for k, v in document.items() if k in kept})


def _check_plain(config: _Config, folder: Path) -> None:
    if config.peft_type != "LORA":
        raise _not_plain(folder, f"its type is {config.peft_type}")
    if config.bias != "none":
        raise _not_plain(folder, f"it changes biases (bias={config.bias!r})")
    if config.init_lora_weights not in _HARMLESS_STARTS:
        raise _not_plain(
            folder,
            f"init_lora_weights={config.init_lora_weights!r} changes the base model's weights too",
        )
    for name, value in (config.model_extra or {}).items():
        unset = value is None or value is False or value in ({}, [], "")
        if not unset and name not in _WITHOUT_EFFECT:
            raise _not_plain(folder, f"it has {name}={value!r}")


def _not_plain(folder: Path, reason: str) -> EditError:
    return EditError(
        f"The adapter in '{folder}' is not plain LoRA: {reason}. factlab reads adapters that only "
        "add B A to weights; merge this one into its base model with peft instead."
    )


def _update(lm: LanguageModel, config: _Config, module: str, a: Tensor, b: Tensor) -> LowRankUpdate:
    name = f"{module}.weight"
    try:
        projection = lm.model.get_submodule(module)
        layout = orientation_of(projection) if is_writer(projection) else layout_of(projection)
    except (AttributeError, UnsupportedModelError) as error:
        raise EditError(
            f"The adapter is for a linear module '{module}', and {lm.name} has none of that name. "
            "Load the model that the adapter was made for."
        ) from error
    weight = getattr(projection, "weight", None)
    names = [n for n, p in lm.model.named_parameters(remove_duplicate=False) if p is weight]
    if len(names) > 1:
        raise EditError(
            f"The adapter changes '{module}' alone, but in {lm.name} one weight is shared by "
            f"{' and '.join(names)}. An edit would change all of them; use the adapter with peft."
        )
    d_out, d_in = widths_of(projection) or (0, 0)
    rank = config.rank(module)
    if tuple(a.shape) != (rank, d_in) or tuple(b.shape) != (d_out, rank):
        raise EditError(
            f"The factors B and A of '{module}' have shapes {tuple(b.shape)} and {tuple(a.shape)}; "
            f"rank {rank} in {lm.name} needs ({d_out}, {rank}) and ({rank}, {d_in}). Load the "
            "model that the adapter was made for."
        )
    if a.dtype not in FLOATS or b.dtype not in FLOATS:
        raise EditError(
            f"The factors of '{module}' are of {a.dtype} and {b.dtype}. factlab reads adapters of "
            "16-bit floats or larger; save it in such a type with peft."
        )
    if not (a.isfinite().all() and b.isfinite().all()):
        raise EditError(f"The factors of '{module}' have NaN or infinite entries. Train it again.")
    dtype = functools.reduce(torch.promote_types, (a.dtype, b.dtype, lm.dtype), torch.float32)
    scaling = config.scaling(module, rank)
    left = (scaling * b.cpu().double()).to(dtype)
    if not left.isfinite().all():
        raise EditError(
            f"lora_alpha makes B A of '{module}' {scaling:g} times as large, which is more than "
            f"{dtype} can hold. Mend {_CONFIG}."
        )
    return LowRankUpdate(name, layout, left, a.to(dtype))
