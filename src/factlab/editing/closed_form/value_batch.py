"""Many facts whose values are optimised at once: what stays the same between steps, and the loss.

A vector δ per fact is added at the last token of the subject, at one layer. It changes nothing left
of that token and nothing below that layer, so:

* what all facts' rows behind a context begin with, such as the context itself, is run once for all
  of them, and its keys and values are kept;
* what follows it, up to the lookup token, is run once per fact, and its keys and values are kept;
* all rows are aligned at the lookup token, and every step runs the few tokens from there on, from
  the layer of δ upwards; logits are read at target tokens only.

Rows come fact by fact: one for each context with the target behind the prompt, and last the essence
prompt “s is a”. Column 0 is the lookup token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.continuations import Continuation
from factlab.editing.closed_form.lookup import prompt_rows, target_rows
from factlab.editing.requests import ValueRequest
from factlab.errors import TokenizationError
from factlab.facts import Fact, LookupToken
from factlab.hooks import Site, Stream, intervene, record
from factlab.models.cache import Prefix, RecordingCache
from factlab.models.language_model import LanguageModel
from factlab.models.reading import Reads, target_logprobs, target_nll, wide_logits
from factlab.models.replay import Hidden
from factlab.precision import widened
from factlab.tokens import pad


class Losses(NamedTuple):
    """Terms of the loss of each fact.

    Attributes:
        nll: of the target, mean over its tokens; for erasure −log(1 − P(target)).
        kl: of the essence.
        target_prob: length-normalised, mean over contexts.
    """

    nll: Float[Tensor, "fact context"]
    kl: Float[Tensor, " fact"]
    target_prob: Float[Tensor, " fact"]


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request with its rows.

    Attributes:
        request: as given.
        rows: one per context, and the essence's.
    """

    request: ValueRequest
    rows: list[Continuation]

    @property
    def width(self) -> int:
        """Most tokens of a row from the lookup token on."""
        return max(len(row.ids) - row.lookup for row in self.rows)

    @property
    def cost(self) -> float:
        """Tokens of a step; one on the left, of which keys and values are kept, is an eighth."""
        left = max(row.lookup for row in self.rows)
        return len(self.rows) * (self.width + left / 8)


def prepare_requests(
    lm: LanguageModel,
    requests: Sequence[ValueRequest],
    contexts: Sequence[str],
    lookup: LookupToken = "last",
) -> list[PreparedRequest]:
    """Tokenise every request behind every context.

    Raises:
        TokenizationError: a target or subject makes no token of its own, or a row is too long.
    """
    prepared: list[PreparedRequest] = []
    for request in requests:
        fact = request.fact
        try:
            rows = target_rows(lm, fact, contexts, request.target, lookup)
            rows += prompt_rows(lm, Fact("{} is a", fact.subject), [""], lookup)
        except TokenizationError as error:
            raise TokenizationError(f"Fact '{fact.prompt}': {error}") from error
        prepared.append(PreparedRequest(request, rows))
    return prepared


class SharedContexts:
    """Keys and values of what all facts' rows behind a context begin with.

    Args:
        lm: the model.
        prepared: every request that will use them.

    Attributes:
        lengths: for each context, and the essence prompt, how many tokens are shared.
        prefix: their keys and values, rows aligned at their ends; None if nothing is shared.
    """

    def __init__(self, lm: LanguageModel, prepared: Sequence[PreparedRequest]) -> None:
        shared = [
            _common_start([p.rows[i].inputs[: p.rows[i].lookup] for p in prepared])
            for i in range(len(prepared[0].rows))
        ]
        self.lengths = [len(ids) for ids in shared]
        self.prefix: Prefix | None = None
        if any(self.lengths):
            # A row needs a token to run; nobody will look at the 0 that stands for none.
            batch = pad([ids or [0] for ids in shared], lm.device)
            cache = RecordingCache(lm.n_layers, batch.width)
            lm.run(lm.frame(batch, cache))
            self.prefix = Prefix.of(cache, self.lengths)

    @property
    def width(self) -> int:
        """Columns of the prefix."""
        return max(self.lengths)


def _common_start(rows: Sequence[Sequence[int]]) -> list[int]:
    """The tokens with which all rows begin."""
    same = takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    return [column[0] for column in same]


