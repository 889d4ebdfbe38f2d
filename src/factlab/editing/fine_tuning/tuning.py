"""Weights of a layer, or several, tuned to many facts at once: the objective of fine-tuning."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.continuations import Continuation
from factlab.editing.configs import FineTuneConfig
from factlab.editing.descent import Descended, Evaluation, descend
from factlab.editing.noised import NoisedSubjects
from factlab.editing.requests import ValueRequest
from factlab.editing.step_rules import Adam
from factlab.errors import EditError, TokenizationError
from factlab.models.changes.carried import owners_of, substituted
from factlab.models.engines.engine import Hidden
from factlab.models.language_model import LanguageModel
from factlab.models.reading import Reads, target_logprobs, target_nll, wide_logits
from factlab.models.texts import wrapped_continuation, wrapped_fact
from factlab.precision import wide
from factlab.tokens import TokenBatch, groups, pad
from factlab.wrapping import ChatForms, Wrapping

# States that are kept of a token between steps: at the layer, and in its frame.
_KEPT = 2
# Weights of many facts: for each parameter a stack, one per fact, or one for all.
Stack = Float[Tensor, "group _ _"]


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt with its target.

    Attributes:
        continuation: of the prompt.
        topic: of the fact.
        erase: make the target improbable.
    """

    continuation: Continuation
    topic: str
    erase: bool

    @classmethod
    def every(
        cls,
        lm: LanguageModel,
        request: ValueRequest,
        wrappings: Sequence[Wrapping | ChatForms] = (),
        noised: NoisedSubjects | None = None,
    ) -> "list[Row]":
        """Tokenise a request: the bare prompt, and the prompt in each wrapping.

        With noise on the subject there is one of each for every sample.

        Raises:
            TokenizationError: the target makes no token of its own, or the text is too long.
            InvalidRequestError: the prompt cannot be wrapped.
        """
        fact, target = request.fact, request.target
        try:
            forms = [each.of(fact.prompt) for each in wrappings]
            if noised is not None and noised.is_noisy:
                whole = [lm.fact_continuation(fact, target)]
                whole += [wrapped_fact(lm, fact, form, target) for form in forms]
                samples = range(noised.n_samples)
                found = [noised.of(each, fact, sample) for each in whole for sample in samples]
            else:
                found = [lm.continuation(fact.prompt, target)]
                found += [wrapped_continuation(lm, fact.prompt, form, target) for form in forms]
        except TokenizationError as error:
            raise TokenizationError(f"Fact '{fact.prompt}': {error}") from error
        return [cls(each, fact.topic, request.erase) for each in found]

    def __len__(self) -> int:
        return len(self.continuation.inputs)


def batch_tokens(lm: LanguageModel, rows: Sequence[Row]) -> int:
    """Tokens of some rows that go through a step together."""
    read = max((len(row.continuation.reads) / len(row) for row in rows), default=0.0)
    return lm.budget.gradient_tokens(read, share=0.5)


