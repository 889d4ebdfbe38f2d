"""`factlab values`: what edits of many facts spend their time on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factlab.cli.interrupt import finishing_on_interrupt
from factlab.cli.options import MethodSettings, ResumeOption
from factlab.cli.registration import EDIT, METHOD, command
from factlab.cli.session import Session
from factlab.cli.sharing import SharingOptions, leave_if_worker
from factlab.errors import counted

if TYPE_CHECKING:
    from factlab.editing.values.folder import SavedValues

_REASONS_SHOWN = 5


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(
        app,
        values,
        "values",
        group=EDIT,
        takes=("model", "device", "dtype", "memory_gib"),
        examples=(
            "factlab values facts.csv --out values --shard 1/4",
            "factlab edit --facts facts.csv --together --values values --out edit",
        ),
    )


def values(
    session: Session,
    *,
    facts: Annotated[Path, typer.Argument(help="File of facts, as for 'factlab edit --facts'.")],
    out: Annotated[Path, typer.Option(help="Folder for one record per fact.")],
    method: Annotated[
        str,
        typer.Option(
            help="rome, memit, emmet or alphaedit: that is to write them.", rich_help_panel=METHOD
        ),
    ] = "memit",
    more: MethodSettings,
    erase: Annotated[
        bool, typer.Option("--erase", help="For 'edit --erase'.", rich_help_panel=METHOD)
    ] = False,
    resume: ResumeOption = False,
    sharing: SharingOptions,
) -> None:
    """Optimise the values of facts, the long part of an edit, for 'factlab edit --values'.

    Several machines can share them out with --shard. Interrupt it with Ctrl-C, or kill it, and go
    on later with --resume.
    """
    from factlab.data.fact_files import load_facts
    from factlab.editing.method import check_targets
    from factlab.editing.values.recipe import with_values
    from factlab.journal import check_run_folder

    wanted, chosen = load_facts(facts), more.of(method, erase).chosen()
    with_values(chosen.method.name, chosen.config)
    check_targets(wanted, erase)
    part = sharing.part(session)
    check_run_folder(out, sharing.may_go_on(resume))
    with sharing.workers_beside(session, out):
        lm = session.load_model()
        from factlab.editing.value_run import compute_values

        with session.progress() as report, finishing_on_interrupt(session) as should_stop:
            saved = compute_values(
                lm, wanted, out, chosen.method, chosen.config,
                shard=part, resume=resume, should_stop=should_stop, progress=report,
            )  # fmt: skip
    leave_if_worker()
    show(session, saved)
    if should_stop() and saved.missing:
        session.say(f"Stopped. Go on with {sharing.how_to_go_on}.")
        raise typer.Exit(130)


def show(session: Session, saved: "SavedValues") -> None:
    """Say what is in a folder of values."""
    n_there = saved.n_facts - len(saved.missing)
    session.say(f"Values of {n_there:,} of {counted(saved.n_facts, 'fact')}: {saved.folder}")
    for prompt, reason in [*saved.failed.items()][:_REASONS_SHOWN]:
        session.say(f"'{prompt}' has none: {reason}")
    if len(saved.failed) > _REASONS_SHOWN:
        session.say(f"… and {len(saved.failed) - _REASONS_SHOWN} more have none.")
    session.emit(saved.to_json())
