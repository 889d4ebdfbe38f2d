"""The place an edit acts on: a token of the prompt, the subject's last unless said otherwise."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.editing.configs import LookupToken
from factlab.errors import TokenizationError
from factlab.facts import Fact, TokenSpan
from factlab.hooks import Site, Stream, record
from factlab.models.language_model import LanguageModel
from factlab.tokens import context_place, groups, pad, subject_span

# Tokens per batch where no gradients are kept.
BATCH_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class LookupRow:
    """A text with the position of the token that is looked up.

    Attributes:
        ids: the whole text's.
        position: of that token.
        n_prompt: how many ids are prompt; the rest is a continuation.
    """

    ids: tuple[int, ...]
    position: int
    n_prompt: int


def prompt_rows(
    lm: LanguageModel, fact: Fact, contexts: Sequence[str], lookup: LookupToken = "last"
) -> list[LookupRow]:
    """The fact's prompt behind each context."""
    return _rows(lm, fact, contexts, None, lookup)


def target_rows(
    lm: LanguageModel,
    fact: Fact,
    contexts: Sequence[str],
    target: str,
    lookup: LookupToken = "last",
) -> list[LookupRow]:
    """The fact's prompt behind each context, followed by a target."""
    return _rows(lm, fact, contexts, target, lookup)


def _rows(
    lm: LanguageModel, fact: Fact, contexts: Sequence[str], target: str | None, lookup: LookupToken
) -> list[LookupRow]:
    place = context_place(lm.tokenizer, fact) if any(contexts) else 0
    return [_row(lm, context, place, fact, target, lookup) for context in contexts]


def _row(
    lm: LanguageModel, context: str, place: int, fact: Fact, target: str | None, lookup: LookupToken
) -> LookupRow:
    text = fact.prompt[:place] + context + fact.prompt[place:]
    start = len(context) + fact.subject_start
    if target is None:
        tokens = lm.tokenise(text)
        n_prompt = len(tokens)
    else:
        tokens, n_prompt = lm.encode_continuation(text, target)
    lm.check_length(len(tokens))
    span = subject_span(tokens, start, fact.subject)
    if span.last >= n_prompt:
        raise TokenizationError(
            f"Target '{target}' merges with the end of subject '{fact.subject}' into one token. "
            "Put words between them in the template."
        )
    return LookupRow(tokens.ids, _position(span, n_prompt, lookup), n_prompt)


def _position(span: TokenSpan, n_prompt: int, lookup: LookupToken) -> int:
    """Where the token is. Where the subject ends the prompt, there is none after it but its own."""
    match lookup:
        case "first":
            return span.start
        case "last":
            return span.last
        case "first_after_last":
            return min(span.stop, n_prompt - 1)
        case "end":
            return n_prompt - 1


class KeysAndOutputs(NamedTuple):
    """Keys and what the MLP output projection makes of them, row by row."""

    keys: Float[Tensor, "row d_mlp"]
    outputs: Float[Tensor, "row d_model"]


@torch.no_grad()
def keys_and_outputs(lm: LanguageModel, rows: Sequence[LookupRow], layer: int) -> KeysAndOutputs:
    """Keys k = σ(W_fc γ(a + h)) and outputs m = W_proj k + b at the lookup tokens (eq. 3).

    Nothing right of the lookup token and nothing above the layer is run.
    """
    sites = [Site(layer, Stream.MLP_HIDDEN), Site(layer, Stream.MLP)]
    texts = [row.ids[: row.position + 1] for row in rows]
    found: dict[int, tuple[Tensor, ...]] = {}
    with lm.frozen(), record(lm, sites) as states:
        for numbers in groups([len(ids) for ids in texts], BATCH_TOKENS):
            batch = pad([texts[i] for i in numbers], lm.device)
            lm.run(lm.frame(batch), stop=layer + 1)
            positions = torch.tensor([rows[i].position for i in numbers], device="cpu")
            at_lookup = [
                states[site][torch.arange(len(numbers), device="cpu"), positions] for site in sites
            ]
            found |= zip(numbers, zip(*at_lookup, strict=True), strict=True)
    keys, outputs = zip(*(found[i] for i in range(len(rows))), strict=True)
    return KeysAndOutputs(torch.stack(keys), torch.stack(outputs))


@torch.no_grad()
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
    found = keys_and_outputs(lm, rows, layer)
    means = (x.cpu().double().unflatten(0, (len(facts), -1)) for x in found)
    return KeysAndOutputs(*(torch.einsum("c,fcd->fd", weights, x) for x in means))
