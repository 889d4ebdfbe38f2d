"""The place an edit acts on: a token of the prompt, the subject's last unless said otherwise."""

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factlab.continuations import Continuation, continuation_of
from factlab.editing.noised import NoisedSubjects
from factlab.facts import Fact, LookupToken
from factlab.hooks import Site, Stream, record
from factlab.models.engines.engine import select_rows
from factlab.models.keys import recorded_keys
from factlab.models.language_model import LanguageModel
from factlab.models.texts import fitting, tokenise, wrapped_fact
from factlab.precision import wide
from factlab.tokens import Tokens, context_place, groups, pad, subject_span
from factlab.wrapping import Context, Thinned


def prompt_rows(
    lm: LanguageModel,
    fact: Fact,
    contexts: Sequence[Context],
    lookup: LookupToken = "last",
    noised: NoisedSubjects | None = None,
) -> list[Continuation]:
    """The fact's prompt behind each context, or wrapped into it; perhaps with noise."""
    rows = _rows(lm, fact, contexts, None, lookup)
    return rows if noised is None else [noised.of(row, fact) for row in rows]


def target_rows(
    lm: LanguageModel,
    fact: Fact,
    contexts: Sequence[Context],
    target: str,
    lookup: LookupToken = "last",
    noised: NoisedSubjects | None = None,
) -> list[Continuation]:
    """The same, followed by a target."""
    rows = _rows(lm, fact, contexts, target, lookup)
    return rows if noised is None else [noised.of(row, fact) for row in rows]


def _rows(
    lm: LanguageModel,
    fact: Fact,
    contexts: Sequence[Context],
    target: str | None,
    lookup: LookupToken,
) -> list[Continuation]:
    bare = tokenise(lm, fact.prompt, target)
    rows: list[Continuation] = []
    for context in contexts:
        if isinstance(context, str):
            rows.append(_behind(lm, context, fact, bare, target, lookup))
        elif isinstance(context, Thinned):
            thin = context.of(fact)
            tokens = tokenise(lm, thin.prompt, target)
            rows.append(_behind(lm, context.before, thin, tokens, target, lookup))
        else:
            rows.append(wrapped_fact(lm, fact, context.of(fact.prompt), target, lookup))
    return rows


def _behind(
    lm: LanguageModel,
    context: str,
    fact: Fact,
    bare: Tokens,
    target: str | None,
    lookup: LookupToken,
) -> Continuation:
    """A fact's prompt, whose tokens are known, behind a text and what a tokenizer puts in front."""
    tokens = bare
    if context:
        place = context_place(lm.tokenizer, bare, fact.subject_start)
        tokens = tokenise(lm, fact.prompt[:place] + context + fact.prompt[place:], target)
    subject = subject_span(tokens, len(context) + fact.subject_start, fact.subject)
    return fitting(lm, continuation_of(tokens, subject, lookup))


def up_to_lookup(row: Continuation) -> tuple[int, ...]:
    """The tokens of a row as far as the lookup token."""
    return row.inputs[: row.lookup + 1]


class KeysAndOutputs(NamedTuple):
    """Keys and what the layer's memory makes of them, row by row.

    Attributes:
        keys: of the MLP; at a mixture of experts stacked (`factlab.models.experts`).
        outputs: of the MLP, the experts that all tokens go through included.
        weights: of the experts, as the router gave them; None where there are none to be had.
    """

    keys: Float[Tensor, "row d_mlp"]
    outputs: Float[Tensor, "row d_model"]
    weights: Float[Tensor, "row expert"] | None = None


def keys_and_outputs(lm: LanguageModel, rows: Sequence[Continuation], layer: int) -> KeysAndOutputs:
    """Keys k = σ(W_fc γ(a + h)) and outputs m = W_proj k + b at the lookup tokens (eq. 3).

    Nothing right of the lookup token and nothing above the layer is run.
    """
    at_rows: dict[int, tuple[Tensor, ...]] = {}
    with closing(_looked_up(lm, rows, layer)) as found:
        for numbers, batch in found:
            there = [states for states in batch if states is not None]
            at_rows |= zip(numbers, zip(*there, strict=True), strict=True)
    stacked = zip(*(at_rows[i] for i in range(len(rows))), strict=True)
    return KeysAndOutputs(*map(torch.stack, stacked))


