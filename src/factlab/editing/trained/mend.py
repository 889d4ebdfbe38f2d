"""MEND: a gradient's factors, edited by small networks (Mitchell et al. 2022, section 3).

| paper | here |
|---|---|
| u_ℓ, δ_{ℓ+1} | `OuterProducts.inputs`, `.grads`, token by token |
| z_ℓ = concat(norm(u_ℓ), norm(δ_{ℓ+1})) | `standardised`, by running statistics |
| h_ℓ = z_ℓ + σ(s¹_ℓ ⊙ (U₁V₁z_ℓ + b) + o¹_ℓ), equation 3a | first `_Residual` |
| g(z_ℓ) = h_ℓ + σ(s²_ℓ ⊙ U₂V₂h_ℓ + o²_ℓ), equation 3b | second `_Residual` |
| s_ℓ, o_ℓ | `scale`, `shift` of each matrix; all else is shared by matrices of one shape |
| α_ℓ, learned step size | `Mend.step_sizes` |
| ∇̃W_ℓ = Σ δ̃ ũᵀ; W_ℓ − α_ℓ ∇̃W_ℓ, equation 4 | `ChangeFactors` |

U is zero at first, so the networks begin as the identity. What they add is added to the gradient's
own factors, each divided by one number (the size of its entries), so that an untrained MEND
is a step of gradient descent. The published code hands on the standardised factors themselves
(`begin_with="standardised"`), centred and scaled dimension by dimension: no gradient any more.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from factlab.editing.running import Moments
from factlab.editing.trained.configs import MendConfig
from factlab.editing.trained.gradients import Matrix, OuterProducts
from factlab.editing.trained.network import EditorNetwork, Texts, seeded
from factlab.models.changes.carried import ChangeFactors

# Dimensions that hardly ever vary are divided by this share of the mean scale, not by nearly zero.
_FLOOR = 1e-2


class Mend(EditorNetwork):
    """The networks of all matrices, one for each shape.

    Args:
        matrices: what is edited.
        config: see `MendConfig`.
    """

    takes_note: ClassVar[bool] = True

    @classmethod
    def made(cls, matrices: Sequence[Matrix], d_embedding: int, config: MendConfig) -> "Mend":
        """See `EditorNetwork`."""
        del d_embedding  # reads no text
        return cls(matrices, config)

    def __init__(self, matrices: Sequence[Matrix], config: MendConfig) -> None:
        super().__init__(matrices)
        shapes = list(dict.fromkeys((m.d_in, m.d_out) for m in self.matrices))
        self._places: dict[str, tuple[str, int]] = {}
        networks: dict[str, _SharedNetwork] = {}
        with seeded(config.seed):
            for shape in shapes:
                alike = [m.weight_name for m in self.matrices if (m.d_in, m.d_out) == shape]
                key = f"{shape[0]}x{shape[1]}"
                networks[key] = _SharedNetwork(*shape, len(alike), config)
                self._places |= {name: (key, number) for number, name in enumerate(alike)}
        self.networks = nn.ModuleDict(networks)
        self.step_sizes = nn.Parameter(
            torch.full((len(self.matrices),), config.step_size, dtype=torch.float32, device="cpu")
        )

    def observe(self, gradients: Mapping[str, OuterProducts]) -> None:
        """Add the tokens of a training batch to the running statistics."""
        for matrix in self.matrices:
            gradient = gradients[matrix.weight_name]
            network, _ = self._of(matrix)
            network.inputs.add(gradient.inputs[gradient.live])
            network.grads.add(gradient.grads[gradient.live])

    def forward(
        self, gradients: Mapping[str, OuterProducts], texts: Texts
    ) -> dict[str, ChangeFactors]:
        """See `EditorNetwork.forward`; the texts are not looked at."""
        del texts
        return {
            matrix.weight_name: self._change(matrix, gradients[matrix.weight_name], step)
            for matrix, step in zip(self.matrices, self.step_sizes, strict=True)
        }

    def _change(self, matrix: Matrix, gradient: OuterProducts, step: Tensor) -> ChangeFactors:
        network, number = self._of(matrix)
        live = gradient.live.nonzero(as_tuple=True)  # by number: a mask makes a GPU wait each time
        found = network(gradient.inputs[live], gradient.grads[live], number)
        factors: list[Tensor] = []
        for tokens, factor in zip((gradient.grads, gradient.inputs), found, strict=True):
            factors.append(torch.zeros_like(tokens, dtype=factor.dtype))
            factors[-1][live] = factor
        return ChangeFactors(-step * factors[0], factors[1])

    def gradient_steps(self) -> dict[str, float]:
        """The step along the gradient itself that each matrix would take untrained."""
        return {
            m.weight_name: float(step.detach() / self._of(m)[0].unit)
            for m, step in zip(self.matrices, self.step_sizes, strict=True)
        }

    def parameter_groups(self, learning_rate: float, step_rate: float) -> list[dict[str, Any]]:
        """The networks and the step sizes."""
        networks = {"params": list(self.networks.parameters()), "lr": learning_rate}
        return [networks, {"params": [self.step_sizes], "lr": step_rate}]

    def _of(self, matrix: Matrix) -> "tuple[_SharedNetwork, int]":
        key, number = self._places[matrix.weight_name]
        return cast("_SharedNetwork", self.networks[key]), number


class _SharedNetwork(nn.Module):
    """g of equation 3, for all matrices of a shape."""

    def __init__(self, d_in: int, d_out: int, n_matrices: int, config: MendConfig) -> None:
        super().__init__()
        width = d_in + d_out
        rank = min(1920, max(1, width // 4)) if config.rank is None else config.rank
        self.inputs, self.grads = RunningScale(d_in), RunningScale(d_out)
        self.first = _Residual(width, min(rank, width), n_matrices)
        self.second = _Residual(width, min(rank, width), n_matrices)
        self._standardised = config.begin_with == "standardised"

    @property
    def unit(self) -> Tensor:
        """What the gradient's outer products are divided by."""
        if self._standardised:
            return torch.ones_like(self.inputs.size)
        return self.inputs.size * self.grads.size

    def forward(
        self, inputs: Float[Tensor, "token d_in"], grads: Float[Tensor, "token d_out"], number: int
    ) -> tuple[Float[Tensor, "token d_out"], Float[Tensor, "token d_in"]]:
        """Edited factors: those of the output first."""
        dtype = self.first.out.dtype
        inputs, grads = inputs.to(dtype), grads.to(dtype)
        z = torch.cat([self.inputs.standardised(inputs), self.grads.standardised(grads)], -1)
        g = self.second(self.first(z, number), number)
        if not self._standardised:
            beginning = [self.inputs.in_units(inputs), self.grads.in_units(grads)]
            g = torch.cat(beginning, -1) + self._in_units(g - z)
        edited_inputs, edited_grads = g.split([inputs.shape[1], grads.shape[1]], -1)
        return edited_grads, edited_inputs

    def _in_units(self, added: Float[Tensor, "token width"]) -> Float[Tensor, "token width"]:
        """Standard deviations of each dimension, in the unit of its factor."""
        scales = [each.scale / each.size for each in (self.inputs, self.grads)]
        return added * torch.cat(scales).to(added)


