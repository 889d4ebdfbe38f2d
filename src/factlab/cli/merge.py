"""`factlab merge`: the parts of a long run, whatever it is, put together."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factlab.cli.options import PoolingOption
from factlab.cli.registration import MEASURE, NO_MODEL, command
from factlab.cli.session import Session
from factlab.errors import InvalidRequestError, StorageError, counted

if TYPE_CHECKING:
    from factlab.tracing.groups import Pooling


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        merge,
        "merge",
        group=MEASURE,
        takes=NO_MODEL,
        examples=(
            "factlab merge part-1 part-2 part-3 --out whole",
            "factlab merge run --out run-by-tokens --pooling tokens",
        ),
    )


def merge(
    session: Session,
    folders: Annotated[list[Path], typer.Argument(help="Folders with parts of one run.")],
    out: Annotated[
        Path,
        typer.Option(help="Folder for all of them together: new, or of parts merged before."),
    ],
    pooling: PoolingOption = "facts",
) -> None:
    """Put parts of a run that were done in different folders or on different machines together.

    Evaluations, average traces, values, probes and studies of localisation. What is merged already
    may be merged again. Parts of another model, data or settings are refused.
    """
    from factlab.journal import Journal, absent_shards
    from factlab.tracing.groups import pooling_named

    pooled = pooling_named(pooling)
    written = str(Journal.load(folders[0]).request.get("format")).rpartition(" ")[0]
    if written not in _KINDS:
        raise StorageError(f"'{folders[0]}' is no run that has parts: it is '{written or '?'}'.")
    put_together = _KINDS[written]
    if pooled != "facts":
        if put_together is not _average:
            raise InvalidRequestError("--pooling is for average traces.")
        put_together = partial(_average, pooling=pooled)
    n_missing = put_together(session, folders, out)
    if n_missing:
        absent = ", ".join(map(str, absent_shards(folders)))
        told = f", all of shard {absent} among them" if absent else ""
        session.err.print(f"Unfinished: {counted(n_missing, 'row')} missing{told}.")


def _evaluation(session: Session, folders: Sequence[Path], out: Path) -> int:
    from factlab.cli.report import show_report
    from factlab.evaluation.running.merging import merge_runs

    run = merge_runs(folders, out)
    show_report(session, [out])
    return run.n_missing


def _average(
    session: Session, folders: Sequence[Path], out: Path, pooling: "Pooling" = "facts"
) -> int:
    from factlab.cli.trace_average import finish
    from factlab.journal import merge

    merge(folders, out)
    from factlab.tracing.average import AverageTrace

    average = AverageTrace.load(out, pooling)
    finish(session, average, out)
    return average.n_missing


def _values(session: Session, folders: Sequence[Path], out: Path) -> int:
    from factlab.cli.values import show
    from factlab.editing.values.folder import load_values
    from factlab.journal import merge

    for folder in folders:
        load_values(folder)
    merge(folders, out)
    saved = load_values(out)
    show(session, saved)
    return len(saved.missing)


def _probes(session: Session, folders: Sequence[Path], out: Path) -> int:
    from factlab.cli.probe import show
    from factlab.evaluation.probing.result import Probes
    from factlab.journal import merge

    merge(folders, out)
    found = Probes.load(out)
    show(session, found, out)
    return found.n_missing


def _localisation(session: Session, folders: Sequence[Path], out: Path) -> int:
    from factlab.cli.localisation import show
    from factlab.evaluation.localising.result import Localisation
    from factlab.journal import merge

    merge(folders, out)
    found = Localisation.load(out)
    show(session, found, out)
    return found.n_missing


_KINDS: dict[str, Callable[[Session, Sequence[Path], Path], int]] = {
    "factlab evaluation": _evaluation,
    "factlab average trace": _average,
    "factlab values": _values,
    "factlab probes": _probes,
    "factlab localisation": _localisation,
}
