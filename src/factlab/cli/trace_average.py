"""`factlab trace-average` and `trace-compare`: causal traces of many facts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factlab.cli.options import PoolingOption, ResumeOption, TraceOptions
from factlab.cli.registration import LOCATE, NO_MODEL, command
from factlab.cli.session import Session
from factlab.cli.sharing import SharingOptions, leave_if_worker
from factlab.cli.tables import table
from factlab.errors import InvalidRequestError, counted

if TYPE_CHECKING:
    from factlab.tracing.average import AverageTrace


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(
        app,
        trace_average,
        "trace-average",
        group=LOCATE,
        examples=(
            "factlab trace-average known.json --limit 100 --out run",
            "factlab trace-average known.json --limit 100 --out run --resume",
            "factlab trace-average known.json --shard 2/5 --out run",
            "factlab trace-average builtin-reasoning --relation temporal --out temporal",
        ),
    )
    command(
        app,
        trace_compare,
        "trace-compare",
        group=LOCATE,
        takes=NO_MODEL,
        examples=("factlab trace-compare facts arithmetic spatial --out kinds",),
    )


def trace_average(
    session: Session,
    *,
    facts: Annotated[
        str,
        typer.Argument(
            help="File of known facts (.json or .jsonl), or builtin or builtin-reasoning."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for records, summary and figures.")],
    relation: Annotated[
        str | None,
        typer.Option(
            help="Facts of this relation only, such as P30; of builtin-reasoning arithmetic, "
            "temporal, spatial or logical.",
            show_default="all",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Trace this many of the facts that the model knows.")
    ] = None,
    resume: ResumeOption = False,
    sharing: SharingOptions,
    pooling: PoolingOption = "facts",
    options: TraceOptions,
) -> None:
    """Average causal traces over many facts, by kind of token, with 95 % confidence intervals.

    With --severed only the last subject token is traced unless --tokens says else.
    """
    from factlab.data.known_sources import known_facts
    from factlab.journal import check_run_folder
    from factlab.tracing.groups import pooling_named

    config = options.config(tokens="last-subject" if options.severed else None)
    part = sharing.part(session)
    if limit is not None and limit < 1:
        raise InvalidRequestError(f"--limit {limit} must be at least 1.")
    pooled = pooling_named(pooling)
    check_run_folder(out, sharing.may_go_on(resume))
    known = [entry.fact for entry in known_facts(facts, relation)]
    with sharing.workers_beside(session, out):
        lm = session.load_model()
        from factlab.tracing.average_run import average_trace

        with session.progress() as report:
            average = average_trace(
                lm, known, config, out, limit=limit, shard=part, resume=resume, progress=report,
                pooling=pooled,
            )  # fmt: skip
    leave_if_worker()
    finish(session, average, out)


def trace_compare(
    session: Session,
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs of trace-average.")],
    out: Annotated[Path, typer.Option(help="New folder for the tables and the figure.")],
    pooling: PoolingOption = "facts",
) -> None:
    """Put averages of several kinds of prompts beside each other: a table, and lines by layer.

    Each run has the name of its folder.
    """
    from factlab.journal import check_run_folder
    from factlab.tracing.groups import pooling_named

    pooled = pooling_named(pooling)
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise InvalidRequestError(
            "Two of the folders have the same name, by which runs are told apart. Rename one."
        )
    check_run_folder(out, resume=False)
    from factlab.tracing.average import AverageTrace
    from factlab.tracing.comparison import compare_averages
    from factlab.tracing.configs import KIND_NAMES
    from factlab.tracing.groups import GROUPS, LAST, LAST_SUBJECT

    comparison = compare_averages(
        {
            name: AverageTrace.load(folder, pooled)
            for name, folder in zip(names, folders, strict=True)
        }
    )
    comparison.save(out)
    ends = {GROUPS[LAST_SUBJECT], GROUPS[LAST]}
    shown = [row for row in comparison.rows() if row["group"] in ends]
    rows = [
        [row["name"], KIND_NAMES[row["kind"]], row["group"], str(row["layer"]),
         f"{row['effect']:.3f}" + (f" ± {row['half_width']:.3f}" if row["half_width"] else "")]
        for row in shown
    ]  # fmt: skip
    session.say(table(["prompts", "restored", "token", "layer", "effect"], rows, right={3, 4}))
    session.say(f"Tables and figure: {out}")
    session.emit({"rows": comparison.rows()})


_REASONS_SHOWN = 5


def finish(session: Session, average: "AverageTrace", out: Path) -> None:
    """Write an average and its figures, and say what came out."""
    from factlab.tracing.configs import KIND_NAMES
    from factlab.tracing.groups import GROUPS, LAST, LAST_SUBJECT, POOLED

    average.save(out)
    effect = average.total_effect
    counts = [
        f"{counted(average.n_facts, 'fact')} traced",
        f"{average.n_wrong} left out because the model answers otherwise",
        *([f"{average.n_missing} still to do"] if average.n_missing else []),
    ]
    session.say(", ".join(counts) + ".")
    for case, reason in [*average.unusable.items()][:_REASONS_SHOWN]:
        session.say(f"Fact {case + 1} cannot be traced: {reason}")
    if len(average.unusable) > _REASONS_SHOWN:
        session.say(
            f"{counted(len(average.unusable), 'fact')} cannot be traced; summary.json says why."
        )
    if not average.n_facts:
        session.emit(average.to_json())
        return
    session.say(
        f"P(answer) {average.clean_prob.mean:.3f} clean, {average.corrupted_prob.mean:.3f} "
        f"corrupted; total effect {effect.in_words()}."
    )
    if average.pooling != "facts":
        session.say(f"In groups of several tokens {POOLED[average.pooling]}.")
    if average.config.redraws:
        session.say("Where a path is cut, the noise is drawn anew, as in the paper's code.")
    if average.n_facts == 1:
        session.say("One fact has no confidence interval.")
    if average.config.is_estimate:
        session.say("Effects are estimated by a gradient: good for ranks, not for sizes.")
    strongest = "largest estimate" if average.config.is_estimate else "strongest effect"
    rows = []
    for kind, effects in average.effects.items():
        for group in (LAST_SUBJECT, LAST):
            if not effects[group].isnan().all():
                layer, peak = average.peak(kind, group)
                rows.append(
                    [KIND_NAMES[kind], GROUPS[group], str(layer), peak.in_words()]
                )  # fmt: skip
    session.say(table(["restored", "token", "layer", strongest], rows, right={2, 3}))
    session.say(f"Records, summary and figures: {out}")
    session.emit(average.to_json())
