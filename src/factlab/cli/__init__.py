"""The command line: thin commands over the library, one file each. Only this package prints."""

import sys
from typing import Annotated

import typer

from factlab import __version__
from factlab.cli.registration import Commands
from factlab.cli.session import complain
from factlab.cli.terminal import prepare_streams

_HELP = "Locate, edit and measure facts in language models."


def _show_version(is_asked: bool | None) -> None:
    if is_asked:
        sys.stdout.write(f"factlab {__version__}\n")
        raise typer.Exit


def build_app() -> typer.Typer:
    """The app with all its commands."""
    from factlab.cli import (
        ask,
        data,
        demo,
        diff,
        edit,
        evaluate,
        export,
        human,
        judge,
        knowns,
        layers,
        memory,
        merge,
        methods,
        models,
        neurons,
        probe,
        push,
        report,
        serve,
        show,
        slurm,
        stats,
        study,
        sweep,
        trace,
        trace_average,
        train,
        values,
        view,
    )

    app = typer.Typer(
        name="factlab",
        cls=Commands,
        help=_HELP,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for module in (
        demo, serve, view, ask, trace, trace_average, layers, neurons, edit, values, train, show,
        export, push, diff, evaluate, merge, report, judge, human, probe, sweep, study, methods,
        models, memory, data, knowns, stats, slurm,
    ):  # fmt: skip
        module.register(app)
    return app


def _root(
    version: Annotated[
        bool | None,
        typer.Option(
            "--version", help="Show the version and exit.", is_eager=True, callback=_show_version
        ),
    ] = None,
) -> None:
    del version


def main() -> None:
    """Run a command. Exit code 2 and one sentence for anything that the user can put right."""
    prepare_streams()
    try:
        build_app()()  # typer itself answers a wrong option, with exit code 2
    except KeyboardInterrupt:  # before or after a command, which says so itself
        sys.stderr.write("Stopped.\n")
        sys.exit(130)
    except Exception as error:  # whatever it is: one sentence, a traceback only when asked for
        if "--debug" in sys.argv:
            raise
        sys.exit(complain(error))
