"""What was computed earlier, as the page reads it: any file or folder that factlab wrote."""

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from factlab.editing.edit import Edit
from factlab.errors import StorageError
from factlab.evaluation.localising.result import Localisation
from factlab.evaluation.probing.result import Probes
from factlab.evaluation.reporting.formats import cells, header, table_title
from factlab.evaluation.reporting.notes import notes
from factlab.evaluation.reporting.report import report
from factlab.evaluation.reporting.tables import ReportTable
from factlab.evaluation.running.saved_run import Run, load_run
from factlab.evaluation.studies.result import Study
from factlab.evaluation.sweeping.result import Sweep
from factlab.results import Drawn, Tabular
from factlab.storage import read_json
from factlab.tracing.average import AverageTrace
from factlab.tracing.document import average_document, trace_document
from factlab.tracing.result import CausalTrace
from factlab.web.kinds import Kind, shown_kind

_TABLE_ROWS = 2000
_LOADERS: dict[Kind, Callable[[Path], Any]] = {
    "evaluation": load_run,
    "localisation": Localisation.load,
    "probes": Probes.load,
    "sweep": Sweep.load,
    "study": Study.load,
    "average": AverageTrace.load,
    "trace": CausalTrace.load,
    "edit": Edit.load,
}


def result_document(path: Path) -> dict[str, Any]:
    """A file or folder as the page reads it.

    Raises:
        StorageError: it is nothing that factlab wrote, or damaged.
    """
    kind = shown_kind(path)
    if kind == "human":
        return _human_document(path)
    loaded = _LOADERS[kind](path)
    document: dict[str, Any] = {"kind": kind, "title": path.name}
    document |= {"missing": getattr(loaded, "n_missing", 0)}  # of what grows, also a sweep
    if isinstance(loaded, CausalTrace):
        return document | {"trace": trace_document(loaded)}
    if isinstance(loaded, AverageTrace) and loaded.n_facts:
        return document | {"average": average_document(loaded), "about": repr(loaded)}
    if isinstance(loaded, Edit):
        return document | {"edit": loaded.to_json(), "changes": loaded.rows()}
    if isinstance(loaded, Run):
        return document | {"report": report_document([loaded])}
    document["about"] = repr(loaded)
    if isinstance(loaded, Tabular):
        document["rows"] = loaded.rows()[:_TABLE_ROWS]
    if isinstance(loaded, Drawn):
        picture = loaded._repr_png_()
        document["picture"] = picture and _base64(picture)
    return document


def _human_document(path: Path) -> dict[str, Any]:
    """What `factlab human score` wrote: its sentences, places of methods, and picture."""
    file = path / "scores.json"
    scores = read_json(file)
    places, sentences = scores.get("places"), scores.get("notes")
    if not isinstance(places, list) or not isinstance(sentences, list):
        raise StorageError(f"'{file}' is damaged: it has no places of methods, or no notes.")
    picture = path / "human.png"
    return {
        "kind": "human",
        "title": path.name,
        "missing": 0,
        "about": "\n".join(map(str, sentences)),
        "rows": places,
        "picture": _base64(picture.read_bytes()) if picture.is_file() else None,
    }


def _base64(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def report_document(runs: Sequence[Run]) -> dict[str, Any]:
    """Tables of evaluations side by side, finished or not.

    Raises:
        InvalidRequestError: there are none.
    """
    return {
        "tables": [
            {
                "title": table_title(table),
                "header": header(table),
                "scores": _scores(table),
                "rows": [cells(table, row) for row in table.rows],
                "notes": [*notes(table)],
            }
            for table in report(runs).tables
        ],
        "done": sum(len(run.rows) for run in runs),
        "total": sum(run.n_cases for run in runs),
    }


def _scores(table: ReportTable) -> list[str | None]:
    """For each heading of a table the score under it; None where there is none."""
    scores: list[str | None] = [None, None, *table.columns]
    return scores + [None] * (len(header(table)) - len(scores))
