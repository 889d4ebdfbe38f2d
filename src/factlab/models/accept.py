"""What may be wrapped at all: a causal language model, and a fast tokenizer.

Asked before anything is computed, so that whatever else someone passes (a wrapper, a model in
pieces, nothing) is answered in one sentence that says what to do, and not by an error inside torch.
Weights may be plain, quantised or offloaded: whatever a forward pass can use.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from factlab.errors import (
    InvalidRequestError,
    ModelLoadError,
    TokenizationError,
    UnsupportedModelError,
)
from factlab.models.stored import is_spread, offloaded
from factlab.projections import FLOATS


def check_model(model: object) -> None:
    """Refuse what is no bare causal language model.

    Raises:
        InvalidRequestError: it is no model.
        UnsupportedModelError: it is in another library's wrapper, has no language model head, or
            has weights that lie in pieces on several devices.
        ModelLoadError: a weight has no numbers, and nothing that would put them in place.
    """
    if not isinstance(model, nn.Module):
        raise InvalidRequestError(
            f"The model is {_described(model)}. Pass a model made with AutoModelForCausalLM, or "
            "load one by its name with factlab.load()."
        )
    _refuse_wrappers(model)
    if not isinstance(model, PreTrainedModel):
        raise UnsupportedModelError(
            f"{type(model).__name__} is not a model of transformers. Pass a model made with "
            "AutoModelForCausalLM."
        )
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{type(model).__name__} is an encoder with a decoder. Pass a decoder-only model made "
            "with AutoModelForCausalLM."
        )
    inside = (module for module in model.modules() if isinstance(module, PreTrainedModel))
    if not any(has_head(module) for module in inside):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no language model head. Load the checkpoint with "
            "AutoModelForCausalLM."
        )
    elsewhere, in_parallel = offloaded(model), (getattr(model, "tp_size", None) or 1) > 1
    spread = [is_spread(parameter) for parameter in model.parameters()]
    if in_parallel and not any(spread):
        raise UnsupportedModelError(
            f"{type(model).__name__} is run in parallel by {model.tp_size} processes, each with a "
            "piece of every weight that looks like a whole one. Load the model with a newer "
            "transformers, or with device='auto', which puts whole layers on several devices."
        )
    for name, parameter in model.named_parameters():
        _check_weight(name, parameter, name in elsewhere, in_parallel)


def has_head(model: PreTrainedModel) -> bool:
    """Whether a model, or a part of one, gives logits of its own."""
    try:
        return isinstance(model.get_output_embeddings(), nn.Module)
    except NotImplementedError:  # what transformers raises for a part that has none
        return False


def check_tokenizer(tokenizer: object) -> None:
    """Refuse what cannot tell which characters a token stands for.

    Raises:
        TokenizationError: it is no tokenizer, not a fast one, or not one of transformers.
    """
    how = "Pass AutoTokenizer.from_pretrained(...) of the model."
    if isinstance(inside := getattr(tokenizer, "tokenizer", None), PreTrainedTokenizerBase):
        raise TokenizationError(
            f"{type(tokenizer).__name__} is not a tokenizer but holds one, of class "
            f"{type(inside).__name__}. Pass its attribute 'tokenizer'."
        )
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        if type(tokenizer).__module__.partition(".")[0] == "tokenizers":
            how = "Wrap it: transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)."
        raise TokenizationError(f"The tokenizer is {_described(tokenizer)}. {how}")
    if getattr(tokenizer, "is_fast", False) is not True:
        raise TokenizationError(
            f"Tokenizer {type(tokenizer).__name__} does not report character offsets. Pass the "
            "model's fast tokenizer: PreTrainedTokenizerFast.from_pretrained(...), which reads "
            "tokenizer.json."
        )


def mixed_dtypes(model: nn.Module) -> str:
    """Which weights differ in float type, in words; empty if none do."""
    first: dict[torch.dtype, str] = {}
    for name, parameter in model.named_parameters():
        if parameter.dtype in FLOATS:  # others are stored so, and not computed with
            first.setdefault(parameter.dtype, name)
    if len(first) < 2:
        return ""
    return ", ".join(f"'{name}' is {str(dtype)[6:]}" for dtype, name in first.items())


def foreign_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers that an adapter library has put into a model, with their paths."""
    for name, module in model.named_modules():
        if _is_of_peft(module):
            yield name, module


def _refuse_wrappers(model: nn.Module) -> None:
    kind = type(model).__name__
    if _is_of_peft(model):
        raise UnsupportedModelError(
            f"{kind} is a model with adapters around it. Pass what model.merge_and_unload() "
            "returns, or the base model alone (the adapter can become an edit: Edit.from_peft)."
        )
    for name, module in model.named_modules():
        if isinstance(getattr(module, "_orig_mod", None), nn.Module):
            where = f"'{name}' of {kind}" if name else "The model"
            raise UnsupportedModelError(
                f"{where} was wrapped by torch.compile. Pass the model that was compiled; the "
                "wrapper keeps it in its attribute '_orig_mod'."
            )
    inside = None if isinstance(model, PreTrainedModel) else getattr(model, "module", None)
    if isinstance(inside, nn.Module):
        raise UnsupportedModelError(
            f"{kind} is a wrapper around {type(inside).__name__}. Pass its attribute 'module'."
        )


def _is_of_peft(module: nn.Module) -> bool:
    return type(module).__module__.partition(".")[0] == "peft"


def _check_weight(name: str, weight: Tensor, is_offloaded: bool, in_parallel: bool) -> None:
    if in_parallel and callable(getattr(weight, "full_tensor", None)):
        return
    if is_spread(weight):
        raise UnsupportedModelError(
            f"Weight '{name}' is a {type(weight.data).__name__}: it is spread as pieces over "
            "devices. Load the model with whole weights on each; device='auto' puts whole layers "
            "on several. transformers' tensor parallelism (tp_plan='auto') will do for asking and "
            "tracing."
        )
    if weight.is_meta and not is_offloaded:
        raise ModelLoadError(
            f"Weight '{name}' has no numbers (it is on torch's device 'meta'), and no hook of "
            "accelerate puts them in place when the model runs. Load the checkpoint with "
            "from_pretrained, or offload it with accelerate's dispatch_model or cpu_offload."
        )


def _described(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
