"""When two results are the same: dataclasses that hold tensors, compared by what they hold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor


class EqualByContent:
    """A dataclass that is equal to another of its class if every field holds the same.

    Tensors are the same if they agree in shape, dtype and every number; NaN is the same as NaN.
    The class must be declared with `eq=False`, or its own comparison would take this one's place:
    that of a tensor is a tensor, not a yes or no.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return _same_fields(self, other)

    def __hash__(self) -> int:
        """By the texts and whole numbers alone: enough to tell most results apart, and cheap."""
        return hash(tuple(getattr(self, name) for name in _names(self) if _is_plain(self, name)))


def same(one: object, other: object) -> bool:
    """Whether two values hold the same, tensors and NaN included."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return _same_tensors(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list) and type(one) is type(other):
        return _same_sequences(one, other)
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if is_dataclass(one) and type(one) is type(other):
        return one == other if isinstance(one, EqualByContent) else _same_fields(one, other)
    return type(one) is type(other) and bool(one == other)


def _same_tensors(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.allclose(one.cpu(), other.cpu(), rtol=0.0, atol=0.0, equal_nan=True)


def _same_sequences(one: Sequence[Any], other: Any) -> bool:
    return len(one) == len(other) and all(map(same, one, other))


def _same_fields(one: object, other: object) -> bool:
    return all(same(getattr(one, name), getattr(other, name)) for name in _names(one))


def _names(one: Any) -> list[str]:
    return [field.name for field in fields(one)]


def _is_plain(one: object, name: str) -> bool:
    return isinstance(getattr(one, name), str | int)
