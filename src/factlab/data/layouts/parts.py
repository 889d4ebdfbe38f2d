"""What the layouts have in common: a fact cut out of a prompt, questions, answers beside them."""

from collections.abc import Iterable
from typing import NamedTuple

from factlab.data.json_fields import Fields
from factlab.data.left_out import LeftOut
from factlab.errors import InvalidRequestError, StorageError
from factlab.facts import Fact, words_of
from factlab.lookalikes import lookalike


class Answered(NamedTuple):
    """A prompt and what is right behind it; there is at least one answer."""

    prompt: str
    answers: tuple[str, ...]


def target_of(record: Fields, field: str, left_out: LeftOut) -> str | None:
    """The new target; None, which is counted, where a file has the field and nothing in it."""
    target = _text_or_nothing(record, field)
    if not words_of(target):
        left_out.add("record without a new target", record.where, "records without a new target")
        return None
    return target


def subject_of(record: Fields, field: str) -> str:
    """The subject; empty where a file has the field and nothing in it."""
    return _text_or_nothing(record, field)


def fact_of(
    record: Fields, prompt: str, subject: str, targets: tuple[str, str | None], left_out: LeftOut
) -> Fact | None:
    """A fact whose subject stands in its prompt, where it first does.

    The prompt's own spelling counts where only capitals, quotes or accents differ.

    Args:
        record: of which it is.
        prompt: with the subject filled in.
        subject: as the file has it; one that is empty is not in the prompt.
        targets: the new one, and what it was; the latter is dropped where it is the same.
        left_out: is told of a subject that is not in the prompt.

    Returns:
        None where the subject is not in the prompt. Most methods look it up, and a file is not to
        be refused for a few of its records.

    Raises:
        StorageError: they make no fact.
    """
    new, true = targets
    found = subject if subject and subject in prompt else lookalike(prompt, subject)
    if found is None:
        left_out.add("record whose subject is not in its prompt", record.where,
                     "records whose subject is not in their prompt")  # fmt: skip
        return None
    if true is not None and words_of(true) == words_of(new):
        true = None
    try:
        return Fact.from_prompt(prompt, found, new, true, occurrence=1)
    except InvalidRequestError as error:
        raise StorageError(f"{record.where}: {error}") from error


def answered(
    item: Fields, left_out: LeftOut, prompt: str = "prompt", answers: str = "ground_truth"
) -> Answered | None:
    """A prompt and its answers; None, which is counted, where there is not just one prompt.

    Args:
        item: where they stand.
        left_out: is told of what cannot be asked.
        prompt: field of the prompt: a text, or a list of one.
        answers: field of the answers; see `Fields.answers`.

    Raises:
        StorageError: a field is missing or of the wrong type.
    """
    prompts, right = item.answers(prompt), item.answers(answers)
    if len(prompts) == 1 and right:
        return Answered(prompts[0], right)
    if len(prompts) > 1:
        left_out.add("question in several wordings", item.where, "questions in several wordings")
    else:
        left_out.add("question without a text or an answer", item.where,
                     "questions without a text or an answer")  # fmt: skip
    return None


def questions_among(texts: Iterable[str]) -> tuple[str, ...]:
    """Those texts that end as a question does, without copies."""
    return tuple(dict.fromkeys(text for text in texts if "?" in text.rstrip()[-2:]))


def as_question(text: str) -> str:
    """A question that may have been written without its question mark."""
    return text if "?" in text.rstrip()[-2:] else f"{text.rstrip().rstrip('.')}?"


def _text_or_nothing(record: Fields, field: str) -> str:
    """A text, or nothing where the field is null or blank; it must be there."""
    value = record.value.get(field)
    blank = isinstance(value, str) and not value.strip()
    return "" if blank or (field in record.names and not record.has(field)) else record.text(field)
