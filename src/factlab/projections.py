"""Matrix products inside a model: which modules are such, and how their weights lie.

A *plain* one multiplies by a tensor of floats that is there to be read and written. Dimensions are
read off the weight, its orientation from the class of the module. Others only say how wide their
input and output are: quantised ones, those whose weight is offloaded, classes of anyone's own. What
these multiply by is known by what they make of inputs, and whether they multiply at all is tried
out (`is_affine`), never told by a name. A change of such a one is carried beside it.
"""

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from factlab.errors import UnsupportedModelError
from factlab.families import Layout
from factlab.transformers_api import Conv1D

# The float types that weights may have; those of 8 bits are ways to store quantised ones.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Subclasses of nn.Linear that do what it does, by another order of operations.
_PLAIN_SUBCLASSES = ("transformers.models.falcon.modeling_falcon.FalconLinear",)


def layout_of(module: nn.Module) -> Layout:
    """How a projection's weight is oriented, by its class: never guessed from shapes.

    Only the classes themselves count. What inherits from `nn.Linear` may multiply by something else
    than its weight, as the layers of quantised models do.

    Raises:
        UnsupportedModelError: the module is neither `nn.Linear` nor transformers' `Conv1D`, or its
            weights are quantised.
    """
    kind = type(module)
    if is_plain(module):
        return orientation_of(module)
    name = kind.__name__
    if kind.__module__.partition(".")[0] == "peft":
        raise UnsupportedModelError(
            f"An adapter ({name} of peft) is around a projection that factlab reads and edits. "
            "Pass what merge_and_unload() of the PeftModel returns."
        )
    raise UnsupportedModelError(
        f"Projection of class {kind.__module__}.{name} is not a plain nn.Linear or Conv1D of "
        "floats that can be written, as in a quantised or offloaded model. Load the model "
        "unquantised and whole, in float32, bfloat16, float16 or float64, make the edit there, and "
        "put it on this one with force, or as an adapter (Edit.to_peft)."
    )


def orientation_of(module: nn.Module) -> Layout:
    """How the weight of a matrix product lies, or is named as if it did where it is packed."""
    return "in_out" if type(module) is Conv1D else "out_in"


def is_projection(module: nn.Module) -> TypeGuard[nn.Linear | Conv1D]:
    """Whether a module is a plain matrix product."""
    kind = type(module)
    return kind in (nn.Linear, Conv1D) or f"{kind.__module__}.{kind.__name__}" in _PLAIN_SUBCLASSES


def is_plain(module: nn.Module) -> TypeGuard[nn.Linear | Conv1D]:
    """Whether a module is a matrix product whose weight is a plain tensor of floats."""
    if not is_projection(module):
        return False
    weight = module.weight
    return type(weight) in {Tensor, nn.Parameter} and weight.dtype in FLOATS and not weight.is_meta


def is_writer(module: nn.Module) -> bool:
    """Whether a module is a matrix product, or says that it is as wide as one."""
    return widths_of(module) is not None


def is_carrier(module: nn.Module) -> bool:
    """Whether a module may be a matrix product that is not plain."""
    return not is_plain(module) and is_writer(module)


def widths_of(module: nn.Module) -> tuple[int, int] | None:
    """(d_out, d_in) of a matrix product; None if a module does not say that it is one."""
    if is_plain(module):
        d_out, d_in = module.weight.shape
        return (d_in, d_out) if orientation_of(module) == "in_out" else (d_out, d_in)
    for names in (("out_features", "in_features"), ("outfeatures", "infeatures"), ("nf", "nx")):
        d_out, d_in = (getattr(module, name, None) for name in names)
        if isinstance(d_out, int) and isinstance(d_in, int) and d_out > 0 and d_in > 0:
            return d_out, d_in
    return None


# What rounding of inputs to 8 bits may do to a product; any bend of a function does more.
_ROUNDING = 0.1
_TIMES = 64


@torch.no_grad()
def is_affine(module: Any, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a module gives W x + b for each token alone, but for rounding: by trying it out.

    Args:
        module: that says how wide it is.
        device: where its inputs go.
        dtype: of its inputs.
    """
    widths = widths_of(module)
    if widths is None:
        return False
    draws = torch.Generator("cpu").manual_seed(0)
    a, b = torch.randn(2, widths[1], generator=draws, device="cpu").to(device, dtype)
    inputs = torch.stack([a, b, a + b, torch.zeros_like(a), _TIMES * a])[None]
    try:
        outputs, alone = module(inputs), module(a[None, None])
    except Exception:  # code of any library: what cannot be tried out is not known to be a product
        return False
    if not isinstance(outputs, Tensor) or outputs.shape != (1, len(inputs[0]), widths[0]):
        return False
    of_a, of_b, of_both, of_none, of_many = outputs[0].to(torch.float64)
    return (
        _near(of_both - of_none, of_a + of_b - 2 * of_none)
        and _near(of_many - of_none, _TIMES * (of_a - of_none))
        and _near(alone[0, 0].to(torch.float64), of_a)
    )


def passes_gradient(module: Any, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the gradient of the input of an affine module is what its outputs say.

    Args:
        module: see `is_affine`.
        device: of its inputs.
        dtype: of its inputs.
    """
    widths = widths_of(module)
    if widths is None:
        return False
    draws = torch.Generator("cpu").manual_seed(0)
    x, *steps = torch.randn(9, widths[1], generator=draws, device="cpu").to(device, dtype)
    onto = torch.randn(widths[0], generator=draws, device="cpu").to(device, torch.float64)
    with torch.enable_grad():
        inputs = x[None, None].clone().requires_grad_()
        try:
            (gradient,) = torch.autograd.grad(module(inputs)[0, 0].double() @ onto, inputs)
        except Exception:  # as above: a product without a backward pass
            return False
    with torch.no_grad():
        ends = module(torch.stack([torch.zeros_like(x), *steps])[None])[0].to(torch.float64)
    expected = (ends[1:] - ends[0]) @ onto
    return _near(torch.stack(steps).double() @ gradient[0, 0].double(), expected)


@torch.no_grad()
def matrix_of(module: Any, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The matrix (out×in) that an affine module multiplies by, read off its outputs.

    Args:
        module: see `is_affine`.
        device: of its inputs.
        dtype: of its inputs.

    Raises:
        UnsupportedModelError: it does not say how wide it is.
    """
    widths = widths_of(module)
    if widths is None:
        raise UnsupportedModelError(f"{type(module).__name__} is no matrix product.")
    d_out, d_in = widths
    matrix = torch.empty(d_out, d_in, dtype=torch.promote_types(dtype, torch.float32))
    nothing = module(torch.zeros(1, 1, d_in, device=device, dtype=dtype))[0]
    for start in range(0, d_in, _AT_ONCE):
        stop = min(d_in, start + _AT_ONCE)
        units = torch.zeros(1, stop - start, d_in, device=device, dtype=dtype)
        units[0, torch.arange(stop - start), torch.arange(start, stop)] = 1
        matrix[:, start:stop] = (module(units)[0].float() - nothing.float()).T
    return matrix


_AT_ONCE = 1024


def _near(a: Tensor, b: Tensor) -> bool:
    """Equal but for the rounding of inputs."""
    return bool((a - b).norm() <= _ROUNDING * b.norm().clamp(min=1e-30))
