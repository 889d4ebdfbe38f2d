"""v*: the state that makes the model say the new object (ROME paper, equation 4).

    L(z) = mean_j −log P[o* | x_j + p; m := z]  +  KL( P[· | “s is a”; m := z] ‖ P[· | “s is a”] )

The second term holds the *essence* of the subject: what the model takes it to be. As in the paper's
code z is reached by adding one vector δ, of bounded length, at the subject's last token in every
row; by gradient steps of Polyak's length, or by Adam as there. ROME adds it to an MLP's output,
MEMIT to that of a layer (MEMIT paper, equation 16).

Facts do not depend on each other: any number of them, of any lengths, are optimised in one batch,
and each leaves it when it is done. How a step is made cheap is told in `value_batch`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.editing.closed_form.value_batch import (
    PreparedRequest,
    SharedContexts,
    ValueBatch,
    prepare_requests,
)
from factlab.editing.configs import ValueConfig
from factlab.editing.fine_tuning.adam import Adam
from factlab.editing.requests import ValueRequest
from factlab.errors import EditError
from factlab.facts import LookupToken
from factlab.hooks import Site
from factlab.models.allocator import memory_bounded_by
from factlab.models.language_model import LanguageModel
from factlab.precision import wide
from factlab.progress import ProgressCallback, silent, tell_step
from factlab.tokens import groups

Deltas = Float[Tensor, "fact d_model"]

DEFAULT_CLAMP = 4.0
# What is noted of every step.
_TERMS: tuple[str, ...] = ("loss", "nll", "kl", "delta_norm", "target_prob")

# Tokens per step: on a CPU a good gigabyte for the bundled model's gradients.
_CPU_TOKENS, _GPU_TOKENS = 768, 16_384


@dataclass(frozen=True, slots=True)
class OptimisedValue:
    """The result of the optimisation for one fact.

    Attributes:
        delta: δ, (d_model,), float32 or wider, on the CPU.
        history: for each step the total loss, its terms, the norm of δ, and the length-normalised
            probability of the target, averaged over contexts.
        initial_norm: ‖v₀‖, of the state in the bare prompt.
    """

    delta: Float[Tensor, " d_model"]
    history: list[dict[str, float]]
    initial_norm: float

    @property
    def target_prob_before(self) -> float:
        """Probability of the target without δ."""
        return self.history[0]["target_prob"]

    @property
    def target_prob(self) -> float:
        """The same with δ."""
        return self.history[-1]["target_prob"]

    def to_json(self) -> dict[str, Any]:
        """All but δ itself."""
        return {
            "loss": [step["loss"] for step in self.history],
            "nll": [step["nll"] for step in self.history],
            "kl": [step["kl"] for step in self.history],
            "delta_norm": [step["delta_norm"] for step in self.history],
            "initial_norm": self.initial_norm,
            "target_prob_before": self.target_prob_before,
            "target_prob": self.target_prob,
        }


@torch.inference_mode(False)
def optimise_values(
    lm: LanguageModel,
    requests: Sequence[ValueRequest],
    contexts: Sequence[str],
    site: Site,
    config: ValueConfig,
    progress: ProgressCallback = silent,
    lookup: LookupToken = "last",
) -> list[OptimisedValue]:
    """Find δ for every request; the result for one does not depend on the others.

    Args:
        lm: the model, left as it is.
        requests: what to make the model say.
        contexts: texts before the prompts; the first is empty.
        site: the state that δ is added to: an MLP's output, or a layer's.
        config: see `ValueConfig`.
        progress: called with steps done and most of them in all.
        lookup: where in a prompt δ is added.

    Raises:
        TokenizationError: a target or subject makes no token of its own, or a row is too long.
        EditError: a loss became NaN, or nothing depends on the state.
        MemoryLimitError: memory ran out.
    """
    prepared = prepare_requests(lm, requests, contexts, lookup)
    limit = config.max_batch_tokens or (_CPU_TOKENS if lm.device.type == "cpu" else _GPU_TOKENS)
    found: dict[int, OptimisedValue] = {}
    setting = f"max_batch_tokens, which is {limit}"
    with lm.frozen(), memory_bounded_by(setting):
        with torch.no_grad():
            shared = SharedContexts(lm, prepared)
        batches = groups([p.cost for p in prepared], limit)
        n_steps = config.steps * len(batches)
        for first, numbers in zip(range(0, n_steps, config.steps), batches, strict=True):
            group = [prepared[i] for i in numbers]
            batch = ValueBatch(lm, group, shared, site, config.kl_position)
            begin = partial(tell_step, progress, "optimising values", first, n_steps)
            results = _optimise(lm, batch, group, config, begin)
            found |= zip(numbers, results, strict=True)
        progress("optimising values", n_steps, n_steps)
    return [found[i] for i in range(len(prepared))]


def _optimise(
    lm: LanguageModel,
    batch: ValueBatch,
    group: Sequence[PreparedRequest],
    config: ValueConfig,
    begin: Callable[[int], None],
) -> list[OptimisedValue]:
    width = wide(lm.dtype)
    norms = batch.initial_norms
    longest = (config.clamp_factor or DEFAULT_CLAMP) * norms
    delta = torch.zeros(batch.n_facts, lm.d_model, dtype=width, device=norms.device)
    step_rule = _step_rule(delta, norms, config)
    histories: list[list[dict[str, float]]] = [[] for _ in group]
    results: dict[int, OptimisedValue] = {}
    there = list(range(len(group)))  # which facts the rows of the batch belong to
    for step in range(config.steps):
        begin(step)
        delta.requires_grad_(True)
        with torch.enable_grad():
            losses = batch.losses(delta)
            nll, kl = losses.nll.mean(1), losses.kl
            decay = config.weight_decay * delta.norm(dim=1) / norms**2
            loss = nll + config.kl_factor * kl + decay.to(nll.device)
        terms = [
            x.detach().tolist() for x in (loss, nll, kl, delta.norm(dim=1), losses.target_prob)
        ]
        going: list[int] = []
        for i, values in enumerate(zip(*terms, strict=True)):
            fact, (total, nll_now, *_) = there[i], values
            histories[fact].append(dict(zip(_TERMS, values, strict=True)))
            if not abs(total) < float("inf"):
                raise EditError(
                    f"The loss of {group[fact].request.fact.subject!r} became {total} at step "
                    f"{step}. Make the steps smaller, or use float32."
                )
            if total < config.stop_loss or nll_now < config.stop_nll or step == config.steps - 1:
                results[fact] = OptimisedValue(
                    delta.detach()[i].cpu(), histories[fact], float(norms[i])
                )
            else:
                going.append(i)
        if not going:
            break
        (gradient,) = torch.autograd.grad(loss.sum(), delta)
        if step == 0:
            _check_influence(gradient, [group[fact].request for fact in there])
        delta = delta.detach()
        if len(going) < len(there):
            chosen = torch.tensor(going, device=delta.device)
            batch.keep(going)
            step_rule.keep(chosen)
            delta, gradient = delta[chosen], gradient[chosen]
            norms, longest = norms[chosen], longest[chosen]
            there = [there[i] for i in going]
        at = torch.tensor(going, device=loss.device)
        delta = delta + step_rule.move(gradient, loss.detach()[at].to(delta.device))
        delta *= (longest / delta.norm(dim=1).clamp(min=1e-12)).clamp(max=1.0)[:, None]
    return [results[i] for i in range(len(group))]


def _step_rule(
    delta: Deltas, norms: Float[Tensor, " fact"], config: ValueConfig
) -> "Adam | _Polyak":
    if config.step_rule == "adam":
        return Adam(delta, config.learning_rate)
    return _Polyak(delta, norms, config)


def _check_influence(gradient: Deltas, requests: Sequence[ValueRequest]) -> None:
    for row, request in zip(gradient, requests, strict=True):
        if not row.any():
            raise EditError(
                f"Nothing that follows '{request.fact.subject}' in '{request.fact.prompt}' depends "
                "on the edited state. Edit an earlier layer."
            )


class _Polyak:
    """Polyak's step, loss / ‖g‖ along −g, bounded, with heavy-ball momentum."""

    def __init__(self, like: Deltas, norms: Float[Tensor, " fact"], config: ValueConfig) -> None:
        self._longest = config.largest_step * norms
        self._momentum = config.momentum
        self._last = torch.zeros_like(like)

    def move(self, gradient: Deltas, loss: Float[Tensor, " fact"]) -> Deltas:
        """What to add to δ."""
        slope = gradient.norm(dim=1).clamp(min=1e-12)
        length = torch.minimum(loss / slope, self._longest)
        self._last = self._momentum * self._last - (length / slope)[:, None] * gradient
        return self._last

    def keep(self, facts: Tensor) -> None:
        """Forget all others."""
        self._longest, self._last = self._longest[facts], self._last[facts]
