"""Asking a model for answers in its own words, many prompts and many edited models at once.

Each prompt is continued greedily until the answer's first sentence or line ends (see
`factlab.sentences`), or EOS or the longest length comes. A row whose answer has ended leaves the
batch. What is scored is the text, so nothing here depends on what was to be said.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch

from factlab.data.questions import Questions
from factlab.data.records import Record
from factlab.errors import InvalidRequestError
from factlab.evaluation.configs import AnswerForm
from factlab.evaluation.measuring.rows import AnswerGroup, GivenAnswer
from factlab.facts import words_of
from factlab.models.changes.carried import Carried, carrying
from factlab.models.generation import decode_continuation, generate_ids
from factlab.models.language_model import LanguageModel
from factlab.models.texts import check_length
from factlab.sentences import answer_of, is_answer
from factlab.writing import behind

# Yang et al. 2025, "The Mirage of Model Editing" (arXiv 2502.11177).
QA_PROMPT = "Please answer the question:\n\nQ: {}\nA:"


@dataclass(frozen=True, slots=True)
class FreeQuestion:
    """A prompt of a record in one form.

    Attributes:
        group: which of the record's prompts it is.
        form: how it is asked.
        prompt: as the record has it.
        ids: what the model reads.
        right: what would be right after the edit.
        old: what was true before, of the edited fact.
    """

    group: AnswerGroup
    form: AnswerForm
    prompt: str
    ids: tuple[int, ...]
    right: tuple[str, ...]
    old: str | None

    def answered(self, text: str) -> GivenAnswer:
        """The question with an answer."""
        return GivenAnswer(
            group=self.group, form=self.form, prompt=self.prompt, text=text, right=self.right,
            old=self.old,
        )  # fmt: skip


class FreeQuestions:
    """Makes the questions of records, in some forms.

    Args:
        lm: the model that will be asked.
        forms: how.

    Raises:
        InvalidRequestError: it is to be asked as in a chat, and has no chat template.
    """

    def __init__(self, lm: LanguageModel, forms: Sequence[AnswerForm]) -> None:
        self._lm, self._forms = lm, forms
        self._questions = Questions.load() if forms else Questions({})
        if "chat" in forms and not lm.tokenizer.chat_template:
            raise InvalidRequestError(
                f"Answers in chat form need a chat template, and the tokenizer of {lm.name} has "
                "none. Leave chat out of the forms, or set tokenizer.chat_template."
            )

    def of(self, record: Record, prefix: str = "") -> tuple[FreeQuestion, ...]:
        """What a record asks, form by form.

        Args:
            record: what is asked about.
            prefix: stands in front of every question, in a chat at the beginning of the message.

        Raises:
            TokenizationError: a prompt leaves no room for an answer.
            InvalidRequestError: the chat template does not take a single question.
        """
        return tuple(self._made(record, prefix)) if self._forms else ()

    def _made(self, record: Record, prefix: str) -> Iterator[FreeQuestion]:
        fact = record.fact
        right = (words_of(str(fact.target_new)), *record.new_aliases)
        old = None if fact.target_true is None else words_of(fact.target_true)
        questions = self._questions.of(record)
        for form in self._forms:
            for group, prompt in _about_the_fact(record, questions, form):
                ids = self._ids(prompt, form, prefix)
                yield FreeQuestion(group, form, prompt, ids, right, old)
            asked = (
                record.neighborhood_prompts if form == "bare" else self._questions.beside(record)
            )
            for prompt, answer in _about_others(record, asked):
                ids = self._ids(prompt, form, prefix)
                yield FreeQuestion("neighborhood", form, prompt, ids, (words_of(answer),), None)

    def _ids(self, prompt: str, form: AnswerForm, prefix: str) -> tuple[int, ...]:
        lm = self._lm
        if form == "qa":
            text = behind(prefix, QA_PROMPT.format(prompt.strip()))
        elif form == "chat":
            text = lm.chat_prompt(behind(prefix, prompt.strip()))
        else:
            text = behind(prefix, prompt)
        ids = tuple(lm.encode(text).ids)
        check_length(lm, len(ids) + 1)
        return ids


def _about_the_fact(
    record: Record, questions: Sequence[str], form: AnswerForm
) -> list[tuple[AnswerGroup, str]]:
    """The prompts whose answer the edit changes: bare all of them, else questions if there are."""
    groups: dict[AnswerGroup, Sequence[str]] = {
        "rewrite": (record.fact.prompt,),
        "paraphrase": record.paraphrase_prompts,
        "question": questions,
    }
    if form != "bare" and questions:
        groups = {"question": questions}
    return [(group, prompt) for group, prompts in groups.items() for prompt in prompts]


def _about_others(record: Record, asked: Sequence[str]) -> list[tuple[str, str]]:
    """What is asked about other subjects, and what is true there, if that is known."""
    true = record.fact.target_true
    answers = record.neighborhood_answers or ([] if true is None else [true] * len(asked))
    return list(zip(asked, answers, strict=bool(answers)))


@torch.no_grad()
def free_answers(
    lm: LanguageModel,
    asked: Sequence[Sequence[FreeQuestion]],
    owners: Sequence[int],
    changes: Mapping[str, Carried],
    max_new_tokens: int,
) -> list[tuple[GivenAnswer, ...]]:
    """Have differently edited models answer.

    Args:
        lm: the model.
        asked: for each record its questions; equal ones of one edited model are asked once.
        owners: for each record the number of its edit.
        changes: what owners stand for (`row_changes`); none ask the model as it is.
        max_new_tokens: most tokens of an answer; fewer where the model takes no more behind a
            prompt.
    """
    every = ((owner, q.ids) for owner, own in zip(owners, asked, strict=True) for q in own)
    rows = list(dict.fromkeys(every))
    limit = lm.context_length
    longest = [
        max_new_tokens if limit is None else min(max_new_tokens, limit - len(ids))
        for _, ids in rows
    ]
    continued = generate_ids(
        lm, [ids for _, ids in rows], longest, 1, 0,
        under=partial(_carrying, lm, changes, [owner for owner, _ in rows]), is_done=is_answer,
    )  # fmt: skip
    texts = {
        row: answer_of(decode_continuation(lm, row[1], new))
        for row, new in zip(rows, continued, strict=True)
    }
    return [
        tuple(question.answered(texts[owner, question.ids]) for question in own)
        for owner, own in zip(owners, asked, strict=True)
    ]


def _carrying(
    lm: LanguageModel, changes: Mapping[str, Carried], owners: Sequence[int], rows: Sequence[int]
) -> AbstractContextManager[None]:
    return carrying(lm, changes, [owners[i] for i in rows])
