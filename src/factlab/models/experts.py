"""Mixtures of experts as one linear memory.

A layer whose MLP is a mixture sends each token to a few of its E experts. Expert e makes a key k_e
of the token and multiplies it by its own matrix W_e; the results are added with the router's
weights w_e. What comes out at a token is

    Σ_e w_e (W_e k_e + b_e)  =  [W_1 … W_E] κ + Σ_e w_e b_e,     κ = (w_1 k_1, …, w_E k_E)

with w_e = 0 where e was not chosen. So the mixture is *one* linear memory: the stacked matrix
[W_1 … W_E], looked up with the *stacked key* κ, which is zero but for the experts that were chosen.
The biases do not depend on the matrices, so all that the closed forms say of W and k holds of it.

ROME's smallest change that moves the output by δ at κ, in the metric of C, is (δ / s) (C⁻¹ κ)ᵀ with
s = κᵀ C⁻¹ κ. Here C is block-diagonal, C = diag(C_1 … C_E) with C_e = E[κ_e κ_eᵀ] over *all* tokens
(the router's weight is in κ_e, and a token that e did not get counts as zero), so

    Δ_e = (δ / s) (C_e⁻¹ κ_e)ᵀ,     s = Σ_e κ_eᵀ C_e⁻¹ κ_e

one outer product for each expert that was chosen, and none for the others. Expert e brings
κ_eᵀ C_e⁻¹ κ_e / s of δ about: its *share*. MEMIT and EMMET ask for C⁻¹ κ and inner products only.

Three things are taken as they are:

* blocks between experts, E[κ_e κ_fᵀ], are left out. They are not zero: two experts are chosen for
  one token. The pair is stored exactly all the same; what is smallest is the change by the sum of
  what it does to each expert's own tokens;
* the router's choice at the key. A text that is routed otherwise meets only the experts it shares
  with the key: of δ it gets Σ_e (C_e⁻¹ κ_e)ᵀ κ'_e / s, nothing if it shares none;
* Llama 4 multiplies what *enters* an expert by w_e. Its κ_e is the key of that, no weight after it.

Keys are read through the container's own code: a copy of it gets selection matrices (rows of the
identity) in place of W_e and no bias, so what it gives *is* the key, whatever gate it has. When a
model is loaded, [W_1 … W_E] κ + Σ w_e b_e is compared with what the container gives, and the
layer's MLP output with and without something added to it.

transformers keeps the matrices of all experts in one parameter. How it is oriented is told by the
container (what `use_experts_implementation` notes on it) or by the name of its class, never by
shapes.

Sources: ROME paper, appendix A, for the closed form; the rest is worked out here.
"""

import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from factlab.errors import UnsupportedModelError
from factlab.families import Layout
from factlab.precision import wide
from factlab.projections import FLOATS

_DOWN, _BIAS = "down_proj", "down_proj_bias"


@dataclass(frozen=True, slots=True)
class Mixture:
    """How one container of experts keeps its matrices, and how it is called.

    Attributes:
        path: of the container, inside its layer.
        layout: of each expert's matrix in the parameter.
        n_experts: how many there are, E.
        d_expert: width of one expert's hidden layer.
        d_model: width of what comes out.
        n_chosen: experts for a token.
        sorted_rows: whether it is called with a row for each expert and token, each multiplied by
            its weight before; else with the tokens, and the experts and weights of each.
    """

    path: str
    layout: Layout
    n_experts: int
    d_expert: int
    d_model: int
    n_chosen: int = 0
    sorted_rows: bool = False

    @property
    def width(self) -> int:
        """Of a stacked key: E · d_expert."""
        return self.n_experts * self.d_expert

    @property
    def weight(self) -> str:
        """Path of the parameter, inside the layer."""
        return f"{self.path}.{_DOWN}"


class Shared(NamedTuple):
    """The expert beside the others that every token goes through: a plain MLP, κ = g k.

    Attributes:
        projection: path of its last matrix, inside the layer.
        gate: of the matrix whose sigmoid is its weight g; None if g is 1.
    """

    projection: str
    gate: str | None


