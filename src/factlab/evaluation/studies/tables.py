"""The table of a study: as cells, as text, Markdown and CSV."""

import csv
import io
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from factlab.data.relation_names import RELATION_NAMES, relation_label
from factlab.errors import counted
from factlab.evaluation.reporting.formats import markdown_line, plain, score_cell, score_heading
from factlab.evaluation.reporting.text import aligned_lines
from factlab.evaluation.scoring.scores import METRICS, SCORE, SCORE_PARTS
from factlab.evaluation.studies.points import Point

if TYPE_CHECKING:
    from factlab.evaluation.studies.result import Study

_WIDTH = 100

TITLES = {
    "relations": "Which facts are harder to edit",
    "mixture": "Two relations mixed, and each alone",
    "layers": "Which layers to edit, and how many",
    "scaling": "What more facts do",
}
# Headings of what was varied.
_HEADS = {
    "relations": ("relation",),
    "mixture": ("relations", "facts of", "facts"),
    "layers": ("layers",),
    "scaling": ("method", "written", "facts", "measured"),
}
_NOTES = {
    "relations": "For each relation, n of its facts were written in one edit and measured.",
    "mixture": "Mixed, every other fact is of either relation. What stands beside it are as many "
    "facts of each alone, and the mean of these two.",
    "layers": "All facts were written in one edit of these layers.",
    "scaling": "written: how many facts were in the model. facts: which of them were measured. "
    "right after: each with its own edit as the last one.",
}


class Part(NamedTuple):
    """A table as it is shown.

    Attributes:
        title: above it; empty if there is one table only.
        heads: of the columns.
        lines: of cells.
    """

    title: str
    heads: list[str]
    lines: list[list[str]]


def parts(study: "Study") -> list[Part]:
    """The tables of a study; all have the same columns."""
    names = study.columns
    heads = [
        *_HEADS[study.kind], "n", *(score_heading(study.benchmark, name) for name in names),
        "S unedited",
    ]  # fmt: skip
    return [
        Part(title, heads, [[*place_cells(study, point), *_cells(study, point)] for point in own])
        for title, own in _sections(study)
        if own
    ]


def place_cells(study: "Study", point: Point) -> list[str]:
    """What was varied, in words."""
    place = point.place
    match study.kind:
        case "relations":
            return [relation_label(str(place["relation"]))]
        case "mixture":
            return [pair_name(str(place["pair"])), of_name(str(place["of"])), f"{place['facts']}"]
        case "layers":
            return [layers_name(int(place["top"]), int(place["count"]))]
        case "scaling":
            return [
                str(place["method"]), f"{place['written']:,}",
                f"{place['first']:,}–{place['last']:,}", str(place["measured"]),
            ]  # fmt: skip


def pair_name(pair: str) -> str:
    """Two relations in words: `place of birth + citizenship`."""
    return " + ".join(relation_name(one) for one in pair.split(":"))


def relation_name(relation: str) -> str:
    """A relation in words alone, where it has a name."""
    return RELATION_NAMES.get(relation, relation)


def of_name(of: str) -> str:
    """Which facts of a pair, in words."""
    return {"mixture": "both, mixed", "mean": "mean of each alone"}.get(of, relation_name(of))


def layers_name(top: int, count: int) -> str:
    """The layers up to a top one: `3–5`."""
    return f"{top}" if count == 1 else f"{top - count + 1}–{top}"


def title(study: "Study") -> str:
    """What is studied, of what, and how."""
    how = "all in one edit" if study.mode == "together" else "one edit after the other"
    return (
        f"{TITLES[study.kind]}: {study.model} ({study.dtype}) on {study.data}, {study.method}, "
        f"{how}"
    )


def n_records(study: "Study") -> str:
    """How many records an evaluation has: `30 records`, or `25–41 records`."""
    numbers = sorted({point.n for point in study.points if point.place.get("of") != "mean"})
    most = counted(numbers[-1], "record")
    return most if len(numbers) == 1 else f"{numbers[0]:,}–{most}"


def legend(study: "Study") -> list[str]:
    """What the columns mean, in sentences."""
    metrics = METRICS[study.benchmark]
    names = ", ".join(metrics[name].column for name in SCORE_PARTS[study.benchmark])
    lines = [_NOTES[study.kind], f"S: harmonic mean of the means of {names}."]
    for name in study.columns:
        if name != SCORE:
            lines.append(f"{metrics[name].column}: {metrics[name].meaning}.")
    unscaled = [metrics[n].column for n in study.columns if n != SCORE and metrics[n].scale == 1]
    but = f" but {' and '.join(unscaled)}" if unscaled else ""
    lines.append(f"All ×100{but}; in brackets or after ± stands the 95 % confidence interval.")
    return lines


def summary(study: "Study") -> list[str]:
    """The main things, in a few lines."""
    scored = [p for p in study.points if not math.isnan(p.scores[SCORE].mean)]
    if not scored:
        return ["no record has a score S"]
    ordered = sorted(scored, key=lambda point: point.scores[SCORE].mean)
    shown = (("highest", ordered[-1]), ("lowest", ordered[0]))
    return [
        f"{word} S: {score_cell(study.benchmark, SCORE, point.scores[SCORE])} "
        f"({', '.join(place_cells(study, point))})"
        for word, point in shown
    ]


# -- files and screens -------------------------------------------------------------------------


def to_text(study: "Study") -> str:
    """The table lined up by spaces, with notes."""
    lines = [textwrap.fill(title(study), _WIDTH)]
    for part in parts(study):
        lines += [
            *([f"\n{part.title}"] if part.title else []),
            *aligned_lines([part.heads, *part.lines]),
        ]
    lines += [textwrap.fill(note, _WIDTH) for note in study.notes]
    return "\n".join([*lines, textwrap.fill(" ".join(legend(study)), _WIDTH)])


def to_markdown(study: "Study") -> str:
    """The table with its notes and what its columns mean."""
    n_places = len(_HEADS[study.kind])
    lines = [f"## {plain(title(study))}", ""]
    for part in parts(study):
        sides = [*["---"] * n_places, *["---:"] * (len(part.heads) - n_places)]
        lines += [
            *([f"### {plain(part.title)}", ""] if part.title else []),
            markdown_line(part.heads), "| " + " | ".join(sides) + " |",
            *(markdown_line(line) for line in part.lines), "",
        ]  # fmt: skip
    lines += [f"- {plain(note)}" for note in [*study.notes, *legend(study)]]
    return "\n".join(lines) + "\n"


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows with a line for their keys; numbers with six decimals."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(rows[0])
    for row in rows:
        table.writerow([_number(value) for value in row.values()])
    return text.getvalue()


def _number(value: object) -> object:
    return f"{value:.6f}" if isinstance(value, float) else value


def _cells(study: "Study", point: Point) -> list[str]:
    scores = [score_cell(study.benchmark, name, point.scores[name]) for name in study.columns]
    unedited = score_cell(
        study.benchmark, SCORE, point.unedited[SCORE]._replace(half_width=math.nan)
    )
    return [f"{point.n:,}", *scores, unedited]


def _sections(study: "Study") -> list[tuple[str, list[Point]]]:
    if study.kind != "scaling":
        return [("", [*study.points])]
    every = [point for point in study.points if point.place["measured"] == "all"]
    parted = [point for point in study.points if point.place["measured"] != "all"]
    if not parted:
        return [("", every)]
    return [("All facts written so far", every), ("Facts by when they were written", parted)]
