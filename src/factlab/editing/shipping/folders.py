"""Folders of edits, editors and models: what may be written where, found out without PyTorch."""

from pathlib import Path

from factlab.errors import StorageError
from factlab.storage import check_writable

# The files of a saved edit; the last is there for a moment only, see `document`.
JSON, TENSORS, NEW_TENSORS = "edit.json", "edit.safetensors", "edit-new.safetensors"
EDITOR_JSON = "editor.json"  # of a trained editor


def check_new_folder(folder: Path) -> None:
    """Refuse to write over anything.

    Raises:
        StorageError: the path is a file, or a folder that is not empty.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise StorageError(
            f"'{folder}' exists already; nothing was written. Choose another name, or an empty "
            "folder."
        )


def check_saved_edit(folder: Path) -> None:
    """Refuse a folder that holds no saved edit.

    Raises:
        StorageError: there is none.
    """
    if not (folder / JSON).is_file():
        raise StorageError(
            f"'{folder}' is not a saved edit: it has no {JSON}. "
            "Pass the folder that 'factlab edit --out' wrote."
        )


def check_saved_editor(folder: Path) -> None:
    """Refuse a folder that holds no trained editor.

    Raises:
        StorageError: there is none.
    """
    if not (folder / EDITOR_JSON).is_file():
        raise StorageError(
            f"'{folder}' is not a trained editor: it has no {EDITOR_JSON}. Pass the folder that "
            "'factlab train --out' wrote."
        )


def check_destination(folder: Path, overwrite: bool = False) -> None:
    """Refuse to replace what is not an edit and nothing but an edit, and that only if asked for.

    Args:
        folder: where an edit is to be saved.
        overwrite: an edit that is there may be replaced.

    Raises:
        StorageError: the path is a file, or a folder that holds something that may not be replaced.
    """
    check_writable(folder, is_folder=True)
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    unfinished = {name for name in names if name.startswith(".edit")}  # what a kill left behind
    if not names - unfinished <= {JSON, TENSORS, NEW_TENSORS}:
        raise StorageError(
            f"'{folder}' exists and holds something other than a saved edit; nothing was written. "
            "Choose another name."
        )
    if JSON in names and not overwrite:
        raise StorageError(
            f"'{folder}' holds a saved edit already; nothing was written. Choose another name, or "
            "replace it with overwrite=True (--overwrite on the command line)."
        )
