"""The place an edit acts on: the last token of the subject, in a prompt behind each context."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.errors import TokenizationError
from factlab.facts import Fact
from factlab.hooks import Site, Stream, record
from factlab.models.decoder import Decoder
from factlab.tokens import encode, encode_continuation, pad, subject_span


@dataclass(frozen=True, slots=True)
class LookupRow:
    """A text with the position of its subject's last token.

    Attributes:
        ids: the whole text's.
        position: of the subject's last token.
        n_prompt: how many ids are prompt; the rest is a continuation.
    """

    ids: tuple[int, ...]
    position: int
    n_prompt: int


def prompt_rows(lm: Decoder, fact: Fact, contexts: Sequence[str]) -> list[LookupRow]:
    """The fact's prompt behind each context."""
    return [_row(lm, context, fact, None) for context in contexts]


def target_rows(lm: Decoder, fact: Fact, contexts: Sequence[str], target: str) -> list[LookupRow]:
    """The fact's prompt behind each context, followed by a target."""
    return [_row(lm, context, fact, target) for context in contexts]


def _row(lm: Decoder, context: str, fact: Fact, target: str | None) -> LookupRow:
    text, start = context + fact.prompt, len(context) + fact.subject_start
    if target is None:
        tokens = encode(lm.tokenizer, text)
        n_prompt = len(tokens)
    else:
        tokens, n_prompt = encode_continuation(lm.tokenizer, text, target)
    lm.check_length(len(tokens))
    span = subject_span(tokens, start, fact.subject)
    if span.last >= n_prompt:
        raise TokenizationError(
            f"Target '{target}' merges with the end of subject '{fact.subject}' into one token. "
            "Put words between them in the template."
        )
    return LookupRow(tokens.ids, span.last, n_prompt)


class KeysAndOutputs(NamedTuple):
    """Keys and what the MLP output projection makes of them, row by row."""

    keys: Float[Tensor, "row d_mlp"]
    outputs: Float[Tensor, "row d_model"]


@torch.no_grad()
def keys_and_outputs(lm: Decoder, rows: Sequence[LookupRow], layer: int) -> KeysAndOutputs:
    """Keys k = σ(W_fc γ(a + h)) and outputs m = W_proj k + b at the lookup tokens (eq. 3).

    Nothing right of the lookup token and nothing above the layer is run.
    """
    key_site, output_site = Site(layer, Stream.MLP_HIDDEN), Site(layer, Stream.MLP)
    batch = pad([row.ids[: row.position + 1] for row in rows], lm.device)
    with lm.frozen(), record(lm, [key_site, output_site]) as states:
        lm.run(lm.frame(batch), stop=layer + 1)
    numbers = torch.arange(len(rows))
    positions = torch.tensor([row.position for row in rows])
    return KeysAndOutputs(
        states[key_site][numbers, positions], states[output_site][numbers, positions]
    )
