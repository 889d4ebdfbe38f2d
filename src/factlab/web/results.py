"""What was computed earlier, as the page reads it: any file or folder that factlab wrote."""

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from factlab.editing.edit import Edit
from factlab.errors import FactlabError, StorageError
from factlab.evaluation.localising.result import Localisation
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

Kind = Literal["evaluation", "localisation", "sweep", "study", "average", "trace", "edit"]

_TABLE_ROWS = 2000
_STUDIES = frozenset({"scaling.json", "relations.json", "layers.json", "mixture.json"})
_FORMATS: dict[str, Kind] = {
    "factlab evaluation": "evaluation",
    "factlab localisation": "localisation",
    "factlab average trace": "average",
}
_LOADERS: dict[Kind, Callable[[Path], Any]] = {
    "evaluation": load_run,
    "localisation": Localisation.load,
    "sweep": Sweep.load,
    "study": Study.load,
    "average": AverageTrace.load,
    "trace": CausalTrace.load,
    "edit": Edit.load,
}


def kind_of(path: Path) -> Kind | None:
    """What a file or folder is, by its name and first lines; None if nothing that can be shown."""
    if path.suffix == ".json":
        return "study" if path.name in _STUDIES else None
    if path.suffix == ".safetensors":
        return "trace" if _begins(_format_of_tensors(path), "factlab causal trace") else None
    if (path / "edit.json").is_file():
        return "edit"
    if (path / "run.json").is_file():
        written = _format_of_folder(path)
        return next((kind for start, kind in _FORMATS.items() if _begins(written, start)), None)
    return "sweep" if any(path.glob("layer-*/run.json")) else None


def result_document(path: Path) -> dict[str, Any]:
    """A file or folder as the page reads it.

    Raises:
        StorageError: it is nothing that factlab wrote, or damaged.
    """
    if not path.exists():
        raise StorageError(f"There is no file or folder '{path}'. Check the name.")
    kind = kind_of(path)
    if kind is None:
        raise StorageError(
            f"'{path}' is no trace, edit, evaluation, sweep or study of factlab. Of a study give "
            "its JSON file, such as scaling.json."
        )
    loaded = _LOADERS[kind](path)
    document: dict[str, Any] = {"kind": kind, "title": path.name}
    if isinstance(loaded, CausalTrace):
        return document | {"trace": trace_document(loaded)}
    if isinstance(loaded, Edit):
        return document | {"edit": loaded.to_json(), "changes": loaded.rows()}
    if isinstance(loaded, Run):
        return document | {"report": report_document([loaded])}
    document["about"] = repr(loaded)
    if isinstance(loaded, AverageTrace):
        document["average"] = average_document(loaded)
    if isinstance(loaded, Tabular):
        document["rows"] = loaded.rows()[:_TABLE_ROWS]
    if isinstance(loaded, Drawn):
        picture = loaded._repr_png_()
        document["picture"] = picture and base64.b64encode(picture).decode()
    return document


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
