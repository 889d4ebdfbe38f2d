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

_RECORD = ("case_id", "prompt", "target_new", "target_true")
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
        # By all of it: records of different data may have one number.
        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        for label, run in zip(labels, runs, strict=True):
            for row in run.table():
                record = {key: row[key] for key in _RECORD}
                entry = found.setdefault((*record.values(),), record | {"values": {}})
                entry["values"][label] = row.get(score)
        records = sorted(found.values(), key=lambda record: record["case_id"])
        return {"labels": labels, "records": records}

    def record(self, names: Sequence[str], case: int) -> list[dict[str, Any]]:
        """What was written and answered for the records of a number, by run.

        There are several if runs are of different models or data.

        Raises:
            StorageError: a run is not there, or damaged.
            InvalidRequestError: no run has the record.
        """
        return [
            {
                "statement": shown.statement,
                "texts": [list(line) for line in shown.lines()],
                "answers": shown.answer_lines(),
            }
            for table in report(self._runs(names), cases=[case]).tables
            for shown in table.cases
        ]

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
                kind = _kind_seen(path)
                if kind is not None:
                    place = path.relative_to(root).as_posix()
                    yield Found(f"{number}/{place}", kind, path)


def _kind_seen(path: Path) -> Kind | None:
    """What a file or folder is; None also if it may not be read, or has just been taken away."""
    try:
        return kind_of(path)
    except OSError:
        return None


def _below(root: Path, depth: int) -> Iterator[Path]:
    """Folders and files below a folder, itself among them; nothing hidden, no links."""
    yield root
    try:
        inside = sorted(root.iterdir()) if root.is_dir() else []
    except OSError:  # it may not be read: the others are as good as before
        return
    for path in inside:
        if path.name.startswith(".") or path.is_symlink():
            continue
        if path.is_dir() and depth:
            yield from _below(path, depth - 1)
        elif path.is_file():
            yield path
