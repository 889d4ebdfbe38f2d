"""Trying a model out when it is loaded, without leaving a trace on it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from factlab.documents import described
from factlab.errors import FactlabError, UnsupportedModelError
from factlab.interrupts import undone
from factlab.models.accept import mixed_dtypes
from factlab.precision import full_products
from factlab.transformers_api import is_marked_as_recorded, remove_recorded_mark, settle_scales

LENGTH = 6


def probe_ids(n_tokens: int, device: torch.device) -> Tensor:
    """A short text of tokens that differ, (1, pos)."""
    ids = torch.arange(1, LENGTH + 1, device=device) * 7 % max(1, n_tokens)
    return ids[None]


def close(a: Tensor, b: Tensor) -> bool:
    """Equal but for rounding: by the size of the difference over that of the tensor."""
    if a.shape != b.shape:
        return False
    expected = b.detach().float()
    difference = (a.detach().to(b.device).float() - expected).norm()
    tolerance = 0.1 if b.dtype.itemsize == 2 else 1e-4
    return float(difference) <= tolerance * max(float(expected.norm()), 1e-6)


@contextmanager
def explained(model: PreTrainedModel, what: str) -> Iterator[None]:
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
def probing(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode without gradients, full products, and no trace left of recording hooks.

    transformers installs such hooks the first time hidden states are asked for, and keeps them.
    """
    before = [
        _Before(m, m.training, frozenset(m._forward_hooks), is_marked_as_recorded(m))
        for m in model.modules()
    ]
    with undone(partial(_put_back, before)), torch.no_grad(), full_products():
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
    settle_scales(each.module for each in modules)
