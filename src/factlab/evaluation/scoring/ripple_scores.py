"""Scores of the ripple suite: by axis, over edits that worked and over all.

Source: Cohen et al. 2023, section 4.2. A query is *executed* if its conditions hold on the unedited
model: they are what the model must know for the query to tell anything. Of a record's executed
queries of an axis the share that is passed is its score; an axis's score is the mean over records.

An edit *worked* if the model writes the new target after the rewriting prompt, greedily: every
token of it is the most probable one there.

| manner | passed |
|---|---|
| `say` | an answer stands in what the model wrote, as whole words |
| `prefer` | an answer is more probable than every other candidate |
| `rise` | the answer has gained on the mean of the others, in log-probability |
| `fall` | no answer has become more probable |
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from factlab.data.ripple_query import Axis, Condition, RippleQuery
from factlab.estimate import Estimate
from factlab.evaluation.measuring.rows import Measurement, RippleTold, Row, TargetScore
from factlab.evaluation.scoring.metrics import ProbForm, target_logprob
from factlab.writing import find_words

RippleStage = Literal["before", "right_after", "after"]
# Nats that a probability changes by without an edit, since batches of other sizes round otherwise.
MARGIN = 0.01
NOT_KNOWN = "the unedited model does not know what it builds on"
AXIS_NAMES: Mapping[Axis, str] = {
    "composition": "two hops",
    "composition_from": "hop to it",
    "specificity": "relations",
    "alias": "alias",
    "reversal": "reversal",
    "negation": "negation",
    "loud": "loud fact",
    "forgetfulness": "2nd value",
    "choice": "choice",
    "logic": "logic",
}
AXIS_MEANINGS: Mapping[Axis, str] = {
    "composition": "what follows from the new object",
    "composition_from": "the new object of a subject that is described by another fact",
    "specificity": "other relations of the subject keep their objects",
    "alias": "the new object of other names of the subject",
    "reversal": "the subject gains, asked by the new object",
    "negation": "the new object does not gain where the fact is denied",
    "loud": "neighbours keep their objects with the edit said in front",
    "forgetfulness": "other values of the subject keep their lead",
    "choice": "the new object chosen from a list",
    "logic": "what follows by logic",
}


def edit_worked(measured: Measurement) -> bool:
    """Whether greedy decoding writes the new target after the rewriting prompt."""
    return bool(measured.rewrite) and all(
        one.new is not None and all(one.new.top) for one in measured.rewrite
    )


def passes(
    query: RippleQuery, told: RippleTold, before: RippleTold, form: ProbForm = "mean"
) -> bool | None:
    """Whether a model passes a query; None if it could not be asked.

    Args:
        query: what was asked.
        told: what the model made of it.
        before: what the unedited model made of it.
        form: of probabilities.
    """
    if told.unasked or before.unasked:
        return None
    match query.manner:
        case "say":
            return says_any(told.said or "", query.answers)
        case "prefer":
            return _leads(told, form)
        case "rise":
            return _lead(told, form) - _lead(before, form) > MARGIN
        case "fall":
            return all(
                target_logprob(now, form) - target_logprob(was, form) <= MARGIN
                for now, was in zip(told.answers, before.answers, strict=True)
            )


def says_any(said: str, answers: Sequence[str]) -> bool:
    """Whether one of some answers stands in a text as whole words; capitals make no difference.

    >>> says_any("the euro.", ["Euro"]), says_any("a European", ["Euro"])
    (True, False)
    """
    return any(find_words(said, answer, any_case=True) is not None for answer in answers)


def executed(query: RippleQuery, before: RippleTold, form: ProbForm = "mean") -> bool | None:
    """Whether the unedited model knows what a query builds on; None if it could not be asked."""
    holds: list[bool] = []
    for condition, told in zip(query.conditions, before.conditions, strict=True):
        if told.unasked:
            return None
        holds.append(_holds(condition, told, form))
    return not holds or (all(holds) if query.needs == "all" else any(holds))


def rank(told: RippleTold, form: ProbForm = "mean") -> int:
    """Place of the answer among the candidates, from 1; the best one's if there are several."""
    best = max(target_logprob(one, form) for one in told.answers)
    return 1 + sum(target_logprob(other, form) > best for other in told.others)


def _holds(condition: Condition, told: RippleTold, form: ProbForm) -> bool:
    if condition.others:
        return _leads(told, form)
    return says_any(told.said or "", condition.answers)


def _leads(told: RippleTold, form: ProbForm) -> bool:
    return rank(told, form) == 1 and _best(told.answers, form) > _best(told.others, form)


