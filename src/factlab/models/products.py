"""Matrix products in float32 on CPUs with AVX-512, through oneDNN.

torch multiplies float32 matrices on x86 with MKL, which on processors not made by Intel keeps to
AVX2. oneDNN, which torch ships too and uses for bfloat16, goes by what the processor can do: on an
AMD EPYC it is 2.2 times as fast, at the same precision. While a model is frozen, its linear
layers multiply through oneDNN.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from factlab.interrupts import undone
from factlab.precision import full_products
from factlab.transformers_api import Conv1D


@contextmanager
def fast_products(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Let the linear layers among some modules multiply through oneDNN inside the block.

    Nothing happens on processors without AVX-512, on a GPU, in other dtypes, or under autocast.
    A layer whose `forward` someone else has replaced is left alone.
    """
    forwards: dict[nn.Module, Callable[..., Any]] = {}
    for module in modules if _is_worthwhile() else ():
        forward = _FORWARDS.get(type(module))
        if forward is not None and "forward" not in vars(module) and _is_plain(module):
            forwards[module] = partial(forward, module)
    with replaced(forwards):
        yield


@contextmanager
def replaced(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let modules compute something else inside the block, and what they did after it."""
    before = {module: vars(module).get("forward") for module in forwards}
    with undone(partial(_put_back, before)):
        for module, forward in forwards.items():
            vars(module)["forward"] = forward
        yield


def _put_back(forwards: Mapping[nn.Module, Callable[..., Any] | None]) -> None:
    for module, forward in forwards.items():
        if forward is None:
            vars(module).pop("forward", None)
        else:
            vars(module)["forward"] = forward


@cache
def _is_worthwhile() -> bool:
    """Whether this processor gains, and this torch has the operation, giving the right result."""
    if (
        platform.machine().lower() not in ("x86_64", "amd64")
        or torch.backends.cpu.get_cpu_capability() != "AVX512"
        or not torch.backends.mkldnn.is_available()
    ):
        return False
    left = torch.arange(12.0, device="cpu").view(3, 4)
    try:
        product = _multiply(left, left, None)
    except (AttributeError, RuntimeError):  # an operation without a promise of stability
        return False
    return torch.equal(product, left @ left.T)


def _is_plain(module: nn.Module) -> bool:
    weight = module.weight
    return (
        type(weight) in (Tensor, nn.Parameter)
        and weight.dtype is torch.float32
        and weight.device.type == "cpu"
        and weight.layout is torch.strided
    )


def _multiply(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Inputs · weightᵀ + bias."""
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Inputs · weightᵀ + bias, by the fastest product there is for any weight (out×in)."""
    plain = weight.dtype is torch.float32 and weight.device.type == "cpu" and _is_worthwhile()
    return _product(inputs, weight, bias) if plain else functional.linear(inputs, weight, bias)


def gram(rows: Float[Tensor, "row width"]) -> Float[Tensor, "width width"]:
    """Σ over rows of r rᵀ, in the rows' own dtype, by the fastest product there is."""
    columns = rows.T.contiguous()
    with full_products():  # sums over thousands of rows
        if rows.dtype is torch.float32 and rows.device.type == "cpu" and _is_worthwhile():
            return _multiply(columns, columns, None)
        with torch.autocast(rows.device.type, enabled=False):
            return columns @ rows


class _Product(torch.autograd.Function):
    """The same with a gradient for the inputs."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _multiply(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _multiply(grads[0].contiguous(), weight.T, None), None, None


def _product(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # Who asks for mixed precision gets it: torch casts in its own operations only.
    mixed = torch.is_autocast_enabled("cpu")
    if mixed or inputs.dtype is not torch.float32 or inputs.numel() == 0:
        return functional.linear(inputs, weight, bias)
    if torch.is_grad_enabled():
        if weight.requires_grad or (bias is not None and bias.requires_grad):
            return functional.linear(inputs, weight, bias)
        if inputs.requires_grad:
            return _Product.apply(inputs, weight, bias)
    return _multiply(inputs, weight, bias)


def _linear_forward(module: Any, inputs: Tensor) -> Tensor:
    return _product(inputs, module.weight, module.bias)


def _conv1d_forward(module: Any, inputs: Tensor) -> Tensor:
    return _product(inputs, module.weight.T, module.bias)


_FORWARDS: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    nn.Linear: _linear_forward,
    Conv1D: _conv1d_forward,
}
