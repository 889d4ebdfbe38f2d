"""`factlab diff`: what was changed in this model?"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factlab.cli.registration import EDIT, command
from factlab.cli.session import Session
from factlab.cli.tables import table
from factlab.errors import InvalidRequestError

if TYPE_CHECKING:
    from factlab.editing.model_diff import WeightDiff

_BUNDLED = "bundled"
_SHOWN = 5


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        diff,
        "diff",
        group=EDIT,
        takes=("device", "dtype", "edits", "memory_gib"),
        examples=(
            "factlab diff bundled edited-model",
            'factlab diff gpt2-xl my-gpt2-xl --subject "The Eiffel Tower"',
        ),
    )


def diff(
    session: Session,
    base: Annotated[str, typer.Argument(help="Model before: Hub id, folder, or 'bundled'.")],
    edited: Annotated[str, typer.Argument(help="Model after; --edit is applied to this one.")],
    subject: Annotated[
        list[str] | None, typer.Option(help="Look for this subject; may be given several times.")
    ] = None,
    subjects_file: Annotated[
        Path | None, typer.Option(help="Look for these subjects, one in each line.")
    ] = None,
) -> None:
    """Show which weights differ, whether it looks like an edit, and on which subjects it acts."""
    from factlab.data.well_known import WELL_KNOWN
    from factlab.storage import read_text

    subjects = list(subject or [])
    if subjects_file is not None:
        lines = (line.strip() for line in read_text(subjects_file).splitlines())
        subjects += [line for line in lines if line]
        if not subjects:
            raise InvalidRequestError(f"'{subjects_file}' names no subjects. Write one a line.")
    if not subjects:
        subjects = [fact.subject for fact in WELL_KNOWN]
    names = [None if name == _BUNDLED else name for name in (base, edited)]
    after = replace(session, model=names[1])
    before = replace(session, model=names[0], edits=[])
    before.check()
    after.check()
    edited_lm, base_lm = after.load_model(), before.load_model()
    from factlab.editing.model_diff import compare

    with session.progress() as report:
        found = compare(base_lm, edited_lm, subjects, report)

    session.say(f"{len(found.weights)} of {found.n_weights} weights differ.")
    if found.weights:
        columns = ["weight", "shape", "change", "rank", "top share", "verdict"]
        rows = [_row(weight) for weight in found.weights]
        session.say(table(columns, rows, right={2, 3, 4}))
    for weight in found.weights:
        if weight.subjects:
            rows = [[s.subject, f"{s.strength:.1%}"] for s in weight.subjects[:_SHOWN]]
            title = f"Subjects that {weight.weight_name} was changed for most"
            session.say(table(["subject", "change of output"], rows, right={1}, title=title))
    session.emit(found.model_dump(mode="json"))


def _row(weight: "WeightDiff") -> list[str]:
    return [
        weight.weight_name,
        " × ".join(map(str, weight.shape)),
        "—" if weight.relative_norm is None else f"{weight.relative_norm:.2%}",
        "—" if weight.rank is None else str(weight.rank),
        "—" if weight.top_share is None else f"{weight.top_share:.1%}",
        weight.verdict,
    ]
