"""`factlab report`: the scores of evaluations side by side."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from factlab.cli.registration import MEASURE, NO_MODEL, command
from factlab.cli.session import Session
from factlab.cli.tables import table
from factlab.cli.terminal import visible
from factlab.errors import InvalidRequestError, nearest

if TYPE_CHECKING:
    from factlab.evaluation.reporting.eval_report import EvalReport
    from factlab.evaluation.scoring.metrics import ProbForm


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        report,
        "report",
        group=MEASURE,
        takes=NO_MODEL,
        examples=(
            "factlab report runs/*",
            "factlab report runs/* --published --against rome --out report",
        ),
    )


def report(
    session: Session,
    folders: Annotated[list[Path], typer.Argument(help="Folders of evaluations, in this order.")],
    out: Annotated[
        Path | None, typer.Option(help="Write report.md, report.csv, report.json and figures here.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Mark what differs significantly from this run or method.")
    ] = None,
    published: Annotated[bool, typer.Option(help="Add what the ROME paper gives.")] = False,
    form: Annotated[
        str, typer.Option(help="Probability of a target: mean (as published) or product.")
    ] = "mean",
    exact: Annotated[
        bool, typer.Option(help="Add exact matches: would greedy decoding write the target?")
    ] = False,
    timings: Annotated[bool, typer.Option(help="Add seconds per edit and per record.")] = False,
    case: Annotated[
        list[int] | None,
        typer.Option(help="Show what was written and answered for this record; repeatable."),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="What to call a run; once for each, in their order.")
    ] = None,
    markdown: Annotated[bool, typer.Option(help="Print Markdown.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV: one line per score.")] = False,
) -> None:
    """Put the scores of evaluations side by side, finished or not, as in the ROME paper's table 4.

    The first line is the unedited model.
    """
    from factlab.evaluation.reporting.formats import save_report, to_csv, to_json, to_markdown
    from factlab.evaluation.reporting.report import report as build_report
    from factlab.evaluation.running.saved_run import load_run

    if session.as_json + markdown + as_csv > 1:
        raise InvalidRequestError(
            "--json, --markdown and --csv exclude each other. Choose one, or write all of them "
            "with --out."
        )
    made = build_report(
        [load_run(folder) for folder in folders],
        labels=label,
        form=_prob_form(form),
        against=against,
        published=published,
        timings=timings,
        exact=exact,
        cases=case or [],
    )
    files = [] if out is None else save_report(made, out)
    if markdown or as_csv:
        sys.stdout.write(visible(to_markdown(made) if markdown else to_csv(made)))
        return
    _show(session, made)
    if files:
        session.say(f"Written to {out}: {', '.join(file.name for file in files)}")
    session.emit(to_json(made))


def show_report(session: Session, folders: list[Path]) -> None:
    """Print the report of some runs."""
    from factlab.evaluation.reporting.formats import to_json
    from factlab.evaluation.reporting.report import report as build_report
    from factlab.evaluation.running.saved_run import load_run

    made = build_report([load_run(folder) for folder in folders])
    _show(session, made)
    session.emit(to_json(made))


def _prob_form(form: str) -> "ProbForm":
    if form == "mean" or form == "product":  # noqa: PLR1714 - narrows the type
        return form
    raise InvalidRequestError(
        f"--form cannot be '{form}'. Choose mean or product.{nearest(form, ['mean', 'product'])}"
    )


def _show(session: Session, made: "EvalReport") -> None:
    from factlab.evaluation.reporting.formats import cells, header, table_title
    from factlab.evaluation.reporting.notes import notes, short_legend
    from factlab.evaluation.reporting.ripple_table import ripple_lines

    for part in made.tables:
        _show_lines(
            session, [header(part), *(cells(part, row) for row in part.rows)], table_title(part)
        )
        if ripple := ripple_lines(part):
            _show_lines(session, ripple, None)
        for note in notes(part):
            session.say(Text(note))
        for case in part.cases:
            session.say()
            title = f"Case {case.case_id}: {case.statement}"
            if texts := case.lines():
                session.say(table(["model", "text"], texts, title=title))
                title = None
            if answers := case.answer_lines():
                session.say(table(answers[0], answers[1:], title=title))
    # A renderable, which is wrapped at words.
    session.say(Text(short_legend(made.tables), style="dim"))


def _show_lines(session: Session, lines: list[list[str]], title: str | None) -> None:
    """Lines of cells under their heads, in as many tables as it takes."""
    for columns in _fitting(lines, session.out.width):
        heading, *rows = [[line[i] for i in columns] for line in lines]
        session.say(table(heading, rows, right=set(range(1, len(columns))), title=title))
        title = None


def _fitting(lines: list[list[str]], width: int) -> list[list[int]]:
    """Columns of as many tables as it takes for no number to be cut; each begins with the first."""
    widths = [max(len(line[i]) for line in lines) + 3 for i in range(len(lines[0]))]
    first = min(widths[0], width // 3)  # names may take several lines
    blocks, used = [[0]], first
    for i in range(1, len(widths)):
        if used + widths[i] > width and len(blocks[-1]) > 1:
            blocks.append([0])
            used = first
        blocks[-1].append(i)
        used += widths[i]
    return blocks
