"""How precisely numbers are worked with: never less than in float32, whatever the model's dtype."""

import torch
from jaxtyping import Float
from torch import Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in: float32, or the given one where that is wider."""
    return torch.promote_types(dtype, torch.float32)


def widened(tensor: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The same numbers in at least float32; float64 stays float64."""
    return tensor.to(wide(tensor.dtype))
