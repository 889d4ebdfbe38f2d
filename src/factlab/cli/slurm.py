"""`factlab slurm`: the script of a job array that does a command in parts."""

import shlex
from typing import Annotated

import typer

from factlab.cli.registration import OUTPUT, RUNNING, START, command
from factlab.cli.session import Session
from factlab.errors import InvalidRequestError, nearest

_SHARED = ("eval", "trace-average", "values", "probe", "sweep", "study")
_TIME = r"(\d+-)?\d+(:\d{1,2}){0,2}"


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        slurm,
        "slurm",
        group=START,
        takes=(),
        examples=(
            "factlab slurm --tasks 8 --gpus 1 --time 4:00:00 -- \\\n"
            "      eval --method rome --limit 1000 --out runs/rome > job.sh",
        ),
    )


def slurm(
    session: Session,
    words: Annotated[
        list[str], typer.Argument(help="The command to do, behind --, without 'factlab'.")
    ],
    tasks: Annotated[int, typer.Option(min=1, help="Of the array.", rich_help_panel=RUNNING)] = 4,
    gpus: Annotated[int, typer.Option(min=0, help="For each task.", rich_help_panel=RUNNING)] = 0,
    cpus: Annotated[int, typer.Option(min=1, help="For each task.", rich_help_panel=RUNNING)] = 4,
    memory: Annotated[
        str, typer.Option(help="For each task, such as 32G.", rich_help_panel=RUNNING)
    ] = "32G",
    time: Annotated[
        str, typer.Option(help="Limit of each task, such as 4:00:00.", rich_help_panel=RUNNING)
    ] = "4:00:00",
    partition: Annotated[
        str | None,
        typer.Option(
            help="Of the cluster.", show_default="the cluster's own", rich_help_panel=RUNNING
        ),
    ] = None,
    setup: Annotated[
        str,
        typer.Option(
            help="A line to begin with, such as 'source .venv/bin/activate'.",
            rich_help_panel=OUTPUT,
        ),
    ] = "source .venv/bin/activate",
) -> None:
    """Print a job script for Slurm that does a command in parts. It submits nothing.

    The tasks share the run's folder and take blocks of it by claim, so that any number of them may
    run at a time. One that comes near its limit is asked to finish what is at hand and goes back
    into the queue; so does one whose machine fails.
    """
    import re

    if words[0] not in _SHARED:
        raise InvalidRequestError(
            f"'{words[0]}' is not shared out.{nearest(words[0], _SHARED)} Choose from "
            f"{', '.join(_SHARED)}."
        )
    if not any(word == "--out" or word.startswith("--out=") for word in words):
        raise InvalidRequestError("The command needs --out, a folder that all machines see.")
    given = [
        word for word in words if word.partition("=")[0] in {"--shard", "--workers", "--engine"}
    ]
    if given:
        raise InvalidRequestError(f"Leave {given[0]} out: the tasks of the array share the run.")
    if not re.fullmatch(_TIME, time):
        raise InvalidRequestError(f"--time '{time}' is no limit of Slurm's. Write 4:00:00.")
    session.out.print(
        _script(words, tasks, gpus, cpus, memory, time, partition, setup),
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip


def _script(
    words: list[str],
    tasks: int,
    gpus: int,
    cpus: int,
    memory: str,
    time: str,
    partition: str | None,
    setup: str,
) -> str:
    options = [
        f"--job-name=factlab-{words[0]}", f"--array=1-{tasks}", f"--cpus-per-task={cpus}",
        f"--mem={memory}", f"--time={time}", "--requeue", "--signal=B:USR1@120",
        "--output=factlab-%A-%a.log",
        *([f"--gpus-per-task={gpus}", "--ntasks=1"] if gpus else []),
        *([f"--partition={partition}"] if partition else []),
    ]  # fmt: skip
    heads = "\n".join(f"#SBATCH {option}" for option in options)
    done = shlex.join(["factlab", *words, "--shard", "any"])
    return f"""#!/bin/bash
{heads}
set -u
{setup}
export OMP_NUM_THREADS="$SLURM_CPUS_PER_TASK"
# Two minutes before the limit Slurm signals this script. The run finishes what is at hand, or is
# killed after a while, which costs no more than that; then the task queues up again for the rest.
again=0
run=
stop() {{
  again=1
  if [ -n "$run" ]; then
    kill -INT "$run"
    (sleep 90 && kill -KILL "$run") 2> /dev/null &
  fi
}}
trap stop USR1
{done} &
run=$!
code=0
while kill -0 "$run" 2> /dev/null; do
  wait "$run"
  code=$?
done
if [ "$again" -eq 1 ] && [ "$code" -ne 0 ]; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""
