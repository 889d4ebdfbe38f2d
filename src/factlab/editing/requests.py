"""What an edit is to make the model say: a new object, no longer the true one, or what it said."""

from collections.abc import Sequence
from dataclasses import dataclass

from factlab.arguments import checked
from factlab.errors import InvalidRequestError
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel


@dataclass(frozen=True, slots=True)
class ValueRequest:
    """What a value is to make the model say, or no longer say.

    Attributes:
        fact: whose subject is looked up.
        target: an object.
        erase: make the target improbable instead of probable.
    """

    fact: Fact
    target: str
    erase: bool = False


def first_fact(facts: Sequence[Fact]) -> Fact:
    """The first of some facts.

    Raises:
        InvalidRequestError: there are none.
    """
    if not facts:
        raise InvalidRequestError("The list of facts is empty. Give at least one.")
    return facts[0]


def check_targets(facts: Sequence[Fact], erase: bool) -> None:
    """Refuse facts that give nothing to do.

    Raises:
        InvalidRequestError: there are none, or one has nothing to write.
    """
    first_fact(facts)
    for fact in facts:
        if fact.target_new is None and not erase:
            raise InvalidRequestError(
                f"'{fact.prompt}' has no target_new: nothing to write. Give one, or erase."
            )


def value_requests(lm: LanguageModel, facts: Sequence[Fact], erase: bool) -> list[ValueRequest]:
    """The targets of some facts.

    With `erase` the target is the true object, or where that is not known, what the model says.

    Raises:
        InvalidRequestError: there are no facts, or one has nothing to write.
    """
    check_targets(facts, erase)
    if erase:
        unknown = [fact for fact in facts if not fact.target_true]
        said = dict(zip(unknown, _said(lm, unknown, 1), strict=True))
        return [ValueRequest(f, f.target_true or said[f], erase=True) for f in facts]
    return [ValueRequest(fact, str(fact.target_new)) for fact in facts]


@checked()
def said_before(lm: LanguageModel, fact: Fact, max_words: int = 1) -> Fact:
    """The same fact with what the model says without any edits as its new target.

    Writing it undoes an edit by editing, where the edit itself is no longer at hand.

    Args:
        lm: the model; edits that are applied to it are left out for this question.
        fact: its template and subject are used.
        max_words: how much of the model's answer to take.

    Raises:
        InvalidRequestError: the model says nothing that could be a target.
    """
    (answer,) = _said(lm, [fact], max_words)
    return Fact(fact.template, fact.subject, answer, fact.target_true)


def _said(lm: LanguageModel, facts: Sequence[Fact], max_words: int) -> list[str]:
    """The first words that the unedited model says after each prompt."""
    prompts = [fact.prompt for fact in facts]
    if not prompts:
        return []
    with lm.patches.lifted():
        n_tokens = lm.room_behind(prompts, 4 * max_words)
        texts = lm.generate_batch(prompts, max_new_tokens=n_tokens, return_full_text=False)
    answers: list[str] = []
    for prompt, text in zip(prompts, texts, strict=True):
        answers.append(" ".join(text.split()[:max_words]).strip(".,;:!?\"'"))
        if not answers[-1]:
            raise InvalidRequestError(f"The model says nothing after '{prompt}'.")
    return answers
