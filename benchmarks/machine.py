"""What the machine can do, and what a layer costs: the measure of the other benchmarks."""

import resource
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import factlab as fl
from factlab.models.products import fast_products

T = TypeVar("T")


def matmul_flops(lm: fl.LanguageModel, size: int = 3072) -> tuple[float, float]:
    """FLOP/s of one large product, by `torch.matmul` and by a linear layer inside `frozen()`."""
    layer = nn.Linear(size, size, bias=False, device=lm.device, dtype=lm.dtype).requires_grad_(
        False
    )
    inputs = torch.randn(size, size, device=lm.device, dtype=lm.dtype)

    def measure(product) -> float:
        seconds, _ = timed(lm, product, repeats=5)
        return 2 * size**3 / seconds

    by_torch = measure(lambda: inputs @ layer.weight)
    with torch.no_grad(), fast_products([layer]):
        return by_torch, measure(lambda: layer(inputs))


def timed(lm: fl.LanguageModel, run: Callable[[], T], repeats: int = 1) -> tuple[float, T]:
    """Seconds of the least disturbed of some runs, and what the last one gave."""
    seconds = []
    for _ in range(repeats):
        synchronise(lm)
        began = time.perf_counter()
        found = run()
        synchronise(lm)
        seconds.append(time.perf_counter() - began)
    return min(seconds), found


def synchronise(lm: fl.LanguageModel) -> None:
    if lm.device.type == "cuda":
        torch.cuda.synchronize()


def layer_operations(lm: fl.LanguageModel, n_tokens: float) -> float:
    """Operations of one layer on one token: two per weight, and attention over half the context."""
    weights = sum(
        module.weight.numel()
        for module in lm.layer(0).modules()
        if isinstance(module, nn.Linear | Conv1D)
    )
    return 2 * weights + 4 * lm.d_model * n_tokens / 2


def peak_gib(lm: fl.LanguageModel) -> float:
    """Most memory held so far: of the GPU, or of the process."""
    if lm.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
