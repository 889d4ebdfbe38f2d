"""Inverse prompts: does who has an object come with what a subject has?

An edit s, r → o* is asked for backwards: "The country of Italy is home to". The ROME paper
(section 3.7) names as a limitation that edits are directional. Every object has several subjects,
so no one subject is the right answer; what is asked is whether the edited subject rises among
subjects of its relation of which the object is not true.
"""

import random
from dataclasses import replace
from typing import NamedTuple

from factlab.data.records import Record
from factlab.data.ripple.axes import Edited, other_subjects
from factlab.data.ripple.world import RippleWorld, filled
from factlab.facts import words_of


class Prompted(NamedTuple):
    """A prompt, and what may follow it.

    Attributes:
        prompt: a text.
        targets: of an inverse prompt the edited subject, then those it is compared with.
    """

    prompt: str
    targets: tuple[str, ...]


def inverse_prompts(
    record: Record, world: RippleWorld, most: int, seed: int
) -> tuple[Prompted, Prompted | None] | str:
    """The inverse prompts of the new object and of the true one; or why there are none.

    Args:
        record: with the edited fact.
        world: the facts and words.
        most: subjects to compare with; of more, the seed draws, by relation and object.
        seed: of the draws.
    """
    reason = _why_none(record, world, most)
    if reason:
        return reason
    found = _prompt(record, world, most, seed)
    if found is None:
        return "there is no other subject to compare with"
    true, new = record.fact.target_true, record.fact.target_new or ""
    if true is None or words_of(true) == words_of(new):
        return found, None
    fact = replace(record.fact, target_new=true)
    return found, _prompt(replace(record, fact=fact), world, most, seed)


def _why_none(record: Record, world: RippleWorld, most: int) -> str:
    """Why a fact cannot be asked backwards; empty if it can."""
    relation_id, fact = record.relation_id, record.fact
    reasons = {
        "inverse prompts were not asked for": most == 0,
        "the fact has no subject": not fact.subject,
        "the relation of the fact is not known": not relation_id,
        "the relation has no inverse prompt": not world.words(relation_id).inverse,
        "the edit writes no new object": fact.target_new is None,
    }
    return next((reason for reason, is_so in reasons.items() if is_so), "")


def _prompt(record: Record, world: RippleWorld, most: int, seed: int) -> Prompted | None:
    edited = Edited(record, world, seed)
    others = sorted(other_subjects(edited))
    if not others:
        return None
    draw = random.Random(repr((seed, record.relation_id, edited.new)))  # noqa: S311 - no secret
    compared = others if len(others) <= most else draw.sample(others, most)
    prompt = filled(world.words(record.relation_id).inverse, edited.new)
    return Prompted(prompt, (edited.subject, *compared))
