"""`factlab layers`: which layer should be edited?"""

from pathlib import Path
from typing import Annotated

import typer

from factlab.cli.registration import LOCATE, command
from factlab.cli.session import Session
from factlab.cli.tables import table
from factlab.errors import InvalidRequestError, counted
from factlab.words import listed_ranges

_BAR_WIDTH = 32


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        layers,
        "layers",
        group=LOCATE,
        examples=(
            "factlab layers",
            "factlab layers --facts known.json --limit 50 --model gpt2-xl",
        ),
    )


def layers(
    session: Session,
    facts: Annotated[
        Path | None, typer.Option(help="File of known facts; by default well-known ones.")
    ] = None,
    limit: Annotated[int, typer.Option(help="How many facts to trace.")] = 20,
) -> None:
    """Recommend the layers to edit, from causal traces of MLPs at the last subject token."""
    from factlab.data.known import load_known

    if limit < 1:
        raise InvalidRequestError(f"--limit {limit} must be at least 1.")
    chosen = [entry.fact for entry in load_known(facts)] if facts is not None else None
    lm = session.load_model()
    from factlab.editing.presets import beside_preset, preset_of
    from factlab.tracing.layers import recommend_layer

    with session.progress() as report:
        choice = recommend_layer(lm, chosen, limit=limit, progress=report)
    top = max(float(choice.effects.max()), 1e-6)
    rows = []
    for layer in range(len(choice.effects)):
        estimate = choice.estimate(layer)
        mark = "←" if layer == choice.layer else "~" if layer in choice.candidates else " "
        bar = "█" * round(_BAR_WIDTH * max(estimate.mean, 0) / top)
        rows.append([f"{layer} {mark}", estimate.in_words(signed=True), bar])
    title = (
        f"Indirect effect of {counted(choice.window, 'MLP')} around each layer, "
        f"{counted(choice.n_facts, 'fact')}"
    )
    session.say(table(["layer", "effect", ""], rows, right={0, 1}, title=title))
    session.say(
        f"← largest effect{'; ~ not told apart from it' if len(choice.candidates) > 1 else ''}. "
        f"Edit layer {choice.layer} (ROME), or layers {listed_ranges(choice.memit_layers)} (MEMIT)."
    )
    for note in choice.notes:
        session.say(note)
    preset = preset_of(lm)
    session.say(beside_preset(choice, preset))
    session.emit(
        {"model": lm.name}
        | choice.to_json()
        | {
            "preset": None if preset is None else preset.model,
            "preset_layer": None if preset is None else preset.rome_layer,
        }
    )
