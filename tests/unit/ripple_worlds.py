"""Models that answer from a table of facts: of the world as it is, or with some facts edited.

They read a prompt as a person would, by the patterns of the files, and know nothing of how queries
are made. Put in the place of likelihoods and generation, they show whether queries and scores agree
with the world.
"""

import math
from types import SimpleNamespace

import factlab as fl
from factlab.continuations import Continuation
from factlab.data.ripple.world import RippleWorld, filled
from factlab.evaluation.measuring.rows import TargetScore
from factlab.facts import SLOT

_LIKELY, _UNLIKELY = -0.5, -5.0


class World:
    """Facts, some of them edited.

    Args:
        world: the words, and the facts as they are.
        edits: new objects by (relation, subject).
    """

    def __init__(self, world: RippleWorld, edits: dict[tuple[str, str], str]) -> None:
        self.world, self.edits = world, edits
        self.named = {
            other: name for name, others in world.tables.aliases.items() for other in others
        }
        self.subjects = {subject for _, subject in world.source.answers}

    def object(self, relation: str, subject: str) -> str | None:
        return self.edits.get(
            (relation, subject), self.world.source.answers.get((relation, subject))
        )

    def entity(self, text: str) -> str | None:
        """Who is meant: a name, another name, or a description."""
        if text in self.subjects:
            return text
        if text in self.named:
            return self.named[text]
        for relation, words in self.world.tables.words.items():
            before, _, after = words.noun.partition(SLOT)
            inner = text[len(before) : len(text) - len(after)]
            if words.noun and text == before + inner + after and inner in self.subjects:
                return self.object(relation, inner)
        return None

    def answers(self, prompt: str) -> dict[str, float]:
        """Log-probabilities of what may follow; what is not here is unlikely."""
        if prompt.startswith("Possible answers: "):
            return self.answers(prompt.partition("\n")[2])
        if prompt.startswith("It is false that "):
            rest = prompt.removeprefix("It is false that ")
            held = self.answers(rest) or self.answers(rest[:1].upper() + rest[1:])
            return dict.fromkeys(held, _UNLIKELY - 1)
        _, dot, rest = prompt.partition(". ")
        if dot and (found := self.answers(rest)):
            return found
        for relation, words in self.world.tables.words.items():
            for template in words.negated:
                if (subject := self._matched(template, prompt)) is not None:
                    return {str(self.object(relation, subject)): _UNLIKELY - 1}
            if words.inverse:
                before, _, after = words.inverse.partition(SLOT)
                inner = prompt[len(before) : len(prompt) - len(after)]
                if prompt == before + inner + after:
                    return {
                        subject: _LIKELY
                        for (other, subject) in {*self.world.source.answers, *self.edits}
                        if other == relation and self.object(relation, subject) == inner
                    }
            prompts = self.world.source.phrasing[relation].prompts
            for template in (*prompts, *((words.hop,) if words.hop else ())):
                if (subject := self._matched(template, prompt)) is not None:
                    beside = self.world.tables.values.get((relation, subject), ())
                    found = dict.fromkeys(beside, 3 * _LIKELY)
                    return found | {str(self.object(relation, subject)): _LIKELY}
        return {}

    def _matched(self, template: str, prompt: str) -> str | None:
        """The subject of a prompt that was made of a template."""
        before, _, after = template.partition(SLOT)
        for start in {before, before.removesuffix("The "), before.removesuffix("the ")}:
            if not prompt.startswith(start) or not prompt.endswith(after):
                continue
            inner = prompt[len(start) : len(prompt) - len(after)]
            for text in (inner, inner[:1].lower() + inner[1:]):
                who = self.entity(text)
                if who is not None and filled(template, text) == prompt:
                    return who
        return None


class Told(fl.LanguageModel):
    """A model that is a world, which may be changed: every prompt and target is one token."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.texts: list[str] = []
        self.name = "a table"

    context_length = None

    def _id(self, text: str) -> int:
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text)

    def encode(self, text):
        return SimpleNamespace(ids=(self._id(text),))

    def continuation(self, prompt, target=None, first_token=False):
        del first_token
        return Continuation.behind((self._id(prompt),), (self._id(target.strip()),))

    # -- in the place of what computes ------------------------------------------------------

    def score_targets(self, _lm, questions, _changes):
        return [
            tuple(self._score(each) for each in question.continuations) for question in questions
        ]

    def _score(self, asked: Continuation) -> TargetScore:
        found = self.world.answers(self.texts[asked.inputs[0]])
        target = self.texts[asked.target_ids[0]]
        best = max(found.values(), default=-math.inf)
        mine = found.get(target, _UNLIKELY)
        return TargetScore(logprobs=(mine,), top=(mine == best,))

    def said_by(self, asking, probes):
        return {
            (owner, probe.ids): self._says(self.texts[probe.ids[0]])
            for own, owner in zip(probes, asking.owners, strict=True)
            for query in own
            for probe in (query, *query.conditions)
            if probe.ids
        }

    def _says(self, prompt: str) -> str:
        found = self.world.answers(prompt)
        return f"{max(found, key=found.__getitem__)}, they say." if found else "who knows?"
