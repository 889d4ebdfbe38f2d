"""`factlab trace`: which states carry a fact?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factlab.cli.options import OverwriteOption, TraceOptions
from factlab.cli.registration import LOCATE, command
from factlab.cli.session import Session, check_outputs

if TYPE_CHECKING:
    from factlab.tracing.result import CausalTrace


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        trace,
        "trace",
        group=LOCATE,
        examples=(
            'factlab trace "The Eiffel Tower is located in the city of" \\\n'
            '      --subject "The Eiffel Tower" --out eiffel.png',
            'factlab trace "The Eiffel Tower is located in the city of" \\\n'
            '      --subject "The Eiffel Tower" --severed mlp --tokens last-subject',
        ),
        aliases={"answer": "target"},
    )


def trace(
    session: Session,
    *,
    prompt: Annotated[str, typer.Argument(help="A text that ends where the answer would follow.")],
    subject: Annotated[str, typer.Option(help="What to corrupt, as written in the prompt.")],
    occurrence: Annotated[
        int | None, typer.Option(help="Which occurrence of the subject, from 1.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Answer to follow; by default what the model says.")
    ] = None,
    options: TraceOptions,
    out: Annotated[
        Path | None, typer.Option(help="Draw the heat maps here (.png .pdf .svg).")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Keep the numbers here (.safetensors).")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Trace a fact: where in the model is the answer held?"""
    from factlab.facts import Fact

    fact = Fact.from_prompt(prompt, subject, occurrence=occurrence)
    config = options.config()
    check_outputs(out, save, overwrite)
    lm = session.load_model()
    from factlab.cli.heatmap import heatmap
    from factlab.tracing.trace import causal_trace

    with session.progress() as report:
        result = causal_trace(lm, fact, answer=target, config=config, progress=report)
    session.say(_sentence(result, asked=target is not None))
    for name in result.effects:
        session.say(heatmap(result, name))
        session.say()
    if save is not None:
        result.save(save)
        session.say(f"Numbers: {save}")
    if out is not None:
        result.plot(out)
        session.say(f"Picture: {out}")
    session.emit(result.to_json())


def _sentence(result: "CausalTrace", asked: bool) -> str:
    from factlab.tracing.describe import corruption_in_words

    verb = "gives" if asked else "answers"
    return (
        f"The model {verb} {result.answer!r} with probability {result.clean_prob:.3f}; "
        f"{corruption_in_words(result)}, {result.corrupted_prob:.3f}.\n"
    )
