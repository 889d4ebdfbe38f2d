"""`factlab study`: what an edit's success depends on, in one picture and one table each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factlab.cli.interrupt import finishing_on_interrupt
from factlab.cli.localisation import EXAMPLES, localisation
from factlab.cli.options import (
    DataOption,
    MethodSettings,
    PartOptions,
    ReferencesOption,
    ResumeOption,
    Settings,
    ShuffleOption,
    TextSeedOption,
)
from factlab.cli.registration import MEASURE, MEASURED, METHOD, RECORDS, Commands, command
from factlab.cli.session import Session, validated
from factlab.cli.sharing import SharingOptions, leave_if_worker
from factlab.cli.tables import table
from factlab.errors import InvalidRequestError

if TYPE_CHECKING:
    from factlab.data.selection import RecordsRequest
    from factlab.evaluation.configs import MeasureConfig
    from factlab.evaluation.studies.configs import StudyConfig
    from factlab.evaluation.studies.result import Study

_Out = Annotated[Path, typer.Option(help="Folder for the evaluations, the picture and the table.")]
_Method = Annotated[
    str,
    typer.Option(help="One that writes many facts in one edit.", rich_help_panel=METHOD),
]
_BatchSize = Annotated[int, typer.Option(min=1, help="Records at once.")]
_Relations = Annotated[
    str | None,
    typer.Option(
        help="Such as P19,P27.", show_default="all with records enough", rich_help_panel=RECORDS
    ),
]
_Least = Annotated[
    int,
    typer.Option(min=1, help="Leave out relations with fewer records.", rich_help_panel=RECORDS),
]
_PerRelation = Annotated[
    int, typer.Option(min=1, help="Take so many of each, at most.", rich_help_panel=RECORDS)
]
_Pairs = Annotated[
    str | None,
    typer.Option(
        help="Such as P19:P27,P17:P30.", show_default="three of the largest relations",
        rich_help_panel=RECORDS,
    ),
]  # fmt: skip
_MixedNumbers = Annotated[str, typer.Option(help="How many facts, such as 4,10,20.")]
_Counts = Annotated[str, typer.Option(help="How many layers, such as 1,2,5.")]
_Tops = Annotated[
    str | None,
    typer.Option(help="The last of them, such as 3,6,9 or 3-27:3.", show_default="about ten"),
]
_NFacts = Annotated[
    int, typer.Option(min=1, help="How many to write in each edit.", rich_help_panel=RECORDS)
]
_Methods = Annotated[
    list[str] | None,
    typer.Option(
        help="With settings behind a colon: memit:remember=false,value.steps=10. May "
        "be given several times, also one method with several settings.",
        show_default="memit",
        rich_help_panel=METHOD,
    ),
]
_Numbers = Annotated[str, typer.Option(help="How many facts, such as 1,10,100.")]
_Mode = Annotated[
    str,
    typer.Option(
        help="sequence: one edit after the other, measured on the way. together: one edit for "
        "each number.",
        rich_help_panel=METHOD,
    ),
]
_Turn = Annotated[
    int,
    typer.Option(
        min=1,
        help="In a sequence, facts of each edit. Larger numbers are rounded to its multiples; "
        "methods that write one fact at a time do so.",
        rich_help_panel=METHOD,
    ),
]


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What is measured beside likelihoods."""

    generate: Annotated[
        int,
        typer.Option(
            min=0,
            help="Write texts for so many records of each evaluation, the first ones.",
            rich_help_panel=MEASURED,
        ),
    ] = 0
    drift: Annotated[
        int,
        typer.Option(
            min=0,
            help="Perplexity on so many tokens of ordinary text.",
            rich_help_panel=MEASURED,
        ),
    ] = 0
    text_seed: TextSeedOption = 0
    references: ReferencesOption = None

    def config(self) -> "MeasureConfig":
        """What these options ask for."""
        from factlab.evaluation.configs import MeasureConfig

        return MeasureConfig(
            n_generated=self.generate, seed=self.text_seed, drift_tokens=self.drift
        )


