"""`factlab trace`: which states carry a fact?"""

from pathlib import Path
from typing import Annotated

import typer

from factlab.cli.session import Session, command, validated


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, trace, "trace")


def trace(
    session: Session,
    prompt: Annotated[str, typer.Argument(help="A text that ends where the answer would follow.")],
    subject: Annotated[str, typer.Option(help="What to corrupt, as written in the prompt.")],
    answer: Annotated[
        str | None, typer.Option(help="Answer to follow; by default what the model says.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Noise samples to average over.")] = None,
    window: Annotated[
        int | None, typer.Option(help="Layers of MLP or attention to restore together.")
    ] = None,
    noise: Annotated[
        str | None, typer.Option(help="3s is three standard deviations; 0.35 is the level itself.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the noise.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Draw the heat maps here (.png .pdf .svg).")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Keep the numbers here (.safetensors).")] = None,
) -> None:
    """Trace a fact: where in the model is the answer held?"""
    from factlab.cli.heatmap import heatmap
    from factlab.facts import Fact
    from factlab.storage import check_writable
    from factlab.tracing.corruption import GaussianNoise
    from factlab.tracing.plot import check_picture_path
    from factlab.tracing.result import TraceConfig
    from factlab.tracing.trace import causal_trace

    fact = Fact.from_prompt(prompt, subject)
    config = validated(
        TraceConfig,
        samples=samples,
        window=window,
        seed=seed,
        noise=GaussianNoise.parse(noise) if noise is not None else None,
    )
    if out is not None:
        check_picture_path(out)
    for path in (out, save):
        if path is not None:
            check_writable(path)
    lm = session.load_model()
    with session.progress() as report:
        result = causal_trace(lm, fact, answer=answer, config=config, progress=report)
    session.say(
        f"The model answers {result.answer!r} with probability {result.clean_prob:.3f}; "
        f"with noise on {subject!r}, {result.corrupted_prob:.3f}.\n"
    )
    for kind in result.effects:
        session.say(heatmap(result, kind))
        session.say()
    if save is not None:
        result.save(save)
        session.say(f"Numbers: {save}")
    if out is not None:
        result.plot(out)
        session.say(f"Picture: {out}")
    session.emit(result.to_json())
