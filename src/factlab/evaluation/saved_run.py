"""An evaluation as it lies on disk: what was asked for, and one row per record so far."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from factlab.data.records import Benchmark
from factlab.errors import StorageError
from factlab.evaluation.measurement import Row
from factlab.journal import Journal
from factlab.storage import JsonValue

FORMAT = "factlab evaluation 1"


class RunModel(BaseModel):
    """The model that was edited.

    Attributes:
        name: where it was loaded from.
        fingerprint: of its weights.
        dtype: of its weights.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    fingerprint: str
    dtype: str


class RunData(BaseModel):
    """The records that were measured.

    Attributes:
        name: of the data set, or of its file.
        sha256: of the records.
        n_records: that were given to the run.
        benchmark: which one it belongs to.
        references: hash of the texts that generated ones were compared with.
        ordinary_text: hash of the passages for the drift, if that was measured.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str
    n_records: int
    benchmark: Benchmark
    references: str = ""
    ordinary_text: str | None = None


class RunRequest(BaseModel):
    """What a report needs to know of what was asked for.

    Attributes:
        model: what was edited.
        data: what was measured.
        method: what wrote the facts.
        config: of the method; None for its defaults.
        mode: `each` for one edited model per record, `together` or `sequence` for one with all.
        generation: settings of the generated texts, if any.
        drift_tokens: of ordinary text on which the drift was measured.
        seed: of everything that is drawn.
    """

    model_config = ConfigDict(frozen=True)

    model: RunModel
    data: RunData
    method: str
    config: JsonValue = None
    mode: str = "each"
    generation: JsonValue = None
    drift_tokens: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class Run:
    """One evaluation, finished or not.

    Attributes:
        request: what was asked for.
        versions: of what it ran with.
        config: of the method, with what the first edit settled.
        n_cases: how many records it is about.
        n_unusable: how many more were given that cannot be asked of this model.
        rows: of those that are done, by case.
    """

    request: RunRequest
    versions: Mapping[str, JsonValue]
    config: JsonValue
    n_cases: int
    n_unusable: int
    rows: tuple[Row, ...]

    def __repr__(self) -> str:
        asked = self.request
        done = f"{len(self.rows)} of {self.n_cases} records of {asked.data.name}"
        return f"Run({asked.method}, {asked.mode}, {done}, {asked.model.name})"

    def __hash__(self) -> int:
        asked = self.request
        return hash((asked.model.fingerprint, asked.data.sha256, asked.method, len(self.rows)))

    def shares_table(self, other: "Run") -> bool:
        """Whether both are of one model and one data set, perhaps of different parts of it."""
        ours, theirs = self.request, other.request
        return (
            ours.data.benchmark == theirs.data.benchmark
            and ours.model.fingerprint == theirs.model.fingerprint
            and ours.model.dtype == theirs.model.dtype
            and (ours.data.sha256 == theirs.data.sha256 or ours.data.name == theirs.data.name)
        )

    @property
    def n_missing(self) -> int:
        """Records not done yet."""
        return self.n_cases - len(self.rows)

    @property
    def failed(self) -> tuple[Row, ...]:
        """Records whose edit failed."""
        return tuple(row for row in self.rows if row.failed)

    @property
    def n_edits(self) -> int:
        """How many edits are in a model that was measured."""
        return 1 if self.request.mode == "each" else self.n_cases


def load_run(folder: str | Path) -> Run:
    """Read the folder of an evaluation.

    Raises:
        StorageError: it holds no such run, or is damaged; names the record.
    """
    journal = Journal.load(Path(folder))
    if journal.request.get("format") != FORMAT:
        raise StorageError(
            f"'{folder}' is not an evaluation of this version of factlab: its format is "
            f"{journal.request.get('format')!r}, not '{FORMAT}'. Give a folder that "
            "'factlab eval' wrote."
        )
    found = journal.findings
    cases, versions, unusable = (found.get(name) for name in ("cases", "versions", "unusable"))
    place = "'run.json'"
    try:
        if not isinstance(cases, list):
            raise StorageError(f"'{folder}' is damaged: run.json does not list its cases.")
        request = RunRequest.model_validate(journal.request)
        rows: list[Row] = []
        for case in sorted(journal.records):
            place = f"case {case}"
            rows.append(Row.model_validate(journal.records[case]))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise StorageError(
            f"'{folder}' is damaged: {place}, {where}: {first['msg']}. "
            "Run that evaluation again in a new folder."
        ) from error
    rows.sort(key=lambda row: row.case_id)
    return Run(
        request=request,
        versions=versions if isinstance(versions, dict) else {},
        config=found.get("config", request.config),
        n_cases=len(cases),
        n_unusable=len(unusable) if isinstance(unusable, dict) else 0,
        rows=tuple(rows),
    )