@dataclass(frozen=True, kw_only=True)
class _AllMeasured(_Measured):
    """The same, with texts and perplexity if nothing is said."""

    generate: Annotated[
        int,
        typer.Option(
            min=0,
            help="Write texts for so many records each time, the first ones.",
            rich_help_panel=MEASURED,
        ),
    ] = 20
    drift: Annotated[
        int,
        typer.Option(
            min=0,
            help="Perplexity on so many tokens of ordinary text.",
            rich_help_panel=MEASURED,
        ),
    ] = 2000


@dataclass(frozen=True, kw_only=True)
class _Picked(PartOptions):
    """Which part of the records, one of each subject if nothing is said."""

    every_fact: Annotated[
        bool,
        typer.Option(
            "--every-fact",
            help="Take all records of a subject, not only its first.",
            rich_help_panel=RECORDS,
        ),
    ] = False

    def first(self, source: str, limit: int, references: str | None) -> "RecordsRequest":
        """So many of them, with the texts to compare with.

        Raises:
            InvalidRequestError: an option makes no sense.
        """
        return self.of(source, limit, references, not self.every_fact)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    study = typer.Typer(
        no_args_is_help=True, help="What an edit's success depends on.", cls=Commands
    )
    takes = ("model", "device", "dtype", "memory_gib")
    command(
        study, scaling, "scaling", takes=takes,
        examples=(
            "factlab study scaling --method memit --method alphaedit --out scaling",
            "factlab study scaling --method memit --method memit:remember=false \\\n"
            "      --numbers 1,10,100,300 --turn 1 --generate 0 --out scaling",
        ),
    )  # fmt: skip
    command(
        study, relations, "relations", takes=takes,
        examples=(
            "factlab study relations --out relations",
            "factlab study relations --data multi-counterfact --per-relation 300 --out relations",
        ),
    )  # fmt: skip
    command(
        study, layers, "layers", takes=takes,
        examples=("factlab study layers --counts 1,3,5 --top 2-20:3 --out layers",),
    )  # fmt: skip
    command(
        study, mixture, "mixture", takes=takes,
        examples=("factlab study mixture --pairs P19:P27,P17:P30 --out mixture",),
    )  # fmt: skip
    command(study, localisation, "localisation", takes=takes, examples=EXAMPLES)
    app.add_typer(study, name="study", rich_help_panel=MEASURE)


def scaling(
    session: Session,
    *,
    out: _Out,
    data: DataOption = "builtin",
    picked: _Picked,
    numbers: _Numbers = "1,3,10,32,100,316,1000",
    method: _Methods = None,
    mode: _Mode = "sequence",
    turn: _Turn = 100,
    measured: _AllMeasured,
    batch_size: _BatchSize = 16,
    resume: ResumeOption = False,
    sharing: SharingOptions,
) -> None:
    """Write more and more facts with several methods: scores, texts, perplexity, forgetting.

    Interrupt it with Ctrl-C, or kill it, and go on later with --resume.
    """
    from factlab.evaluation.studies.configs import ScalingConfig

    config = validated(
        ScalingConfig, {"methods": "--method"}, methods=method or ["memit"], numbers=numbers,
        mode=mode, turn=turn, measure=measured.config(),
    )  # fmt: skip
    wanted = picked.first(data, config.rounded()[-1], measured.references)
    _study(session, "scaling", out, config, wanted, batch_size, resume, sharing)


def relations(
    session: Session,
    *,
    out: _Out,
    data: DataOption = "builtin",
    relations: _Relations = None,
    least: _Least = 20,
    per_relation: _PerRelation = 300,
    seed: ShuffleOption = None,
    method: _Method = "memit",
    more: MethodSettings,
    measured: _Measured,
    batch_size: _BatchSize = 16,
    resume: ResumeOption = False,
    sharing: SharingOptions,
) -> None:
    """Write the facts of one relation in one edit, for each relation: which are harder to edit.

    Interrupt it with Ctrl-C, or kill it, and go on later with --resume.
    """
    from factlab.evaluation.studies.configs import RelationsConfig

    config = validated(
        RelationsConfig, method=more.of(method), measure=measured.config(), relations=relations,
        least=least, per_relation=per_relation,
    )  # fmt: skip
    wanted = PartOptions(seed=seed).of(data, None, measured.references)
    _study(session, "relations", out, config, wanted, batch_size, resume, sharing)


