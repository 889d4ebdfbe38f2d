"""A report as Markdown, CSV and JSON, and the cells that its tables have in common."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factlab.data.records import Benchmark
from factlab.estimate import Estimate
from factlab.evaluation.measuring.rows import GivenAnswer
from factlab.evaluation.reporting.judged import judge_json
from factlab.evaluation.reporting.notes import legend, notes
from factlab.evaluation.reporting.ripple_table import ripple_lines
from factlab.evaluation.reporting.tables import Cell, ReportRow, ReportTable
from factlab.evaluation.scoring.ripple_scores import AxisScores
from factlab.evaluation.scoring.scores import ANSWER_METRICS, METRICS, SCORE, MetricSummary
from factlab.storage import write_json, write_text

if TYPE_CHECKING:
    from factlab.evaluation.reporting.eval_report import EvalReport

FORMAT = "factlab report 1"
_HUGE = 1e5
_DECIMALS = 4  # of a score between 0 and 1: a hundredth of a per cent
_WIDE = 5.0  # an interval, as shown, whose ends need no decimals
_SECONDS = {"s_per_edit": "s per edit", "s_per_record": "s per record"}
_CSV_COLUMNS: tuple[str, ...] = (
    "model", "data", "benchmark", "row", "kind", "metric", "value", "half_width", "low", "high",
    "n", "unscored", "p_value", "against",
)  # fmt: skip


# -- cells ------------------------------------------------------------------------------------


def table_title(table: ReportTable) -> str:
    """The model and the data."""
    dtype = table.model.dtype.removeprefix("torch.")
    return f"{table.model.name} ({dtype}) on {table.data.name}"


def header(table: ReportTable) -> list[str]:
    """Headings: the line's name, records without those that failed, metrics, seconds if any."""
    seconds = [_SECONDS[name] for name in _seconds(table)]
    return ["", "n", *(score_heading(table.benchmark, name) for name in table.columns), *seconds]


def cells(table: ReportTable, row: ReportRow) -> list[str]:
    """One line under `header`."""
    failed = len(row.run.failed) if row.run is not None and row.kind != "unedited" else 0
    made = [row.label, str(row.summary.n_records - failed)]
    for name in table.columns:
        if name not in row.summary.metrics:
            made.append("—")
            continue
        cell = score_cell(table.benchmark, name, row.summary.metrics[name].estimate)
        made.append(cell + ("*" if row.differs(name) else ""))
    for name in _seconds(table):
        made.append(estimate_cell(row.seconds[name], 1.0, 2) if name in row.seconds else "—")
    return made


def score_cell(benchmark: Benchmark, name: str, estimate: Estimate) -> str:
    """A score of some name, multiplied and rounded as its tables have it."""
    scale, digits = (100.0, 1)
    if name != SCORE:
        metric = METRICS[benchmark][name]
        scale, digits = metric.scale, metric.digits
    return estimate_cell(estimate, scale, digits)


def estimate_cell(estimate: Estimate, scale: float, digits: int) -> str:
    """Such as `42.1 ±0.8`, or `98.0 (93–99)` with both ends; a dash where there is no mean."""
    if math.isnan(estimate.mean):
        return "—"
    mean = _rounded(scale * estimate.mean, digits)
    if not estimate.has_interval:
        return mean
    if estimate.bounds is None:
        return f"{mean} ±{_rounded(scale * estimate.half_width, digits)}"
    low, high = (scale * end for end in estimate.bounds)
    whole = 0 if high - low >= _WIDE else digits
    return f"{mean} ({_rounded(low, whole)}–{_rounded(high, whole)})"


def _rounded(value: float, digits: int) -> str:
    """With so many decimals; a broken model's perplexity as a power of ten."""
    if abs(value) >= _HUGE:
        return f"{value:.1e}"
    rounded = f"{value:.{digits}f}"
    return rounded.removeprefix("-") if float(rounded) == 0 else rounded


def score_heading(benchmark: Benchmark, name: str) -> str:
    """Short name of a score, for the head of a column."""
    return "S" if name == SCORE else METRICS[benchmark][name].column


def _seconds(table: ReportTable) -> list[str]:
    return [name for name in _SECONDS if any(name in row.seconds for row in table.rows)]


# -- Markdown ---------------------------------------------------------------------------------


