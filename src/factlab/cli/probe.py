"""`factlab probe`: what do edits do beside what they are for?"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factlab.cli.interrupt import finishing_on_interrupt
from factlab.cli.options import (
    LimitOption,
    MethodSettings,
    RecordOptions,
    ReferencesOption,
    ResumeOption,
    TextSeedOption,
)
from factlab.cli.registration import CORRUPTION, MEASURE, MEASURED, METHOD, RECORDS, command
from factlab.cli.session import Session, validated
from factlab.cli.sharing import SharingOptions, leave_if_worker
from factlab.cli.tables import table
from factlab.errors import InvalidRequestError, counted

if TYPE_CHECKING:
    from factlab.evaluation.probing.configs import ProbeConfig
    from factlab.evaluation.probing.result import Probes

_Paths = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Folders of saved edits, or of one evaluation; none to edit records instead.",
        show_default=False,
    ),
]
_Out = Annotated[Path, typer.Option(help="Folder for the rows and the report; may be resumed.")]
_Data = Annotated[
    str | None,
    typer.Option(
        help="Records to edit; see 'factlab eval'.", show_default="builtin",
        rich_help_panel=RECORDS,
    ),
]  # fmt: skip
_Method = Annotated[
    str | None,
    typer.Option(help="See 'factlab methods'.", show_default="rome", rich_help_panel=METHOD),
]
_BatchSize = Annotated[
    int,
    typer.Option(min=1, help="Facts at once: what a kill costs. Changes results by rounding only."),
]


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What is asked."""

    candidates: Annotated[
        int,
        typer.Option(
            min=0, help="Most subjects to compare the edited one with; 0 asks nothing backwards.",
            rich_help_panel=MEASURED,
        ),
    ] = 50  # fmt: skip
    essence: Annotated[
        int,
        typer.Option(
            min=0, help="Texts about each subject whose perplexity is compared; 0 for none.",
            rich_help_panel=MEASURED,
        ),
    ] = 5  # fmt: skip
    essence_tokens: Annotated[
        int, typer.Option(min=8, help="Length of these.", rich_help_panel=MEASURED)
    ] = 100
    generate: Annotated[
        bool,
        typer.Option(
            "--generate",
            help="Write texts with and without the edit, for fluency against consistency. Those of "
            "an evaluation are used as they are.",
            rich_help_panel=MEASURED,
        ),
    ] = False
    references: ReferencesOption = None
    text_seed: TextSeedOption = 0
    no_trace: Annotated[
        bool,
        typer.Option("--no-trace", help="Do not trace the true facts.", rich_help_panel=CORRUPTION),
    ] = False
    window: Annotated[
        int | None,
        typer.Option(
            min=1, help="MLPs restored together.",
            show_default="10, or half of the model if that is less", rich_help_panel=CORRUPTION,
        ),
    ] = None  # fmt: skip
    samples: Annotated[
        int, typer.Option(min=1, help="Of the noise.", rich_help_panel=CORRUPTION)
    ] = 10
    least_prob: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Trace no fact whose object is less probable.",
            rich_help_panel=CORRUPTION,
        ),
    ] = 0.02  # fmt: skip

    def config(self) -> "ProbeConfig":
        """What these options ask for.

        Raises:
            InvalidRequestError: an option makes no sense, alone or with another.
        """
        from factlab.evaluation.probing.configs import ProbeConfig

        return validated(
            ProbeConfig,
            {"essence_texts": "--essence", "seed": "--text-seed"},
            candidates=self.candidates, essence_texts=self.essence,
            essence_tokens=self.essence_tokens, generated=self.generate,
            traced=not self.no_trace, window=self.window, samples=self.samples,
            least_prob=self.least_prob, seed=self.text_seed,
        )  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        probe,
        "probe",
        group=MEASURE,
        examples=(
            "factlab probe eiffel-in-rome --out probes",
            "factlab probe runs/rome --out probes",
            "factlab probe --limit 60 --method rome --generate --out probes --resume",
        ),
    )


def probe(
    session: Session,
    paths: _Paths = None,
    *,
    out: _Out,
    data: _Data = None,
    method: _Method = None,
    limit: LimitOption = None,
    picked: RecordOptions,
    more: MethodSettings,
    asked: _Asked,
    batch_size: _BatchSize = 8,
    sharing: SharingOptions,
    resume: ResumeOption = False,
) -> None:
    """Probe edits for what the ROME paper names as their limits.

    Does a fact come backwards too? What is left of the subject's essence? Do texts stay fluent and
    become consistent? Which true facts are decided at another token than the subject's last?
    Interrupt it with Ctrl-C, or kill it, and go on later with --resume.
    """
    from factlab.journal import check_run_folder

    config, part = asked.config(), sharing.part(session)
    check_run_folder(out, sharing.may_go_on(resume))
    from factlab.evaluation.probing.folders import edit_folders, run_folder

    if paths:
        given = data, method, limit, asked.references, more.editor, more.layer, more.settings
        if any(each is not None for each in given) or more.assignments or picked != RecordOptions():
            raise InvalidRequestError(
                "Saved edits and evaluations are probed as they are: leave out the options of "
                "records, methods and references."
            )
        if run_folder(paths) is None:
            edit_folders(paths)
        from factlab.evaluation.probing.edits import ProbedEdits

        edits = ProbedEdits.of_paths(paths)
    else:
        wanted = picked.of(data or "builtin", limit, asked.references, picked.one_per_subject)
        with session.progress() as report:
            records = wanted.load(report)
            references = wanted.load_references(report) if config.generated else {}
        choice = more.of(method or "rome").chosen()
        from factlab.evaluation.probing.edits import ProbedEdits

        edits = ProbedEdits.of_method(
            records, choice.method, choice.config, wanted.name, references
        )
    with sharing.workers_beside(session, out):
        lm = session.load_model()
        from factlab.evaluation.probing.probe import probe as probe_edits

        with session.progress() as report, finishing_on_interrupt(session) as should_stop:
            found = probe_edits(
                lm, edits, out, config, batch_size=batch_size, shard=part, resume=resume,
                should_stop=should_stop, progress=report,
            )  # fmt: skip
    leave_if_worker()
    if should_stop() and found.n_missing:
        left = counted(found.n_missing, "fact")
        session.say(f"Stopped: {left} left to do. Go on with {sharing.how_to_go_on}.")
        raise typer.Exit(130)
    show(session, found, out)


def show(session: Session, found: "Probes", out: Path) -> None:
    """The page without its small print and its list of facts; files are written if all is done."""
    _show(session, found)
    if not found.n_missing:
        session.say(f"Written: {', '.join(map(str, found.save(out)))}")
    session.emit(found.to_json())


def _show(session: Session, found: "Probes") -> None:
    from factlab.evaluation.probing.report_page import page_parts

    for part in page_parts(found):
        session.say(part.heading)
        for paragraph in part.paragraphs:
            session.say(f"  {paragraph}")
        for each in part.tables[:1]:
            right = {*range(each.n_words, len(each.heads))}
            session.say(table(each.heads, each.lines, right=right))
