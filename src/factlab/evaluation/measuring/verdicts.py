"""What a judge said of answers, as it lies beside a run.

    RUN/judge/      a journal: one line for each answer that was shown to the judge

An answer that several records, stages or forms have in common is shown once. A verdict is for the
prompt, the right answers and the text, so it holds however the run grows. Where the judge could not
tell, the line says why; a later line on the same answer takes its place.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from factlab.documents import check_format, validated
from factlab.evaluation.measuring.rows import GivenAnswer, Measurement, Row
from factlab.journal import Journal

JUDGE = "judge"
JUDGE_FORMAT = "factlab judge 1"


class Verdict(BaseModel):
    """A line of the journal.

    Attributes:
        key: of the answer; see `verdict_key`.
        right: whether the judge takes the answer for right; None if it could not tell.
        reason: why it could not.
        reply: what it said, or its beginning.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    right: bool | None
    reason: str = ""
    reply: str = ""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """All verdicts of one judge on the answers of a run.

    Attributes:
        model: name of the judge.
        by_key: the last one on each answer.
    """

    model: str
    by_key: Mapping[str, Verdict]

    @classmethod
    def load(cls, run: Path) -> "Verdicts | None":
        """Those beside a run; None if no judge was asked.

        Raises:
            StorageError: they are damaged.
        """
        folder = run / JUDGE
        if not (folder / "run.json").exists():
            return None
        return cls.of(Journal.load(folder))

    @classmethod
    def of(cls, journal: Journal) -> "Verdicts":
        """Those of a journal.

        Raises:
            StorageError: it is no such journal, or a line is damaged.
        """
        where = f"'{journal.folder / 'run.json'}'"
        check_format(journal.request.get("format"), JUDGE_FORMAT, where, "of a judge")
        every = [
            validated(
                Verdict, journal.records[number], f"Verdict {number} of '{journal.folder}'",
                "Delete that folder and ask the judge again.",
            )
            for number in sorted(journal.records)
        ]  # fmt: skip
        return cls(str(journal.request.get("model")), {one.key: one for one in every})

    def put_in(self, row: Row) -> Row:
        """A row whose answers say what the judge thinks of them."""
        stages = {
            name: self._judged(measured)
            for name in ("before", "right_after", "after")
            if (measured := getattr(row, name)) is not None
        }
        return row.model_copy(update=stages)

    def _judged(self, measured: Measurement) -> Measurement:
        if measured.answers is None:
            return measured
        judged = tuple(self._with_verdict(answer) for answer in measured.answers)
        return measured.model_copy(update={"answers": judged})

    def _with_verdict(self, answer: GivenAnswer) -> GivenAnswer:
        verdict = self.by_key.get(verdict_key(answer))
        if verdict is None:
            return answer
        return answer.model_copy(update={"judged": verdict.right, "unjudged": verdict.reason})


def verdict_key(answer: GivenAnswer) -> str:
    """SHA-256 of what a judge is shown of an answer."""
    shown = [answer.prompt, [*answer.right], answer.text]
    return hashlib.sha256(json.dumps(shown, ensure_ascii=False).encode()).hexdigest()
