"""Runs, studies and traces in the folders that the workbench was given, as they grow.

Only what is found below these folders can be asked for, by the name under which it is listed. Files
are read by the same functions as everywhere; nothing is served as it lies on the disk.
"""

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from safetensors import SafetensorError, safe_open

from factlab.errors import FactlabError, StorageError
from factlab.evaluation.localising.result import Localisation
from factlab.evaluation.reporting.formats import cells, header, table_title
from factlab.evaluation.reporting.notes import notes
from factlab.evaluation.reporting.report import report
from factlab.evaluation.reporting.run_labels import label_runs
from factlab.evaluation.reporting.tables import ReportTable
from factlab.evaluation.running.saved_run import Run, load_run
from factlab.evaluation.studies.result import Study
from factlab.evaluation.sweeping.result import Sweep
from factlab.results import Drawn, Tabular
from factlab.storage import read_json
from factlab.tracing.average import AverageTrace
from factlab.tracing.result import CausalTrace
from factlab.web.documents import trace_document

Kind = Literal["evaluation", "localisation", "sweep", "study", "average", "trace"]

_DEPTH = 4
_LISTED = 500
_TABLE_ROWS = 2000


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


_LOADERS: dict[Kind, Callable[[Path], Any]] = {
    "localisation": Localisation.load,
    "sweep": Sweep.load,
    "study": Study.load,
    "average": AverageTrace.load,
    "trace": CausalTrace.load,
}


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
        runs = self._runs(names)
        made = report(runs)
        return {
            "tables": [
                {
                    "title": table_title(table),
                    "header": header(table),
                    "scores": _scores(table),
                    "rows": [cells(table, row) for row in table.rows],
                    "notes": [*notes(table)],
                }
                for table in made.tables
            ],
            "done": sum(len(run.rows) for run in runs),
            "total": sum(run.n_cases for run in runs),
        }

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
        found = self._named(name)
        loaded = _LOADERS[found.kind](found.path)
        if isinstance(loaded, CausalTrace):
            return {"kind": "trace", "trace": trace_document(loaded)}
        document: dict[str, Any] = {"kind": found.kind, "about": repr(loaded)}
        if isinstance(loaded, Tabular):
            rows = loaded.rows()
            document |= {"rows": rows[:_TABLE_ROWS], "n_rows": len(rows)}
        if isinstance(loaded, Drawn):
            picture = loaded._repr_png_()
            document["picture"] = picture and base64.b64encode(picture).decode()
        return document

    def _runs(self, names: Sequence[str]) -> list[Run]:
        return [load_run(self._named(name, "evaluation").path) for name in names]

    def _named(self, name: str, kind: Kind | None = None) -> Found:
        for one in self._found():
            if one.name == name and kind in {None, one.kind}:
                return one
        raise StorageError(f"There is no {kind or 'result'} '{name}' here.")

    def _found(self) -> Iterator[Found]:
        for number, root in enumerate(self.roots):
            for path in _below(root, _DEPTH):
                kind = _kind_of(path) if path.exists() else None
                if kind is not None:
                    place = path.relative_to(root).as_posix()
                    yield Found(f"{number}/{place}", kind, path)


def _scores(table: ReportTable) -> list[str | None]:
    """For each heading of a table the score under it; None where there is none."""
    scores: list[str | None] = [None, None, *table.columns]
    return scores + [None] * (len(header(table)) - len(scores))


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


def _kind_of(path: Path) -> Kind | None:
    """What a folder or file is, by its name and first lines; None if nothing that can be shown."""
    if path.suffix == ".json":
        return "study" if path.name in _STUDIES else None
    if path.suffix == ".safetensors":
        return "trace" if _begins(_format_of_tensors(path), "factlab causal trace") else None
    if (path / "run.json").is_file():
        written = _format_of_folder(path)
        return next((kind for start, kind in _FORMATS.items() if _begins(written, start)), None)
    return "sweep" if any(path.glob("layer-*/run.json")) else None


_STUDIES = frozenset({"scaling.json", "relations.json", "layers.json", "mixture.json"})
_FORMATS: dict[str, Kind] = {
    "factlab evaluation": "evaluation",
    "factlab localisation": "localisation",
    "factlab average trace": "average",
}


def _begins(written: object, start: str) -> bool:
    return str(written).rpartition(" ")[0] == start


def _format_of_folder(path: Path) -> object:
    try:
        request = read_json(path / "run.json").get("request")
    except FactlabError:
        return None
    return request.get("format") if isinstance(request, dict) else None


def _format_of_tensors(path: Path) -> object:
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format")
    except (OSError, SafetensorError):
        return None
