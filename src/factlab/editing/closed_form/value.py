"""v*: the state that makes the model say the new object (ROME paper, equation 4).

    L(z) = mean_j −log P[o* | x_j + p; m := z]  +  KL( P[· | “s is a”; m := z] ‖ P[· | “s is a”] )

The second term holds the *essence* of the subject: what the model takes it to be; with more prompts
than “s is a”, what else it knows of it too. As in the paper's code z is reached by adding one
vector δ, of bounded length, at the subject's last token in every row; by gradient steps of Polyak's
length, or by Adam as there. ROME adds it to an MLP's output, MEMIT to that of a layer (MEMIT paper,
equation 16).

Facts do not depend on each other: any number of them, of any lengths, are optimised in one batch,
and each leaves it when it is done. How a step is made cheap is told in `value_batch`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.editing.closed_form.aligned_rows import SharedContexts
from factlab.editing.closed_form.value_batch import (
    LEFT,
    PreparedRequest,
    ValueBatch,
    prepare_requests,
)
from factlab.editing.configs import ValueConfig
from factlab.editing.descent import Descended, Evaluation, StepRule, descend
from factlab.editing.noise_config import SubjectNoise
from factlab.editing.noised import NoisedSubjects
from factlab.editing.requests import ValueRequest
from factlab.editing.step_rules import Adam, Polyak
from factlab.errors import EditError, FactlabError, InvalidRequestError, TokenizationError
from factlab.facts import LookupToken
from factlab.hooks import Site
from factlab.models.language_model import LanguageModel
from factlab.precision import wide
from factlab.progress import ProgressCallback, silent, tell_step
from factlab.tokens import groups
from factlab.wrapping import Context

Deltas = Float[Tensor, "fact d_model"]

DEFAULT_CLAMP = 4.0
# What is noted of every step.
_TERMS: tuple[str, ...] = ("loss", "nll", "kl", "delta_norm", "target_prob")


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
    history: Sequence[Mapping[str, float]]
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
    requests: Sequence[ValueRequest | FactlabError],
    contexts: Sequence[Context],
    site: Site,
    config: ValueConfig,
    progress: ProgressCallback = silent,
    lookup: LookupToken = "last",
    noise: SubjectNoise | None = None,
) -> list[OptimisedValue | FactlabError]:
    """Find δ for every request; the result for one does not depend on the others.

    Args:
        lm: the model, left as it is.
        requests: what to make the model say; an error in place of one is passed on.
        contexts: texts before the prompts; the first is empty; or around them (`Wrapping`).
        site: the state that δ is added to: an MLP's output, or a layer's.
        config: see `ValueConfig`.
        progress: called with steps done and most of them in all.
        lookup: where in a prompt δ is added.
        noise: on the subjects, whose first sample is taken; by default none.

    Returns:
        For each request its value; or a TokenizationError if its target or subject makes no token
        of its own or a row is too long, an InvalidRequestError if its prompt cannot be wrapped, or
        an EditError if its loss became NaN or nothing depends on the state.

    Raises:
        MemoryLimitError: memory ran out.
    """
    results: dict[int, OptimisedValue | FactlabError] = {}
    noised = NoisedSubjects(lm, noise)
    prepared: dict[int, PreparedRequest] = {}
    for number, request in enumerate(requests):
        if isinstance(request, FactlabError):
            results[number] = request
            continue
        try:
            (prepared[number],) = prepare_requests(
                lm, [request], contexts, config.essence, lookup, noised
            )
        except (TokenizationError, InvalidRequestError) as error:
            results[number] = error
    if not prepared:
        return [results[number] for number in range(len(requests))]
    read = max(p.n_reads / p.cost for p in prepared.values())
    limit = lm.budget.gradient_tokens(read, LEFT)
    with lm.frozen(), noised.present():
        with torch.no_grad():
            shared = SharedContexts.of(lm, [p.rows for p in prepared.values()])
        order, batches = [*prepared], groups([p.cost for p in prepared.values()], limit)
        n_steps = config.steps * len(batches)
        for first, places in zip(range(0, n_steps, config.steps), batches, strict=True):
            numbers = [order[place] for place in places]
            group = [prepared[number] for number in numbers]
            batch = ValueBatch(lm, group, shared, site, config.kl_position, limit)
            values = _Values(lm, batch, group, config)
            begin = partial(tell_step, progress, "optimising values", first, n_steps)
            results |= zip(numbers, values.optimised(begin), strict=True)
        progress("optimising values", n_steps, n_steps)
    return [results[number] for number in range(len(requests))]


class _Start(NamedTuple):
    """What a fact's losses are measured by: where an erasure begins; else 1.

    The least probable of what a model knows is below any bound that suits −log P.
    """

    loss: float
    nll: float


class _Values:
    """Equation 4 for the facts of a batch, as an objective.

    Args:
        lm: the model.
        batch: the facts, ready for steps.
        group: the same facts.
        config: see `ValueConfig`.
    """

    def __init__(
        self,
        lm: LanguageModel,
        batch: ValueBatch,
        group: Sequence[PreparedRequest],
        config: ValueConfig,
    ) -> None:
        self._lm, self._batch, self._group, self._config = lm, batch, group, config
        self._norms = batch.initial_norms
        self._longest = (config.clamp_factor or DEFAULT_CLAMP) * batch.initial_norms
        self._was_said = [False] * batch.n_facts
        self._starts: list[_Start] = []

    def optimised(self, begin: Callable[[int], None]) -> list[OptimisedValue | EditError]:
        """δ of every fact, or why there is none."""
        config, norms = self._config, self._norms
        width = wide(self._lm.dtype)
        deltas = torch.zeros(len(norms), self._lm.d_model, dtype=width, device=norms.device)
        rule: StepRule = (
            Adam(deltas, config.learning_rate)
            if config.step_rule == "adam"
            else Polyak(deltas, config.largest_step * norms, config.momentum)
        )
        ends = descend(self, [deltas], [rule], config.steps, begin)
        return [
            OptimisedValue(end.parameters[0], end.history, norm)
            if isinstance(end, Descended)
            else end
            for end, norm in zip(ends, norms.tolist(), strict=True)
        ]

    def evaluate(self, stacks: Sequence[Deltas], is_last: bool) -> Evaluation:
        """L(z) of every fact, and its terms."""
        config, norms = self._config, self._norms
        self._deltas = deltas = stacks[0].detach().requires_grad_(not is_last)
        with torch.set_grad_enabled(not is_last):
            losses = self._batch.losses(deltas, config.stop_when_said)
            nll, kl = losses.nll.mean(1), losses.kl
            decay = config.weight_decay * deltas.norm(dim=1) / norms**2
            self._loss = nll + config.kl_factor * kl + decay.to(nll.device)
        loss = self._loss.detach()
        noted = (loss, nll.detach(), kl.detach(), deltas.detach().norm(dim=1), losses.target_prob)
        # Fetched together: a GPU is waited for once a step.
        fetched = torch.stack([term.to(loss.device) for term in noted], 1).tolist()
        terms = [dict(zip(_TERMS, values, strict=True)) for values in fetched]
        self._starts = self._starts or [
            _Start(term["loss"], term["nll"]) if one.request.erase else _Start(1.0, 1.0)
            for term, one in zip(terms, self._group, strict=True)
        ]
        is_done = [
            term["loss"] < config.stop_loss * start.loss
            or term["nll"] < config.stop_nll * start.nll
            or was_said
            for term, start, was_said in zip(terms, self._starts, self._was_said, strict=True)
        ]
        if losses.is_said is not None:
            self._was_said = losses.is_said.tolist()
        return Evaluation(loss, terms, is_done)

    def gradients(self) -> list[Deltas]:
        """Of the loss with respect to δ."""
        return [self._batch.gradient(self._loss.sum(), self._deltas)]

    def keep(self, problems: Sequence[int]) -> None:
        """Go on with these facts only."""
        chosen = torch.tensor(problems, device=self._norms.device)
        self._batch.keep(problems)
        self._norms, self._longest = self._norms[chosen], self._longest[chosen]
        self._was_said = [self._was_said[problem] for problem in problems]
        self._starts = [self._starts[problem] for problem in problems]

    def bound(self, stacks: Sequence[Deltas]) -> None:
        """Keep ‖δ‖ below the clamp."""
        (deltas,) = stacks
        norms = deltas.norm(dim=1).clamp(min=1e-12)
        deltas *= (self._longest / norms).clamp(max=1.0)[:, None]

    def name(self, problem: int) -> str:
        """The fact's subject."""
        return repr(self._group[problem].request.fact.subject)

    def refusal(self, problem: int, gradients: Sequence[Tensor]) -> EditError | None:
        """δ cannot change what nothing depends on."""
        if gradients[0].any():
            return None
        fact = self._group[problem].request.fact
        return EditError(
            f"Nothing that follows '{fact.subject}' in '{fact.prompt}' depends on the edited "
            "state. Edit an earlier layer."
        )
