"""Measuring records on differently edited models, many in one batch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from factlab.data.records import Record, References
from factlab.data.ripple_query import RippleQuery
from factlab.editing.edit import Edit
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.measuring.asked_texts import AskedTexts, TokenisedRecords
from factlab.evaluation.measuring.asking import Asking
from factlab.evaluation.measuring.chat_questions import ask_in_chat
from factlab.evaluation.measuring.free_answers import free_answers
from factlab.evaluation.measuring.likelihood import Question, score_targets
from factlab.evaluation.measuring.ordinary_text import OrdinaryText, text_nlls
from factlab.evaluation.measuring.ripple import (
    RippleProbe,
    ripple_questions,
    ripple_told,
    said_by,
)
from factlab.evaluation.measuring.rows import (
    Asked,
    Drift,
    GivenAnswer,
    Group,
    InChat,
    Measurement,
    RippleTold,
)
from factlab.evaluation.measuring.written_texts import WrittenTexts
from factlab.models.changes.carried import carried_together, row_changes
from factlab.models.language_model import LanguageModel
from factlab.models.texts import check_length

_ESSENCE_TOKENS = 100


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of all that was asked for to measure this time.

    Attributes:
        drift: on ordinary text.
        answers: in the model's own words.
        conditions: of ripple queries; they are asked of the unedited model.
    """

    drift: bool = True
    answers: bool = True
    conditions: bool = False


EVERYTHING = Wanted()


