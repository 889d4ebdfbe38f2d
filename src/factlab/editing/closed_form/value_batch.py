"""Many facts whose values are optimised at once: what stays the same between steps, and the loss.

A vector δ per fact is added at the last token of the subject, at one layer. It changes nothing left
of that token and nothing below that layer, so:

* what all facts' rows behind a context begin with, such as the context itself, is run once for all
  of them, and its keys and values are kept;
* what follows it, up to the lookup token, is run once per fact, and its keys and values are kept;
* all rows are aligned at the lookup token, and every step runs the few tokens from there on, from
  the layer of δ upwards (`aligned_rows`); logits are read at target tokens only.

Rows come fact by fact: one for each context with the target behind the prompt, and last those of
the essence: “s is a”, or several prompts about the subject.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from factlab.continuations import Continuation
from factlab.editing.closed_form.aligned_rows import AlignedRows, SharedContexts
from factlab.editing.closed_form.lookup import prompt_rows, target_rows
from factlab.editing.noised import NoisedSubjects
from factlab.editing.requests import ValueRequest
from factlab.errors import TokenizationError
from factlab.facts import Fact, LookupToken
from factlab.hooks import Site
from factlab.models.language_model import LanguageModel
from factlab.models.reading import Reads, target_logprobs, target_nll, wide_logits
from factlab.precision import widened
from factlab.wrapping import Context

# Tokens on the left that cost as much as one that a step runs.
LEFT = 8.0


class Losses(NamedTuple):
    """Terms of the loss of each fact.

    Attributes:
        nll: of the target, mean over its tokens; for erasure −log(1 − P(target)).
        kl: of the essence; of several prompts the mean, each weighed by how little it asks for what
            the fact's own prompt does (`ValueBatch`).
        target_prob: length-normalised, mean over contexts.
        is_said: whether greedy decoding writes the target, behind every context; None if that was
            not asked for.
    """

    nll: Float[Tensor, "fact context"]
    kl: Float[Tensor, " fact"]
    target_prob: Float[Tensor, " fact"]
    is_said: Bool[Tensor, " fact"] | None


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request with its rows.

    Attributes:
        request: as given.
        rows: one per context, and those of the essence.
        n_essence: how many these are.
    """

    request: ValueRequest
    rows: list[Continuation]
    n_essence: int

    @property
    def width(self) -> int:
        """Most tokens of a row from the lookup token on."""
        return max(len(row.ids) - row.lookup for row in self.rows)

    @property
    def cost(self) -> float:
        """Tokens of a step; of those on the left only keys and values are kept."""
        left = max(row.lookup for row in self.rows)
        return len(self.rows) * (self.width + left / LEFT)

    @property
    def n_reads(self) -> int:
        """Places at which a step reads the vocabulary."""
        return sum(len(row.reads) for row in self.rows)


def prepare_requests(
    lm: LanguageModel,
    requests: Sequence[ValueRequest],
    contexts: Sequence[Context],
    essence: Sequence[str],
    lookup: LookupToken = "last",
    noised: NoisedSubjects | None = None,
) -> list[PreparedRequest]:
    """Tokenise every request behind every context, perhaps with noise on its subject.

    Args:
        lm: the model.
        requests: what to make it say.
        contexts: texts before the prompts.
        essence: prompts about the subject, for which `{}` stands.
        lookup: where in a prompt δ is added.
        noised: puts noise on the subjects.

    Raises:
        TokenizationError: a target or subject makes no token of its own, or a row is too long.
    """
    prepared: list[PreparedRequest] = []
    for request in requests:
        fact = request.fact
        try:
            rows = target_rows(lm, fact, contexts, request.target, lookup, noised)
            for prompt in essence:
                (row,) = prompt_rows(lm, Fact(prompt, fact.subject), [""], lookup)
                rows.append(row if noised is None else noised.of(row, fact))
        except TokenizationError as error:
            raise TokenizationError(f"Fact '{fact.prompt}': {error}") from error
        prepared.append(PreparedRequest(request, rows, len(essence)))
    return prepared


