"""Measuring records on differently edited models, many in one batch."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from factlab.data.records import Record, References
from factlab.data.reference_files import reference_key
from factlab.data.ripple.compile import asked_queries
from factlab.data.ripple_query import RippleQuery
from factlab.editing.edit import Edit
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.measuring.asked_texts import KEPT, TokenisedRecords
from factlab.evaluation.measuring.generated_text import Idf, consistency, weighted_entropy_bits
from factlab.evaluation.measuring.likelihood import Question, score_targets
from factlab.evaluation.measuring.ordinary_text import OrdinaryText, text_nlls
from factlab.evaluation.measuring.ripple import (
    RippleProbe,
    ripple_probe,
    ripple_questions,
    ripple_told,
    said_by,
)
from factlab.evaluation.measuring.rows import (
    Asked,
    Drift,
    Group,
    Measurement,
    RippleTold,
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
        InvalidRequestError: there is not enough ordinary text, or texts are to be longer than the
            model can write.
    """

    def __init__(
        self,
        lm: LanguageModel,
        config: MeasureConfig,
        references: References,
        ordinary_text: Sequence[str] = (),
    ) -> None:
        self.lm, self.config = lm, config
        self.texts = TokenisedRecords(lm)
        if config.n_generated != 0:
            check_length(lm, config.text_tokens)
        self._kept: dict[tuple[Record, str, bool], tuple[RippleProbe, ...]] = {}
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
        prefix: str = "",
        conditions: bool = False,
    ) -> list[Measurement]:
        """Measure each record on its own edited model.

        An edit that is a text stands in front of all prompts of its record. Generated texts are
        scored without it, and it changes neither the essence nor the drift, which are of texts.

        Args:
            records: what to ask.
            edits: one for each record; None for the model as it is, for all.
            generated: for which records to generate texts.
            with_drift: whether to measure the drift, if it was asked for.
            prefix: of the model as it is, what stands in front of all prompts.
            conditions: whether to ask the conditions of ripple queries, as of the unedited model.

        Raises:
            TokenizationError: a prompt is too long, or a target makes no token of its own.
            MemoryLimitError: memory ran out.
        """
        if edits is None:
            alike = [0] * len(records), [prefix] * len(records)
            return self._measured(records, *alike, generated, {}, with_drift, conditions)
        found: list[Measurement] = []
        for part in carried_together(self.lm, [edit.updates for edit in edits]):
            changes = row_changes(self.lm, [edits[i].updates for i in part])
            found += self._measured(
                [records[i] for i in part],
                range(len(part)),
                [edits[i].prefix for i in part],
                [generated[i] for i in part],
                changes,
                with_drift,
                conditions,
            )
        return found

    def _measured(
        self,
        records: Sequence[Record],
        owners: Sequence[int],
        prefixes: Sequence[str],
        generated: Sequence[bool],
        changes: Mapping[str, Carried],
        with_drift: bool,
        conditions: bool,
    ) -> list[Measurement]:
        asked, ripple = self._ask(records, owners, prefixes, changes, conditions)
        written = self._write(records, owners, prefixes, generated, changes)
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
                ripple=ripple[i],
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

    def ripple_queries(self, record: Record) -> tuple[RippleQuery, ...]:
        """The ripple queries that a record is asked; none where they are not measured."""
        config = self.config
        return asked_queries(record, config.ripple_per_axis, config.seed) if config.ripple else ()

    def _ask(
        self,
        records: Sequence[Record],
        owners: Sequence[int],
        prefixes: Sequence[str],
        changes: Mapping[str, Carried],
        conditions: bool,
    ) -> tuple[list[list[tuple[Group, Asked]]], list[tuple[RippleTold, ...] | None]]:
        """What the records' prompts say, and their ripple queries."""
        texts = [self.texts.of(*pair) for pair in zip(records, prefixes, strict=True)]
        probes = [
            self._probes(record, prefix, conditions)
            for record, prefix in zip(records, prefixes, strict=True)
        ]
        questions = [
            Question(continuations, owner)
            for asked, owner in zip(texts, owners, strict=True)
            for continuations in asked.continuations
        ]
        for own, owner in zip(probes, owners, strict=True):
            questions += ripple_questions(own, owner)
        scores = iter(score_targets(self.lm, questions, changes))
        found: list[list[tuple[Group, Asked]]] = [
            [
                (ask.group, Asked(**dict(zip(ask.targets, next(scores), strict=True))))
                for ask in asked.asks
            ]
            for asked in texts
        ]
        if not self.config.ripple:
            return found, [None] * len(records)
        said = said_by(self.lm, probes, owners, partial(partial, self._carrying, changes))
        told: list[tuple[RippleTold, ...] | None] = [
            ripple_told(own, scores, partial(_said, said, owner))
            for own, owner in zip(probes, owners, strict=True)
        ]
        return found, told

    def _probes(self, record: Record, prefix: str, conditions: bool) -> tuple[RippleProbe, ...]:
        """The ripple queries of a record as tokens; kept, since they are asked again."""
        key = record, prefix, conditions
        found = self._kept.get(key)
        if found is None:
            found = tuple(
                ripple_probe(self.lm, query, prefix, conditions)
                for query in self.ripple_queries(record)
            )
            if len(self._kept) < KEPT:
                self._kept[key] = found
        return found

    def _write(
        self,
        records: Sequence[Record],
        owners: Sequence[int],
        prefixes: Sequence[str],
        generated: Sequence[bool],
        changes: Mapping[str, Carried],
    ) -> dict[int, Written]:
        """Texts of the records that get some; what stands in front of their prompts is left out."""
        rows: list[_TextRow] = []
        for i, record in enumerate(records):
            if generated[i]:
                bare = self.texts.of(record).generation
                behind = self.texts.of(record, prefixes[i]).generation
                rows += [
                    _TextRow(i, prompt, ids, record.case_id * _STREAMS + n, len(bare[n]))
                    for n, (prompt, ids) in enumerate(
                        zip(record.generation_prompts, behind, strict=True)
                    )
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
            [self._room(row) for row in rows],
            self.config.top_k,
            self.config.seed,
            streams=[row.stream for row in rows],
            under=partial(self._carrying, changes, [owners[row.record] for row in rows]),
        )

    def _room(self, row: "_TextRow") -> int:
        """How many tokens are to be written; fewer where what stands in front leaves no more."""
        room, limit = self.config.text_tokens - row.n_prompt, self.lm.context_length
        return max(0, room if limit is None else min(room, limit - len(row.ids)))

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
    asked = (*found.rewrite, *found.paraphrase, *found.neighborhood)
    scores = [each for one in asked for each in (one.new, one.true) if each is not None]
    told = [each for one in found.ripple or () for each in (one, *one.conditions)]
    scores += [each for one in told for each in (*one.answers, *one.others)]
    values = [value for each in scores for value in each.logprobs]
    if found.essence_nll is not None:
        values.append(found.essence_nll)
    if found.drift is not None and not found.drift.is_finite:
        return False
    return all(math.isfinite(value) for value in values)


@dataclass(frozen=True, slots=True)
class _TextRow:
    """A generation prompt of a record.

    Attributes:
        record: its number.
        prompt: the text.
        ids: its tokens, behind those of what stands in front of it.
        stream: its random numbers.
        n_prompt: how many tokens it has by itself.
    """

    record: int
    prompt: str
    ids: tuple[int, ...]
    stream: int
    n_prompt: int


def _said(said: Mapping[tuple[int, tuple[int, ...]], str], owner: int, ids: tuple[int, ...]) -> str:
    """What one of several models said after a prompt."""
    return said[owner, ids]