class Tuning:
    """Weights for some groups of rows: each fact its own, or one group with all facts.

    Args:
        lm: the model.
        groups: rows by the weights they share; either one group, or groups of as many rows each.
        names: of the weights.
        config: with everything filled in.
    """

    def __init__(
        self,
        lm: LanguageModel,
        groups: Sequence[Sequence[Row]],
        names: Sequence[str],
        config: FineTuneConfig,
    ) -> None:
        self._lm, self._names, self._config = lm, names, config
        self._layer = config.edited_layers[0]  # below it nothing changes
        self._groups = [list(group) for group in groups]
        width = wide(lm.dtype)
        self._originals = [lm.model.get_parameter(name).detach().to(width) for name in names]
        self._enough: list[float] = []  # of each group, the loss that ends it

    @torch.inference_mode(False)
    def ends(self, begin: Callable[[int], None]) -> list[Descended | EditError]:
        """For each group its weights in the end, as they lie in the model.

        Args:
            begin: called with the number of every step before it is done.
        """
        n_groups, rate = len(self._groups), self._config.learning_rate or 0.0
        with self._lm.frozen():
            weights = [original.expand(n_groups, -1, -1).clone() for original in self._originals]
            rules = [Adam(weight, rate) for weight in weights]
            self._make_batches()
            # The loss is evaluated once more, behind the last step.
            return descend(self, weights, rules, self._config.steps + 1, begin)

    def _make_batches(self) -> None:
        """All rows in one batch, or if they share weights in as many as it takes.

        As many as memory has room for are kept between steps. The others are run up to the layer
        anew at each.
        """
        rows = [row for group in self._groups for row in group]
        self._batches: list[_Batch] = []
        self._not_kept: list[list[Row]] = []
        if len(self._groups) > 1:
            self._batches.append(_Batch.of(self._lm, rows, self._layer))
            return
        room = self._lm.budget.at_most(_KEPT * self._lm.budget.sizes.state, 0.25)
        for numbers in groups([len(row) for row in rows], batch_tokens(self._lm, rows)):
            batch = [rows[i] for i in numbers]
            room -= len(batch) * len(batch[-1])
            if room < 0:
                self._not_kept.append(batch)
            else:
                self._batches.append(_Batch.of(self._lm, batch, self._layer))

    def _every_batch(self) -> Iterator["_Batch"]:
        yield from self._batches
        for rows in self._not_kept:
            yield _Batch.of(self._lm, rows, self._layer)

    def evaluate(self, stacks: Sequence[Stack], is_last: bool) -> Evaluation:
        """Mean loss of every group; and its gradients, which several batches add up to."""
        n_groups, n_rows = len(stacks[0]), len(self._groups[0])
        leaves = [stack.detach().requires_grad_(not is_last) for stack in stacks]
        by_name = dict(zip(self._names, leaves, strict=True))
        totals = torch.zeros(n_groups, dtype=torch.float64, device="cpu")
        self._gradients = [] if is_last else [torch.zeros_like(stack) for stack in stacks]
        for batch in self._every_batch():
            owners = owners_of(batch.n_rows, n_groups)
            with torch.set_grad_enabled(not is_last), substituted(self._lm, by_name, owners):
                nll = batch.nll(self._lm, self._layer).view(n_groups, -1).sum(1) / n_rows
            totals += nll.detach().cpu().double()
            if not is_last:
                parts = torch.autograd.grad(nll.sum(), leaves)
                for total, part in zip(self._gradients, parts, strict=True):
                    total.add_(part)
        losses = totals.tolist()
        self._enough = self._enough or [
            self._config.stop_nll * (loss if all(row.erase for row in group) else 1)
            for loss, group in zip(losses, self._groups, strict=True)
        ]
        is_done = [loss < enough for loss, enough in zip(losses, self._enough, strict=True)]
        return Evaluation(totals, [{"loss": loss} for loss in losses], is_done)

    def gradients(self) -> Sequence[Stack]:
        """Of the mean losses; handed over, since they are as large as the weights."""
        gradients, self._gradients = self._gradients, []
        return gradients

    def keep(self, problems: Sequence[int]) -> None:
        """Go on with these groups only, which are all in one batch then."""
        n = len(self._groups[0])
        self._enough = [self._enough[group] for group in problems]
        rows = [group * n + i for group in problems for i in range(n)]
        self._batches = [self._batches[0].of_rows(self._lm, rows)]

    def bound(self, stacks: Sequence[Stack]) -> None:
        """Keep every entry within ±ε of where it was."""
        epsilon = self._config.epsilon
        if epsilon is None:
            return
        for stack, original in zip(stacks, self._originals, strict=True):
            torch.minimum(torch.maximum(stack, original - epsilon), original + epsilon, out=stack)

    def name(self, problem: int) -> str:
        """The topic, or several."""
        return ", ".join(dict.fromkeys(repr(row.topic) for row in self._groups[problem][:3]))

    def refusal(self, problem: int, gradients: Sequence[Tensor]) -> EditError | None:
        """No beginning is hopeless."""
        del problem, gradients


class _Batch:
    """Rows at the input of the layer.

    Args:
        lm: the model.
        rows: one for each prompt.
        tokens: of the rows.
        entry: what enters the layer.
    """

    def __init__(
        self, lm: LanguageModel, rows: Sequence[Row], tokens: TokenBatch, entry: Hidden
    ) -> None:
        self.n_rows, self._row_list = len(rows), rows
        self._tokens, self._entry, self._frame = tokens, entry, lm.frame(tokens)
        self._reads = Reads.of([row.continuation for row in rows]).to(lm.device)
        self._erased = torch.tensor([row.erase for row in rows], device=lm.device)

    @classmethod
    def of(cls, lm: LanguageModel, rows: Sequence[Row], layer: int) -> "_Batch":
        """Run the layers below."""
        tokens = pad([row.continuation.inputs for row in rows], lm.device)
        with torch.no_grad():
            return cls(lm, rows, tokens, lm.run(lm.frame(tokens), stop=layer))

    def of_rows(self, lm: LanguageModel, numbers: Sequence[int]) -> "_Batch":
        """Some of the rows; nothing is run again."""
        index = torch.tensor(numbers, device=self._entry.device)
        some = [self._row_list[i] for i in numbers]
        return _Batch(lm, some, self._tokens.rows(numbers), self._entry[index])

    def nll(self, lm: LanguageModel, layer: int) -> Float[Tensor, " row"]:
        """Loss of every row."""
        hidden = lm.run(self._frame, self._entry, first=layer)
        logits = wide_logits(lm, self._reads.states(hidden))
        totals, counts = target_logprobs(logits, self._reads.ids, self._reads.rows, self.n_rows)
        return target_nll(totals, counts, self._erased.to(totals.device))
