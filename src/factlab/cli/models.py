"""`factlab models`: which families and presets there are."""

import typer

from factlab.cli.session import Session, command
from factlab.cli.tables import table


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, models, "models")


def models(session: Session) -> None:
    """List the model families in the table and the editing presets."""
    from dataclasses import asdict

    from factlab.architectures import ARCHITECTURES
    from factlab.editing.presets import ROME_PRESETS

    rows = [[a.family, a.layers, a.attn_out, a.mlp_out] for a in ARCHITECTURES.values()]
    session.say(table(["family", "layers", "attention output", "MLP output"], rows))
    session.say("Other families are discovered from their structure and checked when loaded.\n")
    rows = [
        [p.model, p.family, str(p.layer), f"{p.clamp_factor:g}", p.source] for p in ROME_PRESETS
    ]
    session.say(table(["ROME preset", "family", "layer", "clamp", "source"], rows, right={2, 3}))
    session.emit(
        {
            "families": [asdict(architecture) for architecture in ARCHITECTURES.values()],
            "rome_presets": [asdict(preset) for preset in ROME_PRESETS],
        }
    )
