"""Folders of edits, editors and models: what may be written where, found out without PyTorch."""

from pathlib import Path

from factlab.destinations import check_new_file, check_new_folder, check_replaceable
from factlab.errors import InvalidRequestError, StorageError

# The files of a saved edit; the last is there for a moment only, see `document`.
JSON, TENSORS, NEW_TENSORS = "edit.json", "edit.safetensors", "edit-new.safetensors"
EDITOR_JSON = "editor.json"  # of a trained editor


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
    files = (JSON, TENSORS, NEW_TENSORS)
    check_replaceable(folder, "a saved edit", files, overwrite, unfinished=".edit")


def check_gguf_destination(path: Path) -> None:
    """Refuse a file whose name does not say that it is GGUF, or that is there.

    Raises:
        InvalidRequestError: it does not end in `.gguf`.
        StorageError: it is there already, or cannot be written.
    """
    if path.suffix.lower() != ".gguf":
        raise InvalidRequestError(
            f"'{path}' does not end in .gguf, by which programs know such files. Call it "
            f"'{path.name}.gguf'."
        )
    check_new_file(path, overwrite=False)


def check_edits_destination(folder: Path, is_for_many: bool, overwrite: bool) -> None:
    """Refuse a place where an edit, or a folder with one for each fact, cannot be saved.

    Raises:
        StorageError: it holds something that may not be replaced, or cannot be written.
    """
    if is_for_many:
        check_new_folder(folder)
    else:
        check_destination(folder, overwrite)
