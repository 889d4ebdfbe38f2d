"""Conversations, in the words of a model's own chat template.

A prompt can be put into the template in two ways (`ChatForms`): as what the user says, so that the
assistant is about to answer; or as how the assistant's own answer begins, which is the natural way
for a sentence that is to be completed. What the template puts around a prompt is found by rendering
it around a placeholder, so that nothing about templates has to be known.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

import jinja2

from factlab.errors import InvalidRequestError
from factlab.models.generation import (
    Sampling,
    continue_texts,
    decode_continuation,
    generate_ids,
)
from factlab.wrapping import REQUEST, ChatForms, Wrapping
from factlab.writing import check_text, check_texts, wants_space

if TYPE_CHECKING:
    from factlab.models.language_model import LanguageModel

_log = logging.getLogger(__name__)
_FIELDS = ("role", "content")
# Two messages unlike each other; a template that leaves both as they are leaves any as it is.
_PLACEHOLDERS = ("xqzj", 'Xqz: "É"\n{7} <j>?')
# Reasoning that templates leave out of what the assistant has said before.
_THOUGHT = "</think>"
# The day that is written into a template which asks for it, so that it says the same tomorrow.
_DAY = date(2026, 1, 1)
_ASKS_THE_DAY = re.compile(r"""strftime_now\(\s*(["'])([^"']*)\1\s*\)""")


def chat_prompt(lm: "LanguageModel", messages: str | Sequence[Mapping[str, str]]) -> str:
    """The text that the model answers; see `LanguageModel.chat_prompt`."""
    listed = _checked(messages)
    text = _rendered(lm, listed)
    at = 0
    for i, message in enumerate(listed, 1):
        said = message["content"].rpartition(_THOUGHT)[2].strip()
        if said not in text:
            raise InvalidRequestError(
                f"The chat template of {lm.name} leaves out message {i}, of the {message['role']}: "
                "the model would not read it. Put what it says into a message of the user's."
            )
        place = text.find(said, at)
        if place < 0:
            _log.warning(
                "The chat template of %s puts message %d, of the %s, before those that come first.",
                lm.name, i, message["role"],
            )  # fmt: skip
        at = max(at, place)
    return text


def chat_forms(lm: "LanguageModel") -> ChatForms:
    """How prompts are asked in the model's template; see `LanguageModel.chat_forms`."""
    found = [_around(lm, placeholder) for placeholder in _PLACEHOLDERS]
    if found[0] != found[1]:
        raise InvalidRequestError(
            f"The chat template of {lm.name} puts other words around one message than around "
            "another, so that prompts cannot be asked in it. Set another tokenizer.chat_template."
        )
    user = {"role": "user", "content": REQUEST}
    head = _rendered(lm, [user], always=True)
    if REQUEST not in head:
        raise _unfit(lm, "leaves out what the user says")
    return ChatForms(found[0], Wrapping(head + _joint_of_an_answer(lm, user, head)))


def _around(lm: "LanguageModel", message: str) -> Wrapping:
    """What the template puts around what the user says."""
    text = _rendered(lm, [{"role": "user", "content": message}], always=True)
    count = text.count(message)
    if count != 1:
        raise _unfit(
            lm,
            f"writes what the user says {count} times"
            if count
            else "leaves out or rewrites what the user says",
        )
    before, _, after = text.partition(message)
    if not after.strip():
        raise _unfit(lm, "puts nothing behind what the user says")
    return Wrapping(before, after)


def _joint_of_an_answer(lm: "LanguageModel", user: dict[str, str], head: str) -> str:
    """What the template puts between the place where an answer begins and the answer."""
    answer = _PLACEHOLDERS[0]
    try:
        text = _rendered(
            lm, [user, {"role": "assistant", "content": answer}], answers=False, always=True
        )
    except InvalidRequestError:  # it takes no answer that is written for it
        text = ""
    before, found, _ = text.partition(answer)
    joint = before.removeprefix(head)
    if found and before.startswith(head) and not joint.strip():
        return joint
    return " " if wants_space(head, answer) else ""


def _unfit(lm: "LanguageModel", what: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"The chat template of {lm.name} {what}, so that a prompt cannot be asked in it. Set "
        "another tokenizer.chat_template."
    )


def _rendered(
    lm: "LanguageModel",
    messages: Sequence[Mapping[str, str]],
    answers: bool = True,
    always: bool = False,
) -> str:
    """A conversation in the template.

    Args:
        lm: the model.
        messages: of the conversation.
        answers: whether the text ends where the assistant's next answer begins.
        always: whether the text is to be the same on another day.
    """
    if not lm.tokenizer.chat_template:
        raise InvalidRequestError(
            f"The tokenizer of {lm.name} has no chat template, so the model was probably not "
            "trained on conversations. Ask it with generate() (without --chat), or set "
            "tokenizer.chat_template."
        )
    try:
        template = lm.tokenizer.get_chat_template()
        if always:
            template = _ASKS_THE_DAY.sub(_the_day, template)
        text = lm.tokenizer.apply_chat_template(
            [*map(dict, messages)],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=answers,
        )
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise InvalidRequestError(
            f"The chat template of {lm.name} does not take these messages: {error}. It may want "
            "user and assistant in turn, or no system message."
        ) from error
    return str(text)


def _the_day(asked: re.Match[str]) -> str:
    """The fixed day as text of a template, in place of a question for today."""
    return repr(_DAY.strftime(asked[2]))


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


def continue_in_chat(
    lm: "LanguageModel", prompts: Sequence[str], max_new_tokens: int, sampling: Sampling, seed: int
) -> list[str]:
    """What the model says after each prompt that is put into its template.

    Of a question it is the answer, behind a space.
    """
    check_texts(prompts, "prompts")
    every = chat_forms(lm)
    forms = [every.of(prompt) for prompt in prompts]
    asked = [form.around(prompt) for form, prompt in zip(forms, prompts, strict=True)]
    written = continue_texts(lm, asked, max_new_tokens, sampling, seed)
    return [
        f" {text.lstrip()}" if form.after else text
        for form, text in zip(forms, written, strict=True)
    ]
