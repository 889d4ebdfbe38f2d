"""The command line: thin commands over the library, one file each. Only this package prints."""

import sys

import typer

from factlab.cli.session import complain

_HELP = "Locate, edit and measure facts in language models."


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
        knowns,
        layers,
        methods,
        models,
        neurons,
        report,
        show,
        stats,
        sweep,
        trace,
        trace_average,
        train,
    )

    app = typer.Typer(
        name="factlab",
        help=_HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for module in (
        demo, ask, trace, trace_average, layers, knowns, edit, show, export, diff, stats, methods,
        models, data, evaluate, report, train, neurons, sweep,
    ):  # fmt: skip
        module.register(app)
    return app


def main() -> None:
    """Run a command. Exit code 2 and one sentence for anything that the user can put right."""
    try:
        build_app()()  # typer itself answers a wrong option, with exit code 2
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # whatever it is: one sentence, a traceback only when asked for
        if "--debug" in sys.argv:
            raise
        sys.exit(complain(error))
