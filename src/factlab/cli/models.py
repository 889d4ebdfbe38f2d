"""`factlab models`: which families there are."""

import typer

from factlab.cli.registration import MODELS, NO_MODEL, command
from factlab.cli.session import Session
from factlab.cli.tables import table


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        models,
        "models",
        group=MODELS,
        takes=NO_MODEL,
        examples=("factlab models",),
    )


def models(session: Session) -> None:
    """List the model families in the table; `factlab methods` lists presets."""
    from dataclasses import asdict

    from factlab.families import ARCHITECTURES

    rows = [[a.family, a.layers, a.attn_out, a.mlp_out] for a in ARCHITECTURES.values()]
    session.say(table(["family", "layers", "attention output", "MLP output"], rows))
    session.say("Other families are discovered from their structure and checked when loaded.")
    session.emit({"families": [asdict(architecture) for architecture in ARCHITECTURES.values()]})
