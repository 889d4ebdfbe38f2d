"""What each axis of the ripple suite asks about one edit (s, r, o → o*), in the words of a world.

Sources: Cohen et al. 2023 (composition, specificity, alias, forgetfulness), Ma et al. 2023, BAKE
(reversal), Hoelscher-Obermaier et al. 2023 (loud facts).

| axis | asked | right with the edit | right without |
|---|---|---|---|
| composition | r₂ of "the r of s" | r₂ of o* | r₂ of o |
| composition_from | r of "the r' of s'", which is s | o* | o |
| specificity | r₂ of s | as before | the same |
| alias | r of another name of s | o* | o |
| reversal | who has o* | s becomes more probable | — |
| negation | s has not … | o* becomes no more probable | the same |
| loud | the edit as a sentence, then r of a neighbour | as before | the same |
| forgetfulness | r of s, of which there are several | the others keep their lead | the same |
| choice | r of s, with a list to choose from | o* | o |

A query about what an edit does not change in the world, such as a currency that both countries
have, is left out.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from factlab.data.records import Record
from factlab.data.ripple.world import RippleWorld, filled
from factlab.data.ripple_query import Axis, Condition, RippleQuery
from factlab.facts import words_of

# Candidates beside the answer: subjects of a reversal, values of what is not to be forgotten, and
# what is listed to choose from.
_N_SUBJECTS, _N_VALUES, _N_CHOICES = 9, 5, 4


@dataclass(frozen=True, slots=True)
class Edited:
    """One edit, in a world.

    Attributes:
        record: holds it.
        world: in which it is made.
        seed: of what is drawn.
    """

    record: Record
    world: RippleWorld
    seed: int

    @property
    def relation_id(self) -> str:
        """Of the fact."""
        return self.record.relation_id

    @property
    def subject(self) -> str:
        """Of the fact."""
        return self.record.fact.subject

    @property
    def new(self) -> str:
        """The new object."""
        return words_of(str(self.record.fact.target_new))

    @property
    def true(self) -> str:
        """The true object; empty if it is not known."""
        return words_of(self.record.fact.target_true or "")

    @property
    def new_names(self) -> tuple[str, ...]:
        """The new object and its other names."""
        return tuple(dict.fromkeys((*self.world.tables.names(self.new), *self.record.new_aliases)))

    @property
    def true_names(self) -> tuple[str, ...]:
        """The true object and its other names; nothing if it is not known."""
        return self.world.tables.names(self.true) if self.true else ()

    @property
    def knows_fact(self) -> tuple[Condition, ...]:
        """That the model knows what is edited."""
        return (Condition(self.record.fact.prompt, self.true_names),) if self.true else ()

    def objects(self) -> list[str]:
        """What else may be an object of the relation."""
        known = self.world.source.objects.get(self.relation_id, {})
        named = {*self.new_names, *self.true_names}
        return [object_ for object_ in known if object_ not in named]

    def drawn(self, axis: Axis) -> random.Random:
        """A source of draws that belongs to one axis of one fact."""
        key = (self.seed, axis, self.relation_id, self.record.fact.template, self.subject)
        return random.Random(repr(key))  # noqa: S311 - not a secret


# The queries of an axis; or in a few words why there are none.
Made = list[RippleQuery] | str


def composition(edited: Edited) -> Made:
    """r₂ of the new object, which is described by the subject."""
    world = edited.world
    if not edited.subject:
        return "the fact has no subject"
    description = world.described(edited.relation_id, edited.subject)
    if not description:
        return "the relation has no noun phrase"
    made: list[RippleQuery] = []
    for hop in world.source.about_subject.get(edited.new, ()):
        old = world.source.answers.get((hop.relation_id, edited.true), "")
        prompt = world.prompt_of_described(hop.relation_id, description)
        if old == hop.object or hop.relation_id == edited.relation_id or not prompt:
            continue
        answers = world.tables.names(hop.object)
        second = Condition(world.prompt(hop.relation_id, edited.new), answers)
        made.append(
            RippleQuery(
                axis="composition",
                prompt=prompt,
                answers=answers,
                old_answers=world.tables.names(old) if old else (),
                conditions=(*edited.knows_fact, second),
            )
        )
    return made or "no fact about the new object leads on"


def composition_from(edited: Edited) -> Made:
    """The edited relation of what is described by another fact, whose object is the subject."""
    world = edited.world
    made: list[RippleQuery] = []
    described = False
    for first in world.objects_of.get(edited.subject, ()):
        description = world.described(first.relation_id, first.subject)
        prompt = world.prompt_of_described(edited.relation_id, description)
        if not description or not prompt or first.relation_id == edited.relation_id:
            continue
        described = True
        known = Condition(
            world.prompt(first.relation_id, first.subject), world.tables.names(edited.subject)
        )
        made.append(
            RippleQuery(
                axis="composition_from",
                prompt=prompt,
                answers=edited.new_names,
                old_answers=edited.true_names,
                conditions=(known, *edited.knows_fact),
            )
        )
    if made:
        return made
    if world.objects_of.get(edited.subject) and not described:
        return "the relation has no noun phrase"
    return "no fact leads to the subject"


def specificity(edited: Edited) -> Made:
    """Other relations of the subject."""
    world = edited.world
    made: list[RippleQuery] = []
    for other in world.source.about_subject.get(edited.subject, ()):
        if other.relation_id == edited.relation_id:
            continue
        prompt = world.prompt(other.relation_id, edited.subject)
        answers = world.tables.names(other.object)
        made.append(
            RippleQuery(
                axis="specificity",
                prompt=prompt,
                answers=answers,
                conditions=(Condition(prompt, answers),),
            )
        )
    return made or "no other fact about the subject is known"


def alias(edited: Edited) -> Made:
    """The edited fact under other names of the subject."""
    aliases = edited.world.tables.aliases.get(edited.subject, ())
    if not aliases:
        return "the subject has no alias"
    made: list[RippleQuery] = []
    for name in aliases:
        prompt = filled(edited.record.fact.template, name)
        known = (Condition(prompt, edited.true_names),) if edited.true else ()
        made.append(
            RippleQuery(
                axis="alias",
                prompt=prompt,
                answers=edited.new_names,
                old_answers=edited.true_names,
                conditions=known,
            )
        )
    return made


def other_subjects(edited: Edited) -> list[str]:
    """Other subjects of the relation, each once, without those of which the new object is true."""
    of_relation = (
        other
        for (relation, object_), subjects in edited.world.source.subjects.items()
        if relation == edited.relation_id and object_ != edited.new
        for other in subjects
    )
    return [other for other in dict.fromkeys(of_relation) if other != edited.subject]


def reversal(edited: Edited) -> Made:
    """Who has the new object, among subjects of the relation of which that is not true."""
    inverse = edited.world.words(edited.relation_id).inverse
    if not inverse:
        return "the relation has no inverse prompt"
    subject, others = edited.subject, other_subjects(edited)
    if not subject or not others:
        return "there is no other subject to compare with"
    draw = edited.drawn("reversal")
    return [
        RippleQuery(
            axis="reversal",
            prompt=filled(inverse, edited.new),
            answers=(subject,),
            others=draw.sample(others, min(_N_SUBJECTS, len(others))),
            manner="rise",
        )
    ]


def negation(edited: Edited) -> Made:
    """The fact denied, in the relation's own words and in words for any."""
    subject = edited.subject
    negated = edited.world.words(edited.relation_id).negated if subject else ()
    own = [filled(template, subject) for template in negated]
    return [
        RippleQuery(axis="negation", prompt=prompt, answers=(edited.new,), manner="fall")
        for prompt in (*own, f"It is false that {edited.record.fact.clause}")
    ]


