"""The place an edit acts on: a token of the prompt, the subject's last unless said otherwise."""

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.continuations import Continuation, continuation_of
from factlab.facts import Fact, LookupToken
from factlab.hooks import Site, Stream, record
from factlab.models.engines.engine import select_rows
from factlab.models.language_model import LanguageModel
from factlab.models.texts import fitting, tokenise
from factlab.tokens import context_place, groups, pad, subject_span


def prompt_rows(
    lm: LanguageModel, fact: Fact, contexts: Sequence[str], lookup: LookupToken = "last"
) -> list[Continuation]:
    """The fact's prompt behind each context."""
    return _rows(lm, fact, contexts, None, lookup)


def target_rows(
    lm: LanguageModel,
    fact: Fact,
    contexts: Sequence[str],
    target: str,
    lookup: LookupToken = "last",
) -> list[Continuation]:
    """The fact's prompt behind each context, followed by a target."""
    return _rows(lm, fact, contexts, target, lookup)


def _rows(
    lm: LanguageModel, fact: Fact, contexts: Sequence[str], target: str | None, lookup: LookupToken
) -> list[Continuation]:
    bare = tokenise(lm, fact.prompt, target)
    place = context_place(lm.tokenizer, bare, fact.subject_start) if any(contexts) else 0
    rows: list[Continuation] = []
    for context in contexts:
        text = fact.prompt[:place] + context + fact.prompt[place:]
        tokens = tokenise(lm, text, target) if context else bare
        subject = subject_span(tokens, len(context) + fact.subject_start, fact.subject)
        rows.append(fitting(lm, continuation_of(tokens, subject, lookup)))
    return rows


def up_to_lookup(row: Continuation) -> tuple[int, ...]:
    """The tokens of a row as far as the lookup token."""
    return row.inputs[: row.lookup + 1]


class KeysAndOutputs(NamedTuple):
    """Keys and what the MLP output projection makes of them, row by row."""

    keys: Float[Tensor, "row d_mlp"]
    outputs: Float[Tensor, "row d_model"]


def keys_and_outputs(lm: LanguageModel, rows: Sequence[Continuation], layer: int) -> KeysAndOutputs:
    """Keys k = σ(W_fc γ(a + h)) and outputs m = W_proj k + b at the lookup tokens (eq. 3).

    Nothing right of the lookup token and nothing above the layer is run.
    """
    at_rows: dict[int, tuple[Tensor, ...]] = {}
    with closing(_looked_up(lm, rows, layer)) as found:
        for numbers, batch in found:
            at_rows |= zip(numbers, zip(*batch, strict=True), strict=True)
    keys, outputs = zip(*(at_rows[i] for i in range(len(rows))), strict=True)
    return KeysAndOutputs(torch.stack(keys), torch.stack(outputs))


def mean_keys(
    lm: LanguageModel,
    facts: Sequence[Fact],
    contexts: Sequence[str],
    layer: int,
    weights: Tensor,
    lookup: LookupToken = "last",
) -> KeysAndOutputs:
    """k* of every fact, and what the projection makes of it: weighted means over contexts (eq. 3).

    Args:
        lm: the model, left as it is.
        facts: whose subjects are looked up.
        contexts: texts before the prompts.
        layer: 0-based.
        weights: of the contexts; they add up to 1.
        lookup: which token is looked up.

    Returns:
        keys (fact, d_mlp) and outputs (fact, d_model), float64 on the CPU.
    """
    rows = [row for fact in facts for row in prompt_rows(lm, fact, contexts, lookup)]
    means = KeysAndOutputs(*(
        torch.zeros(len(facts), width, dtype=torch.float64, device="cpu")
        for width in (lm.d_mlp, lm.d_model)
    ))  # fmt: skip
    with closing(_looked_up(lm, rows, layer)) as found:
        for numbers, batch in found:
            for total, states in zip(means, batch, strict=True):
                add_weighted(total, numbers, weights, states)
    return means


def _looked_up(
    lm: LanguageModel, rows: Sequence[Continuation], layer: int
) -> Generator[tuple[list[int], KeysAndOutputs], None, None]:
    """Numbers of rows, as many as memory has room for, and what is at their lookup tokens.

    The model is frozen until this is closed.
    """
    sites = [Site(layer, Stream.MLP_HIDDEN), Site(layer, Stream.MLP)]
    texts = [up_to_lookup(row) for row in rows]
    with lm.frozen(), record(lm, sites) as states:
        for numbers in groups([len(ids) for ids in texts], batch_tokens(lm)):
            batch = pad([texts[i] for i in numbers], lm.device)
            with torch.no_grad():
                lm.run(lm.frame(batch), stop=layer + 1)
            found = [at_lookup(states[site], rows, numbers) for site in sites]
            yield numbers, KeysAndOutputs(*found)


def batch_tokens(lm: LanguageModel) -> int:
    """Tokens that go through the model together where keys are looked up."""
    return lm.budget.pass_tokens(kept=lm.budget.sizes.hidden)


def at_lookup(
    states: Float[Tensor, "batch pos width"], rows: Sequence[Continuation], numbers: Sequence[int]
) -> Float[Tensor, "batch width"]:
    """Of a batch of some rows, the states at the lookup tokens."""
    positions = torch.tensor([rows[i].lookup for i in numbers], device=states.device)
    return select_rows(states, positions)


def add_weighted(
    totals: Float[Tensor, "fact width"],
    numbers: Sequence[int],
    weights: Float[Tensor, " context"],
    states: Float[Tensor, "row width"],
) -> None:
    """Add states of some rows to those of their facts, in float64 on the CPU.

    Args:
        totals: by fact.
        numbers: of the rows, which come fact by fact, one for each context.
        weights: of the contexts.
        states: of the rows.
    """
    places = torch.tensor(numbers, device="cpu")
    each = weights[places % len(weights), None] * states.cpu().double()
    totals.index_add_(0, places // len(weights), each)
