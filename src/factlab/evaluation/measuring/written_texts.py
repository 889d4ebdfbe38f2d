"""Texts about the subjects of records, written by edited models, and what they are like."""

from collections.abc import Sequence
from dataclasses import dataclass

from factlab.data.records import Record, References
from factlab.data.reference_files import reference_key
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.measuring.asked_texts import TokenisedRecords
from factlab.evaluation.measuring.asking import Asking
from factlab.evaluation.measuring.generated_text import Idf, consistency, weighted_entropy_bits
from factlab.evaluation.measuring.rows import Written
from factlab.models.generation import decode_continuation, generate_ids

# Random streams of a record's texts: more than any record has generation prompts.
_STREAMS = 1000


class WrittenTexts:
    """Has models write texts, and compares them with references.

    Args:
        texts: of the records, as tokens.
        config: length and sampling.
        references: texts to compare with; without any there is no consistency.
    """

    def __init__(
        self, texts: TokenisedRecords, config: MeasureConfig, references: References
    ) -> None:
        self._texts, self._config, self._references = texts, config, references
        every = [reference.text for several in references.values() for reference in several]
        self._idf = Idf.fit(every) if every else None

    def of(self, asking: Asking, generated: Sequence[bool]) -> dict[int, Written]:
        """Texts of the records that get some; what stands in front of their prompts is left out.

        Args:
            asking: the records.
            generated: which of them get texts.

        Returns:
            By the place of the record.
        """
        rows = [
            row for i, wanted in enumerate(generated) if wanted for row in self._rows(asking, i)
        ]
        if not rows:
            return {}
        continued = generate_ids(
            asking.lm,
            [row.ids for row in rows],
            [self._room(asking, row) for row in rows],
            self._config.top_k,
            self._config.seed,
            streams=[row.stream for row in rows],
            under=asking.under([asking.owners[row.record] for row in rows]),
        )
        texts: dict[int, list[str]] = {row.record: [] for row in rows}
        for row, new in zip(rows, continued, strict=True):
            text = row.prompt.rstrip(" ") + decode_continuation(asking.lm, row.ids, new)
            texts[row.record].append(text)
        return {i: self._judged(asking.records[i], tuple(own)) for i, own in texts.items()}

    def _room(self, asking: Asking, row: "_TextRow") -> int:
        """How many tokens are to be written; fewer where what stands in front leaves no more."""
        room, limit = self._config.text_tokens - row.n_prompt, asking.lm.context_length
        return max(0, room if limit is None else min(room, limit - len(row.ids)))

    def _rows(self, asking: Asking, place: int) -> list["_TextRow"]:
        record = asking.records[place]
        bare = self._texts.of(record).generation
        whole = self._texts.of(record, asking.prefixes[place]).generation
        return [
            _TextRow(place, prompt, whole[n], record.case_id * _STREAMS + n, len(bare[n]))
            for n, prompt in enumerate(record.generation_prompts)
        ]

    def _judged(self, record: Record, texts: tuple[str, ...]) -> Written:
        key = reference_key(record)
        references = [reference.text for reference in self._references.get(key, ())]
        entropy = weighted_entropy_bits(texts)
        if self._idf is None or not references:
            # Reports count records by reason, so it must not be another for every record.
            which = f" for some objects of relation {key[0]}" if self._references else ""
            reason = f"there are no references{which}"
            return Written(texts=texts, entropy=entropy, no_consistency=reason, words="nltk")
        near = consistency(self._idf, texts, references)
        return Written(texts=texts, entropy=entropy, consistency=near, words="nltk")


@dataclass(frozen=True, slots=True)
class _TextRow:
    """A generation prompt of a record.

    Attributes:
        record: its place.
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
