"""`factlab ask`: what does the model say next?"""

from typing import Annotated

import typer

from factlab.cli.registration import START, command
from factlab.cli.session import Session
from factlab.cli.tables import table


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(
        app,
        ask,
        "ask",
        group=START,
        examples=(
            'factlab ask "The Eiffel Tower is located in the city of"',
            'factlab ask "The Space Needle is in" --generate 20 --edit my-edit',
        ),
    )


def ask(
    session: Session,
    prompt: Annotated[str, typer.Argument(help="A text to continue.")],
    top: Annotated[int, typer.Option(min=1, help="How many next tokens to list.")] = 10,
    generate: Annotated[int, typer.Option(min=0, help="Continue by this many tokens.")] = 0,
    top_k: Annotated[int, typer.Option(min=0, help="Sample among so many; 1 is greedy.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
) -> None:
    """Show the most probable next tokens of a prompt, and continue it."""
    lm = session.load_model()
    answers = lm.top_tokens(prompt, top)
    document: dict[str, object] = {
        "prompt": prompt,
        "top": [{"token": token, "prob": prob} for token, prob in answers],
    }
    if generate:
        with session.progress() as report:
            report("generating", 0, 1)
            document["text"] = lm.generate(prompt, generate, top_k, seed)
    rows = [[repr(token)[1:-1], f"{prob:.4f}"] for token, prob in answers]
    session.say(table(["next token", "probability"], rows, right={1}))
    if generate:
        session.say(f"\n{document['text']}")
    session.emit(document)
