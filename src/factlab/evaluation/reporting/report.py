"""Reports: the scores of several runs side by side, in the layout of the ROME paper's table 4.

Runs of one model on one data set share a table. Its first line is the unedited model, as all of its
runs measured it together; then come the runs in the order given. A report depends on the records
alone, not on where they lie, nor on how often a run was interrupted; another order of the runs
gives the same lines in another order.
"""

from collections.abc import Sequence
from dataclasses import replace

from factlab.arguments import checked
from factlab.errors import InvalidRequestError, counted, nearest
from factlab.estimate import Estimate
from factlab.evaluation.reporting.case_texts import collect_case_texts
from factlab.evaluation.reporting.eval_report import EvalReport
from factlab.evaluation.reporting.published_results import PUBLISHED_DATA, published_results
from factlab.evaluation.reporting.run_labels import UNEDITED, check_labels, label_runs
from factlab.evaluation.reporting.tables import STAGES, ReportRow, ReportTable, RowKind
from factlab.evaluation.reporting.unedited import unedited_run
from factlab.evaluation.running.saved_run import Run
from factlab.evaluation.scoring.metrics import ProbForm
from factlab.evaluation.scoring.ripple_scores import score_ripple
from factlab.evaluation.scoring.scores import (
    EXACT_METRICS,
    METRICS,
    SCORE,
    SCORE_PARTS,
    p_values,
    relation_means,
    score_row,
    summarise,
)


@checked()
def report(
    runs: Sequence[Run],
    *,
    labels: Sequence[str] | None = None,
    form: ProbForm = "mean",
    against: str | None = None,
    published: bool = False,
    timings: bool = False,
    exact: bool = False,
    cases: Sequence[int] = (),
) -> EvalReport:
    """Score runs and put them side by side.

    Args:
        runs: at least one, in the order of the report.
        labels: one for each run; worked out from method and mode if None.
        form: of probabilities.
        against: label or method of the run to compare the others of its tables with.
        published: add what the ROME paper gives.
        timings: add seconds, which differ every time that a run is repeated.
        exact: show exact matches of CounterFact too; those of zsRE are always shown.
        cases: records whose generated texts and free answers to show.

    Raises:
        InvalidRequestError: there are no runs, labels do not fit, no run is called `against` or
            several are, or no run has one of the `cases`.
    """
    if not runs:
        raise InvalidRequestError("There are no runs to report. Name at least one folder.")
    _check_cases(runs, cases)
    groups = _grouped(runs, labels or ())
    tables = [_table(group, form, timings, exact, cases) for group in groups]
    if against is not None:
        tables = _compared(tables, against)
    if published:
        tables = [_with_published(table) for table in tables]
    return EvalReport(form, tuple(tables))


# -- one table --------------------------------------------------------------------------------


def _grouped(runs: Sequence[Run], labels: Sequence[str]) -> list[list[tuple[str, Run]]]:
    """The runs of each table with their labels."""
    if labels and len(labels) != len(runs):
        raise InvalidRequestError(
            "There must be a label for each run, in their order: "
            f"{counted(len(labels), 'label')} for {counted(len(runs), 'run')}."
        )
    groups: list[list[int]] = []
    for i, run in enumerate(runs):
        # What joins runs is the name of the data or their content: a third run may join two groups.
        joined = [group for group in groups if any(run.shares_table(runs[j]) for j in group)]
        if joined:
            joined[0][:] = sorted([*(j for group in joined for j in group), i])
            groups = [group for group in groups if group not in joined[1:]]
        else:
            groups.append([i])
    labelled: list[list[tuple[str, Run]]] = []
    for group in groups:
        members = [runs[i] for i in group]
        names = [labels[i] for i in group] if labels else label_runs(members)
        check_labels(names)
        labelled.append(list(zip(names, members, strict=True)))
    return labelled


def _table(
    group: Sequence[tuple[str, Run]],
    form: ProbForm,
    timings: bool,
    exact: bool,
    cases: Sequence[int],
) -> ReportTable:
    unedited = unedited_run([run for _, run in group])
    rows = _rows(UNEDITED, "unedited", unedited, form, timings=False)
    for label, run in group:
        rows += _rows(label, "run", run, form, timings)
        if any(row.right_after is not None for row in run.rows):
            rows += _rows(f"{label}, right after each", "right_after", run, form, timings=False)
    model, data = unedited.request.model, unedited.request.data
    benchmark = data.benchmark
    scored = any(row.summary.metrics[name].n for row in rows for name in SCORE_PARTS[benchmark])
    # Facts without a true answer have no score but exact matches.
    hide = benchmark == "counterfact" and not exact and scored
    hidden = EXACT_METRICS if hide else frozenset[str]()
    columns = [
        name
        for name in (SCORE, *METRICS[benchmark])
        if name not in hidden and any(row.summary.metrics[name].n for row in rows)
    ]
    return ReportTable(
        model,
        data,
        tuple(columns),
        tuple(rows),
        cases=tuple(text for case in cases for text in collect_case_texts(case, group, unedited)),
    )


