"""May something be written here? Asked before hours of work, not after; nothing here writes."""

import os
from collections.abc import Collection
from pathlib import Path

from factlab.errors import StorageError
from factlab.storage import explained


def check_writable(path: Path, is_folder: bool = False) -> None:
    """Find out whether a file or folder can be made at a path.

    Raises:
        StorageError: it cannot.
    """
    if "\0" in str(path):
        raise StorageError(f"Cannot write {str(path)!r}: no name has a NUL character in it.")
    with explained("write", path):
        if path.is_dir() and not is_folder:
            raise StorageError(f"Cannot write '{path}': it is a folder. Give the name of a file.")
        if is_folder:
            path = path.resolve()  # a link stands for the folder that it leads to
            if path.exists() and not path.is_dir():
                raise StorageError(
                    f"Cannot write '{path}': it is a file. Give the name of a folder."
                )
        if path.exists() and not os.access(path, os.W_OK):
            raise StorageError(f"Cannot write '{path}': it exists and is not writable.")
        existing = next(parent for parent in path.absolute().parents if parent.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise StorageError(f"Cannot write '{path}': folder '{existing}' is not writable.")
        for part in path.absolute().relative_to(existing).parts:
            _check_name(existing, part)


def check_new_file(path: Path, overwrite: bool) -> None:
    """Find out whether a file can be written, and that none is lost by it.

    Args:
        path: of the file.
        overwrite: a file that is there may be replaced.

    Raises:
        StorageError: it cannot be written, or is there and may not be replaced.
    """
    check_writable(path)
    if path.exists() and not overwrite:
        raise StorageError(
            f"'{path}' is there already; nothing was written. Choose another name, or replace it "
            "with --overwrite."
        )


def check_new_folder(
    folder: Path, hidden_may_stay: bool = False, instead: str = "Empty it"
) -> None:
    """Find out whether a folder can be made, or is there and empty.

    Args:
        folder: the folder.
        hidden_may_stay: files whose names begin with a dot do not count.
        instead: what else to do if it is not empty, as the beginning of a sentence.

    Raises:
        StorageError: it is a file, or not empty, or cannot be made.
    """
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"'{folder}' is a file. Give the name of a folder.")
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if any(not (hidden_may_stay and name.startswith(".")) for name in names):
        raise StorageError(f"'{folder}' is not empty. {instead}, or choose another folder.")
    check_writable(folder, is_folder=True)


def check_replaceable(
    folder: Path, what: str, files: Collection[str], overwrite: bool, unfinished: str
) -> None:
    """Find out whether something that consists of some files can be written into a folder.

    What is there already and consists of other files is never replaced.

    Args:
        folder: where it goes.
        what: it is, with its article.
        files: that it may consist of; the first is there whenever it is.
        overwrite: what is there already may be replaced.
        unfinished: what names of files begin with that a kill may have left behind.

    Raises:
        StorageError: the path is a file, or a folder that holds something that may not be replaced.
    """
    check_writable(folder, is_folder=True)
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    left_behind = {name for name in names if name.startswith(unfinished)}
    if not names - left_behind <= {*files}:
        raise StorageError(
            f"'{folder}' exists and holds something other than {what}; nothing was written. "
            "Choose another name."
        )
    if next(iter(files)) in names and not overwrite:
        raise StorageError(
            f"'{folder}' holds {what} already; nothing was written. Choose another name, or "
            "replace it with overwrite=True (--overwrite on the command line)."
        )


def _check_name(folder: Path, name: str) -> None:
    """Look up a name in a folder, which the system refuses if it is none (or is too long)."""
    with explained("write", folder / name):
        try:
            (folder / name).lstat()
        except FileNotFoundError:
            return
