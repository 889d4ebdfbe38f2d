"""A study as JSON."""

import math
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from factlab.data.records import Benchmark
from factlab.estimate import Estimate
from factlab.evaluation.studies.configs import StudyKind
from factlab.evaluation.studies.points import Point
from factlab.results import known

if TYPE_CHECKING:
    from factlab.evaluation.studies.result import Study

ADVICE = "Run the study again with --resume, which writes it anew."


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EstimateDocument(_Strict):
    """An `Estimate`; null for NaN.

    Attributes:
        mean: of the estimate.
        half_width: of its interval.
        bounds: of its interval, where the mean is not in its middle.
    """

    mean: float | None
    half_width: float | None
    bounds: tuple[float, float] | None = None

    @classmethod
    def of(cls, estimate: Estimate) -> "EstimateDocument":
        """An estimate as JSON."""
        return cls(
            mean=known(estimate.mean),
            half_width=known(estimate.half_width),
            bounds=estimate.bounds,
        )

    def estimate(self) -> Estimate:
        """The estimate."""
        mean, half = (math.nan if v is None else v for v in (self.mean, self.half_width))
        return Estimate(mean, half, self.bounds)


class PointDocument(_Strict):
    """A `Point`.

    Attributes:
        place: what was varied.
        n: records measured.
        scores: by name.
        unedited: the same of the unedited model.
    """

    place: dict[str, str | int]
    n: int
    scores: dict[str, EstimateDocument]
    unedited: dict[str, EstimateDocument]

    @classmethod
    def of(cls, point: Point) -> "PointDocument":
        """A point as JSON."""
        return cls(
            place={**point.place},
            n=point.n,
            scores={name: EstimateDocument.of(e) for name, e in point.scores.items()},
            unedited={name: EstimateDocument.of(e) for name, e in point.unedited.items()},
        )

    def point(self) -> Point:
        """The point."""
        return Point(
            self.place,
            self.n,
            {name: e.estimate() for name, e in self.scores.items()},
            {name: e.estimate() for name, e in self.unedited.items()},
        )


class StudyDocument(_Strict):
    """A `Study`; its attributes are those of the study."""

    format: Literal["factlab study 1"] = "factlab study 1"
    kind: StudyKind
    model: str
    dtype: str
    data: str
    benchmark: Benchmark
    method: str
    mode: str
    points: tuple[PointDocument, ...] = Field(min_length=1)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, study: "Study") -> "StudyDocument":
        """A study as JSON."""
        return cls(
            kind=study.kind, model=study.model, dtype=study.dtype, data=study.data,
            benchmark=study.benchmark, method=study.method, mode=study.mode,
            points=tuple(PointDocument.of(point) for point in study.points), notes=study.notes,
        )  # fmt: skip
