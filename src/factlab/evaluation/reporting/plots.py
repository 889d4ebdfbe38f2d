"""Figures of a report: scores by run, S against the number of edits, S by relation."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from matplotlib.ticker import FixedLocator, NullLocator

from factlab.data.records import Benchmark
from factlab.data.relation_names import relation_label
from factlab.errors import InvalidRequestError, counted, nearest
from factlab.evaluation.reporting.tables import FigureName, ReportRow, ReportTable
from factlab.evaluation.scoring.scores import SCORE, SCORE_PARTS
from factlab.figures import (
    LINE_COLOURS,
    SCORE_COLOURS,
    Picture,
    clear_spines,
    footnote,
    new_picture,
    save_picture,
)

if TYPE_CHECKING:
    from factlab.evaluation.reporting.eval_report import EvalReport

_BAR = 0.2  # of the height of a group
# What S and its parts are, in the figure itself.
_MEANINGS: Mapping[Benchmark, tuple[str, str, str, str]] = {
    "counterfact": (
        "S: harmonic mean of ES, PS, NS",
        "ES: edited prompt, new target wins",
        "PS: paraphrases, new target wins",
        "NS: other subjects, true target wins",
    ),
    "zsre": (
        "S: harmonic mean of the three",
        "Efficacy: right tokens, edited question",
        "Paraphrase: the same, asked otherwise",
        "Specificity: the same, unrelated question",
    ),
}


def plot_report(report: "EvalReport", folder: Path) -> list[Path]:
    """Draw what the runs of each table allow, as PNG files in a folder.

    Returns:
        The files: `scores.png`; `scores-by-edits.png` if edits were put into one model in two
        numbers or more; `scores-by-relation.png` if there are two relations or more. Those of a
        second table end in `-2.png`.
    """
    drawn: list[Path] = []
    for number, table in enumerate(report.tables, start=1):
        for name, draw in _FIGURES.items():
            figure = draw(table)
            if figure is not None:
                path = folder / (f"{name}.png" if number == 1 else f"{name}-{number}.png")
                save_picture(figure, path)
                drawn.append(path)
    return drawn


def plot_figure(
    report: "EvalReport", path: str | Path | None, name: FigureName, number: int
) -> Picture:
    """One figure of one table; see `EvalReport.plot`."""
    if name not in _FIGURES:
        raise InvalidRequestError(
            f"No figure is called '{name}'. There are {', '.join(_FIGURES)}."
            f"{nearest(name, _FIGURES)}"
        )
    if not 0 <= number < len(report.tables):
        raise InvalidRequestError(
            f"Table {number} is out of range: the report has {len(report.tables)}, from 0."
        )
    figure = _FIGURES[name](report.tables[number])
    if figure is None:
        raise InvalidRequestError(f"There is nothing to draw as '{name}': {_NEEDED[name]}.")
    save_picture(figure, path)
    return figure


def _measured(table: ReportTable, needed: tuple[str, ...] = (SCORE,)) -> list[ReportRow]:
    """Rows with one of some scores; not the published ones."""
    return [
        row
        for row in table.rows
        if row.run is not None and any(row.summary.metrics[name].n for name in needed)
    ]


def _bars(table: ReportTable) -> Picture | None:
    """S and its three parts for each row, with their intervals."""
    names = (SCORE, *SCORE_PARTS[table.benchmark])
    rows = _measured(table, names)
    if not rows:
        return None
    figure = new_picture(6.8, 1.7 + 0.62 * len(rows))
    panel = figure.subplots()
    places = np.arange(len(rows))
    for i, (name, colour) in enumerate(zip(names, SCORE_COLOURS, strict=True)):
        means, distances = _percent(rows, name)
        beside = places + (i - 1.5) * _BAR
        panel.barh(beside, means, _BAR, color=colour, label=_MEANINGS[table.benchmark][i])
        panel.errorbar(means, beside, xerr=distances, fmt="none", ecolor="0.1", elinewidth=0.8)
    panel.set_yticks(places, labels=[_name(row) for row in rows], parse_math=False)
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.set_xlim(0, 101)
    panel.set_xlabel("score × 100, with 95 % confidence interval", fontsize=9)
    clear_spines(panel)
    panel.grid(axis="x", color="0.9", linewidth=0.6)
    panel.set_axisbelow(True)
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    _caption(figure, table, rows)
    return figure


def _by_edits(table: ReportTable) -> Picture | None:
    """S against how many edits are in the model, a line for each method and way of editing."""
    lines: dict[str, list[ReportRow]] = {}
    for row in _measured(table):
        if row.run is not None and row.kind != "unedited" and row.run.request.mode != "each":
            when = ", right after each edit" if row.kind == "right_after" else ""
            when += ", in chat" if row.in_chat else ""
            name = f"{row.run.request.method}, {row.run.request.mode}{when}"
            lines.setdefault(name, []).append(row)
    numbers = sorted({_n_edits(row) for rows in lines.values() for row in rows})
    if len(numbers) < 2:
        return None
    figure = new_picture(6.4, 4.2)
    panel = figure.subplots()
    for i, (name, unsorted) in enumerate(lines.items()):
        rows = sorted(unsorted, key=_n_edits)
        means, distances = _percent(rows, SCORE)
        panel.errorbar(
            [_n_edits(row) for row in rows], means, distances, label=name, capsize=2, marker="o",
            markersize=4, linewidth=1.5, color=LINE_COLOURS[i % len(LINE_COLOURS)],
            linestyle="--" if rows[0].kind == "right_after" else "-",
        )  # fmt: skip
    unedited = [row for row in _measured(table) if row.kind == "unedited"]
    for row in unedited:
        level = 100 * row.summary.metrics[SCORE].estimate.mean
        panel.axhline(level, color="0.45", linewidth=0.9, linestyle=":", label=row.label)
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(FixedLocator(numbers))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticklabels([f"{number:,}" for number in numbers])
    panel.set_ylim(0, 102)
    panel.set_xlabel("edits in the model", fontsize=9)
    panel.set_ylabel("S × 100 (harmonic mean of its parts), 95 % intervals", fontsize=9)
    clear_spines(panel)
    panel.grid(color="0.9", linewidth=0.6)
    figure.legend(*panel.get_legend_handles_labels(), loc="outside upper center", ncols=2,
                  fontsize=8, frameon=False)  # fmt: skip
    _caption(figure, table, [*unedited, *(row for rows in lines.values() for row in rows)])
    return figure


def _by_relation(table: ReportTable) -> Picture | None:
    """S of each relation and row as a map."""
    rows = _measured(table)
    relations = sorted(
        {relation for row in rows for relation in row.relations if relation},
        key=lambda relation: (len(relation), relation),  # P17 before P103
    )
    if len(relations) < 2:
        return None
    scores = np.array([
        [100 * row.relations.get(relation, {}).get(SCORE, math.nan) for row in rows]
        for relation in relations
    ])  # fmt: skip
    figure = new_picture(3.6 + 0.95 * len(rows), 1.9 + 0.24 * len(relations))
    panel = figure.subplots()
    shown = panel.imshow(scores, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for (i, j), score in np.ndenumerate(scores):
        text = "—" if math.isnan(score) else f"{score:.0f}"
        panel.text(
            j, i, text, ha="center", va="center", fontsize=7, color="white" if score > 55 else "0.2"
        )
    largest = {
        relation: int(max(row.relations.get(relation, {}).get("n", 0) for row in rows))
        for relation in relations
    }
    names = [f"{relation_label(relation)}, n = {largest[relation]}" for relation in relations]
    panel.set_yticks(range(len(relations)), labels=names, parse_math=False)
    panel.set_xticks(
        range(len(rows)), labels=[row.label for row in rows], rotation=35, ha="right",
        rotation_mode="anchor", parse_math=False,
    )  # fmt: skip
    clear_spines(panel)
    panel.tick_params(axis="y", labelsize=8)
    bar = figure.colorbar(shown, ax=panel, fraction=0.06, pad=0.03)
    bar.set_label("S × 100 (harmonic mean of its parts)", fontsize=8)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    _caption(figure, table, rows)
    return figure


def _n_edits(row: ReportRow) -> int:
    return 0 if row.run is None else row.run.n_edits


def _percent(
    rows: list[ReportRow], name: str
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, "2 row"]]:
    """Means times 100, and how far their intervals reach below and above; 0 where there is none."""
    estimates = [row.summary.metrics[name].estimate for row in rows]
    means = np.array([100 * estimate.mean for estimate in estimates])
    ends = np.array([[100 * end for end in estimate.interval] for estimate in estimates]).T
    distances = np.nan_to_num(np.stack([means - ends[0], ends[1] - means]))
    return means, distances.clip(min=0)  # an end may be the mean, but for rounding


def _name(row: ReportRow) -> str:
    """What to call a row; how far it is if it is not done."""
    run = row.run
    if run is None or row.kind == "unedited" or not run.n_missing:
        return row.label
    return f"{row.label}\n({len(run.rows)} of {run.n_cases} records)"


def _caption(figure: Picture, table: ReportTable, rows: list[ReportRow]) -> None:
    counts = sorted({row.summary.n_records for row in rows})
    most = counted(counts[-1], "record")
    n = most if len(counts) == 1 else f"{counts[0]:,}–{most}"
    footnote(figure, f"{table.model.name} on {table.data.name}, {n}")


_FIGURES: Mapping[FigureName, Callable[[ReportTable], Picture | None]] = {
    "scores": _bars,
    "scores-by-edits": _by_edits,
    "scores-by-relation": _by_relation,
}
_NEEDED: Mapping[FigureName, str] = {
    "scores": "no record has a score S, which needs a true answer, paraphrases and neighbours",
    "scores-by-edits": "it needs runs of two numbers of edits in one model",
    "scores-by-relation": "it needs records of two relations",
}
