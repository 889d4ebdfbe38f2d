"""`factlab sweep`: which layer and token to edit at."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factlab.cli.data_options import (
    DataOption,
    OffsetOption,
    RelationOption,
    SeedOption,
)
from factlab.cli.evaluate import finishing_on_interrupt
from factlab.cli.method_options import SetOption, SettingsOption, method_config
from factlab.cli.registration import MEASURE, RECORDS, command
from factlab.cli.run_options import ResumeOption
from factlab.cli.session import Session
from factlab.cli.tables import table
from factlab.errors import InvalidRequestError, counted, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from factlab.editing.configs import LookupToken
    from factlab.evaluation.running.sweep import Sweep
    from factlab.models.language_model import LanguageModel
    from factlab.tracing.average import AverageTrace


# Each takes as long as editing a fact at several places.
_MOST_TRACED = 10


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        sweep,
        "sweep",
        group=MEASURE,
        takes=("model", "device", "dtype"),
        examples=(
            "factlab sweep --records 20 --out sweep",
            "factlab sweep --layers 0-9:3 --tokens last --trace run --out sweep",
        ),
    )


def sweep(
    session: Session,
    out: Annotated[Path, typer.Option(help="Folder for the evaluations and figures.")],
    data: DataOption = "builtin",
    records: Annotated[
        int,
        typer.Option(min=1, help="How many to edit at each place.", rich_help_panel=RECORDS),
    ] = 20,
    layers: Annotated[
        str | None,
        typer.Option(help="Such as 0,3,6 or 0-29 or 0-29:3.", show_default="every third"),
    ] = None,
    tokens: Annotated[
        str, typer.Option(help="Any of first,last,first_after_last,end.")
    ] = "first,last,first_after_last,end",
    offset: OffsetOption = 0,
    relation: RelationOption = None,
    seed: SeedOption = None,
    settings: SettingsOption = None,
    assignments: SetOption = None,
    trace: Annotated[
        Path | None,
        typer.Option(help="Folder of 'factlab trace-average' to put beside the scores.",
                     show_default="traced first, of well-known facts"),
    ] = None,
    trace_facts: Annotated[
        int | None,
        typer.Option(min=0, help="How many well-known facts to trace first; 0 for no trace.",
                     show_default=f"as many as --records, up to {_MOST_TRACED}"),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Records at once.")] = 16,
    memory: Annotated[float, typer.Option(help="GiB for keys and values at once.")] = 1.0,
    resume: ResumeOption = False,
) -> None:  # fmt: skip
    """Edit with ROME at every layer and token, and score it beside the averaged causal trace.

    Interrupt it with Ctrl-C, or kill it, and go on later with --resume.
    """
    from factlab.data.record_files import load_records
    from factlab.editing.configs import RomeConfig
    from factlab.editing.methods import method_named
    from factlab.journal import Journal, check_new

    if trace is not None and trace_facts is not None:
        raise InvalidRequestError("Choose one of --trace and --trace-facts.")
    chosen, places = _tokens(tokens), _layers(layers)
    config = method_config(method_named("rome"), None, settings, assignments=assignments)
    if not (resume and ((out / "trace").exists() or any(out.glob("layer-*")))):
        check_new(out)
    if trace is not None:
        Journal.load(trace)
    with session.progress() as report:
        wanted = load_records(data, offset, records, relation, seed, report)
    lm = session.load_model()
    from factlab.evaluation.running.sweep import sweep as run
    from factlab.tracing.average import AverageTrace

    given = AverageTrace.load(trace) if trace is not None else None
    if given is None and trace_facts != 0:
        default = min(records, _MOST_TRACED)
        given = _traced(session, lm, out / "trace", trace_facts, default)
    with session.progress() as report, finishing_on_interrupt(session) as should_stop:
        found = run(
            lm, wanted, out, places or range(0, lm.n_layers, 3), chosen,
            config=RomeConfig.model_validate(config.model_dump()), trace=given,
            data_name=Path(data).name, batch_size=batch_size, memory_gib=memory,
            should_stop=should_stop, progress=report,
        )  # fmt: skip
    if should_stop():
        session.say("Stopped. Go on with --resume.")
        raise typer.Exit(130)
    files = found.save(out)
    _show(session, found)
    session.say(f"Written: {', '.join(str(file) for file in files)}")
    session.emit(found.to_json())


def _traced(
    session: Session, lm: "LanguageModel", folder: Path, asked: int | None, default: int
) -> "AverageTrace | None":
    """The averaged trace of well-known facts; none if the model knows none of them.

    Args:
        session: of the command.
        lm: the model.
        folder: for the trace; one that is there already is gone on with.
        asked: how many facts; None for as many as were begun with, or the default.
        default: how many.
    """
    from factlab.data.well_known import WELL_KNOWN
    from factlab.journal import Journal
    from factlab.tracing.average_run import average_trace
    from factlab.tracing.configs import TraceConfig
    from factlab.tracing.knowns import knows

    n_known = sum(knows(lm, WELL_KNOWN))
    if not n_known:
        session.say("No trace beside the scores: the model knows none of the well-known facts.")
        return None
    limit = default if asked is None else asked
    if asked is None and (folder / "run.json").exists():
        begun_with = Journal.load(folder).request.get("limit")
        limit = begun_with if isinstance(begun_with, int) else None
    n_traced = n_known if limit is None else min(limit, n_known)
    session.say(
        f"First a causal trace of {counted(n_traced, 'well-known fact')}, to stand beside the "
        "scores. Choose another number with --trace-facts, or 0."
    )
    with session.progress() as report:
        made = average_trace(
            lm, WELL_KNOWN, TraceConfig(kinds=("mlp",)), folder, limit, resume=True, progress=report
        )
    made.save(folder)
    return made


def _tokens(text: str) -> "list[LookupToken]":
    from factlab.editing.configs import LOOKUP_TOKENS

    known: dict[str, LookupToken] = {token: token for token in LOOKUP_TOKENS}
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise InvalidRequestError(
                f"--tokens: '{name}' is none of {', '.join(known)}.{nearest(name, [*known])}"
            )
    return [known[name] for name in names]


def _layers(text: str | None) -> "Sequence[int]":
    """Layers of a text such as 0,3,6-12:2; none if there is none."""
    if text is None:
        return []
    found: list[int] = []
    for part in text.split(","):
        span, _, step = part.partition(":")
        first, dash, last = span.partition("-")
        numbers = [first, *([last] if dash else []), *([step] if step else [])]
        is_number = all(n.isascii() and n.strip().isdigit() for n in numbers)
        if not is_number or (step and not int(step)):
            raise InvalidRequestError(
                f"--layers: '{part}' is not understood. Write 0,3,6 or 0-29 or 0-29:3."
            )
        span_of_layers = range(int(first), int(last if dash else first) + 1, int(step or 1))
        if not span_of_layers:
            raise InvalidRequestError(
                f"--layers: '{part}' names no layer. Write the smaller number first."
            )
        found += span_of_layers
    return found


def _show(session: Session, found: "Sweep") -> None:
    from factlab.evaluation.reporting.plot_sweep import column_title
    from factlab.evaluation.scoring.scores import SCORE

    rows = [
        [str(layer), token, *(_percent(scores[name].mean) for name in found.columns)]
        for (layer, token), scores in found.scores.items()
    ]
    unedited = [_percent(found.unedited[name].mean) for name in found.columns]
    names = [column_title(name) for name in found.columns]
    session.say(
        table(["layer", "token", *names], [["unedited", "", *unedited], *rows],
              right=set(range(2, 2 + len(names))))
    )  # fmt: skip
    for (layer, token), reason in found.impossible.items():
        session.say(f"Layer {layer}, token {token}: {reason}")
    layer, token = found.best()
    low, high = found.scores[layer, token][SCORE].interval
    within = "" if math.isnan(low) else f" (95 %: {_percent(low)} to {_percent(high)})"
    score = _percent(found.scores[layer, token][SCORE].mean)
    others = len(found.as_good())
    session.say(f"Best: layer {layer}, token {token}, with S = {score}{within}.")
    if others:
        session.say(
            f"{others} of the other {len(found.scores) - 1} places are within that interval: to "
            "tell them apart takes more --records."
        )


def _percent(share: float) -> str:
    return "—" if math.isnan(share) else f"{100 * share:.1f}"