def loud(edited: Edited) -> Made:
    """Neighbours, with the edit said aloud in front."""
    record, new, true = edited.record, edited.new, edited.true
    said = record.fact.sentence()
    answers = record.neighborhood_answers or [true] * len(record.neighborhood_prompts)
    asked = [
        (prompt, words_of(answer))
        for prompt, answer in zip(record.neighborhood_prompts, answers, strict=True)
        if answer and words_of(answer) != new
    ]
    if not asked:
        return "the record has no neighbours whose answer is known"
    return [
        RippleQuery(
            axis="loud",
            prompt=f"{said} {prompt}",
            answers=(answer,),
            others=(new,),
            manner="prefer",
            conditions=(Condition(prompt, (answer,), (new,)),),
        )
        for prompt, answer in asked
    ]


def forgetfulness(edited: Edited) -> Made:
    """Other values of the subject, against what is true neither before nor after."""
    values = edited.world.tables.values.get((edited.relation_id, edited.subject), ())
    named = {*edited.new_names, *edited.true_names}
    kept = [value for value in values if value not in named]
    if not kept:
        return "the relation has no second value here"
    others = [object_ for object_ in edited.objects() if object_ not in values]
    if not others:
        return "there is no other object to compare with"
    draw, prompt = edited.drawn("forgetfulness"), edited.record.fact.prompt
    compared = draw.sample(others, min(_N_VALUES, len(others)))
    return [
        RippleQuery(
            axis="forgetfulness",
            prompt=prompt,
            answers=(value,),
            others=compared,
            manner="prefer",
            conditions=(Condition(prompt, (value,), compared),),
        )
        for value in kept
    ]


def choice(edited: Edited) -> Made:
    """The edited fact with a list of objects to choose from."""
    values = edited.world.tables.values.get((edited.relation_id, edited.subject), ())
    others = [object_ for object_ in edited.objects() if object_ not in values]
    n_drawn = _N_CHOICES - (2 if edited.true else 1)
    if len(others) < n_drawn:
        return "the relation has too few objects to choose from"
    draw = edited.drawn("choice")
    listed = [*draw.sample(others, n_drawn), edited.new, *((edited.true,) if edited.true else ())]
    draw.shuffle(listed)
    return [
        RippleQuery(
            axis="choice",
            prompt=f"Possible answers: {', '.join(listed)}.\n{edited.record.fact.prompt}",
            answers=(edited.new,),
            old_answers=(edited.true,) if edited.true else (),
            others=[object_ for object_ in listed if object_ != edited.new],
            manner="prefer",
        )
    ]


AXES: Mapping[Axis, Callable[[Edited], Made]] = {
    "composition": composition,
    "composition_from": composition_from,
    "specificity": specificity,
    "alias": alias,
    "reversal": reversal,
    "negation": negation,
    "loud": loud,
    "forgetfulness": forgetfulness,
    "choice": choice,
}
