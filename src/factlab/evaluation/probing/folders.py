"""Which folders hold what can be probed, found out without PyTorch."""

from collections.abc import Sequence
from pathlib import Path

from factlab.editing.shipping.folders import JSON
from factlab.errors import InvalidRequestError, StorageError


def run_folder(paths: Sequence[Path]) -> Path | None:
    """The folder of an evaluation, if that is what is named; else None.

    Raises:
        InvalidRequestError: an evaluation stands beside other folders.
    """
    if not any((path / "run.json").is_file() for path in paths):
        return None
    if len(paths) > 1:
        raise InvalidRequestError("An evaluation is probed by itself. Name its folder alone.")
    return paths[0]


def edit_folders(paths: Sequence[Path]) -> list[Path]:
    """Folders of saved edits: those named, and all inside one that `edit --each --out` wrote.

    Raises:
        StorageError: one holds none.
    """
    return [folder for path in paths for folder in _edits_in(path)]


def _edits_in(path: Path) -> list[Path]:
    if (path / JSON).is_file():
        return [path]
    inside = sorted(found.parent for found in path.glob(f"*/{JSON}"))
    if not inside:
        raise StorageError(
            f"'{path}' holds no saved edit and no evaluation: it has neither {JSON} nor run.json. "
            "Name a folder that 'factlab edit --out' or 'factlab eval --out' wrote."
        )
    return inside
