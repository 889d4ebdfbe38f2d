"""Numbers of rows and columns, as tensors where they are used.

Sending them to a GPU makes the CPU wait until the GPU has done all that it was given so far. What
the same loop asks for again and again is therefore sent once.
"""

from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

_KEPT = 512  # short rows of numbers


@lru_cache(maxsize=_KEPT)
def places(numbers: tuple[int, ...], device: torch.device) -> Int[Tensor, " place"]:
    """Some numbers on a device. Others are given the same tensor, so it must not be changed."""
    with torch.inference_mode(False):  # whoever comes next may need gradients
        return torch.tensor(numbers, dtype=torch.long, device=device)
