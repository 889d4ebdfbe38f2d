"""`factlab train`: train a MEND or a KE for a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factlab.cli.data_options import LimitOption, OffsetOption, RelationOption
from factlab.cli.evaluate import finishing_on_interrupt
from factlab.cli.method_options import SetOption, read_settings
from factlab.cli.registration import EDIT, command
from factlab.cli.run_options import ResumeOption
from factlab.cli.session import Session, validated, validated_settings
from factlab.cli.tables import table
from factlab.errors import InvalidRequestError, StorageError, counted, nearest

if TYPE_CHECKING:
    from factlab.editing.trained.configs import NetworkConfig
    from factlab.editing.trained.examples import TrainingSet
    from factlab.editing.trained.training import Trained
    from factlab.models.language_model import LanguageModel

_TEXT = "text"


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        train,
        "train",
        group=EDIT,
        takes=("model", "device", "dtype"),
        examples=(
            "factlab train mend --out mend",
            "factlab train ke --data zsre --steps 500 --out ke --resume",
        ),
    )


def train(
    session: Session,
    kind: Annotated[str, typer.Argument(help="mend or ke.")],
    out: Annotated[Path, typer.Option(help="Folder for the editor.")],
    data: Annotated[
        str,
        typer.Option(
            help="builtin, builtin-zsre, counterfact, zsre, hf:owner/dataset, a file of records; "
            "or text."
        ),
    ] = "builtin",
    text: Annotated[
        Path | None,
        typer.Option(
            help="With --data text: UTF-8 text file, or folder of them; by default the model "
            "writes its own."
        ),
    ] = None,
    passages: Annotated[
        int, typer.Option(help="With --data text: passages to take, of 40 tokens each.")
    ] = 600,
    limit: LimitOption = None,
    offset: OffsetOption = 0,
    relation: RelationOption = None,
    seed: Annotated[
        int, typer.Option(help="Of the split, the first weights and the order of examples.")
    ] = 0,
    validation_share: Annotated[
        float, typer.Option(help="Part of the subjects for validation.")
    ] = 0.1,
    test_share: Annotated[
        float, typer.Option(help="Part of the subjects that is kept for evaluation.")
    ] = 0.2,
    keep_out: Annotated[
        list[str] | None,
        typer.Option(
            help="Records, as for --data, whose subjects are kept for evaluation too; may be given "
            "several times."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="End after so many, of ten edits each.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of Adam. Published: 1e-6 for MEND, 1e-5 for KE.")
    ] = None,
    validate_every: Annotated[
        int | None, typer.Option(help="Steps between validations and checkpoints.")
    ] = None,
    mixed_precision: Annotated[
        bool, typer.Option("--mixed-precision", help="Run the model in bfloat16 where it is safe.")
    ] = False,
    settings: Annotated[
        Path | None,
        typer.Option(help="TOML file with more settings: of the training, and in [network]."),
    ] = None,
    assignments: SetOption = None,
    resume: ResumeOption = False,
) -> None:
    """Train an editor that maps a fact's gradient to an edit.

    Interrupt it with Ctrl-C, or kill it, and go on later with --resume.
    """
    from factlab.data.record_files import load_records
    from factlab.data.split import check_shares
    from factlab.editing.trained.configs import KINDS, TrainConfig
    from factlab.journal import check_run_folder

    if kind not in KINDS:
        raise InvalidRequestError(f"No trained editor is called '{kind}'.{nearest(kind, KINDS)} "
                                  f"Choose {' or '.join(KINDS)}.")  # fmt: skip
    values = read_settings(settings, assignments)
    network = _network(kind, values.pop("network", {}), seed)
    given = validated(
        TrainConfig, max_steps=steps, learning_rate=learning_rate, validate_every=validate_every,
        mixed_precision=mixed_precision or None,
    )  # fmt: skip
    config = validated_settings(
        TrainConfig, {"seed": seed} | values | given.model_dump(exclude_unset=True)
    )
    check_shares(validation_share, test_share)
    if validation_share == 0:
        raise InvalidRequestError("--validation-share 0 leaves nothing to tell when to stop.")
    if data != _TEXT and text is not None:
        raise InvalidRequestError("--text goes with --data text.")
    if data == _TEXT and keep_out:
        raise InvalidRequestError("--keep-out goes with records; text has no subjects.")
    if data == _TEXT and passages < 1:
        raise InvalidRequestError(f"--passages cannot be {passages}: at least 1.")
    if text is not None and not text.exists():
        raise StorageError(f"There is no file or folder '{text}'. Check --text.")
    check_run_folder(out, resume)
    if data != _TEXT:
        with session.progress() as report:
            records = load_records(data, offset, limit, relation, None, report)
            kept_out = [
                record.fact.subject
                for source in keep_out or []
                for record in load_records(source, progress=report)
            ]
        lm = session.load_model()
        from factlab.editing.trained.examples import examples_of_records
        from factlab.editing.trained.gradients import last_matrices

        last_matrices(lm, network.n_blocks)  # refuses before there is work to lose
        learned = examples_of_records(lm, records, seed, validation_share, test_share, kept_out)
    else:
        lm = session.load_model()
        from factlab.editing.trained.examples import examples_of_text
        from factlab.editing.trained.gradients import last_matrices

        last_matrices(lm, network.n_blocks)
        corpus = _corpus(session, lm, text, passages, seed)
        with session.progress() as report:
            learned = examples_of_text(lm, corpus, seed, validation_share, report)
    from factlab.editing.trained.curve import plot_curve
    from factlab.editing.trained.training import train_editor as run

    _say_data(session, learned)
    with session.progress() as report, finishing_on_interrupt(session) as should_stop:
        trained = run(lm, learned, out, network, config, resume, should_stop, report)
    plot_curve(trained.history, trained.editor.name, out / "curve.png")
    _show(session, trained, kind, out, data)
    if not trained.finished:
        session.say("Stopped. Go on with --resume.")
        raise typer.Exit(130)


def _network(kind: str, values: Any, seed: int) -> "NetworkConfig":
    from factlab.editing.trained.configs import KeConfig, MendConfig

    if not isinstance(values, dict):
        raise InvalidRequestError("'network' in the settings must be a table: write [network].")
    wanted = {"seed": seed} | values
    return validated_settings(MendConfig if kind == "mend" else KeConfig, wanted)


def _corpus(
    session: Session, lm: "LanguageModel", text: Path | None, passages: int, seed: int
) -> Any:
    from factlab.editing.trained.examples import PASSAGE_TOKENS
    from factlab.stats.corpus import corpus_from_files, corpus_from_model

    n_tokens = passages * PASSAGE_TOKENS
    if text is not None:
        return corpus_from_files(lm, text, n_tokens, PASSAGE_TOKENS)
    with session.progress() as report:
        return corpus_from_model(lm, n_tokens, PASSAGE_TOKENS, seed, report)


def _say_data(session: Session, data: "TrainingSet") -> None:
    session.say(
        f"{counted(len(data.train), 'example')} for training, {len(data.validation)} for "
        f"validation, {data.n_test} kept for evaluation."
    )
    if data.skipped:
        reason = max(data.skipped, key=data.skipped.__getitem__)
        session.say(f"{sum(data.skipped.values())} left out; most often: {reason}")


def _show(session: Session, trained: "Trained", kind: str, out: Path, data: str) -> None:
    history = trained.history
    rows = [
        [str(step), _number(found["train_loss"]), _number(found["loss"]),
         _number(found["edit_nll"]), _number(found["loc_kl"]), f"{found['says']:.0%}"]
        for step, found in history.items()
    ]  # fmt: skip
    headings = ["step", "training loss", "validation", "edit", "unrelated", "says it"]
    session.say(table(headings, rows, right=set(range(6))))
    editor = trained.editor
    session.say(
        f"{editor.name}: {trained.reason}; the best is of step {editor.training['step']}. "
        f"Learning curve: {out / 'curve.png'}."
    )
    held_out = "" if data == _TEXT else f" --data {data} --held-out"
    session.say(f"Evaluate it: factlab eval --method {kind} --editor {out}{held_out} --out …")
    session.emit(
        {
            "editor": editor.name,
            "folder": str(out),
            "finished": trained.finished,
            "reason": trained.reason,
            "training": editor.training,
            "history": [{"step": step, **found} for step, found in history.items()],
        }
    )


def _number(value: Any) -> str:
    return "—" if value is None else f"{value:.3f}"
