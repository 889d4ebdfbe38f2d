"""`factlab values` and `factlab values-merge`: what edits of many facts spend their time on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factlab.cli.interrupt import finishing_on_interrupt
from factlab.cli.options import MethodSettings, ResumeOption, ShardOption
from factlab.cli.registration import EDIT, METHOD, NO_MODEL, command
from factlab.cli.session import Session
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
    command(
        app,
        values_merge,
        "values-merge",
        group=EDIT,
        takes=NO_MODEL,
        examples=("factlab values-merge part-1 part-2 --out values",),
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
    shard: ShardOption = None,
) -> None:
    """Optimise the values of facts, the long part of an edit, for 'factlab edit --values'.

    Several machines can share them out with --shard. Interrupt it with Ctrl-C, or kill it, and go
    on later with --resume.
    """
    from factlab.data.fact_files import load_facts
    from factlab.editing.method import check_targets
    from factlab.editing.values.recipe import with_values
    from factlab.journal import check_run_folder
    from factlab.shards import Shard

    wanted, chosen = load_facts(facts), more.of(method, erase).chosen()
    with_values(chosen.method.name, chosen.config)
    check_targets(wanted, erase)
    part = Shard.parse(shard) if shard is not None else Shard()
    check_run_folder(out, resume or part.total > 1)
    lm = session.load_model()
    from factlab.editing.value_run import compute_values

    with session.progress() as report, finishing_on_interrupt(session) as should_stop:
        saved = compute_values(
            lm, wanted, out, chosen.method, chosen.config,
            shard=part, resume=resume, should_stop=should_stop, progress=report,
        )  # fmt: skip
    _show(session, saved)
    if should_stop() and saved.missing:
        again = "--resume" if part.total == 1 else "the same command"
        session.say(f"Stopped. Go on with {again}.")
        raise typer.Exit(130)


def values_merge(
    session: Session,
    folders: Annotated[list[Path], typer.Argument(help="Folders of the shards of one run.")],
    out: Annotated[Path, typer.Option(help="New folder for all of them together.")],
) -> None:
    """Put values that were optimised in different folders or on different machines together."""
    from factlab.editing.values.folder import load_values
    from factlab.journal import merge

    for folder in folders:
        load_values(folder)
    merge(folders, out)
    _show(session, load_values(out))


def _show(session: Session, saved: "SavedValues") -> None:
    n_there = saved.n_facts - len(saved.missing)
    session.say(f"Values of {n_there:,} of {counted(saved.n_facts, 'fact')}: {saved.folder}")
    for prompt, reason in [*saved.failed.items()][:_REASONS_SHOWN]:
        session.say(f"'{prompt}' has none: {reason}")
    if len(saved.failed) > _REASONS_SHOWN:
        session.say(f"… and {len(saved.failed) - _REASONS_SHOWN} more have none.")
    session.emit(saved.to_json())
