"""`factlab study localisation`: does the layer that traces point to tell where editing works?"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factlab.cli.interrupt import finishing_on_interrupt
from factlab.cli.options import DataOption, PartOptions, ResumeOption
from factlab.cli.registration import CORRUPTION, MEASURED, METHOD, RECORDS
from factlab.cli.session import Session, validated
from factlab.cli.sharing import SharingOptions, leave_if_worker
from factlab.cli.tables import table

if TYPE_CHECKING:
    from factlab.evaluation.localising.result import Localisation

EXAMPLES = (
    "factlab study localisation --limit 60 --out localisation",
    "factlab study localisation --layers 0-28:4 --method rome --method memit \\\n"
    "      --method ft+l:epsilon=1e-3,forcing.steps=50 --variants injection,forcing \\\n"
    "      --limit 60 --shard 1/2 --out localisation",
)
_Out = Annotated[
    Path, typer.Option(help="Folder for the rows, the report and its pictures; may be resumed.")
]
_Limit = Annotated[
    int | None,
    typer.Option(
        min=3,
        help="So many facts that the model knows.",
        show_default="all",
        rich_help_panel=RECORDS,
    ),
]
_Layers = Annotated[
    str | None,
    typer.Option(
        help="To edit, such as 0,4,8 or 0-28:4.", show_default="eight of them",
        rich_help_panel=METHOD,
    ),
]  # fmt: skip
_Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        "--methods",
        help="With settings behind a colon: ft+l:width=5,forcing.steps=50. width is how many "
        "layers are edited together; what begins with a variant holds for that alone. May be "
        "given several times.",
        show_default="ft+l, ft+l:width=5, rome and memit",
        rich_help_panel=METHOD,
    ),
]
_Variants = Annotated[
    str,
    typer.Option(help="Problems that each method is asked to solve.", rich_help_panel=METHOD),
]
_BatchSize = Annotated[int, typer.Option(min=1, help="Facts that are edited together.")]


@dataclass(frozen=True, kw_only=True)
class _Traced:
    """How facts are traced."""

    window: Annotated[
        int,
        typer.Option(
            min=1, help="MLPs restored together, for the effect that scores are compared with.",
            rich_help_panel=CORRUPTION,
        ),
    ] = 5  # fmt: skip
    windows: Annotated[
        str | None,
        typer.Option(
            help="Others to trace as well.", show_default="1,3,5,10", rich_help_panel=CORRUPTION
        ),
    ] = None
    samples: Annotated[
        int, typer.Option(min=1, help="Of the noise.", rich_help_panel=CORRUPTION)
    ] = 10
    noise_seed: Annotated[
        int,
        typer.Option(
            min=0, help="Of the noise in traces, reversal and forcing, and of the texts.",
            rich_help_panel=CORRUPTION,
        ),
    ] = 0  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What is asked, and of which facts."""

    answer_tokens: Annotated[
        int,
        typer.Option(
            min=0,
            help="A fact is known if its object is among so many tokens, the prompt counted; 0 "
            "takes every fact for known.",
            rich_help_panel=RECORDS,
        ),
    ] = 36
    least_prob: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Leave facts out whose object is less probable.",
            rich_help_panel=RECORDS,
        ),
    ] = 0.02  # fmt: skip
    essence: Annotated[
        int,
        typer.Option(
            min=0, help="Texts about each subject whose perplexity is watched; 0 for none.",
            rich_help_panel=MEASURED,
        ),
    ] = 5  # fmt: skip
    essence_tokens: Annotated[
        int, typer.Option(min=8, help="Length of these.", rich_help_panel=MEASURED)
    ] = 100


def localisation(
    session: Session,
    *,
    out: _Out,
    data: DataOption = "builtin",
    limit: _Limit = None,
    picked: PartOptions,
    layers: _Layers = None,
    method: _Methods = None,
    variants: _Variants = "injection,reversal,erasure,amplification,forcing",
    traced: _Traced,
    asked: _Asked,
    batch_size: _BatchSize = 4,
    sharing: SharingOptions,
    resume: ResumeOption = False,
) -> None:
    """Trace known facts, edit each at every layer, and see whether the one tells of the other.

    The study of Hase et al. (2023). Interrupt it with Ctrl-C, or kill it, and go on later with
    --resume.
    """
    from factlab.evaluation.localising.configs import LocalisationConfig, check_records
    from factlab.journal import check_run_folder

    config: LocalisationConfig = validated(
        LocalisationConfig,
        {"methods": "--method", "seed": "--noise-seed", "essence_texts": "--essence"},
        layers=layers, variants=variants, window=traced.window, windows=traced.windows,
        samples=traced.samples, seed=traced.noise_seed, answer_tokens=asked.answer_tokens,
        least_prob=asked.least_prob, essence_texts=asked.essence,
        essence_tokens=asked.essence_tokens, **({"methods": method} if method else {}),
    )  # fmt: skip
    config.check()
    part = sharing.part(session)
    check_run_folder(out, sharing.may_go_on(resume))
    wanted = picked.of(data, None)
    with session.progress() as report:
        records = wanted.load(report)
    check_records(records, config)
    with sharing.workers_beside(session, out):
        lm = session.load_model()
        from factlab.evaluation import study_localisation

        with session.progress() as report, finishing_on_interrupt(session) as should_stop:
            found = study_localisation(
                lm, records, out, config, limit, data_name=wanted.name, batch_size=batch_size,
                shard=part, resume=resume, should_stop=should_stop, progress=report,
            )  # fmt: skip
    leave_if_worker()
    if should_stop():
        session.say(f"Stopped. Go on with {sharing.how_to_go_on}.")
        raise typer.Exit(130)
    show(session, found, out)


def show(session: Session, found: "Localisation", out: Path) -> None:
    """What came out, in tables and in words; files are written if all is done."""
    _show(session, found)
    if found.n_missing == 0:
        session.say(f"Written: {', '.join(map(str, found.save(out)))}")
    session.emit(found.to_json())


def _show(session: Session, found: "Localisation") -> None:
    from factlab.evaluation.localising.findings import explained_in_words, traces_in_words
    from factlab.evaluation.localising.r2_tables import r2_table

    session.say(repr(found))
    if found.n_missing:
        return
    shown = r2_table(found)
    n_shown = shown.heads.index("published")
    right = {*range(shown.n_words, n_shown)}
    lines = [line[:n_shown] for line in shown.lines]
    session.say(table(shown.heads[:n_shown], lines, right=right))
    for said in [shown.note, *traces_in_words(found), *explained_in_words(found)]:
        session.say(said)
