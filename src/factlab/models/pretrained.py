"""Checkpoints as transformers writes them, from a folder or the Hub."""

import logging
import re
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from factlab.documents import described
from factlab.errors import FactlabError, ModelLoadError, counted, nearest
from factlab.models.footprints import check_fits
from factlab.models.hub import HubAnswer, ask_hub
from factlab.models.quiet import quiet_transformers
from factlab.models.request import WELL_KNOWN
from factlab.transformers_api import auto_class, run_experts_in

_LONGEST_REASON = 300
_log = logging.getLogger(__name__)


def read_pretrained(
    place: str, dtype: torch.dtype, placement: str, revision: str | None, name: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model and tokenizer of a checkpoint; code that comes with it is never run.

    Args:
        place: folder, or id on the Hub.
        dtype: of the weights.
        placement: transformers' `device_map`.
        revision: branch, tag or commit on the Hub.
        name: what to call it in messages.

    Raises:
        ModelLoadError: it cannot be found or read, or is not a language model.
    """
    is_local = Path(place).is_dir()
    answer = HubAnswer(is_reached=False) if is_local else ask_hub(place, revision)
    place = answer.folder or place
    source: dict[str, Any] = {
        "revision": revision,
        "trust_remote_code": False,  # said, because otherwise transformers asks on the terminal
        "local_files_only": not answer.is_reached,
    }
    try:
        # Weights that a checkpoint lacks are drawn at random before anyone can refuse them.
        devices = list(range(torch.cuda.device_count()))
        with quiet_transformers(), torch.random.fork_rng(devices):
            config = AutoConfig.from_pretrained(place, **source)
            check_fits(config, dtype, placement, name)
            loaded: Any = auto_class(config).from_pretrained(
                place,
                config=config,
                dtype=dtype,
                device_map=placement,
                use_safetensors=True,  # the older format is a pickle
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                **source,
            )
            tokenizer = AutoTokenizer.from_pretrained(place, **source)
    except FactlabError:
        raise
    # A checkpoint is foreign: its files can make transformers raise anything.
    except Exception as error:  # what odd files make transformers raise
        raise _refusal(error, place, name, placement, is_local, answer) from error
    model, info = loaded
    check_complete(info, name)
    _check_extra(info, model, name)
    run_experts_in(model, dtype)
    return model, tokenizer


def read_config(place: str, revision: str | None, name: str) -> PretrainedConfig:
    """The config of a checkpoint, without its weights.

    Args:
        place: folder, or id on the Hub.
        revision: branch, tag or commit on the Hub.
        name: what to call it in messages.

    Raises:
        ModelLoadError: it cannot be found or read.
    """
    is_local = Path(place).is_dir()
    answer = HubAnswer(is_reached=False) if is_local else ask_hub(place, revision)
    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(
                answer.folder or place, revision=revision, trust_remote_code=False,
                local_files_only=not answer.is_reached,
            )  # fmt: skip
    # A checkpoint is foreign: its files can make transformers raise anything.
    except Exception as error:  # what odd files make transformers raise
        raise _refusal(error, place, name, "cpu", is_local, answer) from error


def check_complete(info: dict[str, Any], name: str) -> None:
    """Refuse a checkpoint in whose stead weights were drawn at random.

    Raises:
        ModelLoadError: names the first such weight.
    """
    misshapen = (key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])
    incomplete = [*sorted(info["missing_keys"]), *sorted(map(str, misshapen))]
    if incomplete:
        raise ModelLoadError(
            f"The checkpoint of '{name}' lacks {counted(len(incomplete), 'weight')}, or has other "
            f"shapes there. The first is '{incomplete[0]}'. Download or convert it again."
        )


def _check_extra(info: dict[str, Any], model: PreTrainedModel, name: str) -> None:
    """Refuse a checkpoint with more layers than its config says; say of other weights left out.

    Raises:
        ModelLoadError: names the first layer that the model has no place for.
    """
    extra = sorted(map(str, info["unexpected_keys"]))
    kept = {_numbered(key) for key in model.state_dict()}
    beyond = [key for key in extra if _numbered(key) in kept]
    if beyond:
        raise ModelLoadError(
            f"The checkpoint of '{name}' has {counted(len(beyond), 'weight')} of layers that its "
            f"config does not count. The first is '{beyond[0]}'. Mend the number of layers in "
            "config.json, or download or convert it again."
        )
    if extra:
        _log.warning(
            "The checkpoint of '%s' has %s that transformers makes no use of; the first is '%s'.",
            name, counted(len(extra), "weight"), extra[0],
        )  # fmt: skip


def _numbered(key: str) -> str:
    """A weight's name without the numbers in it: the same for all layers."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "#", key)


def one_line(error: Exception) -> str:
    """What an error says, in one line of bounded length that ends in a full stop."""
    text = described(error)
    return f"{text}." if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} …."


def _refusal(
    error: Exception, place: str, name: str, placement: str, is_local: bool, answer: HubAnswer
) -> ModelLoadError:
    reason = one_line(error)
    if "trust_remote_code" in str(error):
        return ModelLoadError(
            f"'{name}' can only be loaded by code that comes with it, which factlab never runs. "
            "Use a checkpoint of the model that was converted for transformers' own classes."
        )
    if is_local or (answer.is_reached and not answer.objection and isinstance(error, RuntimeError)):
        return ModelLoadError(
            f"Cannot load '{place}' with transformers on {placement}: {reason} If a file of it is "
            "damaged, download or convert it again."
        )
    if not answer.is_reached:
        return ModelLoadError(
            f"Cannot load model '{name}': the Hugging Face Hub was not reached "
            f"({answer.objection}), and its cache on this machine holds only a part of the model. "
            f"Check the network, or pass a local folder or .gguf file. ({reason})"
        )
    return ModelLoadError(
        f"Cannot load model '{name}': it is not a folder here, and the Hugging Face Hub does not "
        f"give it as safetensors.{nearest(name, WELL_KNOWN)} Check the name and your access, or "
        f"pass a local folder or .gguf file. ({answer.objection or reason})"
    )
