"""What a judge thinks of a line's answers, and how far exact match agrees with it."""

import math
from typing import Any

from factlab.errors import counted
from factlab.evaluation.configs import ANSWER_FORMS, AnswerForm
from factlab.evaluation.reporting.tables import STAGES, ReportRow
from factlab.evaluation.scoring.free_answers import Agreement, agreement
from factlab.results import known


def agreements(row: ReportRow) -> dict[AnswerForm, Agreement]:
    """By form, of all answers of a line that a judge was asked about; none if it was not."""
    run, stage = row.run, STAGES.get(row.kind)
    if run is None or stage is None or not run.judge:
        return {}
    answers = [
        answer
        for one in run.rows
        if (measured := getattr(one, stage)) is not None
        for answer in measured.answers or ()
    ]
    found: dict[AnswerForm, Agreement] = {}
    for form in ANSWER_FORMS:
        one = agreement([answer for answer in answers if answer.form == form])
        if one.n or one.unjudged:
            found[form] = one
    return found


def judge_note(row: ReportRow) -> str:
    """One sentence about a line; empty if no judge was asked."""
    found = agreements(row)
    if row.run is None or not found:
        return ""
    parts = [f"{form} {_in_words(one)}" for form, one in found.items()]
    return f"{row.label}: the judge {row.run.judge} on {'; '.join(parts)}."


def judge_json(row: ReportRow) -> dict[str, Any] | None:
    """The same for JSON; None if no judge was asked."""
    found = agreements(row)
    if row.run is None or not found:
        return None
    forms = {
        form: {
            "n": one.n,
            "right": known(one.right),
            "equal_to_exact_match": known(one.equal),
            "kappa": known(one.kappa),
            "unscored": dict(one.unjudged),
        }
        for form, one in found.items()
    }
    return {"model": row.run.judge, "forms": forms}


def _in_words(found: Agreement) -> str:
    n_unjudged = sum(found.unjudged.values())
    reasons = ", ".join(f"{reason}: {n}" for reason, n in sorted(found.unjudged.items()))
    missing = f"{n_unjudged:,} unscored ({reasons})" if n_unjudged else ""
    if not found.n:
        return missing
    kappa = "κ undefined" if math.isnan(found.kappa) else f"κ {found.kappa:.2f}"
    said = (
        f"takes {found.right:.1%} of {counted(found.n, 'answer')} for right, and agrees with exact "
        f"match on {found.equal:.1%} ({kappa})"
    )
    return f"{said}, {missing}" if missing else said
