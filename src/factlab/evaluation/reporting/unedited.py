"""The unedited model as all runs of a table measured it together.

One run has texts, another has more records, a third measured drift: the unedited line of a report
has all of it, and is the same in whatever order the runs are given. Texts that were written with
other settings do not mix: those of which there are most are taken.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from pydantic import BaseModel

from factlab.data.ripple_query import RippleQuery
from factlab.evaluation.measuring.rows import RippleTold, Row
from factlab.evaluation.running.saved_run import Run

Part = TypeVar("Part")


def unedited_run(runs: Sequence[Run]) -> Run:
    """A run whose rows hold every record of some runs, with all that was measured `before`.

    Args:
        runs: at least one, all of one model and data set.
    """
    rows = [(run, row) for run in runs for row in run.rows]
    written = _of_one_setting(rows, _text_settings, lambda row: row.before.written)
    essence = _of_one_setting(rows, _essence_settings, lambda row: row.before.essence_nll)
    drift = _of_one_setting(rows, _drift_settings, lambda row: row.before.drift)
    ripple = _of_one_setting(rows, _ripple_settings, _ripple_of)
    answers = _of_one_setting(rows, _answer_settings, lambda row: row.before.answers)
    chat = _of_one_setting(rows, _chat_settings, lambda row: row.before.chat)
    by_fact: dict[tuple[int, str, str], Row] = {}
    for _, row in rows:
        known, fact = by_fact.get(fact_of(row)), fact_of(row)
        if known is None or _precedes(row.before, known.before):
            by_fact[fact] = row
    merged = [
        row.model_copy(
            update={
                "before": row.before.model_copy(
                    update={
                        "written": written.get(fact),
                        "essence_nll": essence.get(fact),
                        "drift": drift.get(fact),
                        "answers": answers.get(fact),
                        "ripple": ripple[fact].told if fact in ripple else None,
                        "chat": chat.get(fact),
                    }
                ),
                "ripple": ripple[fact].asked if fact in ripple else (),
                "right_after": None,
                "after": None,
                "failed": "",
                "edit_s": 0.0,
                "measure_s": 0.0,
            }
        )
        for fact, row in sorted(by_fact.items())
    ]
    largest = min(runs, key=lambda run: (-len(run.rows), _text(run.request), _text(run.versions)))
    n_cases = max(len(merged), *(run.n_cases for run in runs))
    judges = " or ".join(sorted({run.judge for run in runs if run.judge}))
    return replace(largest, rows=tuple(merged), n_cases=n_cases, judge=judges)


def fact_of(row: Row) -> tuple[int, str, str]:
    """What tells a record from others: two data sets may number theirs alike."""
    return row.case_id, row.prompt, row.target_new


def _of_one_setting(
    rows: Iterable[tuple[Run, Row]],
    settings_of: Callable[[Run], str],
    part_of: Callable[[Row], Part | None],
) -> dict[tuple[int, str, str], Part]:
    """By record, a part of what was measured, from runs that measured it in the same way.

    Where several ways were taken, it is the one with the most records.
    """
    ways: dict[str, dict[tuple[int, str, str], Part]] = {}
    for run, row in rows:
        part = part_of(row)
        if part is None:
            continue
        way, fact = ways.setdefault(settings_of(run), {}), fact_of(row)
        if fact not in way or _precedes(part, way[fact]):
            way[fact] = part
    if not ways:
        return {}
    return ways[min(ways, key=lambda settings: (-len(ways[settings]), settings))]


def _text_settings(run: Run) -> str:
    generation = run.request.generation
    texts = dict(generation) if isinstance(generation, dict) else {}
    texts.pop("n_records", None)
    return _text([texts, run.request.seed, run.request.data.references])


def _essence_settings(run: Run) -> str:
    return run.request.data.references


def _drift_settings(run: Run) -> str:
    return _text([run.request.drift_tokens, run.request.data.ordinary_text])


def _answer_settings(run: Run) -> str:
    """Those that a judge has seen come first."""
    return _text([not run.judge, run.judge, run.request.answers])


def _ripple_settings(run: Run) -> str:
    return _text([run.request.ripple, run.request.seed])


class _Ripple(BaseModel):
    """The ripple queries of a record, and what the unedited model makes of them."""

    asked: tuple[RippleQuery, ...]
    told: tuple[RippleTold, ...]


def _ripple_of(row: Row) -> _Ripple | None:
    told = row.before.ripple
    return None if told is None else _Ripple(asked=row.ripple, told=told)


def _chat_settings(run: Run) -> str:
    return _text(run.request.chat)


def _precedes(one: object, other: object) -> bool:
    """Which of two measurements to take; batches of other sizes round otherwise.

    Any rule will do that has no regard to the order of the runs.
    """
    return one != other and _text(one) < _text(other)


def _text(value: object) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, default=dict)