class ValueBatch:
    """Some facts, ready for steps; make it inside `lm.frozen()`.

    Args:
        lm: the model.
        prepared: the facts' rows.
        shared: the contexts.
        site: where δ is added: the output of an MLP, or of a layer.
        kl_position: where the essence prompt is read.

    Attributes:
        n_facts: how many are in the batch now.
        initial_norms: ‖v₀‖ of each: the state at the site in the bare prompt.
    """

    @torch.no_grad()
    def __init__(
        self,
        lm: LanguageModel,
        prepared: Sequence[PreparedRequest],
        shared: SharedContexts,
        site: Site,
        kl_position: Literal["essence_end", "subject_end"],
    ) -> None:
        self._lm, self._site = lm, site
        self.n_facts = len(prepared)
        self._rows_per_fact = len(prepared[0].rows)
        self._prepared, self._kl_position = list(prepared), kl_position
        rows = [row for p in prepared for row in p.rows]
        positions = [row.lookup for row in rows]
        self._left = _left_of_lookup(lm, rows, shared, self.n_facts)
        self._batch = pad([row.inputs for row in rows], lm.device, align=positions)
        self._lookup = max(positions)
        self._frame = lm.frame(self._batch, self._left, self._lookup)
        with record(lm, [site]) as states:
            self._entry = lm.run(self._frame, stop=site.layer)
            above = lm.run(self._frame, self._entry, first=site.layer, stop=site.layer + 1)
        self._first_layer = site.layer
        if site.stream is Stream.BLOCK:
            self._entry, self._first_layer = above, site.layer + 1
        bare = states[site][:: self._rows_per_fact, 0]
        self.initial_norms = widened(bare).norm(dim=1)
        self._essence_logprobs: Float[Tensor, "fact vocab"] | None = None
        self._look()

    def _look(self) -> None:
        """Work out where the facts that are in the batch are read."""
        n = self._rows_per_fact
        targets = [(f * n + i, row) for f, p in enumerate(self._prepared)
                   for i, row in enumerate(p.rows[:-1])]  # fmt: skip
        self._reads = _reads([row for _, row in targets], [number for number, _ in targets])
        essences = [p.rows[-1] for p in self._prepared]
        if self._kl_position == "subject_end":
            essences = [replace(row, reads=(row.lookup,)) for row in essences]
        self._essence_reads = _reads(essences, range(n - 1, n * len(essences), n))
        self._erased = torch.tensor([p.request.erase for p in self._prepared], device="cpu")

    def losses(self, deltas: Float[Tensor, "fact d_model"]) -> Losses:
        """The loss terms with δ added. Call it first with δ = 0: the essence is measured then."""
        hidden = self._run(deltas.repeat_interleave(self._rows_per_fact, 0))
        # The readout's weights are read once for both.
        states = torch.cat([self._reads.states(hidden), self._essence_reads.states(hidden)])
        logits = wide_logits(self._lm, states)
        of_target, of_essence = logits[: -self.n_facts], logits[-self.n_facts :].log_softmax(-1)
        by_row = target_logprobs(of_target, self._reads.ids, self._reads.rows, len(hidden))
        totals, counts = (x.view(self.n_facts, -1)[:, :-1] for x in by_row)
        nll = target_nll(totals, counts, self._erased.to(totals.device)[:, None])
        if self._essence_logprobs is None:
            self._essence_logprobs = of_essence.detach()
        kl = (of_essence.exp() * (of_essence - self._essence_logprobs)).sum(1)
        return Losses(nll, kl, (totals / counts).detach().exp().mean(1))

    def keep(self, facts: Sequence[int]) -> None:
        """Go on with these facts only."""
        rows = [f * self._rows_per_fact + i for f in facts for i in range(self._rows_per_fact)]
        index, chosen = torch.tensor(rows, device="cpu"), torch.tensor(facts, device="cpu")
        self._batch = self._batch.rows(rows)
        self._left = self._left.rows(rows)
        self._frame = self._lm.frame(self._batch, self._left, self._lookup)
        self._entry = self._entry[index.to(self._entry.device)]
        self._prepared = [self._prepared[f] for f in facts]
        self._look()
        if self._essence_logprobs is not None:
            self._essence_logprobs = self._essence_logprobs[
                chosen.to(self._essence_logprobs.device)
            ]
        self.n_facts = len(facts)

    def _run(self, added: Float[Tensor, "row d_model"]) -> Hidden:
        add = partial(_add_to_first, added)
        if self._site.stream is Stream.BLOCK:
            return self._lm.run(self._frame, add(self._entry), first=self._first_layer)
        with intervene(self._lm, {self._site: add}):
            return self._lm.run(self._frame, self._entry, first=self._first_layer)


def _add_to_first(added: Float[Tensor, "row d_model"], state: Hidden) -> Hidden:
    moved = state.clone()
    moved[:, 0] += added.to(state)
    return moved


def _reads(rows: Sequence[Continuation], numbers: Sequence[int]) -> Reads:
    """Where rows of a batch are read that begins with the lookup token."""
    return Reads.of(rows, numbers, [row.lookup for row in rows])


def _left_of_lookup(
    lm: LanguageModel, rows: Sequence[Continuation], shared: SharedContexts, n_facts: int
) -> Prefix:
    """Keys and values of all tokens left of the lookup token, rows aligned at it."""
    lengths = shared.lengths * n_facts
    # A row needs a token to run; where none is left of the lookup token, that one stands in.
    texts = [row.inputs[: max(row.lookup, n + 1)] for row, n in zip(rows, lengths, strict=True)]
    batch = pad(texts, lm.device, align=lengths)
    cache = RecordingCache(lm.n_layers, batch.width)
    if shared.prefix is not None:
        cache.begin_with(shared.prefix, n_facts)
    lm.run(lm.frame(batch, cache, start=shared.width))
    positions = [row.lookup for row in rows]
    return Prefix.of(cache, positions, starts=[shared.width - n for n in lengths])