class _Residual(nn.Module):
    """x + σ(s ⊙ (UVx + b) + o), the identity at first."""

    def __init__(self, width: int, rank: int, n_matrices: int) -> None:
        super().__init__()
        self.out = nn.Parameter(torch.zeros(width, rank, dtype=torch.float32, device="cpu"))
        self.into = nn.Parameter(torch.randn(rank, width, dtype=torch.float32, device="cpu"))
        self.bias = nn.Parameter(torch.zeros(width, dtype=torch.float32, device="cpu"))
        self.scale = nn.Parameter(torch.ones(n_matrices, width, dtype=torch.float32, device="cpu"))
        self.shift = nn.Parameter(torch.zeros(n_matrices, width, dtype=torch.float32, device="cpu"))

    def forward(
        self, states: Float[Tensor, "token width"], number: int
    ) -> Float[Tensor, "token width"]:
        before = states @ self.into.T @ self.out.T + self.bias
        shifted = before * self.scale[number] + self.shift[number]
        # Not relu, and since torch 2.15 not clamp: at 0, where every entry begins, there must be
        # a gradient, or nothing is ever learned.
        return states + shifted.where(shifted >= 0, 0)


class RunningScale(nn.Module):
    """Mean and standard deviation of every dimension, over all tokens trained on so far."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.n: Tensor
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("n", torch.zeros((), dtype=torch.float64, device="cpu"))
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float64, device="cpu"))
        self.register_buffer("spread", torch.zeros(width, dtype=torch.float64, device="cpu"))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RunningScale":
        """Go where the module goes, but not to Apple's MPS, which has no float64.

        The number of tokens stays on the CPU, which asks for it at every step.
        """
        if fn(torch.zeros(())).device.type == "mps":
            return self
        super()._apply(fn, recurse)
        if not self.n.is_meta:
            self.n = self.n.cpu()
        return self

    def add(self, states: Float[Tensor, "token width"]) -> None:
        """Take note of some tokens."""
        if not len(states):
            return
        total, mean, spread = Moments(float(self.n), self.mean, self.spread).with_more(
            states.detach()
        )
        self.spread.copy_(spread)
        self.mean.copy_(mean)
        self.n.fill_(total)

    @property
    def _deviation(self) -> Float[Tensor, " width"]:
        return (self.spread / (self.n - 1)).sqrt() if self.n > 1 else torch.ones_like(self.mean)

    @property
    def size(self) -> Tensor:
        """Root mean square of all entries; 1 before the first tokens."""
        if self.n <= 1:
            return self.mean.new_ones(())
        found = (self.mean.square() + self._deviation.square()).mean().sqrt()
        return torch.where(found > 0, found, torch.ones_like(found))

    @property
    def scale(self) -> Float[Tensor, " width"]:
        """The standard deviations, none nearly zero."""
        deviation = self._deviation
        largest = deviation.square().mean().sqrt()
        floor = torch.where(largest > 0, _FLOOR * largest, torch.ones_like(largest))
        return deviation.clamp(min=floor)

    def standardised(self, states: Float[Tensor, "token width"]) -> Float[Tensor, "token width"]:
        """Mean 0 and deviation 1 in every dimension."""
        return (states - self.mean.to(states)) / self.scale.to(states)

    def in_units(self, states: Float[Tensor, "token width"]) -> Float[Tensor, "token width"]:
        """Divided by one number."""
        return states / self.size.to(states)
