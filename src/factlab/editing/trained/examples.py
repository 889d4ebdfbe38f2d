"""What a trained editor learns from: facts to write, the same in other words, and what must stay.

| data | the edit | in other words | unrelated |
|---|---|---|---|
| CounterFact | prompt and new target | paraphrase prompts | neighbourhood prompts, at their end |
| zsRE | question and answer | the paraphrase | the unrelated question, at each answer token |
| text | see `passages` | see `passages` | other passages |

Beside these, passages of ordinary text must stay as they are.
"""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

from factlab.arguments import checked
from factlab.continuations import Continuation
from factlab.data.records import Record
from factlab.data.split import (
    TEST_SHARE,
    VALIDATION_SHARE,
    Split,
    check_shares,
    shares_hash,
    split_by_subject,
    subject_hash,
)
from factlab.editing.trained.configs import DataKind
from factlab.editing.trained.passages import Passages
from factlab.errors import FactlabError, InvalidRequestError
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.stats.corpus import Corpus


@dataclass(frozen=True, slots=True)
class Example:
    """One edit to learn from.

    Attributes:
        edit: what is written.
        rephrased: where it should be found too; at least one.
        unrelated: what is near it, where nothing should change; at least one.
        ordinary: any text, where nothing should change either.
    """

    edit: Continuation
    rephrased: tuple[Continuation, ...]
    unrelated: tuple[Continuation, ...]
    ordinary: tuple[Continuation, ...] = ()

    @property
    def texts(self) -> tuple[Continuation, ...]:
        """All of them."""
        return (self.edit, *self.rephrased, *self.unrelated, *self.ordinary)


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
        return [text for example in examples for text in example.texts]


@checked()
def examples_of_records(
    lm: LanguageModel,
    records: Sequence[Record],
    seed: int = 0,
    validation_share: float = VALIDATION_SHARE,
    test_share: float = TEST_SHARE,
    kept_out: Collection[str] = (),
    ordinary: Corpus | None = None,
) -> TrainingSet:
    """Examples of benchmark records, split by subject.

    Args:
        lm: whose tokenizer to use.
        records: of one benchmark.
        seed: of the split.
        validation_share: part of the subjects for validation.
        test_share: part of the subjects that is not looked at.
        kept_out: subjects that are not looked at in any case.
        ordinary: text that must stay as it is. Without any an editor learns to leave alone what is
            near its facts, and nothing else.

    Raises:
        InvalidRequestError: the records are of two benchmarks, too few to split, or none will do;
            or there are too few passages.
    """
    kinds = {record.benchmark for record in records}
    if len(kinds) != 1:
        raise InvalidRequestError(
            f"Train on records of one benchmark; these are of {len(kinds)}. Choose one source."
        )
    split: Split = split_by_subject(records, seed, validation_share, test_share, kept_out)
    skipped: dict[str, int] = {}
    text = Passages.of(lm, ordinary, seed, validation_share) if ordinary else None
    shares = [
        _usable(lm, share, skipped, partial(text.staying, place) if text else _nothing)
        for place, share in enumerate((split.train, split.validation))
    ]
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
    """Examples of passages: the edit makes the model go on with a few words; see `passages`.

    Args:
        lm: the model.
        corpus: passages; rows that are too short are left out.
        seed: of the split, of lengths, and of what the model goes on with.
        validation_share: part of the passages for validation.
        progress: True for a bar, or a function that is told how far the sampling is.

    Raises:
        InvalidRequestError: there are too few passages.
    """
    check_shares(validation_share, 0.0)
    text = Passages.of(lm, corpus, seed, validation_share)
    continued = text.continued(lm, progress)
    train, validation = (
        tuple(
            Example(*text.edit(number, continued), text.staying(place, f"{number}", number))
            for number in text.shares[place]
        )
        for place in (0, 1)
    )
    digest = shares_hash([[repr(text.rows[i]) for i in share] for share in (*text.shares, ())])
    short = len(corpus.rows) - len(text.rows)
    skipped = {"the passage is too short, or a copy": short} if short else {}
    return TrainingSet("text", train, validation, frozenset(), digest, 0, skipped)


def _usable(
    lm: LanguageModel,
    records: Sequence[Record],
    skipped: dict[str, int],
    ordinary: Callable[[str], tuple[Continuation, ...]],
) -> list[Example]:
    found: list[Example] = []
    for number, record in enumerate(records):
        try:
            found.append(replace(_example(lm, record), ordinary=ordinary(f"record {number}")))
        except FactlabError as error:
            reason = str(error)
            skipped[reason] = skipped.get(reason, 0) + 1
    return found


def _nothing(_key: str) -> tuple[Continuation, ...]:
    return ()


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
    rephrased = record.paraphrase_prompts or (fact.prompt,)
    return Example(
        lm.continuation(fact.prompt, target),
        tuple(lm.continuation(prompt, target) for prompt in rephrased),
        tuple(unrelated),
    )


# -- how examples are hashed; those without ordinary text as in 0.1.0 -----------------------------


def _example_line(example: Example) -> str:
    rephrased, unrelated = (
        _listed([_text_line(text) for text in texts])
        for texts in (example.rephrased, example.unrelated)
    )
    line = f"edit={_text_line(example.edit)}, rephrased={rephrased}, unrelated={unrelated}"
    if example.ordinary:
        line += f", ordinary={_listed([_text_line(text) for text in example.ordinary])}"
    return f"Example({line})"


def _text_line(text: Continuation) -> str:
    return f"Reading(ids={text.inputs}, reads={text.reads}, wanted={text.target_ids})"


def _listed(lines: Sequence[str]) -> str:
    return f"({', '.join(lines)}{',' if len(lines) == 1 else ''})"
