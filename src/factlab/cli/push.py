"""`factlab push`: share a saved edit on the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated

import typer

from factlab.cli.registration import EDIT, NO_MODEL, command
from factlab.cli.session import Session


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        push,
        "push",
        group=EDIT,
        takes=NO_MODEL,
        examples=(
            "factlab push eiffel-in-rome user/eiffel-in-rome --private",
            'factlab ask "The Eiffel Tower is in" --edit user/eiffel-in-rome',
        ),
    )


def push(
    session: Session,
    folder: Annotated[Path, typer.Argument(help="The folder that 'factlab edit --out' wrote.")],
    repo: Annotated[str, typer.Argument(help="user/repo; made if it is not there.")],
    private: Annotated[
        bool, typer.Option("--private", help="Only those see it whom you let.")
    ] = False,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Add an edit",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an edit that is there.")
    ] = False,
) -> None:
    """Share a saved edit on the Hugging Face Hub: its two files, and a model card.

    The card tells the facts, the method and the base model. Log in first, with 'hf auth login'.
    Others name the edit as user/repo in --edit, 'factlab show' and 'factlab export'.
    """
    from factlab.editing.shipping.folders import check_saved_edit
    from factlab.editing.shipping.hub import check_pushable

    check_pushable(repo)
    check_saved_edit(folder)
    from factlab.editing.edit import Edit

    edit = Edit.load(folder)
    done = edit.push_to_hub(
        repo, private=True if private else None, message=message, overwrite=overwrite
    )
    session.say(f"Pushed {folder} to {repo} (commit {done.commit[:12]}). Use it:")
    session.say_command(f"factlab show {repo}")
    session.emit({"repo": done.repo, "commit": done.commit})
