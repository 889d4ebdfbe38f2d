"""ROME's closed form: the smallest change of a linear memory that stores one new pair.

Equation 2 of the ROME paper, derived in its appendix A:

    minimise ‖Ŵ K − V‖  subject to  Ŵ k* = v*
    Ŵ = W + Λ (C⁻¹ k*)ᵀ,     Λ = (v* − W k*) / ((C⁻¹ k*)ᵀ k*)

| paper | here |
|---|---|
| k*, v* | `key`, `value` |
| W k* | `output` |
| C⁻¹ k*, with C = K Kᵀ up to scale | `direction` |
| Λ, (C⁻¹ k*)ᵀ | `left`, `right` |

The scale of C cancels. An output bias needs no term of its own: with output = W k* + b and a value
that includes b, their difference is the same.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.errors import EditError


def rank_one_factors(
    key: Float[Tensor, " d_in"],
    value: Float[Tensor, " d_out"],
    output: Float[Tensor, " d_out"],
    direction: Float[Tensor, " d_in"],
) -> tuple[Float[Tensor, "d_out 1"], Float[Tensor, "1 d_in"]]:
    """Factors of the change after which `key` gives `value` instead of `output`.

    Args:
        key: k*.
        value: v*.
        output: what the projection gives for k* now.
        direction: C⁻¹k*, from `SecondMoment.solve`. Any other vector also stores the pair, if not
            by the smallest change.

    Returns:
        left (d_out, 1) and right (1, d_in), float64 on the CPU; their product is ΔW.

    Raises:
        EditError: the key is orthogonal to its own direction, so no finite change does it.
    """
    key, value, output, right = (v.cpu().double() for v in (key, value, output, direction))
    right = right / torch.linalg.vector_norm(right)
    scale = right @ key
    if not torch.isfinite(scale) or abs(float(scale)) <= 1e-12 * float(key.norm()):
        raise EditError(
            "The key has no component along C⁻¹k (it is zero or not finite). Edit another layer, "
            "or collect statistics from more text."
        )
    return ((value - output) / scale)[:, None], right[None]


def stored_in_turn(
    keys: Float[Tensor, "fact d_in"],
    values: Float[Tensor, "fact d_out"],
    outputs: Float[Tensor, "fact d_out"],
    directions: Float[Tensor, "fact d_in"],
) -> tuple[Float[Tensor, "d_out fact"], Float[Tensor, "fact d_in"]]:
    """Factors of the change that stores pairs one after the other.

    Each pair is stored in the memory that those before it have left, so that the last one holds
    exactly, and an earlier one as far as later keys leave it alone.

    Args:
        keys: k* of every pair, in order.
        values: v* of each.
        outputs: what the projection gives for each key before the first change.
        directions: C⁻¹k* of each.

    Returns:
        left (d_out, fact) and right (fact, d_in), float64 on the CPU; their product is ΔW.

    Raises:
        EditError: see `rank_one_factors`.
    """
    n_facts, width = keys.shape
    left = torch.zeros(outputs.shape[1], n_facts, dtype=torch.float64, device="cpu")
    right = torch.zeros(n_facts, width, dtype=torch.float64, device="cpu")
    for i, (key, value, output, direction) in enumerate(
        zip(keys.cpu().double(), values, outputs.cpu().double(), directions, strict=True)
    ):
        now = output + left[:, :i] @ (right[:i] @ key)
        column, row = rank_one_factors(key, value, now, direction)
        left[:, i], right[i] = column[:, 0], row[0]
    return left, right
