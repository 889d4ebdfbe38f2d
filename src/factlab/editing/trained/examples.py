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
from dataclasses import dataclass, replace

from factlab.arguments import checked
from factlab.continuations import Continuation
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

    edit: Continuation
    rephrased: tuple[Continuation, ...]
    unrelated: tuple[Continuation, ...]


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
        train, validation = (_listed([_example_line(e) for e in share]) for share in
                             (self.train, self.validation))  # fmt: skip
        return hashlib.sha256(f"({self.kind!r}, {train}, {validation})".encode()).hexdigest()

    def texts(self) -> list[Continuation]:
        """All texts, in a fixed order."""
        examples = (*self.train, *self.validation)
        return [text for e in examples for text in (e.edit, *e.rephrased, *e.unrelated)]


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
    used = {subject_hash(r.fact.topic) for r in (*split.train, *split.validation)}
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
        lm.continuation(prompt, answer).without_target()
        for prompt, answer in zip(record.neighborhood_prompts, answers, strict=True)
    ]
    # Its own prompt is one of them: an editor that never sees it need not answer it.
    prompts = (*record.paraphrase_prompts, fact.prompt)
    return Example(
        lm.continuation(fact.prompt, target),
        tuple(lm.continuation(prompt, target) for prompt in prompts),
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
        Continuation.behind(prompt, tuple(continued)),
        (Continuation.behind((prompt[0], *prompt[start + 1 :]), tuple(continued)),),
        tuple(_read_through(row) for row in draw.sample(others, min(_N_PASSAGES, len(others)))),
    )


def _read_through(row: tuple[int, ...]) -> Continuation:
    """Read at places spread over a passage."""
    n_read = min(_N_READ, len(row))
    reads = tuple((i + 1) * len(row) // n_read - 1 for i in range(n_read))
    return replace(Continuation.behind(row), reads=reads)


# -- how examples are hashed; as in 0.1.0, so that a training which was begun then can go on ------


def _example_line(example: Example) -> str:
    rephrased, unrelated = (
        _listed([_text_line(text) for text in texts])
        for texts in (example.rephrased, example.unrelated)
    )
    return f"Example(edit={_text_line(example.edit)}, rephrased={rephrased}, unrelated={unrelated})"


def _text_line(text: Continuation) -> str:
    return f"Reading(ids={text.inputs}, reads={text.reads}, wanted={text.target_ids})"


def _listed(lines: Sequence[str]) -> str:
    return f"({', '.join(lines)}{',' if len(lines) == 1 else ''})"
