"""Texts for a model: tokens that it has embeddings for, and no more of them than it takes."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from transformers import PretrainedConfig

from factlab import tokens
from factlab.continuations import Continuation, continuation_of
from factlab.errors import InvalidRequestError, TokenizationError
from factlab.facts import Fact, LookupToken
from factlab.wrapping import Wrapping
from factlab.writing import short_repr

if TYPE_CHECKING:
    from factlab.models.language_model import LanguageModel

_log = logging.getLogger(__name__)
_N_SHOWN = 5  # tokens that a message lists
# How configs call the longest sequence.
_CONTEXT_LENGTHS = ("max_position_embeddings", "max_seq_len", "n_positions", "max_sequence_length")


def tokenise(lm: "LanguageModel", text: str, target: str | None = None) -> tokens.Tokens:
    """Tokenise a text of any length, with what follows it.

    Raises:
        TokenizationError: it is empty, or has a token that the model has no embedding for.
    """
    with lm.lock:  # a tokenizer's settings are changed for each text
        encoded = tokens.encode(lm.tokenizer, text, target)
    check_ids(lm, encoded.ids)
    return encoded


def encode(lm: "LanguageModel", text: str) -> tokens.Tokens:
    """Tokenise a prompt and check that it fits.

    Raises:
        TokenizationError: as `tokenise`, or it is longer than the model's context.
    """
    encoded = tokenise(lm, text)
    check_length(lm, len(encoded))
    return encoded


def continuation(
    lm: "LanguageModel", prompt: str, target: str | None, first_token: bool
) -> Continuation:
    """Tokenise a prompt and what follows it as one text, and check that the model takes it.

    Args:
        lm: the model.
        prompt: a text.
        target: what follows; without one the prompt is read at its end.
        first_token: leave away all of the target but its first token.

    Raises:
        TokenizationError: a text is empty or too long, has a token that the model has no
            embedding for, or the target becomes no token of its own.
        InvalidRequestError: the target is empty.
    """
    return fitting(lm, continuation_of(tokenise(lm, prompt, target), first_token=first_token))


def fact_continuation(
    lm: "LanguageModel", fact: Fact, target: str | None, lookup: LookupToken, first_token: bool
) -> Continuation:
    """The same of a fact's prompt, with its subject's tokens and the one that is looked up.

    Raises:
        TokenizationError: also if the subject has no token, or shares one with the target.
        InvalidRequestError: the target is empty, or there is no subject.
    """
    fact.check_subject()
    encoded = tokenise(lm, fact.prompt, target)
    subject = tokens.subject_span(encoded, fact.subject_start, fact.subject)
    return fitting(lm, continuation_of(encoded, subject, lookup, first_token))


def wrapped_continuation(
    lm: "LanguageModel", prompt: str, wrapping: Wrapping, target: str | None = None
) -> Continuation:
    """A prompt in a wrapping, such as a chat template's, and what follows it there.

    Raises:
        TokenizationError: as `continuation`; one that is too long is named.
        InvalidRequestError: the prompt is in a chat template already, or the target is empty.
    """
    return _fitting_in(lm, prompt, continuation_of(_wrapped(lm, prompt, wrapping, target)))


def wrapped_fact(
    lm: "LanguageModel",
    fact: Fact,
    wrapping: Wrapping,
    target: str | None = None,
    lookup: LookupToken = "last",
) -> Continuation:
    """The same of a fact's prompt, with its subject's tokens and the one that is looked up.

    Raises:
        TokenizationError: also if the subject has no token, or shares one with the target.
        InvalidRequestError: also if there is no subject.
    """
    encoded = _wrapped(lm, fact.prompt, wrapping, target)
    subject = tokens.subject_span(encoded, wrapping.start(fact), fact.subject)
    return _fitting_in(lm, fact.prompt, continuation_of(encoded, subject, lookup))


def _wrapped(
    lm: "LanguageModel", prompt: str, wrapping: Wrapping, target: str | None
) -> tokens.Tokens:
    is_inside = bool(wrapping.before) and prompt.startswith(wrapping.before)
    if is_inside or tokens.begins_special(lm.tokenizer, prompt):
        raise InvalidRequestError(
            f"The prompt {short_repr(prompt)} is in a chat template already, or begins with a "
            "special token: it cannot be put into the template again. Give what is said in it "
            "alone, or do without the chat template."
        )
    wanted = None if target is None else wrapping.target(target)
    return tokenise(lm, wrapping.around(prompt), wanted)


def _fitting_in(lm: "LanguageModel", prompt: str, made: Continuation) -> Continuation:
    try:
        return fitting(lm, made)
    except TokenizationError as error:
        raise TokenizationError(
            f"The prompt {short_repr(prompt)} is too long in the chat template: {error}"
        ) from error


def fitting(lm: "LanguageModel", made: Continuation) -> Continuation:
    """A continuation, if the model takes so many tokens.

    Raises:
        TokenizationError: more tokens than the context holds.
    """
    check_length(lm, len(made.inputs))
    return made


def context_length(config: PretrainedConfig) -> int | None:
    """The longest sequence that a model takes, if its config says."""
    text_config = config.get_text_config(decoder=True)
    lengths = (getattr(text_config, name, None) for name in _CONTEXT_LENGTHS)
    return next((length for length in lengths if isinstance(length, int)), None)


def check_length(lm: "LanguageModel", n_tokens: int) -> None:
    """Refuse what the model cannot take.

    Raises:
        TokenizationError: more tokens than the context holds.
    """
    limit = lm.context_length
    if limit is not None and n_tokens > limit:
        raise TokenizationError(
            f"The text has {n_tokens} tokens but {lm.name} takes at most {limit}. Shorten it."
        )


def check_ids(lm: "LanguageModel", ids: Sequence[int]) -> None:
    """Refuse tokens that the model has no embedding for.

    Raises:
        TokenizationError: an id is not one of the embedding's rows.
    """
    n_rows = lm.embedding.num_embeddings
    if ids and (max(ids) >= n_rows or min(ids) < 0):
        unknown = next(i for i in ids if not 0 <= i < n_rows)
        raise TokenizationError(
            f"Token {tokens.shown(lm.tokenizer, [unknown])[0]!r} has the id {unknown}, but "
            f"{lm.name} has embeddings for the ids below {n_rows} only. Use the tokenizer "
            "that belongs to the model; if tokens were added to it, call "
            f"model.resize_token_embeddings({max(len(lm.tokenizer), unknown + 1)}) and train "
            "them."
        )


def room_behind(lm: "LanguageModel", prompts: Sequence[str], wanted: int) -> int:
    """How many tokens fit behind the longest of several prompts, but no more than are wanted.

    For lengths that nobody asked for. At least 1: a prompt that fills the context is refused
    where it is continued.
    """
    limit = lm.context_length
    if limit is None:
        return wanted
    longest = max((len(encode(lm, prompt)) for prompt in prompts), default=0)
    return max(1, min(wanted, limit - longest))


def warn_of_unknown_tokens(lm: "LanguageModel") -> None:
    """Log which tokens of the tokenizer the model has no embedding for."""
    n_rows = lm.embedding.num_embeddings
    if len(lm.tokenizer) <= n_rows:  # as far as ids are consecutive
        return
    unknown = sorted((i, text) for text, i in lm.tokenizer.get_vocab().items() if i >= n_rows)
    if unknown:
        listed = ", ".join(f"{text!r} (id {i})" for i, text in unknown[:_N_SHOWN])
        more = ", ..." if len(unknown) > _N_SHOWN else ""
        _log.warning(
            "%s has embeddings for %d tokens; its tokenizer has %d more: %s%s. Texts with them are "
            "refused. If they were added, call model.resize_token_embeddings(%d) and train them.",
            lm.name, n_rows, len(unknown), listed, more, unknown[-1][0] + 1,
        )  # fmt: skip