class _Kind(NamedTuple):
    """What a class of containers is like that says nothing about itself."""

    layout: Layout
    sorted_rows: bool


_KINDS = {
    "Llama4TextExperts": _Kind("in_out", sorted_rows=True),
    "Step3p7Experts": _Kind("out_in", sorted_rows=False),
}


class Routed(NamedTuple):
    """What a container was called with, token by token. Leading dimensions are the tokens'.

    Attributes:
        inputs: (*token, d_model); with sorted rows (*token, expert, d_model).
        weights: the router's, (*token, expert), 0 where an expert was not chosen; with sorted rows
            1 where it was, since they are in the inputs.
    """

    inputs: Float[Tensor, "*token d_model"]
    weights: Float[Tensor, "*token expert"]


def mixture_of(path: str, container: nn.Module) -> Mixture:
    """What is known of a container by its own notes or its class.

    Raises:
        UnsupportedModelError: it is none that factlab can look into; says why.
    """
    name, own = type(container).__name__, vars(container)
    kind = _KINDS.get(name)
    if kind is None and isinstance(own.get("is_transposed"), bool) and "has_bias" in own:
        kind = _Kind("in_out" if own["is_transposed"] else "out_in", sorted_rows=False)
    if kind is None:
        raise UnsupportedModelError(
            f"how its experts ({name}) keep their matrices and are called is not known"
        )
    if own.get("has_post_expert_norm"):
        raise UnsupportedModelError(
            f"a norm stands behind each expert's matrix ({name}), so their sum is not linear in it"
        )
    weight = container._parameters.get(_DOWN)
    if weight is None or type(weight) is not nn.Parameter or weight.ndim != 3:
        raise UnsupportedModelError(f"its experts ({name}) have no one parameter '{_DOWN}'")
    if weight.dtype not in FLOATS or weight.is_meta:
        raise UnsupportedModelError(
            f"the matrices of its experts ({name}) are no plain floats in memory"
        )
    n_experts, *sides = weight.shape
    d_model, d_expert = sides if kind.layout == "out_in" else sides[::-1]
    return Mixture(
        path, kind.layout, n_experts, d_expert, d_model, sorted_rows=kind.sorted_rows
    )  # fmt: skip


def routed(mixture: Mixture, container: nn.Module, args: Any, kwargs: Any) -> Routed:
    """What a container is called with, by token, from the arguments of a call.

    Raises:
        UnsupportedModelError: it is called in another way.
    """
    try:
        bound = inspect.signature(_own_forward(container)).bind(container, *args, **kwargs)
    except TypeError as error:
        raise UnsupportedModelError(f"its experts are called in another way: {error}") from error
    _, inputs, *routing = bound.arguments.values()
    if mixture.sorted_rows:
        rows = inputs.view(mixture.n_experts, -1, inputs.shape[-1]).transpose(0, 1).clone()
        return Routed(rows, (rows != 0).any(-1).to(rows.dtype))
    if len(routing) != 2 or inputs.ndim != 2:
        raise UnsupportedModelError("its experts are not called with tokens, experts and weights")
    chosen, weights = routing
    if chosen.shape != weights.shape or chosen.dtype.is_floating_point:
        raise UnsupportedModelError("its experts are not called with the experts of each token")
    if int(chosen.min()) < 0 or int(chosen.max()) >= mixture.n_experts:
        raise UnsupportedModelError("tokens are sent to experts that have no matrix")
    every = weights.new_zeros(len(inputs), mixture.n_experts)
    return Routed(inputs.clone(), every.scatter_add_(1, chosen, weights))


