"""`factlab view`: what was computed earlier, in a browser."""

from pathlib import Path
from typing import Annotated

import typer

from factlab.cli.registration import NO_MODEL, OUTPUT, START, command
from factlab.cli.session import Session


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        view,
        "view",
        group=START,
        takes=NO_MODEL,
        examples=(
            "factlab view eiffel.safetensors eiffel-in-rome",
            "factlab view runs/rome scaling/scaling.json --bundle page",
        ),
    )


def view(
    session: Session,
    *,
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Saved traces, averages, edits, evaluations, sweeps, probes or studies."
        ),
    ],
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Write the page into this folder instead of opening it: one file that needs "
            "neither a server nor a network.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
) -> None:
    """Look at saved results in a browser."""
    import tempfile
    import webbrowser

    from factlab.web.kinds import check_shown

    check_shown(paths)
    from factlab.web.bundle import write_bundle

    page = write_bundle(paths, bundle or Path(tempfile.mkdtemp(prefix="factlab-view-")))
    if bundle is None:
        webbrowser.open(page.resolve().as_uri())
    session.say(f"Page: {page}")
    session.emit({"page": str(page)})
