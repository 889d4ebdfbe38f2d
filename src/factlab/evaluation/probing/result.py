"""`Probes`: what probes found, as it lies in its folder; its rows and its tables."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factlab.documents import check_format, validated
from factlab.errors import InvalidRequestError, counted
from factlab.evaluation.localising.exceptions import Exceptions
from factlab.evaluation.probing.rows import ProbeFindings, ProbeRequest, ProbeRow
from factlab.evaluation.probing.scores import (
    EssenceScores,
    InverseScores,
    WrittenScores,
    in_json,
    inverse_scores,
    row_of,
    written_scores,
)
from factlab.journal import Journal
from factlab.results import Tabular

if TYPE_CHECKING:
    from factlab.figures import Picture

FORMAT = "factlab probes 1"
ADVICE = "Probe again in a new folder."


@dataclass(frozen=True, repr=False)
class Probes(Tabular):
    """What edits do beside what they are for.

    Attributes:
        asked: what was asked for.
        found: what was found out before the first edit.
        facts: a row of every edited fact that is done, in their order.
    """

    asked: ProbeRequest
    found: ProbeFindings
    facts: Sequence[ProbeRow]

    @classmethod
    def load(cls, folder: str | Path) -> "Probes":
        """Read probes, finished or not.

        Raises:
            StorageError: the folder holds none, or is damaged.
        """
        folder = Path(folder)
        journal, where = Journal.load(folder), f"'{folder / 'run.json'}'"
        check_format(journal.request.get("format"), FORMAT, f"'{folder}'", "probes of edits")
        asked = validated(ProbeRequest, journal.request, where, ADVICE)
        found = validated(ProbeFindings, journal.findings, where, ADVICE)
        rows = [
            validated(ProbeRow, journal.records[case], f"Row {case} of '{folder}'", ADVICE)
            for case in sorted(journal.records)
        ]
        return cls(asked, found, tuple(rows))

    @property
    def n_missing(self) -> int:
        """Facts that are not done yet."""
        return len(self.found.cases) - len(self.facts)

    @property
    def n_failed(self) -> int:
        """Facts without an edit that can be asked."""
        return sum(bool(row.failed) for row in self.facts)

    @cached_property
    def inverse(self) -> tuple[InverseScores, ...]:
        """What came of inverse prompts of the new and the true object."""
        return tuple(inverse_scores(self.facts))

    @cached_property
    def essence(self) -> EssenceScores:
        """What the edits do to their subjects beside the fact."""
        return EssenceScores.of(self.facts)

    @cached_property
    def written(self) -> tuple[WrittenScores, ...]:
        """Fluency and consistency of texts; empty if none were written."""
        return tuple(written_scores(self.facts))

    @cached_property
    def exceptions(self) -> Exceptions:
        """The true facts that another token than the subject's last decides."""
        return Exceptions.of([row.traced for row in self.facts if row.traced is not None])

    @property
    def notes(self) -> tuple[str, ...]:
        """What is missing, failed or could not be asked, a sentence each."""
        notes: list[str] = []
        if self.n_missing:
            notes.append(f"Unfinished: {counted(self.n_missing, 'fact')} to do.")
        failed = [row for row in self.facts if row.failed]
        if failed:
            notes.append(
                f"{counted(len(failed), 'fact')} of {len(self.facts):,} could not be probed, the "
                f"first ({failed[0].prompt}): {failed[0].failed}"
            )
        for what, reasons in (
            ("No inverse prompt", [row.no_inverse for row in self.facts]),
            ("No texts about the subject", [row.no_essence for row in self.facts]),
            ("Not traced", [row.not_traced.partition(":")[0] for row in self.facts]),
        ):
            counts = Counter(reason for reason in reasons if reason)
            notes += [
                f"{what}: {counted(n, 'fact')}, since {reason}."
                for reason, n in counts.most_common()
            ]
        return tuple(notes)

    def __repr__(self) -> str:
        asked = self.asked
        size = f"{len(self.facts)} of {counted(len(self.found.cases), 'fact')}"
        return "\n".join(
            [
                f"Probes({asked.data.method} on {asked.data.name}, {asked.model.name}: {size})",
                *(f"  {note}" for note in self.notes),
            ]
        )

    def __hash__(self) -> int:
        return hash((self.asked.model.fingerprint, self.asked.data.sha256, len(self.facts)))

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per edited fact.

        Its keys: case_id, relation, subject, prompt, target_new, target_true, failed, holds; of the
        inverse prompts of the new object (inverse_NAME) and of the true one (inverse_true_NAME)
        candidates, rank_before, rank_after, lift and specific_lift; ppl_before, ppl_after, essence,
        kl; ge_before, rs_before, ge_after, rs_after; n_subject_tokens, peak_token, decided; and
        no_inverse, no_essence and not_traced, which say why something is None.
        """
        return [row_of(row) for row in self.facts]

    def plot(self, path: str | Path | None = None) -> "Picture":
        """Draw fluency against consistency, before and after.

        Args:
            path: where to write it too, as .png, .pdf or .svg.

        Returns:
            A matplotlib figure, which a notebook shows.

        Raises:
            InvalidRequestError: no texts were written, or the file name's ending is none of these.
            StorageError: the file cannot be written.
        """
        from factlab.evaluation.probing.plot import draw_written  # noqa: PLC0415 - drawing

        if not self.written or not self.written[0].n_both:
            raise InvalidRequestError(
                "No texts were written that there are references for, so there is nothing to draw. "
                "Probe with generated=True (--generate), or an evaluation that has texts."
            )
        return draw_written(self, path)

    def to_markdown(self) -> str:
        """What came out, in words and tables."""
        from factlab.evaluation.probing.report_page import to_markdown  # noqa: PLC0415 - drawing

        return to_markdown(self)

    def save(self, folder: str | Path) -> list[Path]:
        """Write `report.md`, `report.html`, `rows.csv`, and if there are texts `written.png`.

        Returns:
            The files.

        Raises:
            InvalidRequestError: nothing has been probed yet.
            StorageError: one of them cannot be written.
        """
        from factlab.evaluation.probing.report_page import save_report  # noqa: PLC0415 - drawing

        if not self.facts:
            raise InvalidRequestError("Nothing has been probed yet. Go on with resume=True.")
        return save_report(self, Path(folder))

    def to_json(self) -> dict[str, Any]:
        """What was asked for, every score and every row, ready for JSON."""
        return {
            "format": FORMAT,
            "model": self.asked.model.model_dump(mode="json"),
            "data": self.asked.data.model_dump(mode="json"),
            "config": self.asked.config.model_dump(mode="json"),
            "found": self.found.model_dump(mode="json"),
            "notes": [*self.notes],
            "inverse": [in_json(one) for one in self.inverse],
            "essence": in_json(self.essence),
            "written": [in_json(one) for one in self.written],
            "exceptions": self.exceptions.to_json(),
            "rows": self.rows(),
        }
