"""`HarnessResult`: scores of lm_eval before and after edits, and what has changed."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from factlab.documents import JsonValue, check_format, validated
from factlab.equality import EqualByContent
from factlab.errors import counted
from factlab.evaluation.harnessing.scores import HarnessScore
from factlab.evaluation.scoring.resampling import paired_p_value
from factlab.results import Tabular, known
from factlab.storage import read_json, write_json

_FORMAT = "factlab harness 1"
_SHOWN = 8  # scores in a few lines


class HarnessStage(BaseModel):
    """What lm_eval said of a model with so many edits on it.

    Attributes:
        n_edits: of those that were measured; 0 for the model as it was.
        n_facts: that these edits write.
        scores: one for each metric of each task.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_edits: int
    n_facts: int
    scores: tuple[HarnessScore, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class HarnessResult(Tabular, EqualByContent):
    """Scores of lm_eval, first of the model as it was and then with edits.

    Attributes:
        model: what it is called.
        fingerprint: of its weights without edits.
        stages: in the order in which they were measured.
        settings: of lm_eval, ready for JSON.
        versions: of the packages that had a part in it.
    """

    model: str
    fingerprint: str
    stages: tuple[HarnessStage, ...]
    settings: dict[str, JsonValue]
    versions: dict[str, str]

    def __repr__(self) -> str:
        last = self.stages[-1]
        tasks = counted(len({score.task for score in last.scores}), "task")
        edits = f"unedited and with {counted(last.n_edits, 'edit')}"
        more = len(last.scores) - _SHOWN
        rows = self.rows()[-len(last.scores) :][:_SHOWN] if last.scores else []
        return "\n".join(
            [
                f"HarnessResult of {self.model}: {tasks}, "
                f"{edits if last.n_edits else 'without an edit'}",
                *(f"  {_in_words(row)}" for row in rows),
                *([f"  and {counted(more, 'more score')}"] if more > 0 else []),
            ]
        )

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary for each score of each stage.

        Its keys: task, metric, edits, facts, value, stderr (lm_eval's), n, then against the first
        stage change, low and high (ends of the paired 95 % interval) and p_value (of a paired
        sign-flip test that the change is 0). None where there is no such number.
        """
        return [
            _row(stage, score, self._at_first(score) if number else None)
            for number, stage in enumerate(self.stages)
            for score in stage.scores
        ]

    def _at_first(self, score: HarnessScore) -> HarnessScore | None:
        same = (one for one in self.stages[0].scores if _name(one) == _name(score))
        return next(same, None)

    def to_json(self) -> dict[str, JsonValue]:
        """Everything, ready for JSON: the answers question by question, and `rows`."""
        return {
            "format": _FORMAT,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "settings": self.settings,
            "versions": {**self.versions},
            "rows": [*self.rows()],
            "stages": [stage.model_dump(mode="json") for stage in self.stages],
        }

    def save(self, path: str | Path) -> None:
        """Write one JSON file.

        Raises:
            StorageError: it cannot be written.
        """
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> "HarnessResult":
        """Read what `save` wrote.

        Raises:
            StorageError: the file is missing, damaged, or something else.
        """
        found = read_json(Path(path))
        check_format(found.get("format"), _FORMAT, f"'{path}'", "a result of lm_eval")
        saved = validated(_Saved, found, f"'{path}'", "Measure again.")
        return cls(saved.model, saved.fingerprint, saved.stages, saved.settings, saved.versions)


class _Saved(BaseModel):
    """The file; its rows are computed from its stages."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str
    model: str
    fingerprint: str
    settings: dict[str, JsonValue]
    versions: dict[str, str]
    rows: list[dict[str, JsonValue]]
    stages: tuple[HarnessStage, ...]


def _name(score: HarnessScore) -> tuple[str, str]:
    return score.task, score.metric


def _row(stage: HarnessStage, score: HarnessScore, first: HarnessScore | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "task": score.task,
        "metric": score.metric,
        "edits": stage.n_edits,
        "facts": stage.n_facts,
        "value": score.value,
        "stderr": score.stderr,
        "n": score.n,
    }
    if first is None:
        return row | dict.fromkeys(("change", "low", "high", "p_value"))
    change = score.change_from(first)
    low, high = change.interval
    return row | {
        "change": known(change.mean),
        "low": known(low),
        "high": known(high),
        "p_value": known(_p_value(first, score)) if change.has_interval else None,
    }


def _p_value(before: HarnessScore, after: HarnessScore) -> float:
    if before.values is None or after.values is None:
        return math.nan
    return paired_p_value(np.array(after.values) - np.array(before.values))


def _in_words(row: dict[str, Any]) -> str:
    """Such as `cities acc: 0.420, changed by -0.060 (-0.110 to -0.010)`."""
    value = "no number" if row["value"] is None else f"{row['value']:.3f}"
    error = "" if row["stderr"] is None else f" (standard error {row['stderr']:.3f})"
    said = f"{row['task']} {row['metric']}: {value}{error}"
    if row["change"] is None:
        return said
    said += f", changed by {row['change']:+.3f}"
    return said if row["low"] is None else f"{said} ({row['low']:+.3f} to {row['high']:+.3f})"