def to_markdown(report: "EvalReport") -> str:
    """Tables with their notes, then texts of single cases."""
    parts: list[str] = []
    for table in report.tables:
        columns = header(table)
        lines = [f"## {plain(table_title(table))}", "", markdown_line(columns)]
        lines.append(markdown_line(["---", *["---:"] * (len(columns) - 1)]))
        lines += [markdown_line(cells(table, row)) for row in table.rows]
        if ripple := ripple_lines(table):
            heads, *rest = ripple
            lines += ["", markdown_line(heads)]
            lines.append(markdown_line(["---", *["---:"] * (len(heads) - 1)]))
            lines += [markdown_line(line) for line in rest]
        lines += [
            "",
            *(f"- {plain(note)}" for note in [*notes(table), *legend(table, report.form)]),
        ]
        for case in table.cases:
            lines += ["", f"### Case {case.case_id}: {plain(case.statement)}"]
            texts, answers = case.lines(), case.answer_lines()
            lines += _markdown_table([("model", "text"), *texts]) if texts else []
            lines += _markdown_table(answers) if answers else []
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _markdown_table(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines under the first one, their head, with an empty line before."""
    head, *rows = lines
    ruled = [markdown_line(head), markdown_line(["---"] * len(head))]
    return ["", *ruled, *map(markdown_line, rows)]


def markdown_line(values: Sequence[str]) -> str:
    """Cells as a line of a table."""
    return "| " + " | ".join(map(plain, values)) + " |"


def plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    for sign in "\\|*_`<[":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


# -- rows and CSV -----------------------------------------------------------------------------


def to_rows(report: "EvalReport") -> list[dict[str, Cell]]:
    """One row per table, line and metric, each with the columns of `report.csv`.

    Values are as measured, not times 100; None where there is no number.
    """
    rows: list[dict[str, Cell]] = []
    for table in report.tables:
        for row in table.rows:
            place = (row.model, row.data, table.benchmark, row.label, row.kind_name)
            for name, metric in _measured(row).items():
                compared = name in row.p_values
                p_value = _kept(row.p_values[name]) if compared else None
                found = (
                    *place, name, *_estimate(metric.estimate).values(), metric.n, metric.n_nan,
                    p_value, table.against if compared else None,
                )  # fmt: skip
                rows.append(dict(zip(_CSV_COLUMNS, found, strict=True)))
            for name, estimate in row.seconds.items():
                n = sum(one.after is not None for one in row.run.rows) if row.run else 0
                found = (*place, name, *_estimate(estimate).values(), n, 0, None, None)
                rows.append(dict(zip(_CSV_COLUMNS, found, strict=True)))
            for name, estimate, n, unscored in _ripple_rows(row):
                found = (*place, name, *_estimate(estimate).values(), n, unscored, None, None)
                rows.append(dict(zip(_CSV_COLUMNS, found, strict=True)))
    return rows


def _measured(row: ReportRow) -> dict[str, MetricSummary]:
    """The scores of a line; those of free answers only where there are any."""
    metrics = row.summary.metrics
    return {name: one for name, one in metrics.items() if one.n or name not in ANSWER_METRICS}


def _ripple_rows(row: ReportRow) -> Iterator[tuple[str, Estimate, int, int]]:
    """Of each axis: name, mean, how many records, and how many queries do not count."""
    for one in row.ripple:
        unscored = sum(one.unscored.values())
        yield f"ripple_{one.axis}_executed", one.executed, one.n_records, 0
        yield f"ripple_{one.axis}_all", one.all, one.n_all, unscored
        if row.kind != "unedited":
            yield f"ripple_{one.axis}_worked", one.worked, one.n_worked, unscored


def to_csv(report: "EvalReport") -> str:
    """`to_rows` as a table with commas."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(to_rows(report))
    return text.getvalue()


# -- JSON -------------------------------------------------------------------------------------


def to_json(report: "EvalReport") -> dict[str, Any]:
    """Everything, ready for JSON; null where there is no number."""
    return {
        "format": FORMAT,
        "prob_form": report.form,
        "tables": [_table_json(table, report) for table in report.tables],
    }


def _table_json(table: ReportTable, report: "EvalReport") -> dict[str, Any]:
    return {
        "model": table.model.model_dump(mode="json"),
        "data": table.data.model_dump(mode="json"),
        "against": table.against,
        "rows": [_row_json(row) for row in table.rows],
        "cases": [
            {
                "case_id": case.case_id,
                "prompt": case.prompt,
                "target_new": case.target_new,
                "target_true": case.target_true,
                "models": [
                    {
                        "label": m.label,
                        "texts": list(m.texts),
                        "reason": m.reason,
                        **({"answers": [_answer_json(a) for a in m.answers]} if m.answers else {}),
                    }
                    for m in case.models
                ],
            }
            for case in table.cases
        ],
        "notes": notes(table),
        "legend": legend(table, report.form),
    }


def _answer_json(answer: GivenAnswer) -> dict[str, Any]:
    judged = {} if answer.judged is None else {"judged": answer.judged}
    return {**answer.model_dump(mode="json"), **judged}


def _row_json(row: ReportRow) -> dict[str, Any]:
    document: dict[str, Any] = {
        "label": row.label,
        "kind": row.kind_name,
        "model": row.model,
        "n": row.summary.n_records,
    }
    if row.run is None:
        document["data"] = {"name": row.data, "n_records": row.summary.n_records}
    else:
        request = row.run.request
        document |= {
            "data": request.data.model_dump(mode="json"),
            "n_cases": row.run.n_cases,
            "n_missing": row.run.n_missing,
            "n_unusable": row.run.n_unusable,
        }
        if row.kind != "unedited":
            document |= {
                "n_failed": len(row.run.failed),
                "method": request.method,
                "mode": request.mode,
                "n_edits": row.run.n_edits,
                "config": row.run.config,
            }
        document |= {
            "generation": request.generation,
            "seed": request.seed,
            "versions": dict(row.run.versions),
        }
    document["metrics"] = {
        name: {
            **_estimate(metric.estimate),
            "n": metric.n,
            "unscored": dict(metric.unscored),
            **({"p_value": _kept(row.p_values[name])} if name in row.p_values else {}),
        }
        for name, metric in _measured(row).items()
    }
    if (judged := judge_json(row)) is not None:
        document["judge"] = judged
    if row.seconds:
        document["seconds"] = {name: _estimate(e) for name, e in row.seconds.items()}
    if row.ripple:
        document["ripple"] = {one.axis: _axis_json(one, row) for one in row.ripple}
    if row.relations:
        document["relations"] = {
            relation_id: {
                name: int(value) if name == "n" else _kept(value) for name, value in means.items()
            }
            for relation_id, means in row.relations.items()
        }
    return document


def _axis_json(one: AxisScores, row: ReportRow) -> dict[str, Any]:
    """An axis of the ripple suite."""
    worked = {"worked": {**_estimate(one.worked), "n": one.n_worked}}
    return {
        "n_records": one.n_records,
        "n_queries": one.n_queries,
        "executed": _estimate(one.executed),
        **({} if row.kind == "unedited" else worked),
        "all": {**_estimate(one.all), "n": one.n_all},
        "unscored": dict(one.unscored),
        "mean_rank": _kept(one.mean_rank),
    }


def _kept(value: float) -> float | None:
    """A number of a report as files have it; None for NaN, which JSON lacks.

    The decimals that float32 arithmetic leaves alone when records are batched otherwise.
    """
    return None if math.isnan(value) else round(value, _DECIMALS) + 0.0  # no -0.0


def _estimate(estimate: Estimate) -> dict[str, float | None]:
    low, high = estimate.interval
    return {
        "mean": _kept(estimate.mean),
        "half_width": _kept(estimate.half_width),
        "low": _kept(low),
        "high": _kept(high),
    }


# -- files ------------------------------------------------------------------------------------


def save_report(report: "EvalReport", folder: str | Path) -> list[Path]:
    """Write `report.md`, `report.csv`, `report.json` and the figures into a folder.

    Returns:
        The files.

    Raises:
        StorageError: one of them cannot be written.
    """
    from factlab.evaluation.reporting.plots import plot_report  # noqa: PLC0415 - when drawing only

    place = Path(folder)
    texts = {"report.md": to_markdown(report), "report.csv": to_csv(report)}
    for name, text in texts.items():
        write_text(place / name, text)
    write_json(place / "report.json", to_json(report))
    return [*(place / name for name in texts), place / "report.json", *plot_report(report, place)]
