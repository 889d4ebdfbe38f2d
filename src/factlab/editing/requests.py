"""What an edit is to make the model say: a new object, no longer the true one, or what it said."""

from collections.abc import Sequence
from dataclasses import dataclass

from factlab.arguments import checked
from factlab.errors import FactlabError, InvalidRequestError
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.models.texts import room_behind


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


def value_requests(
    lm: LanguageModel, facts: Sequence[Fact], erase: bool
) -> list[ValueRequest | FactlabError]:
    """The targets of some facts, which have one if they are to be written.

    With `erase` the target is the true object, or where that is not known, what the model says; if
    it says nothing, there is an error in place of the request.
    """
    if not erase:
        return [ValueRequest(fact, str(fact.target_new)) for fact in facts]
    unknown = [fact for fact in facts if not fact.target_true]
    said = dict(zip(unknown, _said(lm, unknown, 1), strict=True))
    return [
        ValueRequest(fact, target, erase=True)
        if (target := fact.target_true or said[fact])
        else _says_nothing(fact)
        for fact in facts
    ]


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
    if not answer:
        raise _says_nothing(fact)
    return Fact(fact.template, fact.subject, answer, fact.target_true)


def _said(lm: LanguageModel, facts: Sequence[Fact], max_words: int) -> list[str]:
    """The first words that the unedited model says after each prompt; empty for none."""
    prompts = [fact.prompt for fact in facts]
    if not prompts:
        return []
    with lm.patches.lifted():
        n_tokens = room_behind(lm, prompts, 4 * max_words)
        texts = lm.generate_batch(prompts, max_new_tokens=n_tokens, return_full_text=False)
    return [" ".join(text.split()[:max_words]).strip(".,;:!?\"'") for text in texts]


def _says_nothing(fact: Fact) -> InvalidRequestError:
    return InvalidRequestError(f"The model says nothing after '{fact.prompt}'.")
