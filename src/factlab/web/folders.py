"""Runs, studies and traces in the folders that the workbench was given, as they grow.

Only what is found below these folders can be asked for, by the name under which it is listed. Files
are read by the same functions as everywhere; nothing is served as it lies on the disk.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from factlab.errors import StorageError
from factlab.evaluation.reporting.report import report
from factlab.evaluation.reporting.run_labels import label_runs
from factlab.evaluation.running.saved_run import Run, load_run
from factlab.web.kinds import Kind, kind_of
from factlab.web.results import report_document, result_document

_DEPTH = 4
_LISTED = 500


class Found(NamedTuple):
    """Something that can be looked at.

    Attributes:
        name: what it is asked for by: the number of its root, and its place below that.
        kind: what it is.
        path: of its folder or file.
    """

    name: str
    kind: Kind
    path: Path


@dataclass(frozen=True, slots=True)
class Folders:
    """What may be looked at.

    Attributes:
        roots: folders, which are searched a few levels deep.
    """

    roots: Sequence[Path]

    def listed(self) -> list[dict[str, Any]]:
        """All that there is, ready for JSON."""
        return [
            {"name": one.name, "kind": one.kind, "path": str(one.path)}
            for one in islice(self._found(), _LISTED)
        ]

    def report(self, names: Sequence[str]) -> dict[str, Any]:
        """Tables of evaluations side by side, finished or not.

        Raises:
            StorageError: one is not there, or damaged.
            InvalidRequestError: none is named.
        """
        return report_document(self._runs(names))

    def records(self, names: Sequence[str], score: str) -> dict[str, Any]:
        """One score of every record, by run.

        Raises:
            StorageError: a run is not there, or damaged.
        """
        runs = self._runs(names)
        labels = label_runs(runs)
        found: dict[int, dict[str, Any]] = {}
        for label, run in zip(labels, runs, strict=True):
            for row in run.table():
                entry = found.setdefault(
                    row["case_id"],
                    {key: row[key] for key in ("case_id", "prompt", "target_new", "target_true")}
                    | {"values": {}},
                )
                entry["values"][label] = row.get(score)
        return {"labels": labels, "records": [found[case] for case in sorted(found)]}

    def record(self, names: Sequence[str], case: int) -> dict[str, Any]:
        """What was written and answered for one record, by run.

        Raises:
            StorageError: a run is not there, or damaged.
            InvalidRequestError: no run has the record.
        """
        (shown,) = (text for table in report(self._runs(names), cases=[case]).tables
                    for text in table.cases[:1])  # fmt: skip
        return {
            "statement": shown.statement,
            "texts": [list(line) for line in shown.lines()],
            "answers": shown.answer_lines(),
        }

    def view(self, name: str) -> dict[str, Any]:
        """Anything else: a trace, or a table and a picture.

        Raises:
            StorageError: it is not there, or damaged.
        """
        for one in self._found():
            if one.name == name:
                return result_document(one.path)
        raise StorageError(f"There is no result '{name}' here.")

    def _runs(self, names: Sequence[str]) -> list[Run]:
        runs = {one.name: one.path for one in self._found() if one.kind == "evaluation"}
        for name in names:
            if name not in runs:
                raise StorageError(f"There is no evaluation '{name}' here.")
        return [load_run(runs[name]) for name in names]

    def _found(self) -> Iterator[Found]:
        for number, root in enumerate(self.roots):
            for path in _below(root, _DEPTH):
                kind = kind_of(path) if path.exists() else None
                if kind is not None:
                    place = path.relative_to(root).as_posix()
                    yield Found(f"{number}/{place}", kind, path)


def _below(root: Path, depth: int) -> Iterator[Path]:
    """Folders and files below a folder, itself among them; nothing hidden, no links."""
    yield root
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if path.name.startswith(".") or path.is_symlink():
            continue
        if path.is_dir() and depth:
            yield from _below(path, depth - 1)
        elif path.is_file():
            yield path
