"""`factlab human`: a study in which people compare what methods make a model write."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factlab.cli.registration import MEASURE, NO_MODEL, OUTPUT, RECORDS, Commands, command
from factlab.cli.session import Session, validated
from factlab.cli.tables import table
from factlab.errors import counted

if TYPE_CHECKING:
    from factlab.human.configs import HumanConfig
    from factlab.human.key import HumanStudy
    from factlab.human.result import HumanScores


@dataclass(frozen=True, kw_only=True)
class _Size:
    """How large the study is, and what is shown."""

    items: Annotated[int, typer.Option(min=1, help="Records to show.", rich_help_panel=RECORDS)] = (
        50
    )
    words: Annotated[
        int, typer.Option(min=5, help="Cut texts behind so many words.", rich_help_panel=RECORDS)
    ] = 100
    unedited: Annotated[
        bool,
        typer.Option(
            "--unedited", help="Compare the unedited model's texts too.", rich_help_panel=RECORDS
        ),
    ] = False
    per_rater: Annotated[
        int,
        typer.Option(min=1, help="Of the records, how many each rater sees."),
    ] = 10
    raters: Annotated[int, typer.Option(min=1, help="How many people take part.")] = 15
    contact: Annotated[
        str,
        typer.Option(help="Whom raters may ask, such as a name and an address."),
    ] = ""
    seed: Annotated[int, typer.Option(min=0, help="Of records, plan and order.")] = 0

    def config(self) -> "HumanConfig":
        """What these options ask for.

        Raises:
            InvalidRequestError: no such study can be planned.
        """
        from factlab.human.configs import HumanConfig

        return validated(
            HumanConfig, items=self.items, per_rater=self.per_rater, raters=self.raters,
            words=self.words, unedited=self.unedited, contact=self.contact, seed=self.seed,
        )  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the commands."""
    human = typer.Typer(
        no_args_is_help=True, help="Have people compare generated texts.", cls=Commands
    )
    command(
        human, make, "make", takes=NO_MODEL,
        examples=(
            "factlab human make runs/ft runs/rome --unedited --out study",
            "factlab human make runs/* --items 20 --per-rater 10 --raters 6 --out study",
        ),
    )  # fmt: skip
    command(
        human, score, "score", takes=NO_MODEL,
        examples=("factlab human score study/key.json answers/ --out scores",),
    )  # fmt: skip
    app.add_typer(human, name="human", rich_help_panel=MEASURE)


def make(
    session: Session,
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of evaluations of the same records, with generated texts."),
    ],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the page and the key; new or empty.")],
    size: _Size,
    label: Annotated[
        list[str] | None,
        typer.Option(
            help="What to call a run; once for each, in their order. Raters do not see it.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
) -> None:
    """Write a page for raters and a key for yourself, as in the ROME paper's appendix J.

    Raters say which passage is most and least consistent with a made-up fact, and which is most and
    least fluent, without knowing what wrote which. The page needs no network.
    """
    config = size.config()
    from factlab.human.make import check_study_folder, make_human_study

    check_study_folder(out)
    from factlab.evaluation.running.saved_run import load_run

    study = make_human_study([load_run(folder) for folder in runs], out, config, label)
    _tell(session, study, out)


def _tell(session: Session, study: "HumanStudy", out: Path) -> None:
    """What was written, and who gets which file."""
    from factlab.human.key import KEY, PAGE

    least, most = study.raters_per_item
    each = f"{least}" if least == most else f"{least} or {most}"
    session.say(
        f"{counted(len(study.items), 'item')} of {'; '.join(study.labels)}. "
        f"{counted(len(study.pages), 'rater')} with {study.config.per_rater} each: "
        f"{each} for every item."
    )
    if study.n_same:
        session.say(f"In {counted(study.n_same, 'item')} two passages are the same.")
    session.say(
        f"Give raters {out / PAGE} and a number each, such as {PAGE}#rater=1. Keep {out / KEY} to "
        "yourself."
    )
    session.emit(
        {
            "study": study.study, "page": str(out / PAGE), "key": str(out / KEY),
            "methods": [*study.labels], "items": len(study.items), "raters": len(study.pages),
            "raters_per_item": [least, most], "same": study.n_same,
        }
    )  # fmt: skip


def score(
    session: Session,
    key: Annotated[Path, typer.Argument(help="The study's key.json, or its folder.")],
    answers: Annotated[
        list[Path], typer.Argument(help="Files that raters have downloaded, or folders of them.")
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write report.md, report.html, scores.json, ratings.csv, human.png here."
        ),
    ] = None,
) -> None:
    """Count what raters say: first and last places, wins, agreement."""
    from factlab.human.result import score_human_study

    found = score_human_study(key, answers)
    _show(session, found)
    if out is not None:
        session.say(f"Written: {', '.join(map(str, found.save(out)))}")
    session.emit(found.to_json())


def _show(session: Session, found: "HumanScores") -> None:
    for part in found.parts():
        for paragraph in part.paragraphs:
            session.say(paragraph)
        for each in part.tables:
            right = {*range(each.n_words, len(each.heads))}
            session.say(table(each.heads, each.lines, right=right, title=part.heading))
            if each.note:
                session.say(each.note)
