"""What the unedited model says to the probes, and what every edited model does.

The unedited model is asked once. The edited ones are asked together, each row carrying the changes
of its own edit; texts go on from the first layer that is changed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from factlab.editing.edit import Edit
from factlab.errors import InvalidRequestError, TokenizationError
from factlab.evaluation.localising.edited import KeptRows
from factlab.evaluation.measuring.likelihood import Question, score_targets
from factlab.evaluation.probing.asked import AskedFact
from factlab.evaluation.probing.essence import divergence, next_token_logprobs
from factlab.models.changes.carried import (
    Carried,
    carried_together,
    first_changed,
    row_changes,
)
from factlab.models.language_model import LanguageModel
from factlab.writing import behind


@dataclass(frozen=True, slots=True)
class Answers:
    """What one model says about one fact.

    Attributes:
        prompts: natural-log probability of every target, prompt by prompt.
        texts: of every text; none with an edit that is a text in front of prompts.
        kl: from the unedited model, after the opening; None without one.
    """

    prompts: tuple[tuple[float, ...], ...]
    texts: tuple[float, ...]
    kl: float | None

    @property
    def is_finite(self) -> bool:
        """Whether no number is NaN or infinite, as a broken model makes them."""
        numbers = [value for values in self.prompts for value in values]
        return all(map(math.isfinite, (*numbers, *self.texts, self.kl or 0.0)))


class Answering:
    """Asks about some facts; make and use it inside `lm.frozen()`.

    Args:
        lm: the model.
        asked: about each fact.
        edits: by the place of their fact; several facts may have one edit.

    Attributes:
        before: what the unedited model says about each fact.
    """

    def __init__(
        self, lm: LanguageModel, asked: Sequence[AskedFact], edits: Mapping[int, Edit]
    ) -> None:
        self._lm, self._asked, self._edits = lm, asked, edits
        texts = [(i, row) for i, one in enumerate(asked) for row in one.texts]
        changed = [first_changed(lm, edit.updates) for edit in edits.values() if not edit.prefix]
        self._first = min(changed, default=0)
        self._kept = KeptRows(lm, [row for _, row in texts], [self._first] if changed else [])
        self._numbers: dict[int, list[int]] = {i: [] for i in range(len(asked))}
        for number, (i, _) in enumerate(texts):
            self._numbers[i].append(number)
        places = range(len(asked))
        self._openings = self._next_tokens(places, dict.fromkeys(places, ""), {}, {})
        told = self._prompts(places, [one.questions(lm, 0) for one in asked], {})
        self.before = [
            Answers(told[i], tuple(self._kept.logprobs[n] for n in self._numbers[i]), None)
            for i in places
        ]

    def after(self) -> dict[int, Answers | str]:
        """What the edited models say, by the place of the fact; or why one cannot be asked."""
        unique = list({id(edit): edit for edit in self._edits.values()}.values())
        number_of = {id(edit): number for number, edit in enumerate(unique)}
        found: dict[int, Answers | str] = {}
        for part in carried_together(self._lm, [edit.updates for edit in unique]):
            changes = row_changes(self._lm, [unique[number].updates for number in part])
            owner_of = {number: owner for owner, number in enumerate(part)}
            owners = {
                place: owner_of[number_of[id(edit)]]
                for place, edit in self._edits.items()
                if number_of[id(edit)] in owner_of
            }
            found |= self._after(owners, changes)
        return found

    def _after(
        self, owners: Mapping[int, int], changes: Mapping[str, Carried]
    ) -> dict[int, Answers | str]:
        """Of some facts, whose edits are carried together."""
        questions: dict[int, list[Question]] = {}
        found: dict[int, Answers | str] = {}
        prefixes = {place: self._edits[place].prefix for place in owners}
        for place, owner in owners.items():
            asked, prefix = self._asked[place], prefixes[place]
            try:
                questions[place] = asked.questions(self._lm, owner, prefix)
                if asked.opening:
                    self._lm.encode(behind(prefix, asked.opening))
            except (InvalidRequestError, TokenizationError) as error:
                found[place] = str(error)
        places = [place for place in owners if place not in found]
        told = self._prompts(places, [questions[place] for place in places], changes)
        openings = self._next_tokens(places, prefixes, owners, changes)
        rows = [
            (number, owners[place])
            for place in places
            if not prefixes[place]
            for number in self._numbers[place]
        ]
        texts = iter(self._kept.edited(self._first, rows, changes))
        for place in places:
            numbers = [] if prefixes[place] else self._numbers[place]
            kl = divergence(self._openings[place], openings[place]) if place in openings else None
            found[place] = Answers(told[place], tuple(next(texts) for _ in numbers), kl)
        return found

    def _prompts(
        self,
        places: Sequence[int],
        questions: Sequence[Sequence[Question]],
        changes: Mapping[str, Carried],
    ) -> dict[int, tuple[tuple[float, ...], ...]]:
        """Log-probabilities of the targets of some facts, all asked at once."""
        every = [question for several in questions for question in several]
        scores: Iterator[tuple[float, ...]] = iter([
            tuple(math.fsum(score.logprobs) for score in several)
            for several in score_targets(self._lm, every, changes)
        ])  # fmt: skip
        return {
            place: tuple(next(scores) for _ in several)
            for place, several in zip(places, questions, strict=True)
        }

    def _next_tokens(
        self,
        places: Sequence[int],
        prefixes: Mapping[int, str],
        owners: Mapping[int, int],
        changes: Mapping[str, Carried],
    ) -> dict[int, Float[Tensor, " vocab"]]:
        """What follows the openings of those facts that have one."""
        those = [place for place in places if self._asked[place].opening]
        rows = [
            self._lm.encode(behind(prefixes[place], self._asked[place].opening)).ids
            for place in those
        ]
        whose = [owners.get(place, 0) for place in those]
        return dict(zip(those, next_token_logprobs(self._lm, rows, whose, changes), strict=True))
