"""`factlab ask`: what does the model say next?"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from factlab.cli.registration import START, command
from factlab.cli.session import Session
from factlab.cli.tables import table
from factlab.writing import behind

if TYPE_CHECKING:
    from rich.console import RenderableType

TopTokens = Sequence[tuple[str, float]]
_ANSWER = 200  # tokens of an answer in a chat
_BESIDE = 20  # of the same prompt asked in another way
_WAYS = {
    "asked": "asked in the chat",
    "begun": "begun by the assistant",
    "raw": "as plain text",
}


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
        bool,
        typer.Option(
            "--chat",
            help="Ask in the model's chat template, and show the answer; beside it what comes "
            "after the prompt as the beginning of an answer, and as plain text.",
        ),
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
    asked = {"raw": whole}
    if chat:
        asked = lm.chat_forms().every(whole) | {"asked": lm.chat_prompt(whole)} | asked
    tops = {way: lm.top_tokens(text, top) for way, text in asked.items()}
    length = (_ANSWER if chat else 0) if generate is None else generate
    texts: dict[str, str] = {}
    if length:
        with session.progress() as report:
            report("generating", 0, 1)
            more = (top_k, seed, temperature, top_p)
            texts = {
                way: lm.chat(whole, length, *more)
                if way == "asked"
                else lm.generate(text, _length(length, generate), *more, return_full_text=not chat)
                for way, text in asked.items()
            }
    if session.prefix:
        session.say(f"In front of the prompt stands: {session.prefix.strip()}")
    session.say(_next_tokens(tops))
    for way, text in texts.items():
        session.say(f"\n{text}" if not chat else f"\n{_WAYS[way]}: {text.strip()}")
    session.emit(_document(prompt, tops, texts))


def _length(length: int, generate: int | None) -> int:
    """Of what only stands beside an answer a few tokens, unless somebody asks for more."""
    return length if generate is not None else min(length, _BESIDE)


def _next_tokens(tops: Mapping[str, TopTokens]) -> "RenderableType":
    """The most probable next tokens, a pair of columns for each way of asking."""
    heads: list[str] = []
    for way in tops:
        heads += [_WAYS[way] if len(tops) > 1 else "next token", "probability"]
    rows = [
        [cell for token, prob in pairs for cell in (repr(token), f"{prob:.4f}")]
        for pairs in zip(*tops.values(), strict=True)
    ]
    return table(heads, rows, right={*range(1, len(heads), 2)})


def _document(
    prompt: str, tops: Mapping[str, TopTokens], texts: Mapping[str, str]
) -> dict[str, object]:
    """What is asked for itself; in a chat what stands beside it has a part of its own."""
    parts: dict[str, dict[str, object]] = {}
    for way, pairs in tops.items():
        parts[way] = {"top": [{"token": token, "prob": prob} for token, prob in pairs]}
        if way in texts:
            parts[way]["answer" if way == "asked" else "text"] = texts[way]
    first, *others = parts
    return {"prompt": prompt, **parts[first], **{way: parts[way] for way in others}}
