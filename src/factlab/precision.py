"""How precisely numbers are worked with: never less than in float32, whatever the model's dtype."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.interrupts import undone

_COARSE = ("tf32", "bf16")


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in: float32, or the given one where that is wider."""
    return torch.promote_types(dtype, torch.float32)


def widened(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The same numbers in at least float32; float64 stays float64."""
    return tensor.to(wide(tensor.dtype))


@contextmanager
def full_products() -> Iterator[None]:
    """Products of float32 matrices in float32, whatever the process has chosen for them.

    Who asks torch for products in TF32 (on GPUs) or bfloat16 (on processors) gets them from the
    model. What must be right to more digits, such as sums over thousands of rows, is worked out in
    this block. The choice is the process's: other threads multiply in float32 for as long, too.
    """
    places: list[Any] = [
        getattr(backend, "matmul", None) for backend in (torch.backends.cuda, torch.backends.mkldnn)
    ]
    if not hasattr(places[0], "fp32_precision"):  # torch before 2.9
        chosen = torch.get_float32_matmul_precision()
        with undone(lambda: torch.set_float32_matmul_precision(chosen)):
            torch.set_float32_matmul_precision("highest")
            yield
        return
    chosen_at = [(place, getattr(place, "fp32_precision", "")) for place in places]
    coarse = [(place, precision) for place, precision in chosen_at if precision in _COARSE]

    def put_back() -> None:
        for place, precision in coarse:
            place.fp32_precision = precision

    with undone(put_back):
        for place, _ in coarse:
            place.fp32_precision = "ieee"
        yield
