"""`factlab serve`: the workbench in a browser."""

from pathlib import Path
from typing import Annotated

import typer

from factlab.cli.registration import OUTPUT, RUNNING, START, command
from factlab.cli.session import Session
from factlab.web.serving import PORT


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        serve,
        "serve",
        group=START,
        takes=("model", "device", "dtype", "memory_gib"),
        examples=("factlab serve", "factlab serve --model gpt2-xl --folder notes --port 8000"),
    )


def serve(
    session: Session,
    *,
    folder: Annotated[
        Path, typer.Option(help="Where results and saved edits are kept.", rich_help_panel=OUTPUT)
    ] = Path("factlab-workbench"),
    runs: Annotated[
        list[Path] | None,
        typer.Option(
            help="Show the runs, studies and traces in this folder; may be given several times.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen at. Beyond this machine a token is asked for, which the "
            "printed address has.",
            rich_help_panel=RUNNING,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="0 for any that is free.", rich_help_panel=RUNNING),
    ] = PORT,
    no_browser: Annotated[
        bool, typer.Option(help="Only print the address.", rich_help_panel=RUNNING)
    ] = False,
) -> None:
    """Trace, edit and compare in a local web page. Needs the extra factlab[web]."""
    from functools import partial

    from factlab.web.serving import Address, serve

    def tell(url: str) -> None:
        session.say(f"The workbench is at {url}")
        session.say(f"Results and edits are kept in {folder}. Stop with Ctrl-C.")
        session.emit({"url": url, "folder": str(folder)})

    serve(
        partial(session.load_model), folder, Address(host, port), runs or (),
        opens=not no_browser, tell=tell,
    )  # fmt: skip
