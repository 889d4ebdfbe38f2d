"""`factlab layers`: which layer should be edited?"""

from math import isnan
from pathlib import Path
from typing import Annotated

import typer

from factlab.cli.prose import with_interval
from factlab.cli.registration import LOCATE, command
from factlab.cli.session import Session
from factlab.cli.tables import table
from factlab.errors import InvalidRequestError, counted

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
    from factlab.tracing.layers import recommend_layer

    with session.progress() as report:
        choice = recommend_layer(lm, chosen, limit=limit, progress=report)
    top = max(float(choice.effects.max()), 1e-6)
    rows = []
    for layer, (effect, width) in enumerate(
        zip(choice.effects.tolist(), choice.half_widths.tolist(), strict=True)
    ):
        bar = "█" * round(_BAR_WIDTH * max(effect, 0) / top)
        name = f"{layer} ←" if layer == choice.layer else f"{layer}  "
        rows.append([name, with_interval(effect, width, "+.3f"), bar])
    facts_traced = counted(choice.n_facts, "fact")
    title = f"Indirect effect of {choice.window} MLPs around each layer, {facts_traced}"
    session.say(table(["layer", "effect", ""], rows, right={0, 1}, title=title))
    session.say(
        f"Edit layer {choice.layer} (ROME), or layers {choice.memit_layers[0]} to "
        f"{choice.memit_layers[-1]} (MEMIT)."
    )
    session.emit(
        {
            "model": lm.name,
            "layer": choice.layer,
            "memit_layers": list(choice.memit_layers),
            "window": choice.window,
            "n_facts": choice.n_facts,
            "effects": choice.effects.tolist(),
            "half_widths": [None if isnan(w) else w for w in choice.half_widths.tolist()],
        }
    )
