"""What a file or folder is, seen without PyTorch: by its name and by how it begins."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from factlab.errors import FactlabError, InvalidRequestError, StorageError
from factlab.storage import explained, read_json

Kind = Literal[
    "evaluation", "localisation", "probes", "sweep", "study", "average", "trace", "edit", "human"
]

_STUDIES = frozenset({"scaling.json", "relations.json", "layers.json", "mixture.json"})
_RUNS: dict[str, Kind] = {
    "factlab evaluation": "evaluation",
    "factlab localisation": "localisation",
    "factlab probes": "probes",
    "factlab average trace": "average",
}


def kind_of(path: Path) -> Kind | None:
    """What a file or folder is; None if nothing that can be shown."""
    if path.suffix == ".json":
        return "study" if path.name in _STUDIES else None
    if path.suffix == ".safetensors":
        return "trace" if _begins(_format_of_tensors(path), "factlab causal trace") else None
    if (path / "edit.json").is_file():
        return "edit"
    if (path / "scores.json").is_file():
        written = _said_in(path / "scores.json", "format")
        return "human" if _begins(written, "factlab human scores") else None
    if (path / "run.json").is_file():
        request = _said_in(path / "run.json", "request")
        written = request.get("format") if isinstance(request, dict) else None
        return next((kind for start, kind in _RUNS.items() if _begins(written, start)), None)
    return "sweep" if any(path.glob("layer-*/run.json")) else None


def shown_kind(path: Path) -> Kind:
    """What a file or folder is.

    Raises:
        StorageError: it is not there, or nothing that can be shown.
    """
    with explained("read", path):
        if not path.exists():
            raise StorageError(f"There is no file or folder '{path}'. Check the name.")
        kind = kind_of(path)
    if kind is None:
        raise StorageError(
            f"'{path}' is no trace, edit, evaluation, sweep, probes, study or scores of raters of "
            "factlab. Of a study of many facts give its JSON file, such as scaling.json."
        )
    return kind


def check_shown(paths: Sequence[Path]) -> None:
    """Refuse to show nothing, or something that cannot be shown.

    Raises:
        InvalidRequestError: nothing is named.
        StorageError: something is not there, or nothing of factlab's.
    """
    if not paths:
        raise InvalidRequestError("There is nothing to show. Name a file or a folder.")
    for path in paths:
        shown_kind(path)


def _begins(written: object, start: str) -> bool:
    return str(written).rpartition(" ")[0] == start


def _said_in(file: Path, key: str) -> object:
    """What a JSON file has under a key; None if it has nothing, or is none."""
    try:
        return read_json(file).get(key)
    except FactlabError:
        return None


def _format_of_tensors(path: Path) -> object:
    try:
        with safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get("format")
    except (OSError, SafetensorError):
        return None
