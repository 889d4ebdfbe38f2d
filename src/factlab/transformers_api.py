"""What moves between transformers' releases, in one place.

factlab runs the forward passes that transformers has written, and so meets names that its releases
change: the argument that hands a model its keys and values, what a cache layer must answer to, the
mark that transformers leaves on a model whose hidden states it has recorded. Each such name stands
here and nowhere else, and is looked up, not assumed, so that one factlab works with every release
inside the bounds of pyproject.toml.
"""

import inspect
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Cache,
    PreTrainedConfig,
    PreTrainedModel,
    modeling_gguf_pytorch_utils,
)
from transformers.cache_utils import CacheLayerMixin
from transformers.pytorch_utils import Conv1D

from factlab.errors import UnsupportedModelError

__all__ = [
    "Cache",
    "CacheLayer",
    "Conv1D",
    "accepts",
    "auto_class",
    "cache_argument",
    "gguf_families",
    "gguf_names",
    "is_marked_as_recorded",
    "remove_recorded_mark",
    "run_experts_in",
    "settle_scales",
]

# The argument for keys and values: `cache` since 5.24, and the only name from 5.40 on.
_CACHE_ARGUMENTS = ("cache", "past_key_values")
_RECORDED_MARK = "_output_capturing_hooks_installed"


def accepts(forward: Callable[..., object], name: str) -> bool:
    """Whether a forward pass declares an argument of this name."""
    return name in inspect.signature(forward).parameters


def cache_argument(forward: Callable[..., object]) -> str:
    """The name under which a model's forward pass takes keys and values.

    Read off the signature: a model whose code came with its weights keeps the older name under a
    newer transformers.
    """
    return next((name for name in _CACHE_ARGUMENTS if accepts(forward, name)), _CACHE_ARGUMENTS[-1])


def is_marked_as_recorded(module: nn.Module) -> bool:
    """Whether transformers has put hooks on a module to record hidden states."""
    return _RECORDED_MARK in module.__dict__


def remove_recorded_mark(module: nn.Module) -> None:
    """Let transformers put its recording hooks on again the next time, after ours took them off."""
    module.__dict__.pop(_RECORDED_MARK, None)


def auto_class(
    config: PreTrainedConfig,
) -> type[AutoModelForCausalLM] | type[AutoModelForImageTextToText]:
    """The class of transformers that loads a checkpoint with its language model head.

    Raises:
        UnsupportedModelError: it is no language model that writes text from left to right.
    """
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    encodes = getattr(config, "is_encoder_decoder", False)
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and not encodes:
        return AutoModelForImageTextToText
    raise UnsupportedModelError(
        f"A model of family '{config.model_type}' is not a decoder-only language model: "
        "transformers has no AutoModelForCausalLM for it. Load a causal language model."
    )


def gguf_families() -> list[str]:
    """The families whose GGUF files transformers reads, but for encoders."""
    known = set(modeling_gguf_pytorch_utils.GGUF_SUPPORTED_ARCHITECTURES)
    encoders = {name for name in known if "t5" in name}
    return sorted(known - encoders - {"general", "tokenizer"})


def gguf_names(model: PreTrainedModel, architecture: str) -> set[str]:
    """The names of the tensors of a GGUF file that transformers puts into a model.

    Args:
        model: made from the file.
        architecture: as the file has it.
    """
    utils = modeling_gguf_pytorch_utils
    make = utils.TENSOR_PROCESSORS.get(architecture, utils.TensorProcessor)
    return set(utils.get_gguf_hf_weights_map(model, make(config=model.config.to_dict())))


def settle_scales(modules: Iterable[nn.Module]) -> None:
    """Bring weights back that a forward pass has scaled for the mode that it ran in.

    RWKV halves weights of its later blocks, in place, when it first runs in evaluation mode, and
    doubles them again in training mode: exactly, by powers of two.
    """
    for module in modules:
        if settle := getattr(type(module), "_rescale_layers", None):
            settle(module)


def run_experts_in(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Let a mixture of experts, just loaded, run in a float type.

    The fast way that transformers chooses, one product for all experts, knows no float64.
    """
    if dtype == torch.float64 and hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")


class CacheLayer(CacheLayerMixin):
    """One layer's keys and values, with the answers that every release of transformers asks for.

    A subclass gives `update` and `get_seq_length`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do."""

    def get_mask_sizes(self, query_length: int | Tensor) -> tuple[int, int]:
        """Columns of the attention mask, and the first of them.

        Args:
            query_length: how many tokens come; in older releases, their places as a tensor.
        """
        coming = len(query_length) if isinstance(query_length, Tensor) else query_length
        return self.get_seq_length() + coming, 0

    def get_max_length(self) -> int:
        """Most tokens it can hold; -1 means that there is no bound."""
        return -1

    def get_max_cache_shape(self) -> int:
        """The same, under the name of older releases."""
        return -1
