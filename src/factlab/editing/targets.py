"""What an edit is to make the model say: a new object, no longer the true one, or what it said."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

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


def value_requests(lm: LanguageModel, facts: Sequence[Fact], erase: bool) -> list[ValueRequest]:
    """The targets of some facts.

    With `erase` the target is the true object, or where that is not known, what the model says.

    Raises:
        InvalidRequestError: there are no facts, or one has nothing to write.
    """
    first_fact(facts)
    if erase:
        told = [fact if fact.target_true else said_before(lm, fact) for fact in facts]
        targets = [f.target_true or f.target_new for f in told]
        return [ValueRequest(f, str(t), erase=True) for f, t in zip(facts, targets, strict=True)]
    for fact in facts:
        if fact.target_new is None:
            raise InvalidRequestError(
                f"'{fact.prompt}' has no target_new: nothing to write. Give one, or erase."
            )
    return [ValueRequest(fact, str(fact.target_new)) for fact in facts]


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
    with lm.patches.lifted():
        text = lm.generate(fact.prompt, max_new_tokens=4 * max_words)
    words = text.removeprefix(fact.prompt).split()[:max_words]
    answer = " ".join(words).strip(".,;:!?\"'")
    if not answer:
        raise InvalidRequestError(f"The model says nothing after '{fact.prompt}'.")
    return Fact(fact.template, fact.subject, answer, fact.target_true)


def target_nll(
    logprobs: Float[Tensor, "*n"], n_tokens: Float[Tensor, "*n"], erased: Bool[Tensor, "*#n"]
) -> Float[Tensor, "*n"]:
    """What is minimised: −log P per token, or for erasure −log(1 − P) of the whole target.

    Args:
        logprobs: of whole targets.
        n_tokens: their lengths.
        erased: where the target is to become improbable.
    """
    unsaid = -torch.log(-torch.expm1(logprobs.clamp(max=-1e-7)))  # finite where P rounds to 1
    return torch.where(erased, unsaid, -logprobs / n_tokens)