def _best(scores: Sequence[TargetScore], form: ProbForm) -> float:
    return max((target_logprob(one, form) for one in scores), default=-math.inf)


def _lead(told: RippleTold, form: ProbForm) -> float:
    """By how many nats the answer is above the mean of the others."""
    others = [target_logprob(one, form) for one in told.others]
    return _best(told.answers, form) - (math.fsum(others) / len(others) if others else 0.0)


# -- axes -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AxisScores:
    """One axis, over the records of a run.

    Attributes:
        axis: which.
        n_records: that have a query of it.
        n_queries: of all of them.
        executed: share of the queries whose conditions hold on the unedited model, by record.
        conditioned: whether any query has conditions; without, all are executed by definition.
        worked: share of executed queries that are passed, over records whose edit worked.
        n_worked: how many records these are.
        all: the same over all records with an executed query.
        n_all: how many these are.
        unscored: queries that do not count, by reason.
        mean_rank: of `rise`, the mean place of the answer among the candidates; NaN of others.
    """

    axis: Axis
    n_records: int
    n_queries: int
    executed: Estimate
    conditioned: bool
    worked: Estimate
    n_worked: int
    all: Estimate
    n_all: int
    unscored: Mapping[str, int]
    mean_rank: float = math.nan


@dataclass(frozen=True, slots=True)
class _Judged:
    """The queries of one axis of one record."""

    results: tuple[bool, ...]
    executed: tuple[bool, ...]
    conditioned: bool
    worked: bool
    ranks: tuple[int, ...]


def score_ripple(
    rows: Sequence[Row], stage: RippleStage, form: ProbForm = "mean"
) -> tuple[AxisScores, ...]:
    """The axes that the records of a run were asked, in the order of `AXIS_NAMES`."""
    judged: dict[Axis, list[_Judged]] = {}
    unscored: dict[Axis, Counter[str]] = {}
    for row in rows:
        for axis, queries in _by_axis(row).items():
            reasons = unscored.setdefault(axis, Counter())
            judged.setdefault(axis, []).append(_judge(row, queries, stage, form, reasons))
    return tuple(_axis(axis, judged[axis], unscored[axis]) for axis in AXIS_NAMES if axis in judged)


def _by_axis(row: Row) -> dict[Axis, list[int]]:
    """The places of a row's queries, if the unedited model was asked them."""
    found: dict[Axis, list[int]] = {}
    for place, query in enumerate(row.ripple if row.before.ripple is not None else ()):
        found.setdefault(query.axis, []).append(place)
    return found


def _judge(
    row: Row, places: Sequence[int], stage: RippleStage, form: ProbForm, reasons: Counter[str]
) -> _Judged:
    measured: Measurement | None = getattr(row, stage)
    told = None if measured is None else measured.ripple
    unedited = row.before.ripple or ()
    results: list[bool] = []
    runs: list[bool] = []
    ranks: list[int] = []
    for place in places:
        query, before = row.ripple[place], unedited[place]
        runs_it = executed(query, before, form)
        runs.append(bool(runs_it))
        if runs_it is None or before.unasked:
            reasons["it cannot be asked of this model"] += 1
        elif not runs_it:
            reasons[NOT_KNOWN] += 1
        elif told is None:
            reasons["the edit failed" if row.failed else "not measured at this stage"] += 1
        elif (passed := passes(query, told[place], before, form)) is None:
            reasons["it cannot be asked behind the edit"] += 1
        else:
            results.append(passed)
            if query.manner == "rise" and told[place].others:
                ranks.append(rank(told[place], form))
    worked = measured is not None and not row.failed and edit_worked(measured)
    conditioned = any(row.ripple[place].conditions for place in places)
    return _Judged(tuple(results), tuple(runs), conditioned, worked, tuple(ranks))


def _axis(axis: Axis, records: Sequence[_Judged], reasons: Counter[str]) -> AxisScores:
    scored = [one for one in records if one.results]
    worked = [_share(one.results) for one in scored if one.worked]
    every = [_share(one.results) for one in scored]
    ranks = [float(place) for one in scored for place in one.ranks]
    return AxisScores(
        axis=axis,
        n_records=len(records),
        n_queries=sum(len(one.executed) for one in records),
        executed=Estimate.of_shares([_share(one.executed) for one in records]),
        conditioned=any(one.conditioned for one in records),
        worked=Estimate.of_shares(worked),
        n_worked=len(worked),
        all=Estimate.of_shares(every),
        n_all=len(every),
        unscored={reason: reasons[reason] for reason in sorted(reasons)},
        mean_rank=math.fsum(ranks) / len(ranks) if ranks else math.nan,
    )


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)
