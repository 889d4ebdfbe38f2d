"""What is checked when a model is loaded, so that a wrong path shows then and not in a result.

* every part is where the architecture says, and its states have the shapes they should;
* the states that hooks see are the ones that the model itself reports as hidden states;
* the replay engine gives the model's own logits, from the first layer and from the middle of a
  text on;
* no weight is NaN or infinite.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from factlab.architectures import check_kinds, check_widths, layout_of
from factlab.documents import described
from factlab.errors import FactlabError, ModelLoadError, UnsupportedModelError
from factlab.families import Architecture
from factlab.hooks import Hook, attached
from factlab.interrupts import undone
from factlab.models.accept import mixed_dtypes
from factlab.models.cache import Prefix, RecordingCache
from factlab.tokens import pad
from factlab.transformers_api import is_marked_as_recorded, remove_recorded_mark

if TYPE_CHECKING:
    from factlab.models.language_model import LanguageModel

M = TypeVar("M", bound=nn.Module)

_PROBE_LENGTH = 6


def check_finite(model: PreTrainedModel) -> None:
    """Refuse weights that are not numbers.

    Raises:
        ModelLoadError: names the first such weight.
    """
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ModelLoadError(
                f"Weight '{name}' has NaN or infinite entries. "
                "Download or convert the checkpoint again."
            )


def check_structure(model: PreTrainedModel, architecture: Architecture) -> bool:
    """Resolve every path and compare one forward pass with the model's own hidden states.

    Returns:
        Whether the decoder layers return a tuple instead of a tensor.

    Raises:
        UnsupportedModelError: names what is missing or differs.
    """
    embed = resolve(model, architecture.embed, nn.Embedding)
    layers = list(resolve(model, architecture.layers, nn.ModuleList).children())
    if not layers:
        raise UnsupportedModelError(f"'{architecture.layers}' holds no layers.")
    check_kinds(layers, architecture)
    for layer in layers:
        for path in (architecture.attn_out, architecture.mlp_out):
            layout_of(resolve(layer, path, nn.Module))
    check_widths(layers, architecture)

    outputs: list[Any] = []
    with _explained(model, "be called as a decoder"), _probing(model):
        hooks = [
            Hook(layer, lambda _module, _args, output: outputs.append(output)) for layer in layers
        ]
        with attached(hooks):
            ids = _probe_ids(embed)
            reported = model(input_ids=ids, output_hidden_states=True, use_cache=False)
    returns_tuple = isinstance(outputs[0], tuple) if outputs else False
    for output in outputs:
        if not isinstance(output, tuple | Tensor):
            raise UnsupportedModelError(
                f"The layers of {type(model).__name__} return a {type(output).__name__}, not a "
                "tensor or a tuple that begins with one. Such models are not supported."
            )
    states = [output[0] if isinstance(output, tuple) else output for output in outputs]
    if len(states) != len(layers):
        raise UnsupportedModelError(
            f"'{architecture.layers}' ran {len(states)} times in one forward pass of a model with "
            f"{len(layers)} layers. Layers that are shared or skipped are not supported."
        )
    if len(reported.hidden_states or ()) != len(layers) + 1:
        raise UnsupportedModelError(
            f"{type(model).__name__} reports {len(reported.hidden_states or ())} hidden states, "
            f"not one for each of its {len(layers)} layers and one for their input."
        )
    # The last reported state is after the final norm in most families, so it is left out.
    for index, (state, hidden) in enumerate(
        zip(states[:-1], reported.hidden_states[1:-1], strict=True)
    ):
        if state.shape != hidden.shape or not _close(state, hidden):
            raise UnsupportedModelError(
                f"The output of layer {index} at '{architecture.layers}' is not the hidden state "
                f"that {type(model).__name__} reports for it."
            )
    return returns_tuple


@torch.no_grad()
def check_replay(lm: "LanguageModel") -> int:
    """Compare the replay engine with the model's own forward pass.

    Returns:
        How many numbers the keys and values of a token are, all layers together.

    Raises:
        UnsupportedModelError: the logits differ.
    """
    with _explained(lm.model, "be run layer by layer"), _probing(lm.model):
        ids = _probe_ids(lm.embedding)
        expected = lm.model(input_ids=ids, use_cache=False).logits[0]
        batch = pad([ids[0].tolist()], lm.device)
        cache = RecordingCache(lm.n_layers, _PROBE_LENGTH)
        middle = _PROBE_LENGTH // 2
        whole = lm.readout(lm.run(lm.frame(batch, cache))[0])
        right = lm.readout(lm.run(lm.frame(batch, Prefix.of(cache, middle), middle))[0])
    for what, logits, reference in (
        ("whole", whole, expected),
        ("from its middle on", right, expected[middle:]),
    ):
        if logits.shape != reference.shape or not _close(logits, reference):
            raise UnsupportedModelError(
                f"Running the layers of {type(lm.model).__name__} one by one over a text {what} "
                "does not give the model's own logits; its forward pass does more than call them "
                "in order. Tracing and editing this model would be wrong."
            )
    return sum(x.numel() for pair in cache.keys_values for x in pair) // _PROBE_LENGTH


def resolve(root: nn.Module, path: str, kind: type[M]) -> M:
    """The module of some class at a dotted path.

    Raises:
        UnsupportedModelError: nothing is there, or something else.
    """
    try:
        module = root.get_submodule(path)
    except AttributeError as error:
        raise UnsupportedModelError(f"{type(root).__name__} has no module '{path}'.") from error
    if not isinstance(module, kind):
        raise UnsupportedModelError(
            f"'{path}' of {type(root).__name__} is a {type(module).__name__}, "
            f"not a {kind.__name__}."
        )
    return module


def _probe_ids(embedding: nn.Embedding) -> Tensor:
    weight = embedding.weight
    ids = torch.arange(1, _PROBE_LENGTH + 1, device=weight.device) * 7 % weight.shape[0]
    return ids[None]


def _close(a: Tensor, b: Tensor) -> bool:
    """Equal but for rounding: by the size of the difference over that of the tensor."""
    expected = b.detach().float()
    difference = (a.detach().to(b.device).float() - expected).norm()
    tolerance = 0.1 if b.dtype.itemsize == 2 else 1e-4
    return float(difference) <= tolerance * max(float(expected.norm()), 1e-6)


@contextmanager
def _explained(model: PreTrainedModel, what: str) -> Iterator[None]:
    """Say in one sentence what a model cannot do, whatever its own code makes of our call."""
    name = type(model).__name__
    try:
        yield
    except (FactlabError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the code of any model may fail in any way
        reason = described(error)
        if mixed := mixed_dtypes(model):
            raise UnsupportedModelError(
                f"The weights of {name} are not all of one float type ({mixed}), and it cannot "
                f"{what}: {reason}. Give them one type, such as model.to(torch.float32)."
            ) from error
        raise UnsupportedModelError(f"{name} cannot {what}: {reason}.") from error


@contextmanager
def _probing(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode without gradients, and no trace left of transformers' own recording hooks.

    transformers installs hooks the first time hidden states are asked for, and keeps them.
    """
    before = [
        _Before(m, m.training, frozenset(m._forward_hooks), is_marked_as_recorded(m))
        for m in model.modules()
    ]
    with undone(partial(_put_back, before)), torch.no_grad():
        for each in before:
            each.module.training = False
        yield


class _Before(NamedTuple):
    """How a module was: whether in training, which hooks it had, whether it was marked."""

    module: nn.Module
    training: bool
    hooks: frozenset[int]
    is_marked: bool


def _put_back(modules: Sequence[_Before]) -> None:
    for module, training, hooks, is_marked in modules:
        module.training = training
        for key in [key for key in module._forward_hooks if key not in hooks]:
            del module._forward_hooks[key]
        if not is_marked:
            remove_recorded_mark(module)
