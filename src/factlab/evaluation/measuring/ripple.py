"""Asking ripple queries: comparisons in the batches of a record's prompts, what is said in one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from factlab.continuations import Continuation
from factlab.data.ripple_query import Condition, Manner, RippleQuery
from factlab.errors import InvalidRequestError
from factlab.evaluation.measuring.asking import Asking
from factlab.evaluation.measuring.likelihood import Question
from factlab.evaluation.measuring.rows import RippleTold, TargetScore
from factlab.models.generation import decode_continuation, generate_ids
from factlab.models.language_model import LanguageModel
from factlab.writing import behind

# Cohen et al. 2023 let a model write some 30 characters.
SAID_TOKENS = 10

# What was written, by the number of the edit and the prompt.
Said = Mapping[tuple[int, tuple[int, ...]], str]


@dataclass(frozen=True, slots=True)
class RippleProbe:
    """A query, or a condition of one, as tokens.

    Attributes:
        ids: of the prompt, where the model is to say the answer; empty otherwise.
        continuations: the prompt with each candidate, the answers first, where these are compared.
        n_answers: how many of them are answers.
        unasked: why it cannot be asked.
        conditions: of a query.
    """

    ids: tuple[int, ...] = ()
    continuations: tuple[Continuation, ...] = ()
    n_answers: int = 0
    unasked: str = ""
    conditions: tuple["RippleProbe", ...] = ()


def ripple_probe(lm: LanguageModel, query: RippleQuery, prefix: str) -> RippleProbe:
    """Tokenise a query and its conditions; what cannot be asked says why.

    Args:
        lm: the model.
        query: what is asked.
        prefix: stands in front of the prompts; empty for nothing.
    """
    conditions = [_condition(lm, one, prefix) for one in query.conditions]
    return _probe(lm, query, query.manner, prefix, conditions)


def _condition(lm: LanguageModel, condition: Condition, prefix: str) -> RippleProbe:
    return _probe(lm, condition, "prefer" if condition.others else "say", prefix, ())


def _probe(
    lm: LanguageModel,
    asked: RippleQuery | Condition,
    manner: Manner,
    prefix: str,
    conditions: Sequence[RippleProbe],
) -> RippleProbe:
    prompt = behind(prefix, asked.prompt)
    candidates = () if manner == "say" else (*asked.answers, *asked.others)
    try:
        return RippleProbe(
            ids=() if candidates else tuple(lm.encode(prompt).ids),
            continuations=tuple(lm.continuation(prompt, each) for each in candidates),
            n_answers=len(asked.answers),
            conditions=tuple(conditions),
        )
    except InvalidRequestError as error:  # of a tokenizer too
        return RippleProbe(unasked=str(error), conditions=tuple(conditions))


def ripple_questions(probes: Sequence[RippleProbe], owner: int) -> list[Question]:
    """What is compared, in the order of `flat`."""
    return [Question(each.continuations, owner) for each in flat(probes) if each.continuations]


def flat(probes: Sequence[RippleProbe]) -> Iterator[RippleProbe]:
    """Every query, with its conditions behind it."""
    for probe in probes:
        yield probe
        yield from probe.conditions


def said_by(asking: Asking, probes: Sequence[Sequence[RippleProbe]]) -> Said:
    """What models write after the prompts that are to be answered; equal prompts are asked once.

    Args:
        asking: the records.
        probes: of each record.
    """
    lm = asking.lm
    rows = list(
        dict.fromkeys(
            (owner, probe.ids)
            for own, owner in zip(probes, asking.owners, strict=True)
            for probe in flat(own)
            if probe.ids
        )
    )
    if not rows:
        return {}
    limit = lm.context_length
    room = [SAID_TOKENS if limit is None else min(SAID_TOKENS, limit - len(ids)) for _, ids in rows]
    owners = [owner for owner, _ in rows]
    new = generate_ids(lm, [ids for _, ids in rows], room, 1, 0, under=asking.under(owners))
    return {
        row: decode_continuation(lm, row[1], ids).strip()
        for row, ids in zip(rows, new, strict=True)
    }


def ripple_told(
    probes: Sequence[RippleProbe],
    owner: int,
    scores: Iterator[tuple[TargetScore, ...]],
    said: Said,
) -> tuple[RippleTold, ...]:
    """What came of a record's queries.

    Args:
        probes: of the record.
        owner: the number of its edit.
        scores: of `ripple_questions`, in their order.
        said: what was written.
    """
    return tuple(_told(probe, owner, scores, said) for probe in probes)


def _told(
    probe: RippleProbe, owner: int, scores: Iterator[tuple[TargetScore, ...]], said: Said
) -> RippleTold:
    found = next(scores) if probe.continuations else ()
    return RippleTold(
        said=said[owner, probe.ids] if probe.ids else None,
        answers=found[: probe.n_answers],
        others=found[probe.n_answers :],
        conditions=tuple(_told(each, owner, scores, said) for each in probe.conditions),
        unasked=probe.unasked,
    )
