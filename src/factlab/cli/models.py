"""`factlab models`: which families there are, and what can be done with one model."""

from typing import TYPE_CHECKING

import typer

from factlab.cli.registration import MODELS, command
from factlab.cli.session import Session
from factlab.cli.tables import table
from factlab.errors import counted
from factlab.words import listed_ranges

if TYPE_CHECKING:
    from factlab.models.language_model import LanguageModel


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        models,
        "models",
        group=MODELS,
        takes=("model", "device", "dtype", "memory_gib"),
        examples=(
            "factlab models",
            "factlab models --model Qwen/Qwen3-0.6B",
            "factlab models --model tiny:mixtral",
        ),
    )


def models(session: Session) -> None:
    """List the model families in the table; with --model, what can be done with that model."""
    if session.model is not None:
        _show_abilities(session, session.load_model())
        return
    from dataclasses import asdict

    from factlab.families import ARCHITECTURES

    rows = [[a.family, a.layers, a.attn_out, a.mlp_out] for a in ARCHITECTURES.values()]
    session.say(table(["family", "layers", "attention output", "MLP output"], rows))
    session.say(
        "Other families are discovered from their structure and tried out when loaded: "
        "factlab models --model NAME says what can be done with one."
    )
    session.emit({"families": [asdict(architecture) for architecture in ARCHITECTURES.values()]})


def _show_abilities(session: Session, lm: "LanguageModel") -> None:
    from factlab.models.abilities import TITLES

    able = lm.abilities
    session.say(
        f"{lm.name} is of family '{lm.family}', with {counted(lm.n_layers, 'layer')} "
        f"(d_model {lm.d_model}, {str(lm.dtype).removeprefix('torch.')}); run by {able.engine}."
    )
    kinds: dict[str, list[int]] = {}
    for index, parts in enumerate(lm.layers):
        mixer = parts.mixer.kind if parts.mixer else "no mixer of its own"
        mlp = parts.mlp.kind if parts.mlp else "no MLP of its own"
        is_skipped = index in lm.layers.anatomy.skipped
        what = "passed over by a text alone" if is_skipped else f"{mixer}, {mlp}"
        kinds.setdefault(what, []).append(index)
    if kinds:
        rows = [[listed_ranges(layers), what] for what, layers in kinds.items()]
        session.say(table(["layers", "mixer and MLP"], rows))
    rows = [
        [
            TITLES[name],
            "yes" if rung.can else "no",
            "" if rung.layers is None or not rung.can else listed_ranges(rung.layers),
            rung.why,
        ]
        for name, rung in able.rungs.items()
    ]
    session.say(table(["what can be done", "", "layers", "note"], rows))
    session.emit(
        {
            "model": lm.name,
            "family": lm.family,
            "n_layers": lm.n_layers,
            "d_model": lm.d_model,
            "engine": able.engine,
            "layers": kinds,
            "abilities": {
                name: {
                    "can": rung.can,
                    "why": rung.why,
                    "layers": None if rung.layers is None else list(rung.layers),
                }
                for name, rung in able.rungs.items()
            },
        }
    )
