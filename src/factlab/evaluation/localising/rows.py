"""What the study writes down: of every fact where it is held, and of every edit what it did."""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveFloat

from factlab.editing.variants import Variant
from factlab.evaluation.localising.configs import LocalisationConfig
from factlab.evaluation.running.saved_run import RunModel
from factlab.evaluation.scoring.problem_scores import Told


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StudyData(_Strict):
    """The records.

    Attributes:
        name: what to call them.
        sha256: of all that were given.
        n_records: how many.
    """

    name: str
    sha256: str
    n_records: int


class WindowEffects(_Strict):
    """What restoring some MLPs brings back of a fact, as a share of what the noise took.

    Attributes:
        by_layer: for each layer in the middle of the window the largest share over the tokens from
            the subject's first one on; None where nothing was traced.
        last_subject: the same at the subject's last token alone.
    """

    by_layer: tuple[float | None, ...]
    last_subject: tuple[float | None, ...]


class StudyFindings(BaseModel):
    """What is found out before the first fact is traced.

    Attributes:
        cases: the records whose facts are studied, by their place among those given.
        n_asked: how many records were looked at.
        n_unknown: facts among them that the model does not know.
        unusable: why others cannot be studied, by their place.
        noise_level: ν, of the noise in traces, reversal and forcing.
        n_layers: of the model.
        versions: of what began the study.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cases: tuple[int, ...]
    n_asked: int
    n_unknown: int
    unusable: dict[str, str]
    noise_level: PositiveFloat
    n_layers: int
    versions: dict[str, str]


class StudyRequest(BaseModel):
    """What was asked for.

    Attributes:
        model: that is studied.
        data: name of the records, their hash and number.
        limit: how many facts at most.
        config: what is varied.
    """

    model_config = ConfigDict(frozen=True)

    model: RunModel
    data: StudyData
    limit: int | None = None
    config: LocalisationConfig


class FactRow(_Strict):
    """A fact that the model knows.

    Attributes:
        record: its place among the records that were given.
        case_id: of the record.
        prompt: of the fact.
        subject: of the fact.
        target_true: what is true of it.
        clean_prob: of that.
        corrupted_prob: of that, under noise, in the mean over samples.
        said: what the model says under the first sample of the noise.
        n_subject_tokens: how many the subject has.
        effects: by the width of the window.
        peak_token: position behind the subject's first token of the largest share, in the main
            window.
        texts: of the unedited model about the subject.
        relation_id: of the record; None where it is not said.
    """

    record: int
    case_id: int
    prompt: str
    subject: str
    target_true: str
    clean_prob: float
    corrupted_prob: float
    said: str
    n_subject_tokens: int
    effects: dict[int, WindowEffects]
    peak_token: int | None = None
    texts: tuple[str, ...] = ()
    relation_id: str | None = None

    def effect(self, window: int, layer: int, last_subject: bool = False) -> float:
        """The share that comes back at a layer; NaN where nothing was traced."""
        found = self.effects[window]
        value = (found.last_subject if last_subject else found.by_layer)[layer]
        return math.nan if value is None else value

    def peak_layer(self, window: int) -> int | None:
        """The layer with the largest share; None if no layer brings anything back."""
        shares = [-1.0 if share is None else share for share in self.effects[window].by_layer]
        best = max(shares, default=-1.0)
        return shares.index(best) if best > 0 else None


class EditRow(_Strict):
    """An edit of a fact at a layer, and how the target was taken before and after it.

    Attributes:
        place: of the fact among those that are studied.
        layer: in the middle of those that were edited.
        method: its label.
        variant: what it was asked to do.
        target: the object in question.
        before: the unedited model.
        after: the edited one; None where there is no edit.
        text_lengths: tokens of the texts about the subject.
        failed: why there is no edit.
    """

    place: int
    layer: int
    method: str
    variant: Variant
    target: str = ""
    before: Told | None = None
    after: Told | None = None
    text_lengths: tuple[int, ...] = ()
    failed: str | None = None


def as_line(row: FactRow | EditRow) -> dict[str, Any]:
    """A row as it is written."""
    return row.model_dump(mode="json", exclude_none=True)


def row_of(line: Mapping[str, Any]) -> FactRow | EditRow:
    """A row as it was written.

    Raises:
        ValidationError: it is none.
    """
    return (FactRow if "effects" in line else EditRow).model_validate(line)
