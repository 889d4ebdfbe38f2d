"""`factlab eval`: what a method does to the records of a benchmark."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factlab.cli.data_options import (
    DataOption,
    LimitOption,
    OffsetOption,
    RelationOption,
    SeedOption,
)
from factlab.cli.method_options import (
    EditorOption,
    LayerOption,
    SetOption,
    SettingsOption,
    chosen_method,
    method_config,
)
from factlab.cli.registration import MEASURE, MEASURED, METHOD, NO_MODEL, RECORDS, command
from factlab.cli.report import show_report
from factlab.cli.run_options import ResumeOption, ShardOption
from factlab.cli.session import Session, validated
from factlab.errors import InvalidRequestError, counted, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from factlab.data.records import Record, References
    from factlab.editing.methods import Method
    from factlab.editing.runs import Mode
    from factlab.editing.trained.editor import TrainedEditor
    from factlab.evaluation.running.saved_run import Run

_MODES: "tuple[Mode, ...]" = ("each", "together", "sequence")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(
        app,
        evaluate,
        "eval",
        group=MEASURE,
        examples=(
            "factlab eval --method rome --limit 100 --out runs/rome",
            "factlab eval --method rome --limit 500 --out runs/rome --resume",
            "factlab eval --data facts.csv --method rome --method ft --out runs",
            "factlab eval --method memit --mode together --limit 1000 \\\n"
            "      --data counterfact --out runs/memit",
        ),
    )
    command(
        app,
        eval_merge,
        "eval-merge",
        group=MEASURE,
        takes=NO_MODEL,
        examples=("factlab eval-merge part-1 part-2 --out whole",),
    )


def evaluate(
    session: Session,
    out: Annotated[
        Path,
        typer.Option(help="Folder for one row per record; of several methods, for their folders."),
    ],
    data: DataOption = "builtin",
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="See 'factlab methods'. May be given several times, to compare them.",
            show_default="rome",
            rich_help_panel=METHOD,
        ),
    ] = None,
    mode: Annotated[
        str,
        typer.Option(
            rich_help_panel=METHOD,
            help="each: every fact in a model of its own. together: all in one edit. sequence: one "
            "edit after the other in one model.",
        ),
    ] = "each",
    limit: LimitOption = None,
    offset: OffsetOption = 0,
    relation: RelationOption = None,
    seed: SeedOption = None,
    editor: EditorOption = None,
    held_out: Annotated[
        bool,
        typer.Option(
            "--held-out",
            rich_help_panel=RECORDS,
            help="With --editor: leave out records about subjects that it was trained on, before "
            "--offset and --limit are counted off.",
        ),
    ] = False,
    layer: LayerOption = None,
    settings: SettingsOption = None,
    assignments: SetOption = None,
    no_generation: Annotated[
        bool,
        typer.Option(
            "--no-generation",
            help="Write no texts: likelihoods only.",
            rich_help_panel=MEASURED,
        ),
    ] = False,
    generate: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Write texts for so many records only, the first ones.",
            show_default="all",
            rich_help_panel=MEASURED,
        ),
    ] = None,
    text_seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=2**32 - 1,
            help="Seed of the texts that are written.",
            rich_help_panel=MEASURED,
        ),
    ] = 0,
    references: Annotated[
        str | None,
        typer.Option(
            help="Texts to compare written ones with: builtin, attribute-snippets (900 MB), or a "
            "file.",
            show_default="those that come with the data",
            rich_help_panel=MEASURED,
        ),
    ] = None,
    essence: Annotated[
        bool,
        typer.Option(
            "--essence",
            help="How probable texts about the subject stay.",
            rich_help_panel=MEASURED,
        ),
    ] = False,
    drift: Annotated[
        int,
        typer.Option(
            min=0,
            help="Compare with the unedited model on so many tokens of text.",
            rich_help_panel=MEASURED,
        ),
    ] = 0,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Records at once; changes results by rounding only.")
    ] = 16,
    memory: Annotated[
        float, typer.Option(help="GiB for keys and values at once; activations come on top.")
    ] = 1.0,
    resume: ResumeOption = False,
    shard: ShardOption = None,
) -> None:
    """Edit the facts of benchmark records, or facts of your own, and measure what came of it.

    Interrupt it with Ctrl-C, or kill it, and go on later with --resume; a run of the first 10
    records goes on as one of 100 with --limit 100 --resume.
    """
    from factlab.data.record_files import load_records
    from factlab.data.shipped import Shipped
    from factlab.evaluation.configs import MeasureConfig
    from factlab.journal import Shard, check_run_folder

    if no_generation and generate is not None:
        raise InvalidRequestError("Choose one of --no-generation and --generate.")
    how, part = _mode(mode), Shard.parse(shard) if shard is not None else Shard()
    names = [*dict.fromkeys(method or ["rome"])]
    folders = [out] if len(names) == 1 else [out / name for name in names]
    for folder in folders:
        check_run_folder(folder, resume or part.total > 1)
    if held_out and editor is None:
        raise InvalidRequestError("--held-out needs --editor: other methods are not trained.")
    methods = _chosen(names, editor)
    configs = [
        method_config(chosen, layer, settings, assignments=assignments) for chosen, _ in methods
    ]
    trained = next((each for _, each in methods if each is not None), None)
    measure = validated(
        MeasureConfig,
        n_generated=0 if no_generation else generate,
        seed=text_seed,
        essence=essence,
        drift_tokens=drift,
    )
    with session.progress() as report:
        if trained is None or not held_out:
            records = load_records(data, offset, limit, relation, seed, report)
        else:
            every = load_records(data, relation=relation, seed=seed, progress=report)
            records = trained.held_out(every, offset, limit)
        found = _references(references, data, records)
    for (_, each), config in zip(methods, configs, strict=True):
        if each is not None and not getattr(config, "allow_seen_subjects", False):
            each.check_unseen([record.fact for record in records])
    passages = tuple(Shipped.load().about.values()) if drift else ()
    lm = session.load_model()
    from factlab.evaluation.running.run import evaluate as run

    with session.progress() as report, finishing_on_interrupt(session) as should_stop:
        runs: list[Run] = []
        for (chosen, _), config, folder in zip(methods, configs, folders, strict=True):
            done = run(
                lm, records, chosen, folder, config=config, mode=how, measure=measure,
                references=found, ordinary_text=passages, data_name=Path(data).name,
                batch_size=batch_size, memory_gib=memory, shard=part, resume=resume,
                should_stop=should_stop, progress=report,
            )  # fmt: skip
            runs.append(done)
            if should_stop():
                break
    n_left, not_begun = sum(done.n_missing for done in runs), names[len(runs) :]
    if should_stop() and (n_left or not_begun):
        again = "--resume" if part.total == 1 else "the same command"
        more = f", and {', '.join(not_begun)} not begun" if not_begun else ""
        session.say(f"Stopped: {counted(n_left, 'record')} left to do{more}. Go on with {again}.")
        raise typer.Exit(130)
    show_report(session, folders)
    session.say(
        f"Rows: {', '.join(map(str, folders))}. Put runs side by side with 'factlab report'."
    )


def eval_merge(
    session: Session,
    folders: Annotated[list[Path], typer.Argument(help="Folders of the shards of one run.")],
    out: Annotated[Path, typer.Option(help="New folder for all of them together.")],
) -> None:
    """Put shards that ran in different folders or on different machines together."""
    from factlab.evaluation.running.saved_run import load_run
    from factlab.journal import merge

    for folder in folders:
        load_run(folder)
    merge(folders, out)
    show_report(session, [out])


@contextmanager
def finishing_on_interrupt(session: Session) -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C end a run after what is at hand; the second ends it at once."""
    asked = False

    def stop(_number: int, _frame: object) -> None:
        nonlocal asked
        asked = True
        session.err.print("Finishing what is at hand; press Ctrl-C again to stop now.")
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def _chosen(
    names: "Sequence[str]", editor: Path | None
) -> "list[tuple[Method, TrainedEditor | None]]":
    """The methods of some names; the editor goes to those that must be trained."""
    from factlab.editing.trained.configs import KINDS

    fits = [name for name in names if name in KINDS]
    return [chosen_method(name, editor if name in fits or not fits else None) for name in names]


def _mode(name: str) -> "Mode":
    for mode in _MODES:
        if mode == name:
            return mode
    raise InvalidRequestError(
        f"--mode cannot be '{name}'. Choose {', '.join(_MODES[:-1])} or {_MODES[-1]}."
        f"{nearest(name, _MODES)}"
    )


def _references(asked: str | None, data: str, records: "Sequence[Record]") -> "References":
    """The reference texts that were asked for, or those that come with the data."""
    from factlab.data.reference_files import load_references, needed_references

    beside = Path(data).with_name(f"{Path(data).stem}-references.json")
    if asked is None and data == "builtin":
        asked = "builtin"
    elif asked is None and data.endswith(".json") and beside.exists():
        asked = str(beside)
    if asked is None:
        return {}
    needed = None if asked == "builtin" else needed_references(records)
    return load_references(asked, needed)
