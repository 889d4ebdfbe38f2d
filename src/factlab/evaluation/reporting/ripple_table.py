"""The ripple table of a report: a line for each run, a column for each axis."""

import math
from collections.abc import Callable, Sequence

from factlab.data.ripple_query import Axis
from factlab.errors import counted
from factlab.estimate import Estimate
from factlab.evaluation.reporting.tables import ReportRow, ReportTable
from factlab.evaluation.scoring.ripple_scores import (
    AXIS_MEANINGS,
    AXIS_NAMES,
    NOT_KNOWN,
    AxisScores,
)

_SHORT = (
    "Ripple: queries that are passed, of those whose conditions the unedited model knows "
    "(executed; all: they have none); means over facts. worked: over facts after whose rewriting "
    "prompt greedy decoding writes the new target; n: how many these are."
)


def ripple_lines(table: ReportTable) -> list[list[str]]:
    """The cells, their heads first; none where no run asked ripple queries."""
    asked = [row for row in table.rows if row.ripple]
    axes: list[Axis] = [axis for axis in AXIS_NAMES if any(axis in by_axis(row) for row in asked)]
    if not axes:
        return []
    lines = [["ripple", *(AXIS_NAMES[axis] for axis in axes)]]
    first = asked[0]
    lines.append(_line("queries (facts)", first, axes, _asked))
    lines.append(_line("executed", first, axes, _executed))
    for row in asked:
        if row.kind == "unedited":
            lines.append(_line(row.label, row, axes, _every))
        else:
            lines.append(_line(f"{row.label}, worked", row, axes, _worked))
            lines.append(_line(f"{row.label}, all", row, axes, _every))
    return lines


def by_axis(row: ReportRow) -> dict[Axis, AxisScores]:
    """The ripple scores of a line by axis."""
    return {scores.axis: scores for scores in row.ripple}


def ripple_legend(table: ReportTable) -> list[str]:
    """What the ripple table says, at length; nothing where there is none."""
    axes: dict[Axis, None] = {axis: None for row in table.rows for axis in by_axis(row)}
    if not axes:
        return []
    meanings = "; ".join(f"{AXIS_NAMES[axis]}: {AXIS_MEANINGS[axis]}" for axis in axes)
    return [_SHORT, f"Axes: {meanings}."]


def short_ripple_legend(tables: Sequence[ReportTable]) -> str:
    """The same in few words, once for all tables."""
    return _SHORT if any(row.ripple for table in tables for row in table.rows) else ""


def ripple_notes(table: ReportTable) -> list[str]:
    """How many queries do not count, and why; places of subjects in reversals."""
    lines: list[str] = []
    for row in table.rows:
        parts: list[str] = []
        for scores in row.ripple:
            reasons = [
                f"{count} ({reason})"
                for reason, count in scores.unscored.items()
                if row.kind == "unedited" or reason != NOT_KNOWN  # said once
            ]
            if reasons:
                n_queries = counted(scores.n_queries, "query", "queries")
                name = AXIS_NAMES[scores.axis]
                parts.append(f"{name} without {', '.join(reasons)} of {n_queries}")
        if parts:
            lines.append(f"{row.label}, ripple: {'; '.join(parts)}.")
        ranks = [scores.mean_rank for scores in row.ripple if not math.isnan(scores.mean_rank)]
        if ranks:
            lines.append(
                f"{row.label}: the subject's place among the candidates of a reversal is "
                f"{ranks[0]:.1f} in the mean."
            )
    return lines


def _line(
    label: str, row: ReportRow, axes: list[Axis], cell: Callable[[AxisScores], str]
) -> list[str]:
    scores = by_axis(row)
    return [label, *(cell(scores[axis]) if axis in scores else "—" for axis in axes)]


def _asked(scores: AxisScores) -> str:
    return f"{scores.n_queries} ({scores.n_records})"


def _executed(scores: AxisScores) -> str:
    return _share(scores.executed) if scores.conditioned else "all"


def _every(scores: AxisScores) -> str:
    return _share(scores.all)


def _worked(scores: AxisScores) -> str:
    return f"{_share(scores.worked)} n {scores.n_worked}" if scores.n_worked else "—"


def _share(estimate: Estimate) -> str:
    """Such as `42 (31–54)`; a dash where there is no mean."""
    if math.isnan(estimate.mean):
        return "—"
    mean = f"{100 * estimate.mean:.0f}"
    if not estimate.has_interval:
        return mean
    low, high = estimate.interval
    return f"{mean} ({100 * low:.0f}–{100 * high:.0f})"
