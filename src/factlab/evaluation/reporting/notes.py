"""What a reader must know to read a table of a report rightly, in sentences."""

import json
from collections.abc import Sequence

from factlab.errors import counted
from factlab.evaluation.reporting.judged import judge_note
from factlab.evaluation.reporting.ripple_table import (
    ripple_legend,
    ripple_notes,
    short_ripple_legend,
)
from factlab.evaluation.reporting.tables import SIGNIFICANT, ReportRow, ReportTable
from factlab.evaluation.running.saved_run import Run
from factlab.evaluation.scoring.metrics import ProbForm
from factlab.evaluation.scoring.scores import (
    ANSWER_METRICS,
    METRICS,
    NOT_IN_CHAT,
    SCORE,
    SCORE_PARTS,
)
from factlab.wrapping import REQUEST

_FAILURES_SHOWN = 3
# What metrics mean in a few words; `legend` says it at length.
_SHORT: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("rewrite_success",),
        "ES, PS: prompts (paraphrases) on which the new target beats the true one; NS: prompts "
        "about other subjects on which the true one does; EM, PM, NM: by how much.",
    ),
    (
        ("efficacy",),
        "Efficacy, Paraphrase, Specificity: right tokens of the answer to the edited question, to "
        "a paraphrase, to an unrelated question.",
    ),
    (("entropy_bits",), "GE: fluency of texts, in bits."),
    (("consistency",), "RS: likeness of texts to references."),
    (("rewrite_exact",), "EX, PX, NX: prompts answered with exactly the target."),
    (("essence",), "Ess: what is left of what was known about the subject."),
    (("drift_kl_nats",), "KL, PPL: on ordinary text."),
    (
        tuple(ANSWER_METRICS),
        "Bare, QA, Chat: free answers, so asked, that are exactly the new target, hold (says) it "
        "or the old one, or are right by a judge; kept: that hold what is true of others.",
    ),
)
_FORMS = {
    "mean": "Probabilities are geometric means over a target's tokens, as published.",
    "product": "Probabilities are products over a target's tokens.",
}


def legend(table: ReportTable, form: ProbForm) -> list[str]:
    """What the columns mean."""
    metrics = METRICS[table.benchmark]
    parts = ", ".join(metrics[name].column for name in SCORE_PARTS[table.benchmark])
    lines = [f"S: harmonic mean of the means of {parts}."] if SCORE in table.columns else []
    for name in table.columns:
        if name in metrics:
            lines.append(f"{metrics[name].column}: {metrics[name].meaning}.")
    unscaled = [
        metrics[name].column
        for name in table.columns
        if name in metrics and metrics[name].scale == 1
    ]
    but = f" but {' and '.join(unscaled)}" if unscaled else ""
    lines.append(f"All ×100{but}; in brackets or after ± stands the 95 % confidence interval.")
    if table.benchmark == "counterfact":
        lines.append(_FORMS[form])
    return [*lines, *ripple_legend(table)]


def short_legend(tables: Sequence[ReportTable]) -> str:
    """What the columns of some tables mean, in one paragraph that is said once."""
    columns = {name for table in tables for name in table.columns}
    sentences = [
        sentence
        for names, sentence in _SHORT
        if columns & {*names}
        and any(METRICS[table.benchmark].keys() & {*names} for table in tables)
    ]
    if SCORE in columns:
        sentences.insert(0, "S: harmonic mean of the three shares.")
    but = " but KL and PPL" if columns & {"drift_kl_nats", "perplexity"} else ""
    ripple = short_ripple_legend(tables)
    every = [*sentences, f"Scores ×100{but}; intervals 95 %.", *([ripple] if ripple else [])]
    return " ".join(every)


