"""Folders of edits and models: what may be written where, found out without PyTorch."""

from pathlib import Path

from factlab.errors import StorageError

EDIT_FILE = "edit.json"


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
    if not (folder / EDIT_FILE).is_file():
        raise StorageError(
            f"'{folder}' is not a saved edit: it has no {EDIT_FILE}. "
            "Pass the folder that 'factlab edit --out' wrote."
        )