class Yardstick:
    """What records are measured with, on one model.

    Args:
        lm: the model; it may have edits applied.
        config: see `MeasureConfig`.
        references: texts to compare generated ones with; without any there is no consistency.
        ordinary_text: passages for the drift.

    Raises:
        InvalidRequestError: there is not enough ordinary text, texts are to be longer than the
            model can write, or there is no fitting chat template where one is asked for.
    """

    def __init__(
        self,
        lm: LanguageModel,
        config: MeasureConfig,
        references: References,
        ordinary_text: Sequence[str] = (),
    ) -> None:
        self.lm, self.config = lm, config
        self.texts = TokenisedRecords(lm, config)
        self.forms = self.texts.forms
        if config.n_generated != 0:
            check_length(lm, config.text_tokens)
        self._written = WrittenTexts(self.texts, config, references)
        self._by_subject: dict[str, list[str]] = {}
        for reference in (r for several in references.values() for r in several):
            self._by_subject.setdefault(reference.subject, []).append(reference.text)
        self._ordinary = (
            OrdinaryText(lm, ordinary_text, config.drift_tokens) if config.drift_tokens else None
        )
        self._drift: tuple[tuple[str, ...], Drift] | None = None

    def measure(
        self,
        records: Sequence[Record],
        edits: Sequence[Edit] | None,
        generated: Sequence[bool],
        wanted: Wanted = EVERYTHING,
        prefix: str = "",
    ) -> list[Measurement]:
        """Measure each record on its own edited model.

        An edit that is a text stands in front of all prompts of its record. Generated texts are
        scored without it, and it changes neither the essence nor the drift, which are of texts.

        Args:
            records: what to ask.
            edits: one for each record; None for the model as it is, for all.
            generated: for which records to generate texts.
            wanted: what of all that was asked for to measure this time.
            prefix: of the model as it is, what stands in front of all prompts.

        Raises:
            TokenizationError: a prompt is too long, or a target makes no token of its own.
            MemoryLimitError: memory ran out.
        """
        if edits is None:
            n = len(records)
            asking = Asking(self.lm, records, [0] * n, [prefix] * n, {})
            return self._measured(asking, generated, wanted)
        found: list[Measurement] = []
        for part in carried_together(self.lm, [edit.updates for edit in edits]):
            asking = Asking(
                self.lm,
                [records[i] for i in part],
                range(len(part)),
                [edits[i].prefix for i in part],
                row_changes(self.lm, [edits[i].updates for i in part]),
            )
            found += self._measured(asking, [generated[i] for i in part], wanted)
        return found

    def drift(self) -> Drift | None:
        """Of the model as it is, if it was asked for; measured once for the same edits on it."""
        if self._ordinary is None:
            return None
        edits = tuple(change.digest for change in self.lm.patches.active)
        if self._drift is None or self._drift[0] != edits:
            self._drift = edits, self._ordinary.drift(1, {})[0]
        return self._drift[1]

    def ripple_queries(self, record: Record) -> tuple[RippleQuery, ...]:
        """The ripple queries that a record is asked; none where they are not measured."""
        return self.texts.ripple_queries(record)

    def _measured(
        self, asking: Asking, generated: Sequence[bool], wanted: Wanted
    ) -> list[Measurement]:
        texts = [
            self.texts.of(record, prefix)
            for record, prefix in zip(asking.records, asking.prefixes, strict=True)
        ]
        likelihoods = self._likelihoods(asking, texts, wanted)
        in_chat = self._in_chat(asking, texts)
        written = self._written.of(asking, generated)
        essence = self._essence(asking)
        nothing = [None] * len(texts)
        drifts = self._drifts(asking) if wanted.drift else nothing
        answers = self._answers(asking, texts) if wanted.answers else nothing
        return [
            Measurement(
                rewrite=tuple(a for group, a in asked if group == "rewrite"),
                paraphrase=tuple(a for group, a in asked if group == "paraphrase"),
                neighborhood=tuple(a for group, a in asked if group == "neighborhood"),
                written=written.get(i),
                essence_nll=essence.get(i),
                drift=drifts[i],
                answers=answers[i],
                ripple=ripple,
                chat=in_chat[i],
            )
            for i, (asked, ripple) in enumerate(likelihoods)
        ]

    def _likelihoods(
        self, asking: Asking, texts: Sequence[AskedTexts], wanted: Wanted
    ) -> list[tuple[list[tuple[Group, Asked]], tuple[RippleTold, ...] | None]]:
        """How the records' targets are taken, and what comes of their ripple queries."""
        probes = [_probes(asked, wanted) for asked in texts]
        questions = [
            Question(continuations, owner)
            for asked, owner in zip(texts, asking.owners, strict=True)
            for continuations in asked.continuations
        ]
        for own, owner in zip(probes, asking.owners, strict=True):
            questions += ripple_questions(own, owner)
        scores = iter(score_targets(self.lm, questions, asking.changes))
        asked_of: list[list[tuple[Group, Asked]]] = [
            [
                (ask.group, Asked(**dict(zip(ask.targets, next(scores), strict=True))))
                for ask in asked.asks
            ]
            for asked in texts
        ]
        if not self.config.ripple:
            return [(asked, None) for asked in asked_of]
        said = said_by(asking, probes)
        return [
            (asked, ripple_told(own, owner, scores, said))
            for asked, own, owner in zip(asked_of, probes, asking.owners, strict=True)
        ]

    def _in_chat(self, asking: Asking, texts: Sequence[AskedTexts]) -> Sequence[InChat | None]:
        """The same prompts in the chat template, if that was asked for."""
        if self.forms is None:
            return [None] * len(texts)
        return ask_in_chat(self.lm, self.forms, texts, asking.owners, asking.changes)

    def _answers(
        self, asking: Asking, texts: Sequence[AskedTexts]
    ) -> Sequence[tuple[GivenAnswer, ...] | None]:
        """What the models answer in their own words, if that was asked for."""
        if not self.config.answers:
            return [None] * len(texts)
        asked = [each.free for each in texts]
        tokens = self.config.answer_tokens
        return free_answers(self.lm, asked, asking.owners, asking.changes, tokens)

    def _essence(self, asking: Asking) -> dict[int, float]:
        if not self.config.essence:
            return {}
        own = [self._by_subject.get(record.fact.subject, []) for record in asking.records]
        nlls = text_nlls(
            self.lm,
            [text for texts in own for text in texts],
            [owner for owner, texts in zip(asking.owners, own, strict=True) for _ in texts],
            asking.changes,
            _ESSENCE_TOKENS,
        )
        found: dict[int, float] = {}
        at = 0
        for i, texts in enumerate(own):
            known = [nll for nll in nlls[at : at + len(texts)] if nll is not None]
            if known:
                found[i] = math.fsum(known) / len(known)
            at += len(texts)
        return found

    def _drifts(self, asking: Asking) -> Sequence[Drift | None]:
        n = len(asking.records)
        if self._ordinary is None:
            return [None] * n
        if not asking.changes:  # one model for all
            return [self.drift()] * n
        return self._ordinary.drift(n, asking.changes)


def _probes(asked: AskedTexts, wanted: Wanted) -> tuple[RippleProbe, ...]:
    """The ripple queries of a record, with their conditions if these are asked."""
    if wanted.conditions:
        return asked.ripple
    return tuple(replace(probe, conditions=()) for probe in asked.ripple)


def is_finite(found: Measurement) -> bool:
    """Whether no number of a measurement is NaN or infinite, as a broken model makes them."""
    asked = [*found.rewrite, *found.paraphrase, *found.neighborhood]
    if found.chat is not None:
        asked += [*found.chat.rewrite, *found.chat.paraphrase, *found.chat.neighborhood]
    scores = [each for one in asked for each in (one.new, one.true) if each is not None]
    told = [each for one in found.ripple or () for each in (one, *one.conditions)]
    scores += [each for one in told for each in (*one.answers, *one.others)]
    values = [value for each in scores for value in each.logprobs]
    if found.essence_nll is not None:
        values.append(found.essence_nll)
    if found.drift is not None and not found.drift.is_finite:
        return False
    return all(math.isfinite(value) for value in values)
