"""A plan of an evaluation: which records can be asked, and what is settled for all of them.

A plan is data. JSON can be made of it and the same plan be read from that, so that whoever works on
it, here or on another machine, does the same cases in the same blocks with the same settings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from pydantic import BaseModel, ConfigDict

from factlab.data.fact_files import check_conflicts
from factlab.data.records import Record, References
from factlab.documents import JsonValue, validated
from factlab.editing.background import Background
from factlab.editing.configs import MethodConfig, Mode
from factlab.editing.edit import current_versions
from factlab.editing.method import Method, Settled
from factlab.errors import FactlabError, InvalidRequestError
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.measuring.asked_texts import TokenisedRecords
from factlab.evaluation.running.saved_run import ADVICE
from factlab.facts import Fact
from factlab.journal import Journal, Line
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.shards import Shard

BATCH_SIZE = 16


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What to evaluate.

    Attributes:
        records: the cases.
        method: writes the facts.
        config: of the method; None for its defaults.
        mode: a model of its own for each record; one model with all facts, written together; or
            one with all facts, written one after the other.
        measure: what to measure.
        references: texts to compare generated ones with.
        ordinary_text: passages for the drift, if that is measured.
        data_name: what to call the records in reports.
        turn: in a sequence, facts of one edit.
    """

    records: Sequence[Record]
    method: Method
    config: MethodConfig | None
    mode: Mode
    measure: MeasureConfig
    references: References
    ordinary_text: Sequence[str]
    data_name: str
    turn: int = 1

    def admitted(self, lm: LanguageModel) -> "Evaluation":
        """The same with the config as the method admits it.

        Raises:
            InvalidRequestError: there are no records, or what is asked for does not go together.
        """
        if not self.records:
            raise InvalidRequestError("The list of records is empty. Give at least one.")
        benchmarks = sorted({record.benchmark for record in self.records})
        if len(benchmarks) > 1:
            raise InvalidRequestError(
                f"The records are of {' and '.join(benchmarks)}. Evaluate them one after the other."
            )
        modes = get_args(Mode)
        if self.mode not in modes:
            raise InvalidRequestError(
                f"There is no mode '{self.mode}'. Choose from {', '.join(modes)}."
            )
        if self.mode == "together":
            self.method.check_many()
        if self.mode == "sequence":
            self.method.check_turn(self.turn)
        elif self.turn != 1 or self.measure.checkpoints:
            raise InvalidRequestError(
                f"Turns and checkpoints are of a sequence, and the mode is '{self.mode}'."
            )
        facts = [record.fact for record in self.records if record.fact.target_new is not None]
        if not facts:
            return self
        return replace(self, config=self.method.admitted(lm, facts, self.config))


