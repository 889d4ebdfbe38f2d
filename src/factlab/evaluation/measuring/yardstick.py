"""Measuring records on differently edited models, many in one batch."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from factlab.data.records import Record, References
from factlab.data.reference_files import reference_key
from factlab.editing.edit import Edit
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.measuring.asked_texts import TokenisedRecords
from factlab.evaluation.measuring.chat_questions import ask_in_chat
from factlab.evaluation.measuring.generated_text import Idf, consistency, weighted_entropy_bits
from factlab.evaluation.measuring.likelihood import Question, score_targets
from factlab.evaluation.measuring.ordinary_text import OrdinaryText, text_nlls
from factlab.evaluation.measuring.rows import (
    Asked,
    Drift,
    Group,
    InChat,
    Measurement,
    Written,
)
from factlab.models.changes.carried import Carried, carried_together, carrying, row_changes
from factlab.models.generation import decode_continuation, generate_ids
from factlab.models.language_model import LanguageModel
from factlab.models.texts import check_length

# Random streams of a record's texts: more than any record has generation prompts.
_STREAMS = 1000
_ESSENCE_TOKENS = 100


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
        self.forms = lm.chat_forms() if config.chat else None
        self.texts = TokenisedRecords(lm, self.forms)
        if config.n_generated != 0:
            check_length(lm, config.text_tokens)
        self._references = references
        texts = [reference.text for several in references.values() for reference in several]
        self._idf = Idf.fit(texts) if texts else None
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
        with_drift: bool = True,
    ) -> list[Measurement]:
        """Measure each record on its own edited model.

        Args:
            records: what to ask.
            edits: one for each record; None for the model as it is, for all.
            generated: for which records to generate texts.
            with_drift: whether to measure the drift, if it was asked for.

        Raises:
            TokenizationError: a prompt is too long, or a target makes no token of its own.
            MemoryLimitError: memory ran out.
        """
        if edits is None:
            return self._measured(records, [0] * len(records), generated, {}, with_drift)
        found: list[Measurement] = []
        for part in carried_together(self.lm, [edit.updates for edit in edits]):
            changes = row_changes(self.lm, [edits[i].updates for i in part])
            found += self._measured(
                [records[i] for i in part],
                range(len(part)),
                [generated[i] for i in part],
                changes,
                with_drift,
            )
        return found

    def _measured(
        self,
        records: Sequence[Record],
        owners: Sequence[int],
        generated: Sequence[bool],
        changes: Mapping[str, Carried],
        with_drift: bool,
    ) -> list[Measurement]:
        asked = self._ask(records, owners, changes)
        in_chat = self._ask_in_chat(records, owners, changes)
        written = self._write(records, owners, generated, changes)
        essence = self._essence(records, owners, changes)
        drifts = self._drifts(records, changes) if with_drift else [None] * len(records)
        return [
            Measurement(
                rewrite=tuple(a for group, a in own if group == "rewrite"),
                paraphrase=tuple(a for group, a in own if group == "paraphrase"),
                neighborhood=tuple(a for group, a in own if group == "neighborhood"),
                written=written.get(i),
                essence_nll=essence.get(i),
                drift=drifts[i],
                chat=in_chat[i],
            )
            for i, own in enumerate(asked)
        ]

    def drift(self) -> Drift | None:
        """Of the model as it is, if it was asked for; measured once for the same edits on it."""
        if self._ordinary is None:
            return None
        edits = tuple(change.digest for change in self.lm.patches.active)
        if self._drift is None or self._drift[0] != edits:
            self._drift = edits, self._ordinary.drift(1, {})[0]
        return self._drift[1]

    def _ask(
        self, records: Sequence[Record], owners: Sequence[int], changes: Mapping[str, Carried]
    ) -> list[list[tuple[Group, Asked]]]:
        texts = [self.texts.of(record) for record in records]
        questions = [
            Question(continuations, owner)
            for asked, owner in zip(texts, owners, strict=True)
            for continuations in asked.continuations
        ]
        scores = iter(score_targets(self.lm, questions, changes))
        return [
            [
                (ask.group, Asked(**dict(zip(ask.targets, next(scores), strict=True))))
                for ask in asked.asks
            ]
            for asked in texts
        ]

    def _ask_in_chat(
        self, records: Sequence[Record], owners: Sequence[int], changes: Mapping[str, Carried]
    ) -> Sequence[InChat | None]:
        if self.forms is None:
            return [None] * len(records)
        texts = [self.texts.of(record) for record in records]
        return ask_in_chat(self.lm, self.forms, texts, owners, changes)

    def _write(
        self,
        records: Sequence[Record],
        owners: Sequence[int],
        generated: Sequence[bool],
        changes: Mapping[str, Carried],
    ) -> dict[int, Written]:
        """Texts of the records that get some."""
        rows: list[_TextRow] = []
        for i, record in enumerate(records):
            if generated[i]:
                texts_of_it = zip(
                    record.generation_prompts, self.texts.of(record).generation, strict=True
                )
                rows += [
                    _TextRow(i, prompt, ids, record.case_id * _STREAMS + n)
                    for n, (prompt, ids) in enumerate(texts_of_it)
                ]
        texts: dict[int, list[str]] = {row.record: [] for row in rows}
        for row, new in zip(rows, self._continue(rows, owners, changes), strict=True):
            text = row.prompt.rstrip(" ") + decode_continuation(self.lm, row.ids, new)
            texts[row.record].append(text)
        return {i: self._judged(records[i], tuple(own)) for i, own in texts.items()}

    def _continue(
        self, rows: Sequence["_TextRow"], owners: Sequence[int], changes: Mapping[str, Carried]
    ) -> list[list[int]]:
        return generate_ids(
            self.lm,
            [row.ids for row in rows],
            [max(0, self.config.text_tokens - len(row.ids)) for row in rows],
            self.config.top_k,
            self.config.seed,
            streams=[row.stream for row in rows],
            under=partial(self._carrying, changes, [owners[row.record] for row in rows]),
        )

    def _carrying(
        self, changes: Mapping[str, Carried], owners: Sequence[int], running: Sequence[int]
    ) -> AbstractContextManager[None]:
        return carrying(self.lm, changes, [owners[i] for i in running])

    def _judged(self, record: Record, texts: tuple[str, ...]) -> Written:
        key = reference_key(record)
        references = [reference.text for reference in self._references.get(key, ())]
        entropy = weighted_entropy_bits(texts)
        if self._idf is None or not references:
            # Reports count records by reason, so it must not be another for every record.
            which = f" for some objects of relation {key[0]}" if self._references else ""
            reason = f"there are no references{which}"
            return Written(texts=texts, entropy=entropy, no_consistency=reason)
        return Written(
            texts=texts, entropy=entropy, consistency=consistency(self._idf, texts, references)
        )

    def _essence(
        self, records: Sequence[Record], owners: Sequence[int], changes: Mapping[str, Carried]
    ) -> dict[int, float]:
        if not self.config.essence:
            return {}
        own = [self._by_subject.get(record.fact.subject, []) for record in records]
        nlls = text_nlls(
            self.lm,
            [text for texts in own for text in texts],
            [owner for owner, texts in zip(owners, own, strict=True) for _ in texts],
            changes,
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

    def _drifts(
        self, records: Sequence[Record], changes: Mapping[str, Carried]
    ) -> Sequence[Drift | None]:
        if self._ordinary is None:
            return [None] * len(records)
        if not changes:  # one model for all
            return [self.drift()] * len(records)
        return self._ordinary.drift(len(records), changes)


def is_finite(found: Measurement) -> bool:
    """Whether no number of a measurement is NaN or infinite, as a broken model makes them."""
    asked = [*found.rewrite, *found.paraphrase, *found.neighborhood]
    if found.chat is not None:
        asked += [*found.chat.rewrite, *found.chat.paraphrase, *found.chat.neighborhood]
    scores = [each for one in asked for each in (one.new, one.true) if each is not None]
    values = [value for each in scores for value in each.logprobs]
    if found.essence_nll is not None:
        values.append(found.essence_nll)
    if found.drift is not None and not found.drift.is_finite:
        return False
    return all(math.isfinite(value) for value in values)


@dataclass(frozen=True, slots=True)
class _TextRow:
    """A generation prompt, the number of its record, and its stream of random numbers."""

    record: int
    prompt: str
    ids: tuple[int, ...]
    stream: int
