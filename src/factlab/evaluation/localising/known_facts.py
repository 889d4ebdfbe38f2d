"""Which facts are studied: those that the model knows, as Hase et al. 2023 choose them.

A fact is known if its object is among what the model says greedily after the prompt, and is
probable enough that there is something to restore.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from factlab.data.records import Record
from factlab.errors import InvalidRequestError, TokenizationError, counted
from factlab.evaluation.localising.asked import AskedRows
from factlab.evaluation.localising.configs import LEAST_FACTS, LocalisationConfig
from factlab.facts import words_of
from factlab.models.generation import decode_continuation, generate_ids
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback

_AT_ONCE = 32


@dataclass(slots=True)
class KnownFacts:
    """What was found out about some records.

    Attributes:
        places: of the records whose facts are studied.
        unusable: why others cannot be, by their place.
        n_unknown: how many facts the model does not know.
        n_asked: how many records were looked at.
    """

    places: list[int] = field(default_factory=list[int])
    unusable: dict[str, str] = field(default_factory=dict[str, str])
    n_unknown: int = 0
    n_asked: int = 0


def known_facts(
    lm: LanguageModel,
    records: Sequence[Record],
    config: LocalisationConfig,
    limit: int | None,
    progress: ProgressCallback,
) -> KnownFacts:
    """The first so many records whose facts the model knows.

    Raises:
        InvalidRequestError: there are too few for the regressions.
    """
    found = KnownFacts()
    for start in range(0, len(records), _AT_ONCE):
        progress("asking the model", start, len(records))
        some = range(start, min(start + _AT_ONCE, len(records)))
        found.n_asked = some.stop
        usable: list[int] = []
        for place in some:
            reason = _reason_against(lm, records[place], config)
            if reason is None:
                usable.append(place)
            else:
                found.unusable[str(place)] = reason
        known = _known(lm, [records[place] for place in usable], config)
        right = [place for place, is_known in zip(usable, known, strict=True) if is_known]
        found.n_unknown += len(usable) - len(right)
        found.places += right
        if limit is not None and len(found.places) >= limit:
            found.places = found.places[:limit]
            break
    progress("asking the model", len(records), len(records))
    if len(found.places) < LEAST_FACTS:
        raise InvalidRequestError(_too_few(found))
    return found


def _too_few(found: KnownFacts) -> str:
    unusable = ""
    if found.unusable:
        first = next(iter(found.unusable.values()))
        unusable = f" {counted(len(found.unusable), 'record')} cannot be used, the first: {first}"
    n_known = len(found.places) or "none"
    return (
        f"Of {counted(found.n_asked, 'record')} the model knows {n_known}, and the regressions "
        f"need {LEAST_FACTS} facts that it knows. Give more records, or lower least_prob or "
        f"answer_tokens (0 takes every fact for known).{unusable}"
    )


def _reason_against(lm: LanguageModel, record: Record, config: LocalisationConfig) -> str | None:
    """Why a record cannot be used."""
    fact = record.fact
    if not fact.subject:
        return f"'{fact.prompt}' has no subject."
    if fact.target_true is None:
        return f"'{fact.prompt}' has no target_true."
    targets = [fact.target_true]
    if "injection" in config.variants:
        if fact.target_new is None:
            return f"'{fact.prompt}' has no target_new to inject."
        targets.append(fact.target_new)
    try:
        for target in targets:
            AskedRows.of(lm, record, target)
            lm.fact_continuation(fact, target)
    except (InvalidRequestError, TokenizationError) as error:
        return str(error)
    return None


def _known(lm: LanguageModel, records: Sequence[Record], config: LocalisationConfig) -> list[bool]:
    """Whether the model knows the fact of each record."""
    facts = [record.fact for record in records]
    targets = [str(fact.target_true) for fact in facts]
    scores = lm.score([fact.prompt for fact in facts], targets) if facts else []
    known = [score.prob >= config.least_prob for score in scores]
    probable = [i for i, is_known in enumerate(known) if is_known]
    if not config.answer_tokens or not probable:
        return known
    rows = [lm.encode(facts[i].prompt).ids for i in probable]
    limit = lm.context_length or config.answer_tokens
    longest = [max(config.answer_tokens, len(row) + 1) for row in rows]
    room = [max(0, min(n, limit) - len(row)) for n, row in zip(longest, rows, strict=True)]
    new = generate_ids(lm, rows, room, 1, 0)
    decode = partial(decode_continuation, lm)
    for i, row, ids in zip(probable, rows, new, strict=True):
        known[i] = words_of(targets[i]) in decode(row, ids)
    return known
