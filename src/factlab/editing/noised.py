"""Prompts whose subject has noise on its embeddings: the corrupted run of a causal trace.

The noise is that of `factlab.tracing.corruption`: the same level, seed and number of samples give
the same numbers for the same subject. Where a subject splits into other tokens than in its bare
prompt, as behind a context, noise and tokens are paired from the last one leftwards.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.continuations import Continuation
from factlab.editing.noise_config import SubjectNoise
from factlab.errors import InvalidRequestError
from factlab.facts import Fact, TokenSpan, joined_by
from factlab.models.altered_tokens import AlteredTokens
from factlab.models.generation import decode_continuation, eos_ids
from factlab.models.language_model import LanguageModel
from factlab.tokens import groups, pad
from factlab.tracing.corruption import draw_noise, with_level
from factlab.tracing.corruption_kinds import GaussianNoise


class NoisedSubjects:
    """Puts noise on subjects, or leaves them as they are.

    Args:
        lm: the model.
        noise: how much, and which; None for none.

    Attributes:
        is_noisy: whether there is any.
        n_samples: how many there are of every noise; 1 of none.

    Raises:
        UnsupportedModelError: see `AlteredTokens`.
    """

    def __init__(self, lm: LanguageModel, noise: SubjectNoise | None) -> None:
        self._lm, self._noise = lm, noise
        self._tokens = None if noise is None else AlteredTokens(lm)
        self._drawn: dict[int, Tensor] = {}
        self.is_noisy = noise is not None
        self.n_samples = 1 if noise is None else noise.samples

    def present(self) -> AbstractContextManager[None]:
        """A block in which the model can run noised rows."""
        return nullcontext() if self._tokens is None else self._tokens.present()

    def of(self, row: Continuation, fact: Fact, sample: int = 0) -> Continuation:
        """A row with noise on its subject.

        Args:
            row: with the tokens of its subject.
            fact: whose bare prompt decides which noise it is.
            sample: which of the samples.
        """
        return self.of_span(row, fact, row.subject, sample)

    def of_span(
        self, row: Continuation, fact: Fact, span: TokenSpan, sample: int = 0
    ) -> Continuation:
        """The same with the subject at some tokens, of which only inputs are noised."""
        if self._tokens is None or self._noise is None:
            return row
        n_bare = len(self._lm.fact_continuation(fact).subject_ids)
        noise = self._rows(self._noise, n_bare, span.stop - span.start)[sample]
        ids, stop = row.inputs, min(span.stop, len(row.inputs))
        altered = self._tokens.ids(ids[span.start : stop], noise[: stop - span.start])
        return replace(row, inputs=(*ids[: span.start], *altered, *ids[stop:]))

    def _rows(
        self, noise: SubjectNoise, n_bare: int, n_tokens: int
    ) -> Float[Tensor, "sample token width"]:
        """Noise for so many tokens, where the bare prompt's subject has another number."""
        if n_bare not in self._drawn:
            self._drawn[n_bare] = self._draw(noise, n_bare, noise.seed)
        drawn = self._drawn[n_bare]
        if n_tokens <= n_bare:
            return drawn[:, n_bare - n_tokens :]
        more = self._draw(noise, n_tokens - n_bare, (noise.seed + 1) % 2**32)
        return torch.cat([more, drawn], dim=1)

    def _draw(
        self, noise: SubjectNoise, n_tokens: int, seed: int
    ) -> Float[Tensor, "sample token width"]:
        kind = GaussianNoise(level=noise.level)
        return draw_noise(kind, self._lm, noise.samples, n_tokens, seed)[0]


def level_of(lm: LanguageModel, facts: Sequence[Fact]) -> float:
    """The level of noise that a causal trace of some facts has by default: 3σ of their subjects.

    Raises:
        InvalidRequestError: a fact has no subject, or there are none.
    """
    if not facts:
        raise InvalidRequestError("The list of facts is empty. Give at least one.")
    found = with_level(GaussianNoise(), lm, None, facts)
    if not isinstance(found, GaussianNoise) or found.level is None:
        raise RuntimeError("with_level() left the level open")
    return found.level


@torch.no_grad()
def said_under_noise(
    lm: LanguageModel, facts: Sequence[Fact], noise: SubjectNoise, n_tokens: int
) -> list[str]:
    """What the model says, greedily, after each prompt with noise on its subject.

    Args:
        lm: the model.
        facts: their prompts.
        noise: its first sample is taken.
        n_tokens: tokens to write, line breaks among them; the end of the text ends it before.

    Returns:
        The first line with something in it, as targets that continue their prompts; empty where
        nothing is said.
    """
    noised = NoisedSubjects(lm, noise)
    rows = [noised.of(lm.fact_continuation(fact), fact).inputs for fact in facts]
    new: list[list[int]] = [[] for _ in rows]
    ends = eos_ids(lm)
    with lm.frozen(), noised.present():
        for numbers in groups([len(row) for row in rows], lm.budget.pass_tokens()):
            still_open = list(numbers)
            for _ in range(n_tokens):
                if not still_open:
                    break
                texts = [(*rows[i], *new[i]) for i in still_open]
                hidden = lm.run(lm.frame(pad(texts, lm.device)))
                last = torch.stack([hidden[k, len(ids) - 1] for k, ids in enumerate(texts)])
                chosen = lm.readout(last).argmax(-1).tolist()
                for i, token_id in zip(still_open, chosen, strict=True):
                    new[i].append(token_id)
                still_open = [i for i in still_open if new[i][-1] not in ends]
    plain = [lm.fact_continuation(fact).inputs for fact in facts]
    return [
        _as_target(decode_continuation(lm, row, [i for i in ids if i not in ends]))
        for row, ids in zip(plain, new, strict=True)
    ]


def _as_target(text: str) -> str:
    """The first line of a continuation, joined to its prompt as it was written."""
    line = next((line for line in text.splitlines() if line.strip()), "").strip()
    is_apart = text[:1].isspace()
    return line if is_apart or not line else joined_by(line, "none")
