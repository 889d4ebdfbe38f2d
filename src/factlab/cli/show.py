"""`factlab show`: what is in a saved edit?"""

from pathlib import Path
from typing import Annotated

import typer

from factlab.cli.registration import EDIT, NO_MODEL, command
from factlab.cli.session import Session
from factlab.cli.tables import table


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        show,
        "show",
        group=EDIT,
        takes=NO_MODEL,
        examples=("factlab show eiffel-in-rome", "factlab show user/eiffel-in-rome"),
    )


def show(
    session: Session,
    folder: Annotated[
        Path, typer.Argument(help="Folder that 'factlab edit --out' wrote, or user/repo.")
    ],
) -> None:
    """Describe a saved edit: facts, weights changed, and the model it is for."""
    from factlab.editing.shipping.hub import edit_place

    place = edit_place(folder.as_posix())
    from factlab.editing.edit import Edit

    edit = Edit.load(place)
    session.say(f"{edit.method} for {edit.base.name} (fingerprint {edit.base.fingerprint[:12]})")
    rows = [[f.prompt, f.target_true or "—", f.target_new or "—"] for f in edit.facts]
    if rows:
        session.say(table(["prompt", "true", "new"], rows))
    rows = [
        [
            u.weight_name,
            f"{u.shape[0]} × {u.shape[1]}",
            u.kind if u.thin is None else str(u.rank),
            f"{u.norm:.3f}",
        ]
        for u in edit.updates
    ]
    session.say(table(["weight", "out × in", "rank", "norm of change"], rows, right={2, 3}))
    rows = [
        [name, f"{value:.4g}" if isinstance(value, float) else str(value)]
        for name, value in edit.diagnostics.items()
        if not isinstance(value, list)
    ]
    if rows:
        session.say(table(["diagnostic", "value"], rows))
    session.say("Versions: " + ", ".join(f"{k} {v}" for k, v in edit.versions.items()))
    session.emit(edit.to_json())
