"""`EditRun`: edits of many facts, and how the model answers before and after them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factlab.editing.combined import combine
from factlab.editing.configs import Mode
from factlab.editing.edit import Edit
from factlab.editing.shipping.folders import check_edits_destination
from factlab.errors import InvalidRequestError, counted
from factlab.facts import Fact
from factlab.models.answering import Answer
from factlab.results import Tabular


@dataclass(frozen=True, slots=True, repr=False)
class EditRun(Tabular):
    """Edits of many facts and what came of them.

    `print(run)` says the main things; a notebook adds what the model says of each fact.

    Attributes:
        mode: which of the three functions it was.
        facts: as given.
        edits: the edits, in order; each stands on those before it in a sequence only.
        before: answers of the model as it was, by fact.
        right_after: with the fact's own edit as the last one.
        at_end: with all edits of a sequence; the same as `right_after` otherwise.
    """

    mode: Mode
    facts: tuple[Fact, ...]
    edits: tuple[Edit, ...]
    before: tuple[Answer, ...]
    right_after: tuple[Answer, ...]
    at_end: tuple[Answer, ...]

    def __repr__(self) -> str:
        return (
            f"EditRun({self.mode}, {self.method}: {counted(len(self.facts), 'fact')} in "
            f"{counted(len(self.edits), 'edit')}; "
            f"{self.n_say_new} of {len(self.facts)} new targets said at the end)"
        )

    @property
    def method(self) -> str:
        """Name of the method that made the edits."""
        return ", ".join(dict.fromkeys(edit.method for edit in self.edits))

    @property
    def n_say_new(self) -> int:
        """Of how many facts the model says the new target at the end."""
        return sum(answer.says_new for answer in self.at_end)

    @property
    def n_said_new_right_after(self) -> int:
        """Of how many it did with the fact's own edit as the last one."""
        return sum(answer.says_new for answer in self.right_after)

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per fact.

        Its keys: prompt, target_new, target_true, then for each of `before`, `right_after` and
        `at_end` what the model says, whether that is the new target, and the targets' probabilities
        (None where there is no such target): said_before, says_new_before, new_prob_before,
        true_prob_before and so on.
        """
        stages = ("before", "right_after", "at_end")
        return [
            {"prompt": fact.prompt, "target_new": fact.target_new, "target_true": fact.target_true}
            | {
                f"{name}_{stage}": getattr(answer, name)
                for stage, answer in zip(stages, told, strict=True)
                for name in ("said", "says_new", "new_prob", "true_prob")
            }
            for fact, *told in zip(
                self.facts, self.before, self.right_after, self.at_end, strict=True
            )
        ]

    def to_json(self) -> dict[str, Any]:
        """How the model answers, ready for JSON: all but the edits themselves."""
        return {
            "mode": self.mode,
            "method": self.method,
            "facts": [
                {
                    "prompt": fact.prompt,
                    "target_new": fact.target_new,
                    "before": before.to_json(),
                    "right_after": right_after.to_json(),
                    "at_end": at_end.to_json(),
                }
                for fact, before, right_after, at_end in zip(
                    self.facts, self.before, self.right_after, self.at_end, strict=True
                )
            ],
        }

    def save(self, folder: str | Path, overwrite: bool = False) -> list[Path]:
        """Write the edits: those made each for itself in numbered folders, others as one.

        Args:
            folder: new, or empty; for edits each for itself it must be.
            overwrite: replace an edit that is there already, as long as there is only one.

        Returns:
            The folders of the edits.

        Raises:
            StorageError: the folder holds something else, or cannot be written.
        """
        folder = Path(folder)
        if self.mode != "each":
            self.combined().save(folder, overwrite)
            return [folder]
        check_edits_destination(folder, is_for_many=True, overwrite=False)
        width = len(str(len(self.edits)))
        folders = [folder / f"{number:0{width}d}" for number in range(1, len(self.edits) + 1)]
        for edit, place in zip(self.edits, folders, strict=True):
            edit.save(place)
        return folders

    def combined(self) -> Edit:
        """All edits of a sequence as one, to be saved and shipped.

        Raises:
            InvalidRequestError: the edits were made each for itself and are not meant to be
                together.
        """
        if self.mode == "each":
            raise InvalidRequestError(
                "These edits were computed each for the unedited model, not on top of each other. "
                "Save them one by one, or use edit_together or edit_sequence."
            )
        return self.edits[0] if len(self.edits) == 1 else combine(self.edits)