@torch.no_grad()
def expert_keys(
    mixture: Mixture, container: nn.Module, calls: Routed, expert: int
) -> tuple[Int[Tensor, " some"], Float[Tensor, "some d_expert"]]:
    """κ_e of the tokens that an expert got, in at least float32.

    Args:
        mixture: how the container is called.
        container: the experts.
        calls: by token, (token, …).
        expert: which.

    Returns:
        Numbers of these tokens, and their keys.
    """
    weights = calls.weights[:, expert]
    (tokens,) = torch.nonzero(weights, as_tuple=True)
    rows = calls.inputs[tokens, expert] if mixture.sorted_rows else calls.inputs[tokens]
    if not len(tokens):
        return tokens, rows.new_zeros(0, mixture.d_expert, dtype=wide(rows.dtype))
    clone, forward = _bare(container), _own_forward(container)
    parts: list[Tensor] = []
    for selection in _selections(mixture, clone):
        clone._parameters[_DOWN] = selection
        if mixture.sorted_rows:
            padded = rows.new_zeros(mixture.n_experts, *rows.shape)
            padded[expert] = rows
            given = forward(clone, padded.flatten(0, 1))
            parts.append(given.view(padded.shape)[expert])
            continue
        chosen = torch.full_like(tokens, expert)[:, None]
        parts.append(forward(clone, rows, chosen, weights.new_ones(len(rows), 1)))
    keys = torch.cat(parts, -1)[:, : mixture.d_expert]
    keys = keys.to(wide(keys.dtype))
    # Behind the matrix in the container's own code, before it here: the same, but not yet rounded.
    return tokens, keys * weights[tokens, None].to(keys.device, keys.dtype)


def stacked_keys(
    mixture: Mixture, container: nn.Module, calls: Routed
) -> Float[Tensor, "token width"]:
    """κ of each token, zero in the blocks of experts that it was not sent to."""
    dtype = wide(calls.inputs.dtype)
    stacked = calls.inputs.new_zeros(len(calls.weights), mixture.width, dtype=dtype)
    blocks = stacked.unflatten(1, (mixture.n_experts, mixture.d_expert))
    for expert in range(mixture.n_experts):
        tokens, keys = expert_keys(mixture, container, calls, expert)
        blocks[tokens, expert] = keys.to(stacked)
    return stacked


def expert_matrix(
    mixture: Mixture, weight: Float[Tensor, "expert rows columns"], expert: int
) -> Float[Tensor, "d_model d_expert"]:
    """W_e, out×in, of the parameter that holds all."""
    return weight[expert] if mixture.layout == "out_in" else weight[expert].T


def combined(
    mixture: Mixture, container: nn.Module, calls: Routed
) -> Float[Tensor, "token d_model"]:
    """[W_1 … W_E] κ + Σ_e w_e b_e of each token: what the container should give."""
    dtype = wide(calls.inputs.dtype)
    total = calls.inputs.new_zeros(len(calls.weights), mixture.d_model, dtype=dtype)
    bias = container._parameters.get(_BIAS)
    for expert in range(mixture.n_experts):
        tokens, keys = expert_keys(mixture, container, calls, expert)
        matrix = expert_matrix(mixture, container.get_parameter(_DOWN).detach(), expert).to(keys)
        total[tokens] += keys @ matrix.T
        if bias is not None:
            total[tokens] += calls.weights[tokens, expert, None].to(total) * bias[expert].to(total)
    return total


def _own_forward(container: nn.Module) -> Any:
    """What the class itself computes, below what transformers may put in its place for speed."""
    return inspect.unwrap(type(container).forward)


def _bare(container: nn.Module) -> nn.Module:
    """A copy that shares all parameters but those behind the key, which are the copy's own."""
    clone = copy.copy(container)
    clone._parameters = dict(container._parameters)
    bias = clone._parameters.get(_BIAS)
    if bias is not None:
        clone._parameters[_BIAS] = nn.Parameter(torch.zeros_like(bias), requires_grad=False)
    return clone


def _selections(mixture: Mixture, container: nn.Module) -> Iterator[nn.Parameter]:
    """For each block of d_model entries of a key, the matrix that gives them, for all experts.

    What an expert gives is d_model wide, so a wider key takes several.
    """
    like = container.get_parameter(_DOWN)
    for start in range(0, mixture.d_expert, mixture.d_model):
        n = min(mixture.d_model, mixture.d_expert - start)
        matrix = like.new_zeros(mixture.d_model, mixture.d_expert)
        matrix[range(n), range(start, start + n)] = 1
        matrix = matrix if mixture.layout == "out_in" else matrix.T
        yield nn.Parameter(matrix.expand(mixture.n_experts, -1, -1), requires_grad=False)