def notes(table: ReportTable) -> list[str]:
    """What is missing, failed, not scored or not comparable; how runs were compared."""
    rows = [row for row in table.rows if row.run is not None]
    own = [row for row in rows if row.kind == "run" and not row.in_chat]
    runs = {row.label: row.run for row in own if row.run is not None}
    lines = [line for label, run in runs.items() for line in _progress(label, run)]
    lines += [line for row in rows if (line := _unscored(row, table))]
    lines += [line for row in rows if (line := judge_note(row))]
    lines += ripple_notes(table)
    lines += _differences([*runs.values()])
    if table.against is not None:
        lines.append(
            f"* differs from {table.against}{_base_in_chat(table)} (p < {SIGNIFICANT}; paired on "
            "the cases that both have: signs flipped, for S a bootstrap; not corrected for the "
            "number of comparisons)."
        )
    if any(row.kind == "right_after" for row in rows):
        lines.append("right after each: with a record's own edit as the last one so far.")
    if any(row.in_chat for row in rows):
        lines.append(
            "in chat: the same prompts in the model's chat template: questions as what the user "
            f"says, sentences as how the answer to '{REQUEST}' begins."
        )
    if any(row.kind == "published" for row in table.rows):
        lines.append(
            "(paper): ROME paper, table "
            + ("4" if table.benchmark == "counterfact" else "1")
            + "; other data and texts, to compare by eye."
        )
    return lines


def _base_in_chat(table: ReportTable) -> str:
    """That lines in chat are compared with their like, if the line compared with has one."""
    base = next(row for row in table.rows if row.label == table.against)
    has_like = not base.in_chat and any(row.in_chat and row.run is base.run for row in table.rows)
    return ", in chat from the same in chat" if has_like else ""


def _progress(label: str, run: Run) -> list[str]:
    lines: list[str] = []
    if run.n_unusable:
        lines.append(
            f"{label}: {counted(run.n_unusable, 'more record')} cannot be asked of this model."
        )
    if run.n_missing:
        lines.append(
            f"{label}: unfinished, {len(run.rows)} of {run.n_cases} records so far; "
            "'factlab eval --resume' goes on with it."
        )
    several = [f"{name} {known}" for name, known in run.versions.items() if "," in known]
    if several:
        lines.append(
            f"{label}: its parts ran under different versions ({'; '.join(several)}); figures may "
            "differ by rounding."
        )
    failed = run.failed
    if failed:
        shown = "; ".join(f"case {row.case_id}: {row.failed}" for row in failed[:_FAILURES_SHOWN])
        more = len(failed) - _FAILURES_SHOWN
        rest = f"; and {more} more" if more > 0 else ""
        lines.append(f"{label}: {len(failed)} of {len(run.rows)} edits failed: {shown}{rest}")
    skipped = [str(row.case_id) for row in run.rows if row.skipped]
    if skipped:
        lines.append(
            f"{label}: {len(skipped)} of {len(run.rows)} facts were not written, since their "
            f"values had exploded (norm_anchor): case {', '.join(skipped)}. They are scored as "
            "they are without it."
        )
    return lines


def _unscored(row: ReportRow, table: ReportTable) -> str:
    """Which scores are not over all records, and why; failed edits have a note of their own."""
    metrics = METRICS[table.benchmark]
    by_reason: dict[tuple[str, int], list[str]] = {}
    for name in table.columns:
        if name == SCORE:
            continue
        for reason, count in row.summary.metrics[name].unscored.items():
            if reason not in ("the edit failed", NOT_IN_CHAT):
                by_reason.setdefault((reason, count), []).append(metrics[name].column)
    found = [
        f"{', '.join(columns)} without {count} of {row.summary.n_records} records ({reason})"
        for (reason, count), columns in by_reason.items()
    ]
    return f"{row.label}: {'; '.join(found)}." if found else ""


def _differences(runs: Sequence[Run]) -> list[str]:
    """In what runs of a table differ that ought to be the same."""
    lines: list[str] = []
    if len({tuple(row.case_id for row in run.rows) for run in runs}) > 1:
        lines.append("The runs are not on the same records; see n.")
    settings = {
        json.dumps(run.request.generation, sort_keys=True)
        for run in runs
        if run.request.generation is not None
    }
    if len(settings) > 1:
        lines.append(
            "The runs generated texts with different settings or random numbers: GE and RS do not "
            "compare."
        )
    if len({run.judge for run in runs if run.judge}) > 1:
        lines.append("The runs were judged by different models: their verdicts do not compare.")
    return lines