def _rows(label: str, kind: RowKind, run: Run, form: ProbForm, timings: bool) -> list[ReportRow]:
    """A line, and if prompts were asked in the chat template too, one for that."""
    lines = [_row(label, kind, run, form, timings)]
    if any(row.before.chat is not None for row in run.rows):
        lines.append(_row(f"{label}, in chat", kind, run, form, timings=False, in_chat=True))
    return lines


def _row(
    label: str, kind: RowKind, run: Run, form: ProbForm, timings: bool, in_chat: bool = False
) -> ReportRow:
    benchmark = run.request.data.benchmark
    records = tuple(score_row(row, STAGES[kind], form, in_chat) for row in run.rows)
    seconds: dict[str, Estimate] = {}
    if timings:
        done = [row for row in run.rows if row.after is not None]
        seconds["s_per_edit"] = Estimate.of([row.edit_s for row in done])
        seconds["s_per_record"] = Estimate.of([row.edit_s + row.measure_s for row in done])
    return ReportRow(
        label,
        kind,
        summarise(records, benchmark),
        run.request.model.name,
        run.request.data.name,
        run,
        records,
        relation_means(records, benchmark),
        seconds=seconds,
        ripple=() if in_chat else score_ripple(run.rows, STAGES[kind], form),
        in_chat=in_chat,
    )


def _with_published(table: ReportTable) -> ReportTable:
    lines = [
        ReportRow(
            f"{line.model}: {line.method} (paper)",
            "published",
            line.summary,
            line.model,
            PUBLISHED_DATA[table.benchmark],
        )
        for line in published_results(table.benchmark)
    ]
    return replace(table, rows=(*table.rows, *lines))


def _check_cases(runs: Sequence[Run], cases: Sequence[int]) -> None:
    there = sorted({row.case_id for run in runs for row in run.rows})
    for case in cases:
        if case not in there:
            known = f"{counted(len(there), 'case')}, {there[0]} to {there[-1]}" if there else "none"
            raise InvalidRequestError(
                f"No run has measured case {case} yet (measured: {known}). Give the "
                "case_id of a record."
            )


# -- comparison -------------------------------------------------------------------------------


def _compared(tables: Sequence[ReportTable], against: str) -> list[ReportTable]:
    """Compare every row of a table with the one that is called so."""
    made = [_compared_table(table, against) for table in tables]
    if all(table.against is None for table in made):
        labels = [row.label for table in tables for row in table.rows]
        raise InvalidRequestError(
            f"No run is called '{against}'. There are: {', '.join(dict.fromkeys(labels))}."
            f"{nearest(against, labels)}"
        )
    return made


def _compared_table(table: ReportTable, against: str) -> ReportTable:
    wanted = against.casefold()
    found = [row for row in table.rows if row.label.casefold() == wanted] or [
        row
        for row in table.rows
        if row.kind == "run" and not row.in_chat and _method(row).casefold() == wanted
    ]
    if not found:
        return table
    if len(found) > 1:
        raise InvalidRequestError(
            f"Several runs are of method '{against}'. Name one of them: "
            f"{', '.join(row.label for row in found)}."
        )
    base = found[0]
    like = [row for row in table.rows if row.in_chat and _place(row) == _place(base)]
    in_chat = like[0] if like else base  # which is compared in chat with its like

    def compared(row: ReportRow) -> ReportRow:
        other = in_chat if row.in_chat else base
        if row is other or row is base:
            return row
        return replace(row, p_values=p_values(row.records, other.records, table.benchmark))

    rows = [compared(row) for row in table.rows]
    return replace(table, rows=tuple(rows), against=base.label)


def _place(row: ReportRow) -> tuple[RowKind, int]:
    """What a line has in common with the same line in chat."""
    return row.kind, id(row.run)


def _method(row: ReportRow) -> str:
    return "" if row.run is None else row.run.request.method