def mean_keys(
    lm: LanguageModel,
    facts: Sequence[Fact],
    contexts: Sequence[Context],
    layer: int,
    weights: Tensor,
    lookup: LookupToken = "last",
    shared: bool = False,
    noised: NoisedSubjects | None = None,
) -> KeysAndOutputs:
    """k* of every fact, and what the projection makes of it: weighted means over contexts (eq. 3).

    Args:
        lm: the model, left as it is.
        facts: whose subjects are looked up.
        contexts: texts before the prompts.
        layer: 0-based.
        weights: of the contexts; they add up to 1.
        lookup: which token is looked up.
        shared: at a mixture, look up the expert that every token goes through.
        noised: puts noise on the subjects; make this call in its block.

    Returns:
        keys (fact, d_mlp) and outputs (fact, d_model), float64 on the CPU.
    """
    rows = [row for fact in facts for row in prompt_rows(lm, fact, contexts, lookup, noised)]
    means: list[Tensor] = []
    with closing(_looked_up(lm, rows, layer, shared)) as found:
        for numbers, batch in found:
            there = [states for states in batch if states is not None]
            means = means or [
                torch.zeros(len(facts), states.shape[1], dtype=torch.float64, device="cpu")
                for states in there
            ]
            for total, states in zip(means, there, strict=True):
                add_weighted(total, numbers, weights, states)
    return KeysAndOutputs(*means)


def _looked_up(
    lm: LanguageModel, rows: Sequence[Continuation], layer: int, shared: bool = False
) -> Generator[tuple[list[int], KeysAndOutputs], None, None]:
    """Numbers of rows, as many as memory has room for, and what is at their lookup tokens.

    The model is frozen until this is closed.
    """
    site = Site(layer, Stream.MLP)
    texts = [up_to_lookup(row) for row in rows]
    with lm.frozen(), record(lm, [site]) as states, recorded_keys(lm, [layer], shared) as recorded:
        lengths, enough = [len(ids) for ids in texts], lm.budget.enough_tokens
        for numbers in groups(lengths, batch_tokens(lm, [layer]), enough):
            batch = pad([texts[i] for i in numbers], lm.device)
            with torch.no_grad():
                lm.run(lm.frame(batch), stop=layer + 1)
            keys, places = recorded[layer], lookup_places(rows, numbers)
            outputs = at_lookup(states[site], rows, numbers)
            yield numbers, KeysAndOutputs(keys.at(places), outputs, keys.weights_at(places))


def batch_tokens(lm: LanguageModel, layers: Sequence[int]) -> int:
    """Tokens that go through the model together where keys are looked up.

    A stacked key of experts is far longer than any state, and there is one for each row.
    """
    sizes = lm.budget.sizes
    mixtures = [mixture for layer in layers if (mixture := lm.layers.mixture(layer)) is not None]
    stacked = max((wide(lm.dtype).itemsize * mixture.width for mixture in mixtures), default=0)
    return lm.budget.pass_tokens(kept=sizes.hidden + stacked)


def lookup_places(rows: Sequence[Continuation], numbers: Sequence[int]) -> Int[Tensor, " batch"]:
    """The lookup tokens of a batch of some rows."""
    return torch.tensor([rows[i].lookup for i in numbers], device="cpu")


def at_lookup(
    states: Float[Tensor, "batch pos width"], rows: Sequence[Continuation], numbers: Sequence[int]
) -> Float[Tensor, "batch width"]:
    """Of a batch of some rows, the states at the lookup tokens."""
    return select_rows(states, lookup_places(rows, numbers).to(states.device))


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
