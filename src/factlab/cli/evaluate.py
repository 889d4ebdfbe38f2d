"""`factlab eval`: what a method does to the records of a benchmark."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factlab.cli.interrupt import finishing_on_interrupt
from factlab.cli.options import (
    DataOption,
    LimitOption,
    MethodSettings,
    RecordOptions,
    ReferencesOption,
    ResumeOption,
    TextSeedOption,
)
from factlab.cli.registration import MEASURE, MEASURED, METHOD, RECORDS, command
from factlab.cli.report import show_report
from factlab.cli.session import Session, validated
from factlab.cli.sharing import SharingOptions, leave_if_worker
from factlab.errors import InvalidRequestError, counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from factlab.data.ripple.compile import RippleRecords
    from factlab.editing.method_choice import MethodRequest
    from factlab.evaluation.configs import MeasureConfig


_Out = Annotated[
    Path,
    typer.Option(help="Folder for one row per record; of several methods, for their folders."),
]
_Methods = Annotated[
    list[str] | None,
    typer.Option(
        help="See 'factlab methods'. May be given several times, to compare them.",
        show_default="rome",
        rich_help_panel=METHOD,
    ),
]
_Mode = Annotated[
    str,
    typer.Option(
        rich_help_panel=METHOD,
        help="each: every fact in a model of its own. together: all in one edit. sequence: one "
        "edit after the other in one model.",
    ),
]
_Turn = Annotated[
    int,
    typer.Option(
        min=1,
        rich_help_panel=METHOD,
        help="With --mode sequence: facts that one edit writes.",
    ),
]
_HeldOut = Annotated[
    bool,
    typer.Option(
        "--held-out",
        rich_help_panel=RECORDS,
        help="With --editor: leave out records about subjects that it was trained on, before "
        "--offset and --limit are counted off.",
    ),
]
_BatchSize = Annotated[
    int,
    typer.Option(
        min=1, help="Records at once: what a kill costs. Changes results by rounding only."
    ),
]


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What is measured."""

    no_generation: Annotated[
        bool,
        typer.Option(
            "--no-generation",
            help="Write no texts: likelihoods only.",
            rich_help_panel=MEASURED,
        ),
    ] = False
    generate: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Write texts for so many records only, the first ones.",
            show_default="all",
            rich_help_panel=MEASURED,
        ),
    ] = None
    text_seed: TextSeedOption = 0
    references: ReferencesOption = None
    essence: Annotated[
        bool,
        typer.Option(
            "--essence",
            help="How probable texts about the subject stay.",
            rich_help_panel=MEASURED,
        ),
    ] = False
    checkpoints: Annotated[
        str | None,
        typer.Option(
            help="With --mode sequence: after how many facts to ask all records so far, such as "
            "10,100, and to measure the drift.",
            show_default="at the end only",
            rich_help_panel=MEASURED,
        ),
    ] = None
    chat: Annotated[
        bool,
        typer.Option(
            "--chat",
            help="Ask every prompt in the model's chat template as well. To edit in it too: --set "
            "contexts.chat=true, of ft --set chat=true.",
            rich_help_panel=MEASURED,
        ),
    ] = False
    drift: Annotated[
        int,
        typer.Option(
            min=0,
            help="Compare with the unedited model on so many tokens of text.",
            rich_help_panel=MEASURED,
        ),
    ] = 0

    answers: Annotated[
        str | None,
        typer.Option(
            help="Have the model answer in its own words: bare (prompts as they are), qa "
            "(questions between Q: and A:), chat (its chat template), with commas between.",
            rich_help_panel=MEASURED,
        ),
    ] = None
    answer_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most tokens of such an answer.",
            show_default="50",
            rich_help_panel=MEASURED,
        ),
    ] = None
    ripple: Annotated[
        bool,
        typer.Option(
            "--ripple",
            help="Ask what follows from each edit, and what must not: two hops, aliases, "
            "reversals, negations and so on.",
            rich_help_panel=MEASURED,
        ),
    ] = False
    ripple_per_axis: Annotated[
        int,
        typer.Option(
            min=1,
            help="With --ripple: most questions of one kind about a record.",
            rich_help_panel=MEASURED,
        ),
    ] = 3
    ripple_data: Annotated[
        Path | None,
        typer.Option(
            help="With --ripple: folder with facts.tsv, templates.tsv, ripple.tsv, aliases.tsv or "
            "second_values.tsv of your own.",
            show_default="those that come with factlab",
            rich_help_panel=MEASURED,
        ),
    ] = None

    def config(self) -> "MeasureConfig":
        """What these options ask for.

        Raises:
            InvalidRequestError: an option makes no sense, alone or with another.
        """
        from factlab.evaluation.configs import MeasureConfig

        if self.no_generation and self.generate is not None:
            raise InvalidRequestError("Choose one of --no-generation and --generate.")
        return validated(
            MeasureConfig,
            n_generated=0 if self.no_generation else self.generate,
            seed=self.text_seed,
            essence=self.essence,
            drift_tokens=self.drift,
            checkpoints=self.checkpoints or (),
            answers=self.answers,
            answer_tokens=self.answer_tokens,
            ripple=self.ripple,
            ripple_per_axis=self.ripple_per_axis,
            chat=self.chat,
        )


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
            "factlab eval --limit 100 --answers bare,qa,chat --out runs/rome",
            "factlab eval --limit 50 --chat --set contexts.chat=true --out runs/in-chat",
            "factlab eval --method memit --mode together --limit 1000 \\\n"
            "      --data counterfact --out runs/memit",
        ),
    )


