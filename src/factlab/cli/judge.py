"""`factlab judge`: have another model say which answers are right."""

from pathlib import Path
from typing import Annotated

import typer

from factlab.cli.interrupt import finishing_on_interrupt
from factlab.cli.registration import MEASURE, NO_MODEL, RUNNING, command
from factlab.cli.report import show_report
from factlab.cli.session import Session


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        judge,
        "judge",
        group=MEASURE,
        takes=NO_MODEL,
        examples=(
            "factlab judge runs/rome --url http://localhost:8000/v1 --model qwen2.5-72b",
            "FACTLAB_JUDGE_KEY=... factlab judge runs/* --url https://HOST/v1 --model NAME",
        ),
    )


def judge(
    session: Session,
    folders: Annotated[list[Path], typer.Argument(help="Folders of evaluations with --answers.")],
    url: Annotated[
        str,
        typer.Option(help="Server with OpenAI's interface, such as http://localhost:8000/v1."),
    ],
    judge_model: Annotated[str, typer.Option("--model", help="What the server calls the judge.")],
    no_neighborhood: Annotated[
        bool,
        typer.Option(
            "--no-neighborhood",
            help="Leave out prompts about other subjects, which are most of the answers.",
        ),
    ] = False,
    timeout: Annotated[
        float, typer.Option(help="Seconds for one verdict.", rich_help_panel=RUNNING)
    ] = 60.0,
    at_once: Annotated[
        int, typer.Option(min=1, help="Answers asked about at once.", rich_help_panel=RUNNING)
    ] = 4,
) -> None:
    """Ask a language model on a server whether the answers of evaluations are right.

    Sent are texts only: prompts, right answers and the answers given. A key for the server is read
    from FACTLAB_JUDGE_KEY. Verdicts are kept in the folder "judge" of each evaluation, where
    'factlab report' finds them; stopped, the same command goes on.
    """
    from factlab.evaluation.judging.run import judge as ask_judge

    with session.progress() as report, finishing_on_interrupt(session) as should_stop:
        for folder in folders:
            ask_judge(
                folder, url, judge_model, neighborhood=not no_neighborhood, timeout_s=timeout,
                at_once=at_once, should_stop=should_stop, progress=report,
            )  # fmt: skip
            if should_stop():
                break
    if should_stop():
        session.say("Stopped. The same command goes on.")
        raise typer.Exit(130)
    show_report(session, folders)
