"""`factlab sweep`: which layer and token to edit at."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factlab.cli.interrupt import finishing_on_interrupt
from factlab.cli.options import (
    DataOption,
    RecordOptions,
    ResumeOption,
    Settings,
)
from factlab.cli.registration import MEASURE, RECORDS, command
from factlab.cli.session import Session, validated
from factlab.cli.sharing import SharingOptions, leave_if_worker
from factlab.cli.tables import table
from factlab.errors import counted
from factlab.settings import made_of

if TYPE_CHECKING:
    from factlab.evaluation.sweeping.result import Sweep
    from factlab.models.language_model import LanguageModel
    from factlab.shards import Shard
    from factlab.tracing.average import AverageTrace


_Records = Annotated[
    int, typer.Option(min=1, help="How many to edit at each place.", rich_help_panel=RECORDS)
]
_Layers = Annotated[
    str | None, typer.Option(help="Such as 0,3,6 or 0-29 or 0-29:3.", show_default="every third")
]
_Tokens = Annotated[str, typer.Option(help="Any of first,last,first_after_last,end.")]
_Trace = Annotated[
    Path | None,
    typer.Option(
        help="Folder of 'factlab trace-average' to put beside the scores.",
        show_default="traced first, of well-known facts",
    ),
]
_TraceFacts = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="How many well-known facts to trace first; 0 for no trace.",
        show_default="as many as --records, up to 10",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        sweep,
        "sweep",
        group=MEASURE,
        takes=("model", "device", "dtype", "memory_gib"),
        examples=(
            "factlab sweep --records 20 --out sweep",
            "factlab sweep --layers 0-9:3 --tokens last --trace run --out sweep",
        ),
    )


def sweep(
    session: Session,
    *,
    out: Annotated[Path, typer.Option(help="Folder for the evaluations and figures.")],
    data: DataOption = "builtin",
    records: _Records = 20,
    layers: _Layers = None,
    tokens: _Tokens = "first,last,first_after_last,end",
    picked: RecordOptions,
    more: Settings,
    trace: _Trace = None,
    trace_facts: _TraceFacts = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Records at once.")] = 16,
    resume: ResumeOption = False,
    sharing: SharingOptions,
) -> None:
    """Edit with ROME at every layer and token, and score it beside the averaged causal trace.

    Interrupt it with Ctrl-C, or kill it, and go on later with --resume.
    """
    from factlab.editing.configs import RomeConfig
    from factlab.evaluation.requests import SweepRequest
    from factlab.journal import Journal, check_new

    request = validated(
        SweepRequest,
        records=picked.of(data, records, one_per_subject=picked.one_per_subject),
        layers=layers,
        tokens=tokens,
        config=made_of(RomeConfig, more.values()),
        trace=trace,
        trace_facts=trace_facts,
    )
    part = sharing.part(session, may_be_numbered=False)
    if not (sharing.may_go_on(resume) and ((out / "trace").exists() or any(out.glob("layer-*")))):
        check_new(out)
    if trace is not None:
        Journal.load(trace)
    with session.progress() as report:
        wanted = request.records.load(report)
    with sharing.workers_beside(session, out):
        lm = session.load_model()
        from factlab.evaluation.sweeping.sweep import sweep as run
        from factlab.tracing.average import AverageTrace

        given = AverageTrace.load(trace) if trace is not None else None
        if given is None and trace_facts != 0:
            given = _traced(session, lm, out / "trace", trace_facts, records, part)
        with session.progress() as report, finishing_on_interrupt(session) as should_stop:
            found = run(
                lm, wanted, out, request.layers_of(lm.n_layers), request.tokens,
                config=request.config, trace=given, data_name=request.records.name,
                batch_size=batch_size, should_stop=should_stop, progress=report, shard=part,
            )  # fmt: skip
    leave_if_worker()
    if should_stop():
        session.say(f"Stopped. Go on with {sharing.how_to_go_on}.")
        raise typer.Exit(130)
    files = found.save(out)
    _show(session, found)
    session.say(f"Written: {', '.join(str(file) for file in files)}")
    session.emit(found.to_json())


def _traced(
    session: Session,
    lm: "LanguageModel",
    folder: Path,
    asked: int | None,
    n_records: int,
    part: "Shard",
) -> "AverageTrace | None":
    """The averaged trace of well-known facts; none if the model knows none of them."""
    from factlab.evaluation.sweeping.trace_beside import TracePlan, trace_beside

    plan = TracePlan.of(lm, folder, asked, n_records)
    if not plan.n_facts:
        session.say("No trace beside the scores: the model knows none of the well-known facts.")
        return None
    session.say(
        f"First a causal trace of {counted(plan.n_facts, 'well-known fact')}, to stand beside the "
        "scores. Choose another number with --trace-facts, or 0."
    )
    with session.progress() as report:
        return trace_beside(lm, folder, plan.limit, report, part)


def _show(session: Session, found: "Sweep") -> None:
    from factlab.evaluation.scoring.scores import SCORE
    from factlab.evaluation.sweeping.result import column_title

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
