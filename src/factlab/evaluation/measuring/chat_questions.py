"""A record's prompts in the model's chat template, beside the same prompts as they are."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

from factlab.evaluation.measuring.asked_texts import AskedTexts
from factlab.evaluation.measuring.likelihood import Question, score_targets
from factlab.evaluation.measuring.rows import Asked, Group, InChat
from factlab.models.changes.carried import Carried
from factlab.models.language_model import LanguageModel
from factlab.wrapping import ChatForms, Wrapping


def ask_in_chat(
    lm: LanguageModel,
    forms: ChatForms,
    texts: Sequence[AskedTexts],
    owners: Sequence[int],
    changes: Mapping[str, Carried],
) -> list[InChat]:
    """How each record's targets are taken in the chat template, on its own edited model.

    Args:
        lm: the model.
        forms: of the chat template.
        texts: of the records, in these forms.
        owners: of the records.
        changes: what owners stand for.
    """
    by_form: dict[Wrapping, list[int]] = {}
    questions: list[Question] = []
    for asked, owner in zip(texts, owners, strict=True):
        for ask, continuations in zip(asked.asks, asked.in_chat, strict=True):
            by_form.setdefault(forms.of(ask.prompt), []).append(len(questions))
            questions.append(Question(continuations, owner))
    for numbers in by_form.values():
        n_head = _n_shared([questions[i] for i in numbers])
        for i in numbers:
            questions[i] = replace(questions[i], n_head=n_head)
    scores = iter(score_targets(lm, questions, changes))
    found: list[InChat] = []
    for asked in texts:
        own: dict[Group, list[Asked]] = {"rewrite": [], "paraphrase": [], "neighborhood": []}
        for ask in asked.asks:
            answered = dict(zip(ask.targets, next(scores), strict=True))
            own[ask.group].append(Asked(**answered))
        found.append(InChat.model_validate({group: tuple(each) for group, each in own.items()}))
    return found


def _n_shared(questions: Sequence[Question]) -> int:
    """How many tokens all prompts begin with; each has at least one more of its own."""
    prompts = [each.prompt_ids for one in questions for each in one.continuations]
    same = takewhile(lambda column: len({*column}) == 1, zip(*prompts, strict=False))
    return min(sum(1 for _ in same), min(map(len, prompts)) - 1)
