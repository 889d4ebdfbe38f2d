"""Passages of text that trained editors learn from: as edits, and as what must stay.

As an edit, a passage is a prompt and a few words that it is to go on with. Facts are short and
passages are long, and the gradient of a token in a short text is many times that in a long one. So
lengths are mixed, drawn for each passage from the seed:

| | drawn |
|---|---|
| prompt | from 4 tokens to the whole passage, short ones as often as long ones (log-uniform) |
| target | 1 to 10 tokens; every other one is what the model went on with behind this prompt (as |
| | published: likely words), the others behind another prompt (unlikely ones, as facts are) |
| in other words | a long prompt without some of its beginning; a short one behind other text |

What must stay is read at places all over a passage, its very beginning included.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from factlab.continuations import Continuation
from factlab.data.split import share_of
from factlab.errors import InvalidRequestError, counted
from factlab.models.generation import generate_ids
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback
from factlab.stats.corpus import Corpus

PASSAGE_TOKENS = 40
N_PASSAGES = 6  # that go with each example
LONGEST_TARGET = 10  # tokens, as published
SHORTEST_PROMPT = 4
_LONG_PROMPT = 12  # from here on some of its beginning is left out
_READS = 4  # places at which a passage that must stay is read
_SHORTEST = 18  # tokens of a passage


@dataclass(frozen=True, slots=True)
class Passages:
    """Passages in two shares, and all that is drawn for them.

    Attributes:
        rows: the passages, without special tokens; none twice.
        start: the special tokens that a text begins with.
        shares: numbers of those for training, and of those for validation.
        seed: of all that is drawn.
    """

    rows: tuple[tuple[int, ...], ...]
    start: tuple[int, ...]
    shares: tuple[tuple[int, ...], tuple[int, ...]]
    seed: int

    @classmethod
    def of(
        cls, lm: LanguageModel, corpus: Corpus, seed: int, validation_share: float
    ) -> "Passages":
        """Share the passages of a corpus out; those that are too short, and copies, are left out.

        Args:
            lm: whose tokens they are of.
            corpus: the passages.
            seed: of the shares and of all that is drawn.
            validation_share: part of the passages for validation.

        Raises:
            InvalidRequestError: there are too few.
        """
        tokens = lm.encode("The")
        special = {*cast("list[int]", lm.tokenizer.all_special_ids)}
        bare = dict.fromkeys(_without_start(row, special) for row in corpus.rows)
        rows = [row for row in bare if len(row) >= _SHORTEST]
        shares: tuple[list[int], list[int]] = [], []
        for i, row in enumerate(rows):
            shares[share_of(repr(row), seed, validation_share, 0.0)].append(i)
        if min(map(len, shares)) <= N_PASSAGES:
            raise InvalidRequestError(
                f"Too little text to train on: {counted(len(rows), 'passage')}, {len(shares[0])} "
                f"for training and {len(shares[1])} for validation. Give more."
            )
        start = tokens.ids[: tokens.n_special]
        return cls(tuple(rows), start, (tuple(shares[0]), tuple(shares[1])), seed)

    # -- as edits ---------------------------------------------------------------------------

    def continued(self, lm: LanguageModel, progress: ProgressCallback) -> list[tuple[int, ...]]:
        """What a model goes on with behind the prompt of every passage, as many tokens as drawn."""
        prompts = [(*self.start, *self._prompt(number)) for number in range(len(self.rows))]
        # Streams of their own, so that a passage which the model sampled is not sampled once more.
        streams = [len(prompts) + 1 + i for i in range(len(prompts))]
        found = generate_ids(
            lm, prompts, LONGEST_TARGET, 0, self.seed, progress, may_end=False, streams=streams
        )
        return [tuple(each) for each in found]

    def edit(
        self, number: int, continued: Sequence[tuple[int, ...]]
    ) -> tuple[Continuation, tuple[Continuation, ...]]:
        """A passage as an edit, and the same in other words.

        Args:
            number: of the passage.
            continued: see `continued`.
        """
        draw, prompt = self._draw("edit", number), self._prompt(number)
        share = next(share for share in self.shares if number in share)
        source = number if number % 2 else draw.choice(share)
        target = continued[source][: draw.randint(1, LONGEST_TARGET)]
        if len(prompt) >= _LONG_PROMPT:
            other = prompt[draw.randint(1, len(prompt) // 2) :]
        else:
            row = self.rows[draw.choice([n for n in share if n != number])]
            length = draw.randint(SHORTEST_PROMPT, _LONG_PROMPT)
            first = draw.randrange(len(row) - length + 1)
            other = (*row[first : first + length], *prompt)
        texts = [Continuation.behind((*self.start, *ids), target) for ids in (prompt, other)]
        return texts[0], (texts[1],)

    def _prompt(self, number: int) -> tuple[int, ...]:
        draw, row = self._draw("prompt", number), self.rows[number]
        length = round(SHORTEST_PROMPT * (len(row) / SHORTEST_PROMPT) ** draw.random())
        first = draw.randrange(len(row) - length + 1)
        return row[first : first + length]

    # -- as what must stay ------------------------------------------------------------------

    def staying(self, place: int, key: str, besides: int | None = None) -> tuple[Continuation, ...]:
        """Some passages of a share, each read at some places.

        Args:
            place: 0 for training, 1 for validation.
            key: which are drawn follows from it and the seed.
            besides: number of a passage that is not among them.
        """
        numbers = [n for n in self.shares[place] if n != besides]
        drawn = self._draw("staying", key).sample(numbers, N_PASSAGES)
        return tuple(self._read(number) for number in drawn)

    def _read(self, number: int) -> Continuation:
        row = (*self.start, *self.rows[number])
        places = range(max(0, len(self.start) - 1), len(row))
        reads = sorted(self._draw("reads", number).sample(places, min(_READS, len(places))))
        return replace(Continuation.behind(row[: reads[-1] + 1]), reads=tuple(reads))

    def _draw(self, what: str, key: int | str) -> random.Random:
        return random.Random(f"{self.seed} {what} {key}")  # noqa: S311 - not a secret


def _without_start(row: Sequence[int], special: set[int]) -> tuple[int, ...]:
    first = next((i for i, token in enumerate(row) if token not in special), len(row))
    return tuple(row[first:])