@dataclass(frozen=True, slots=True)
class _Essence:
    """What the unedited model says behind essence prompts, and how much each prompt counts."""

    logprobs: Float[Tensor, "fact essence vocab"]
    weights: Float[Tensor, "fact essence"]

    def of_facts(self, facts: Sequence[int]) -> "_Essence":
        """Of these only."""
        chosen = torch.tensor(facts, device=self.weights.device)
        return _Essence(self.logprobs[chosen], self.weights[chosen])


class ValueBatch:
    """Some facts, ready for steps; make it inside `lm.frozen()`.

    Of several essence prompts one may ask for what the fact does, and would hold what is to change.
    So each counts by 1 − Σ min(p, q), where p and q are the unedited model's next tokens behind it
    and behind the fact's own prompt.

    Args:
        lm: the model.
        prepared: the facts' rows.
        shared: the contexts.
        site: where δ is added: the output of an MLP, or of a layer.
        kl_position: where the essence prompt is read.
        limit: what a batch may cost. The rows of a single fact that costs more go through the model
            in parts: once without gradients, to know the loss, and once more to have its gradient.

    Attributes:
        n_facts: how many are in the batch now.
        initial_norms: ‖v₀‖ of each: the state at the site in the bare prompt.
    """

    def __init__(
        self,
        lm: LanguageModel,
        prepared: Sequence[PreparedRequest],
        shared: SharedContexts,
        site: Site,
        kl_position: Literal["essence_end", "subject_end"],
        limit: int,
    ) -> None:
        self._lm, self._prepared, self._kl_position = lm, list(prepared), kl_position
        self.n_facts, self._rows_per_fact = len(prepared), len(prepared[0].rows)
        self._n_essence = prepared[0].n_essence
        rows = [row for p in prepared for row in p.rows]
        at_once = len(rows)
        if self.n_facts == 1:
            at_once = max(1, int(limit * len(rows) / prepared[0].cost))
        self._parts: list[tuple[range, AlignedRows]] = []
        for start in range(0, len(rows), at_once):
            numbers = range(start, min(start + at_once, len(rows)))
            contexts = shared if len(numbers) == len(rows) else shared.only(numbers)
            aligned = AlignedRows(lm, rows[numbers.start : numbers.stop], contexts, site)
            self._parts.append((numbers, aligned))
        bare = self._parts[0][1].initial[:: self._rows_per_fact]
        self.initial_norms = widened(bare)[: self.n_facts].norm(dim=1)
        self._essence: _Essence | None = None
        self._look()

    def _look(self) -> None:
        """Work out where the facts that are in the batch are read."""
        n, n_contexts = self._rows_per_fact, self._rows_per_fact - self._n_essence
        rows = list(enumerate(row for p in self._prepared for row in p.rows))
        targets = [(i, row) for i, row in rows if i % n < n_contexts]
        essences = [(i, row) for i, row in rows if i % n >= n_contexts]
        if self._kl_position == "subject_end":
            essences = [(i, replace(row, reads=(row.lookup,))) for i, row in essences]
        device = self._lm.device  # sent once, and not at every step
        self._reads = _reads(targets).to(device)
        self._places = [
            [_reads([(i - part.start, row) for i, row in some if i in part]).to(device)
             for some in (targets, essences)]
            for part, _ in self._parts
        ]  # fmt: skip
        self._erased = torch.tensor([p.request.erase for p in self._prepared], device=device)

    def losses(self, deltas: Float[Tensor, "fact d_model"], is_said: bool = False) -> Losses:
        """The loss terms with δ added, and whether targets are said, if that is asked for.

        Call it first with δ = 0: the essence is measured then.
        """
        is_whole = len(self._parts) == 1
        with torch.set_grad_enabled(is_whole and torch.is_grad_enabled()):
            read = [self._read(place, deltas) for place in range(len(self._parts))]
        # The readout's weights are read once for both.
        states = torch.cat([part[kind] for kind in range(2) for part in read])
        self._states = None if is_whole else states.requires_grad_(deltas.requires_grad)
        logits = wide_logits(self._lm, states)
        n_essence, n_rows = (self.n_facts * n for n in (self._n_essence, self._rows_per_fact))
        of_target, of_essence = logits[:-n_essence], logits[-n_essence:].log_softmax(-1)
        by_row = target_logprobs(of_target, self._reads.ids, self._reads.rows, n_rows)
        totals, counts = (x.view(self.n_facts, -1)[:, : -self._n_essence] for x in by_row)
        nll = target_nll(totals, counts, self._erased.to(totals.device)[:, None])
        of_essence = of_essence.view(self.n_facts, self._n_essence, -1)
        if self._essence is None:
            self._essence = self._unedited(of_target.detach(), of_essence.detach())
        away = (of_essence.exp() * (of_essence - self._essence.logprobs)).sum(-1)
        kl = (away * self._essence.weights).mean(1)
        said = self._said(of_target.detach()) if is_said else None
        return Losses(nll, kl, (totals / counts).detach().exp().mean(1), said)

    def _unedited(
        self, of_target: Float[Tensor, "read vocab"], logprobs: Float[Tensor, "fact essence vocab"]
    ) -> "_Essence":
        """What the essence is held to, seen at δ = 0."""
        if self._n_essence == 1:
            return _Essence(logprobs, logprobs.new_ones(self.n_facts, 1))
        rows = self._reads.rows.contiguous()
        own = torch.arange(self.n_facts, device=rows.device) * self._rows_per_fact
        first = torch.searchsorted(rows, own).to(of_target.device)
        said = of_target[first].softmax(-1)[:, None]
        return _Essence(logprobs, 1 - torch.minimum(logprobs.exp(), said).sum(-1))

    def _said(self, logits: Float[Tensor, "read vocab"]) -> Bool[Tensor, " fact"]:
        """Whether each token of a target that is written is the most probable one, everywhere."""
        is_missed = logits.argmax(-1).to(self._reads.ids.device) != self._reads.ids
        facts = self._reads.rows // self._rows_per_fact
        n_missed = torch.zeros_like(self._erased, dtype=torch.long).index_add(
            0, facts, is_missed.long()
        )
        return ~self._erased & (n_missed == 0)

    def gradient(
        self, loss: Float[Tensor, ""], deltas: Float[Tensor, "fact d_model"]
    ) -> Float[Tensor, "fact d_model"]:
        """The gradient of a loss that was made of `losses` with these δ."""
        if self._states is None:
            return torch.autograd.grad(loss, [deltas])[0]
        total, slopes = torch.autograd.grad(loss, [deltas, self._states])
        sizes = [len(part[kind].rows) for kind in range(2) for part in self._places]
        by_part = slopes.split(sizes)
        for place in range(len(self._parts)):
            with torch.enable_grad():
                states = torch.cat(self._read(place, deltas))
            slope = torch.cat([by_part[place], by_part[len(self._parts) + place]])
            total = total + torch.autograd.grad(states, [deltas], slope)[0]
        return total

    def keep(self, facts: Sequence[int]) -> None:
        """Go on with these facts only."""
        rows = [f * self._rows_per_fact + i for f in facts for i in range(self._rows_per_fact)]
        ((_, aligned),) = self._parts  # a single fact is never left out
        aligned.keep(rows)
        self._parts = [(range(len(rows)), aligned)]
        self._prepared = [self._prepared[f] for f in facts]
        self._look()
        if self._essence is not None:
            self._essence = self._essence.of_facts(facts)
        self.n_facts = len(facts)

    def _read(self, place: int, deltas: Float[Tensor, "fact d_model"]) -> list[Tensor]:
        """Run a part: states where targets are read, and where essences are."""
        numbers, aligned = self._parts[place]
        each = deltas.repeat_interleave(self._rows_per_fact, 0)[numbers.start : numbers.stop]
        hidden = aligned.run(each)
        return [reads.states(hidden) for reads in self._places[place]]


def _reads(numbered: Sequence[tuple[int, Continuation]]) -> Reads:
    """Where rows, with their numbers in a batch that begins with the lookup token, are read."""
    if not numbered:
        none = torch.zeros(0, dtype=torch.long, device="cpu")
        return Reads(none, none, none)
    rows = [row for _, row in numbered]
    return Reads.of(rows, [i for i, _ in numbered], [row.lookup for row in rows])