def evaluate(
    session: Session,
    *,
    out: _Out,
    data: DataOption = "builtin",
    method: _Methods = None,
    mode: _Mode = "each",
    turn: _Turn = 1,
    limit: LimitOption = None,
    picked: RecordOptions,
    held_out: _HeldOut = False,
    more: MethodSettings,
    measured: _Measured,
    batch_size: _BatchSize = 16,
    resume: ResumeOption = False,
    sharing: SharingOptions,
) -> None:
    """Edit the facts of benchmark records, or facts of your own, and measure what came of it.

    Interrupt it with Ctrl-C, or kill it, and go on later with --resume; a run of the first 10
    records goes on as one of 100 with --limit 100 --resume.
    """
    from factlab.evaluation.requests import EvaluationMaterial, EvaluationRequest
    from factlab.journal import check_run_folder

    measure = measured.config()
    part = sharing.part(session)
    names = [*dict.fromkeys(method or ["rome"])]
    request = validated(
        EvaluationRequest,
        records=picked.of(data, limit, measured.references, picked.one_per_subject),
        methods=_methods(names, more),
        mode=mode,
        turn=turn,
        measure=measure,
        held_out=held_out,
        ripple_data=measured.ripple_data,
    )
    folders = request.folders(out)
    for folder in folders:
        check_run_folder(folder, sharing.may_go_on(resume))
    with session.progress() as report:
        material = EvaluationMaterial.of(request, report)
    if material.ripple is not None:
        _say_ripple(session, material.ripple)
    with sharing.workers_beside(session, out):
        lm = session.load_model()
        from factlab.evaluation.running.several import evaluate_methods

        with session.progress() as report, finishing_on_interrupt(session) as should_stop:
            runs = evaluate_methods(
                lm, request, out, material, batch_size, part, resume, should_stop, report
            )
    leave_if_worker()
    n_left, not_begun = sum(done.n_missing for done in runs), names[len(runs) :]
    if should_stop() and (n_left or not_begun):
        more_left = f", and {', '.join(not_begun)} not begun" if not_begun else ""
        again = sharing.how_to_go_on
        session.say(
            f"Stopped: {counted(n_left, 'record')} left to do{more_left}. Go on with {again}."
        )
        raise typer.Exit(130)
    show_report(session, folders)
    session.say(
        f"Rows: {', '.join(map(str, folders))}. Put runs side by side with 'factlab report'."
    )


def _say_ripple(session: Session, made: "RippleRecords") -> None:
    """How many questions there are, and which records have none of a kind."""
    counts = ", ".join(f"{axis} {n}" for axis, n in made.by_axis().items())
    session.say(f"Ripple queries: {made.n_queries} ({counts}).")
    for (axis, reason), n in made.skipped.items():
        session.say(f"  {axis}: none for {counted(n, 'record')}, since {reason}.")


def _methods(names: "Sequence[str]", more: MethodSettings) -> "tuple[MethodRequest, ...]":
    """The methods of some names; the editor goes to those that must be trained."""
    from factlab.editing.trained.configs import KINDS

    fits = [name for name in names if name in KINDS]
    bare = replace(more, editor=None)
    return tuple((more if name in fits or not fits else bare).of(name) for name in names)
