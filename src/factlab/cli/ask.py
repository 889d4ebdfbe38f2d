"""`factlab ask`: what does the model say next?"""

from typing import Annotated

import typer

from factlab.cli.registration import START, command
from factlab.cli.session import Session
from factlab.cli.tables import table
from factlab.writing import behind

_ANSWER = 200  # tokens of an answer in a chat


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
            'factlab ask --chat "Where is the Eiffel Tower?" --edit my-edit',
        ),
    )


def ask(
    session: Session,
    prompt: Annotated[
        str, typer.Argument(help="A text to continue; with --chat a question to answer.")
    ],
    chat: Annotated[
        bool, typer.Option("--chat", help="Ask in the model's chat format, and show the answer.")
    ] = False,
    top: Annotated[int, typer.Option(min=1, help="How many next tokens to list.")] = 10,
    generate: Annotated[
        int | None,
        typer.Option(min=0, help=f"Continue by this many tokens. Default: 0, {_ANSWER} in a chat."),
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="Sample, and divide the logits by this first.")
    ] = 1.0,
    top_p: Annotated[
        float, typer.Option(help="Sample among the tokens that have this probability together.")
    ] = 1.0,
    top_k: Annotated[
        int | None,
        typer.Option(min=0, help="Sample among so many; 1 is greedy, 0 all. Default: 1, or 0 with "
                     "a temperature or top-p."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
) -> None:  # fmt: skip
    """Show the most probable next tokens of a prompt, and continue it."""
    lm = session.load_model(asks=True)
    whole = behind(session.prefix, prompt)
    asked = lm.chat_prompt(whole) if chat else whole
    answers = lm.top_tokens(asked, top)
    document: dict[str, object] = {
        "prompt": prompt,
        "top": [{"token": token, "prob": prob} for token, prob in answers],
    }
    length = (_ANSWER if chat else 0) if generate is None else generate
    name = "answer" if chat else "text"
    if length:
        with session.progress() as report:
            report("generating", 0, 1)
            write = lm.chat if chat else lm.generate
            document[name] = write(whole, length, top_k, seed, temperature, top_p)
    rows = [[repr(token), f"{prob:.4f}"] for token, prob in answers]
    if session.prefix:
        session.say(f"In front of the prompt stands: {session.prefix.strip()}")
    session.say(table(["next token", "probability"], rows, right={1}))
    if length:
        session.say(f"\n{document[name]}")
    session.emit(document)
