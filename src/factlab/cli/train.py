"""`factlab train`: train a MEND or a KE for a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factlab.cli.interrupt import finishing_on_interrupt
from factlab.cli.options import (
    LimitOption,
    OffsetOption,
    RelationOption,
    ResumeOption,
    Settings,
)
from factlab.cli.registration import EDIT, command
from factlab.cli.session import Session, validated
from factlab.cli.tables import table
from factlab.errors import counted

if TYPE_CHECKING:
    from factlab.editing.trained.examples import TrainingSet
    from factlab.editing.trained.requests import TrainRequest
    from factlab.editing.trained.training import Trained

_TEXT = "text"


@dataclass(frozen=True, kw_only=True)
class _TrainData:
    """What an editor is trained on."""

    data: Annotated[
        str,
        typer.Option(
            help="builtin, builtin-zsre, counterfact, zsre, hf:owner/dataset, a file of records; "
            "or text."
        ),
    ] = "builtin"
    text: Annotated[
        Path | None,
        typer.Option(
            help="Ordinary text, which must stay as it is, or with --data text is learned from: "
            "UTF-8 text file, or folder of them. By default the model writes its own."
        ),
    ] = None
    passages: Annotated[
        int, typer.Option(help="Passages of that text to take, of 40 tokens each.")
    ] = 600
    limit: LimitOption = None
    offset: OffsetOption = 0
    relation: RelationOption = None
    seed: Annotated[
        int, typer.Option(help="Of the split, the first weights and the order of examples.")
    ] = 0
    validation_share: Annotated[
        float, typer.Option(help="Part of the subjects for validation.")
    ] = 0.1
    test_share: Annotated[
        float, typer.Option(help="Part of the subjects that is kept for evaluation.")
    ] = 0.2
    keep_out: Annotated[
        list[str] | None,
        typer.Option(
            help="Records, as for --data, whose subjects are kept for evaluation too; may be given "
            "several times."
        ),
    ] = None

    def request(self, kind: str, settings: dict[str, Any]) -> "TrainRequest":
        """To train an editor of a kind on it, with some settings.

        Raises:
            InvalidRequestError: an option or a setting makes no sense.
        """
        from factlab.data.selection import RecordsRequest
        from factlab.editing.trained.requests import TrainRequest
        from factlab.stats.configs import TextSource

        records = validated(
            RecordsRequest, source=self.data, offset=self.offset, limit=self.limit,
            relation=self.relation,
        )  # fmt: skip
        return TrainRequest.of_settings(
            kind,
            settings,
            records=None if self.data == _TEXT else records,
            source=TextSource(text=self.text),
            passages=self.passages,
            keep_out=tuple(RecordsRequest(source=source) for source in self.keep_out or ()),
            seed=self.seed,
            validation_share=self.validation_share,
            test_share=self.test_share,
        )


@dataclass(frozen=True, kw_only=True)
class _TrainSteps:
    """How an editor is trained."""

    steps: Annotated[int | None, typer.Option(help="End after so many, of ten edits each.")] = None
    learning_rate: Annotated[
        float | None, typer.Option(help="Of Adam. Published: 1e-6 for MEND, 1e-5 for KE.")
    ] = None
    validate_every: Annotated[
        int | None, typer.Option(help="Steps between validations and checkpoints.")
    ] = None
    mixed_precision: Annotated[
        bool, typer.Option("--mixed-precision", help="Run the model in bfloat16 where it is safe.")
    ] = False

    def values(self) -> dict[str, Any]:
        """Those that were given, by the names of the settings.

        Raises:
            InvalidRequestError: one makes no sense.
        """
        from factlab.editing.trained.configs import TrainConfig

        given = validated(
            TrainConfig, max_steps=self.steps, learning_rate=self.learning_rate,
            validate_every=self.validate_every, mixed_precision=self.mixed_precision or None,
        )  # fmt: skip
        return given.model_dump(exclude_unset=True)


@dataclass(frozen=True, kw_only=True)
class _TrainSettings(Settings):
    """Settings of the training, and of the network in a table of their own."""

    settings: Annotated[
        Path | None,
        typer.Option(help="TOML file with more settings: of the training, and in [network]."),
    ] = None


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        train,
        "train",
        group=EDIT,
        takes=("model", "device", "dtype", "memory_gib"),
        examples=(
            "factlab train mend --out mend",
            "factlab train ke --data zsre --steps 500 --out ke --resume",
        ),
    )


def train(
    session: Session,
    *,
    kind: Annotated[str, typer.Argument(help="mend or ke.")],
    out: Annotated[Path, typer.Option(help="Folder for the editor.")],
    taken: _TrainData,
    steps: _TrainSteps,
    more: _TrainSettings,
    resume: ResumeOption = False,
) -> None:
    """Train an editor that maps a fact's gradient to an edit.

    Interrupt it with Ctrl-C, or kill it, and go on later with --resume.
    """
    from factlab.editing.trained.requests import TrainMaterial
    from factlab.journal import check_run_folder

    given = steps.values()
    request = taken.request(kind, more.values() | given)
    check_run_folder(out, resume)
    with session.progress() as report:
        material = TrainMaterial.of(request, report)
    lm = session.load_model()
    from factlab.editing.trained.course import examples_for
    from factlab.editing.trained.course import train as run

    with session.progress() as report:
        examples = examples_for(lm, request, material, report)
    _say_data(session, examples)
    with session.progress() as report, finishing_on_interrupt(session) as should_stop:
        trained = run(lm, request, out, examples, resume, should_stop, report)
    _show(session, trained, kind, out, taken.data)
    if not trained.finished:
        session.say("Stopped. Go on with --resume.")
        raise typer.Exit(130)


def _say_data(session: Session, data: "TrainingSet") -> None:
    session.say(
        f"{counted(len(data.train), 'example')} for training, {len(data.validation)} for "
        f"validation, {data.n_test} kept for evaluation."
    )
    if data.skipped:
        reason = max(data.skipped, key=data.skipped.__getitem__)
        session.say(f"{sum(data.skipped.values())} left out; most often: {reason}")


def _show(session: Session, trained: "Trained", kind: str, out: Path, data: str) -> None:
    rows = [
        [str(step), _number(found["train_loss"]), _number(found["loss"]),
         _number(found["edit_nll"]), _number(found["loc_kl"]),
         *(_share(found.get(name)) for name in ("says_prompt", "says", "stays"))]
        for step, found in trained.history.items()
    ]  # fmt: skip
    headings = [
        "step", "training loss", "validation", "edit", "elsewhere", "says it", "in other words",
        "elsewhere as before",
    ]  # fmt: skip
    session.say(table(headings, rows, right=set(range(len(headings)))))
    editor = trained.editor
    session.say(
        f"{editor.name}: {trained.reason}; the best is of step {editor.training['step']}. "
        f"Learning curve: {out / 'curve.png'}."
    )
    held_out = "" if data == _TEXT else f" --data {data} --held-out"
    session.say(f"Evaluate it: factlab eval --method {kind} --editor {out}{held_out} --out …")
    session.emit(trained.to_json() | {"folder": str(out)})


def _number(value: Any) -> str:
    return "—" if value is None else f"{value:.3f}"


def _share(value: Any) -> str:
    return "—" if value is None else f"{value:.0%}"