class Plan(BaseModel):
    """What is to be done, as data.

    Attributes:
        request: what is asked for: what makes two runs the same run.
        cases: the records that can be asked, by their place among those given.
        unusable: why the others cannot, by the same places.
        config: of the method, with all settled that is the same for every case.
        versions: of what the plan was made with.
        measure: what to measure.
        batch_size: cases of a block.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    request: dict[str, JsonValue]
    cases: tuple[int, ...]
    unusable: dict[str, JsonValue]
    config: dict[str, JsonValue]
    versions: dict[str, JsonValue]
    measure: MeasureConfig
    batch_size: int

    @classmethod
    def of(
        cls,
        asked: Evaluation,
        request: Line,
        texts: TokenisedRecords,
        batch_size: int = BATCH_SIZE,
        background: Background | None = None,
        progress: ProgressCallback = silent,
    ) -> "Plan":
        """Find out which records can be asked, and settle what is the same for all of them.

        Args:
            asked: what to evaluate, as admitted.
            request: the same in JSON.
            texts: of the records, on the model.
            batch_size: cases of a block.
            background: statistics and contexts that are at hand.
            progress: called with what is done and in all.

        Raises:
            InvalidRequestError: no record can be asked, or the facts contradict each other.
            FactlabError: the method can settle nothing for any of them.
        """
        cases, unusable = usable_cases(texts, asked.records)
        if not cases:
            first = unusable["0"]
            raise InvalidRequestError(f"None of the records can be used. The first: {first}")
        size = {"together": len(cases), "sequence": asked.turn}.get(asked.mode, 1)
        for start in range(0, len(cases), size):
            check_conflicts([asked.records[case].fact for case in cases[start : start + size]])
        settled = settled_config(
            texts.lm, asked.method, asked.config, [asked.records[case].fact for case in cases],
            background or Background(), progress,
        )  # fmt: skip
        return cls(
            request=request,
            cases=tuple(cases),
            unusable={**unusable},
            config=settled.model_dump(mode="json"),
            versions={**current_versions()},
            measure=asked.measure,
            batch_size=batch_size,
        )

    @classmethod
    def of_journal(cls, journal: Journal, asked: Evaluation, batch_size: int) -> "Plan":
        """The plan of a run that has been begun.

        Args:
            journal: of the run.
            asked: what to evaluate.
            batch_size: cases of a block, which need not be as many as when the run began.

        Raises:
            StorageError: the journal does not hold it, or is damaged.
        """
        cases, found = journal.cases(len(asked.records)), journal.findings
        where = f"The config in '{journal.folder / 'run.json'}'"
        settled = validated(asked.method.config, found.get("config"), where, ADVICE)
        return cls(
            request=journal.request,
            cases=tuple(cases),
            unusable=_entries(found.get("unusable")),
            config=settled.model_dump(mode="json"),
            versions=_entries(found.get("versions")),
            measure=asked.measure,
            batch_size=batch_size,
        )

    @property
    def findings(self) -> Line:
        """What a run keeps of the plan beside the request."""
        return {
            "cases": [*self.cases],
            "unusable": self.unusable,
            "config": self.config,
            "versions": self.versions,
        }

    @property
    def with_texts(self) -> frozenset[int]:
        """The cases to generate texts for: the first so many."""
        return frozenset(self.cases[: self.measure.n_generated])

    def blocks(self, shard: Shard) -> list[Sequence[int]]:
        """The cases of a shard, block by block."""
        return shard.blocks(self.cases, self.batch_size, BATCH_SIZE)


def check_batch_size(batch_size: int) -> None:
    """Refuse blocks without a case.

    Raises:
        InvalidRequestError: the size is less than 1.
    """
    if batch_size < 1:
        raise InvalidRequestError(f"batch_size={batch_size} must be at least 1.")


def usable_cases(
    texts: TokenisedRecords, records: Sequence[Record], start: int = 0
) -> tuple[list[int], dict[str, str]]:
    """Which records from a place on can be asked, and why the others cannot."""
    unusable: dict[str, str] = {}
    for i in range(start, len(records)):
        try:
            texts.check(records[i])
        except FactlabError as error:
            unusable[str(i)] = str(error)
    return [i for i in range(start, len(records)) if str(i) not in unusable], unusable


def settled_config(
    lm: LanguageModel,
    method: Method,
    config: MethodConfig | None,
    facts: Sequence[Fact],
    background: Background,
    progress: ProgressCallback = silent,
) -> MethodConfig:
    """The config with all settled that is the same for every fact; the rest is left open.

    Raises:
        FactlabError: the method can settle nothing for any of them.
    """
    found = method.settled(lm, facts, config, background, progress)
    configs = [one.config for one in found if isinstance(one, Settled)]
    if not configs:
        raise next(one for one in found if isinstance(one, FactlabError))
    open_config = config or method.config()
    differing = {
        name
        for name in method.config.model_fields
        if any(getattr(one, name) != getattr(configs[0], name) for one in configs)
    }
    return configs[0].model_copy(update={name: getattr(open_config, name) for name in differing})


def _entries(value: JsonValue) -> dict[str, JsonValue]:
    """The entries of a JSON object; of anything else none."""
    return value if isinstance(value, dict) else {}
