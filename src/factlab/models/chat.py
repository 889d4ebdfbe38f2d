"""Conversations, in the words of a model's own chat template."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jinja2

from factlab.errors import InvalidRequestError
from factlab.models.generation import Sampling, decode_continuation, generate_ids
from factlab.writing import check_text

if TYPE_CHECKING:
    from factlab.models.language_model import LanguageModel

_FIELDS = ("role", "content")


def chat_prompt(lm: "LanguageModel", messages: str | Sequence[Mapping[str, str]]) -> str:
    """The text that the model answers; see `LanguageModel.chat_prompt`."""
    listed = _checked(messages)
    if not lm.tokenizer.chat_template:
        raise InvalidRequestError(
            f"The tokenizer of {lm.name} has no chat template, so the model was probably not "
            "trained on conversations. Ask it with generate() (without --chat), or set "
            "tokenizer.chat_template."
        )
    try:
        text = lm.tokenizer.apply_chat_template(listed, tokenize=False, add_generation_prompt=True)
    except jinja2.TemplateError as error:
        raise InvalidRequestError(
            f"The chat template of {lm.name} does not take these messages: {error}. It may want "
            "user and assistant in turn, or no system message."
        ) from error
    return str(text)


def answer(
    lm: "LanguageModel",
    messages: str | Sequence[Mapping[str, str]],
    max_new_tokens: int,
    sampling: Sampling,
    seed: int,
) -> str:
    """The model's answer; see `LanguageModel.chat`."""
    ids = lm.encode(chat_prompt(lm, messages)).ids
    (new,) = generate_ids(lm, [ids], max_new_tokens, sampling, seed)
    return decode_continuation(lm, ids, new).strip()


def _checked(messages: object) -> list[dict[str, str]]:
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, list | tuple) or not messages:
        raise InvalidRequestError(
            f"The messages are {messages!r}. Give a text, or a list of messages, each "
            "{'role': 'user', 'content': 'a text'}."
        )
    for i, message in enumerate(messages, 1):
        if not isinstance(message, Mapping) or not {*_FIELDS} <= {*message}:
            raise InvalidRequestError(
                f"Message {i} is {message!r}. A message has role and content: "
                "{'role': 'user', 'content': 'a text'}."
            )
        for name in _FIELDS:
            check_text(message[name], f"{name} of message {i}")
            if not message[name].strip():
                raise InvalidRequestError(f"The {name} of message {i} is empty. Give a text.")
    return [dict(message) for message in messages]