def layers(
    session: Session,
    *,
    out: _Out,
    data: DataOption = "builtin",
    picked: _Picked,
    facts: _NFacts = 100,
    counts: _Counts = "1,2,3,5",
    top: _Tops = None,
    method: _Method = "memit",
    more: Settings,
    measured: _Measured,
    batch_size: _BatchSize = 16,
    resume: ResumeOption = False,
    sharing: SharingOptions,
) -> None:
    """Write the same facts in one edit of one, two or more layers, at several heights.

    Interrupt it with Ctrl-C, or kill it, and go on later with --resume.
    """
    from factlab.editing.method_choice import MethodRequest
    from factlab.evaluation.studies.configs import LayersConfig

    config = validated(
        LayersConfig, {"tops": "--top", "n_facts": "--facts"},
        method=MethodRequest(name=method, settings=more.values()), measure=measured.config(),
        counts=counts, tops=top, n_facts=facts,
    )  # fmt: skip
    wanted = picked.first(data, facts, measured.references)
    _study(session, "layers", out, config, wanted, batch_size, resume, sharing)


def mixture(
    session: Session,
    *,
    out: _Out,
    data: DataOption = "builtin",
    pairs: _Pairs = None,
    numbers: _MixedNumbers = "4,10,20,30",
    seed: ShuffleOption = None,
    method: _Method = "memit",
    more: MethodSettings,
    measured: _Measured,
    batch_size: _BatchSize = 16,
    resume: ResumeOption = False,
    sharing: SharingOptions,
) -> None:
    """Write facts of two relations mixed, and as many of each alone.

    Interrupt it with Ctrl-C, or kill it, and go on later with --resume.
    """
    from factlab.evaluation.studies.configs import MixtureConfig

    config = validated(
        MixtureConfig, method=more.of(method), measure=measured.config(), pairs=pairs,
        numbers=numbers,
    )  # fmt: skip
    wanted = PartOptions(seed=seed).of(data, None, measured.references)
    _study(session, "mixture", out, config, wanted, batch_size, resume, sharing)


def _study(
    session: Session,
    kind: str,
    out: Path,
    config: "StudyConfig",
    wanted: "RecordsRequest",
    batch_size: int,
    resume: bool,
    sharing: SharingOptions,
) -> None:
    """Make a study and show it."""
    from factlab.evaluation.studies.material import StudyMaterial
    from factlab.journal import check_new

    part = sharing.part(session, may_be_numbered=False)
    if not (sharing.may_go_on(resume) and any(out.glob("**/run.json"))):
        check_new(out)
    with session.progress() as report:
        material = StudyMaterial.of(config, wanted, report)
    with sharing.workers_beside(session, out):
        lm = session.load_model()
        from factlab import evaluation

        make: Callable[..., Study] = getattr(evaluation, f"study_{kind}")
        with session.progress() as report, finishing_on_interrupt(session) as should_stop:
            try:
                found = make(
                    lm, material.records, out, config, references=material.references,
                    ordinary_text=material.passages, data_name=wanted.name,
                    batch_size=batch_size, should_stop=should_stop, progress=report, shard=part,
                )  # fmt: skip
            except InvalidRequestError:
                if not should_stop():
                    raise
                found = None  # stopped before anything was measured
    leave_if_worker()
    if should_stop() or found is None:
        session.say(f"Stopped. Go on with {sharing.how_to_go_on}.")
        raise typer.Exit(130)
    files = found.save(out)
    _show(session, found)
    session.say(f"Written: {', '.join(map(str, files))}")
    session.emit(found.to_json())


def _show(session: Session, found: "Study") -> None:
    from factlab.evaluation.studies.tables import legend, parts

    for part in parts(found):
        right = {*range(len(part.heads) - len(found.columns) - 2, len(part.heads))}
        session.say(table(part.heads, part.lines, right=right, title=part.title or None))
    for note in [*found.notes, " ".join(legend(found))]:
        session.say(note)
