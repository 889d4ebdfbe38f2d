"""What a trained editor learns from: facts to write, the same in other words, and what must stay.

| data | the edit | in other words | unrelated |
|---|---|---|---|
| CounterFact | prompt and new target | paraphrase prompts, the prompt | neighbourhood prompts, at their end |
| zsRE | question and answer | the paraphrase, the question | the unrelated question, at each answer token |
| text | passage and ten tokens that the model went on with | the passage without its beginning | other passages |
"""  # noqa: E501 - the table

import hashlib
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from factlab.arguments import checked
from factlab.data.records import Record
from factlab.data.split import (
    TEST_SHARE,
    VALIDATION_SHARE,
    Split,
    check_shares,
    share_of,
    shares_hash,
    split_by_subject,
    subject_hash,
)
from factlab.editing.trained.configs import DataKind
from factlab.editing.trained.states import Reading
from factlab.errors import FactlabError, InvalidRequestError, counted
from factlab.models.generation import generate_ids
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.stats.corpus import Corpus

PASSAGE_TOKENS = 40
N_CONTINUED = 10  # tokens of a passage that the model is to write otherwise, as published
_N_PASSAGES = 3  # unrelated passages that go with each
_N_READ = 8  # places at which an unrelated passage is read
_SHORTEST = 8  # tokens that a passage must have beyond its continuation


