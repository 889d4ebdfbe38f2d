"""What is tried out of a model's weights when it is loaded: that they are numbers, and multiply.

A matrix that is not plain (quantised, offloaded, of a class of someone's own) is taken for one only
if what it makes of inputs is a product with one, and gradients are taken from it only if they are
those of that product.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from factlab.documents import described
from factlab.errors import ModelLoadError
from factlab.hooks import Hook, attached
from factlab.models.anatomy import Anatomy, LayerParts, Part
from factlab.models.stored import device_of, float_type, is_packed, offloaded, stored
from factlab.projections import FLOATS, is_affine, is_carrier, passes_gradient, widths_of


def check_finite(model: PreTrainedModel) -> None:
    """Refuse weights that are not numbers.

    Raises:
        ModelLoadError: names the first such weight.
        UnsupportedModelError: a weight shows none of what it is made of.
    """
    for name, weight in stored(model).items():
        numbers = weight.detach() if isinstance(weight, Tensor) else weight.read()
        if numbers.is_floating_point() and not _is_finite(numbers):
            raise ModelLoadError(
                f"Weight '{name}' has NaN or infinite entries. "
                "Download or convert the checkpoint again."
            )


def _is_finite(numbers: Tensor) -> bool:
    if numbers.dtype not in FLOATS:  # most operations know nothing of floats of 8 bits
        if numbers.dtype.itemsize != 1 or numbers.dtype.is_complex:
            return True
        try:
            numbers = numbers.to(torch.float32)
        except (RuntimeError, NotImplementedError):  # two of 4 bits in a byte, which are all finite
            return True
    # A sum is finite only if all of it is. Only one that is not is looked at number by number.
    total = numbers.sum(dtype=torch.promote_types(numbers.dtype, torch.float32))
    return bool(total.isfinite()) or bool(torch.isfinite(numbers).all())


def checked_carriers(model: PreTrainedModel, anatomy: Anatomy) -> tuple[Anatomy, tuple[str, ...]]:
    """The anatomy, without matrices that are neither plain nor multiply their input; and which."""
    parts: list[LayerParts] = []
    unlike: list[str] = []
    for index, each in enumerate(anatomy.parts):
        kept = [_checked(model, anatomy, index, p, unlike) for p in (each.mixer, each.mlp)]
        parts.append(LayerParts(*kept))
    return anatomy.with_parts(parts), tuple(unlike)


def _checked(
    model: PreTrainedModel, anatomy: Anatomy, layer: int, part: Part | None, unlike: list[str]
) -> Part | None:
    if part is None or part.projection is None or layer in anatomy.skipped:
        return part
    module = model.get_submodule(f"{anatomy.layers}.{layer}.{part.projection}")
    if not is_carrier(module) or is_affine(module, device_of(module), float_type(model)):
        return part
    unlike.append(f"'{part.projection}' of layer {layer} ({type(module).__name__}) is no product")
    return replace(part, projection=None)


def why_no_gradient(
    model: PreTrainedModel, speaker: PreTrainedModel, anatomy: Anatomy, ids: Tensor
) -> str:
    """Why gradients do not go through a model whose weights are not all plain; empty if they do.

    Args:
        model: the whole.
        speaker: what is called.
        anatomy: where the embedding is.
        ids: of a short text, (1, pos).
    """
    if not anatomy.embed or not any(is_packed(module) for module in model.modules()):
        return ""
    for name, module in _of_each_kind(model):
        if not passes_gradient(module, device_of(module), float_type(model)):
            return (
                f"gradients do not pass through '{name}' ({type(module).__name__}) as they would "
                "through a product"
            )
    if offloaded(model):  # a backward pass holds all of it in memory: not tried without need
        return ""
    tapped: list[Tensor] = []
    embedding = model.get_submodule(anatomy.embed)

    def tap(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        tapped.append(output.detach().requires_grad_())
        return tapped[-1]

    try:
        with torch.enable_grad(), attached([Hook(embedding, tap)]):
            logits = speaker(input_ids=ids, use_cache=False).logits
            (gradient,) = torch.autograd.grad(logits[0, -1].float().square().sum(), tapped)
    except Exception as error:  # the code of any library may fail in any way
        return f"gradients do not pass through it: {described(error)}"
    return "" if _is_finite(gradient) else "gradients that pass through it are not finite"


def _of_each_kind(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """One packed product of each class and size."""
    seen: set[object] = set()
    for name, module in model.named_modules():
        kind = (type(module), widths_of(module))
        if kind[1] is not None and is_packed(module) and kind not in seen:
            seen.add(kind)
            yield name, module