@dataclass(frozen=True, slots=True)
class Example:
    """One edit to learn from.

    Attributes:
        edit: what is written.
        rephrased: where it should be found; at least one.
        unrelated: where nothing should change; at least one.
    """

    edit: Reading
    rephrased: tuple[Reading, ...]
    unrelated: tuple[Reading, ...]


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Examples for training and validation, with no subject in common.

    Attributes:
        kind: of the data.
        train: to learn from.
        validation: to tell when to stop.
        subjects: hashes of the subjects of both; empty for text, which has none.
        digest: SHA-256 of which subject is in which share, the tests' included.
        n_test: how many cases were left for tests.
        skipped: reasons why cases could not be used, with their number.
    """

    kind: DataKind
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    subjects: frozenset[str]
    digest: str
    n_test: int
    skipped: dict[str, int]

    @property
    def examples_hash(self) -> str:
        """SHA-256 of all that is learned from."""
        return hashlib.sha256(repr((self.kind, self.train, self.validation)).encode()).hexdigest()

    def readings(self) -> list[Reading]:
        """All texts, in a fixed order."""
        found: list[Reading] = []
        for example in (*self.train, *self.validation):
            found += [example.edit, *example.rephrased, *example.unrelated]
        return found


@checked()
def examples_of_records(
    lm: LanguageModel,
    records: Sequence[Record],
    seed: int = 0,
    validation_share: float = VALIDATION_SHARE,
    test_share: float = TEST_SHARE,
    kept_out: Collection[str] = (),
) -> TrainingSet:
    """Examples of benchmark records, split by subject.

    Args:
        lm: whose tokenizer to use.
        records: of one benchmark.
        seed: of the split.
        validation_share: part of the subjects for validation.
        test_share: part of the subjects that is not looked at.
        kept_out: subjects that are not looked at in any case.

    Raises:
        InvalidRequestError: the records are of two benchmarks, too few to split, or none will do.
    """
    kinds = {record.benchmark for record in records}
    if len(kinds) != 1:
        raise InvalidRequestError(
            f"Train on records of one benchmark; these are of {len(kinds)}. Choose one source."
        )
    split: Split = split_by_subject(records, seed, validation_share, test_share, kept_out)
    skipped: dict[str, int] = {}
    shares = [_usable(lm, share, skipped) for share in (split.train, split.validation)]
    used = {subject_hash(r.fact.subject) for r in (*split.train, *split.validation)}
    for name, share in zip(("training", "validation"), shares, strict=True):
        if not share:
            why = f" Most often: {max(skipped, key=skipped.__getitem__)}" if skipped else ""
            raise InvalidRequestError(f"No record is left for {name}; give more records.{why}")
    return TrainingSet(
        records[0].benchmark, tuple(shares[0]), tuple(shares[1]), frozenset(used), split.digest,
        len(split.test), skipped,
    )  # fmt: skip


@checked()
def examples_of_text(
    lm: LanguageModel,
    corpus: Corpus,
    seed: int = 0,
    validation_share: float = VALIDATION_SHARE,
    progress: ProgressCallback = silent,
) -> TrainingSet:
    """Examples of passages: the edit makes the model go on with ten tokens it sampled itself.

    Args:
        lm: the model.
        corpus: passages; rows that are too short are left out.
        seed: of the split and of what the model goes on with.
        validation_share: part of the passages for validation.
        progress: True for a bar, or a function that is told how far the sampling is.

    Raises:
        InvalidRequestError: there are too few passages.
    """
    check_shares(validation_share, 0.0)
    rows = [row for row in dict.fromkeys(corpus.rows) if len(row) >= N_CONTINUED + _SHORTEST]
    prompts = [row[:-N_CONTINUED] for row in rows]
    # A stream of its own, so that a passage which the model sampled is not sampled once more.
    streams = [len(rows) + 1 + i for i in range(len(rows))]
    continued = (
        generate_ids(lm, prompts, N_CONTINUED, 0, seed, progress, may_end=False, streams=streams)
        if prompts
        else []
    )
    shares: list[list[int]] = [[], [], []]
    keys = [repr(row) for row in rows]
    for i, key in enumerate(keys):
        shares[share_of(key, seed, validation_share, 0.0)].append(i)
    if min(len(shares[0]), len(shares[1])) <= _N_PASSAGES:
        raise InvalidRequestError(
            f"Too little text to train on: {counted(len(rows), 'passage')}, {len(shares[0])} for "
            f"training and {len(shares[1])} for validation. Give more."
        )
    train, validation = (
        tuple(_passage(i, prompts[i], continued[i], [rows[j] for j in share], seed) for i in share)
        for share in shares[:2]
    )
    digest = shares_hash([[keys[i] for i in share] for share in shares])
    short = len(corpus.rows) - len(rows)
    skipped = {"the passage is too short, or a copy": short} if short else {}
    return TrainingSet("text", train, validation, frozenset(), digest, 0, skipped)


def _usable(lm: LanguageModel, records: Sequence[Record], skipped: dict[str, int]) -> list[Example]:
    found: list[Example] = []
    for record in records:
        try:
            found.append(_example(lm, record))
        except FactlabError as error:
            reason = str(error)
            skipped[reason] = skipped.get(reason, 0) + 1
    return found


def _example(lm: LanguageModel, record: Record) -> Example:
    fact, target = record.fact, record.fact.target_new
    if target is None:
        raise InvalidRequestError("The record has no new target.")
    if not record.neighborhood_prompts:
        raise InvalidRequestError("The record has no unrelated prompts.")
    answers: Sequence[str | None] = record.neighborhood_answers or (
        [None] * len(record.neighborhood_prompts)
    )
    unrelated = [
        Reading.of(lm, prompt, answer).unasked()
        for prompt, answer in zip(record.neighborhood_prompts, answers, strict=True)
    ]
    # Its own prompt is one of them: an editor that never sees it need not answer it.
    prompts = (*record.paraphrase_prompts, fact.prompt)
    return Example(
        Reading.of(lm, fact.prompt, target),
        tuple(Reading.of(lm, prompt, target) for prompt in prompts),
        tuple(unrelated),
    )


def _passage(
    number: int,
    prompt: tuple[int, ...],
    continued: Sequence[int],
    passages: Sequence[tuple[int, ...]],
    seed: int,
) -> Example:
    """A passage that goes on otherwise. In other words means with less of its beginning."""
    draw = random.Random(f"{seed} {number}")  # noqa: S311 - not a secret
    start = 1 + draw.randrange((len(prompt) - 1) // 2)
    others = [row for row in passages if row[: len(prompt)] != prompt]
    return Example(
        _going_on(prompt, continued),
        (_going_on((prompt[0], *prompt[start + 1 :]), continued),),
        tuple(_read_through(row) for row in draw.sample(others, min(_N_PASSAGES, len(others)))),
    )


def _going_on(prompt: tuple[int, ...], continued: Sequence[int]) -> Reading:
    first = len(prompt) - 1
    reads = range(first, first + len(continued))
    return Reading((*prompt, *continued[:-1]), tuple(reads), tuple(continued))


def _read_through(row: tuple[int, ...]) -> Reading:
    """Read at places spread over a passage."""
    n_read = min(_N_READ, len(row))
    return Reading(row, tuple((i + 1) * len(row) // n_read - 1 for i in range(n_read)))
