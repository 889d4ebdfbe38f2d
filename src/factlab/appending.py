"""Files of one JSON object per line, to which finished work is added while others may read.

A line counts from its line break on; what a kill cut short has none.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from factlab.documents import JsonValue, parse_json
from factlab.errors import StorageError
from factlab.storage import explained, write_text

Line = dict[str, JsonValue]


def append_line(path: Path, record: Line) -> None:
    """Put one more line on the disk, in one write.

    Raises:
        StorageError: it cannot be written, or JSON cannot express the record.
    """
    try:
        data = line_of(record).encode()
    except ValueError as error:  # NaN, or a text that is not Unicode
        raise StorageError(f"Cannot write '{path}': {error}.") from error
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            if os.write(handle, data) != len(data):
                raise OSError("the disk is full")
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise StorageError(
            f"Cannot write '{path}': {error.strerror or error}. What was finished before "
            "is safe; make room and resume."
        ) from error


def line_of(record: Line) -> str:
    """An object as its line."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def file_id(path: Path) -> tuple[int, int] | None:
    """Which file has this name now; None if none has."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def check_no_link(path: Path) -> None:
    """Refuse to write through a link: what it leads to is not this run's.

    Raises:
        StorageError: it is one.
    """
    if path.is_symlink():
        raise StorageError(
            f"'{path}' is a link, and a run writes into files of its own only. Put a copy of what "
            "it leads to in its place, or delete it."
        )


def read_lines(path: Path) -> Iterator[tuple[int, Line]]:
    """The JSON objects of a file, each with the number of its line; none if there is no file.

    A last line that was cut short is not there.

    Raises:
        StorageError: the file cannot be read, or a line is damaged.
    """
    return GrowingLines(path).new()


class GrowingLines:
    """A file of lines that another process may be adding to.

    Attributes:
        path: of the file.
        n_bytes: that were read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: tuple[int, int] | None = None
        self.n_bytes = self._n_lines = 0

    def new(self) -> Iterator[tuple[int, Line]]:
        """The JSON objects that have come since the last time, each with the number of its line.

        A file that was put in the place of another is read from its beginning.

        Raises:
            StorageError: the file cannot be read, or a line is damaged.
        """
        found = file_id(self.path)
        if found is None:
            return
        if found != self._file:
            self._file, self.n_bytes, self._n_lines = found, 0, 0
        if self.path.stat().st_size <= self.n_bytes:
            return
        with explained("read", self.path), self.path.open("rb") as file:
            file.seek(self.n_bytes)
            data = file.read()
        for line in data.split(b"\n")[:-1]:  # what follows the last line break was cut short
            number = self._n_lines + 1
            try:
                record = parse_json(line, f"Line {number} of '{self.path}'")
            except StorageError as error:
                raise damaged_line(self.path, number) from error
            if not isinstance(record, dict):
                raise damaged_line(self.path, number)
            self.n_bytes += len(line) + 1
            self._n_lines = number
            yield number, record


def damaged_line(path: Path, number: int) -> StorageError:
    """The error for a line that is not what it should be."""
    return StorageError(f"Line {number} of '{path}' is damaged. Delete that line and resume.")


def keep_lines(path: Path, wanted: Callable[[Line], bool]) -> None:
    """Take the lines out of a file whose objects are not wanted.

    Raises:
        StorageError: the file cannot be read or written, or a line is damaged.
    """
    kept = [record for _, record in read_lines(path) if wanted(record)]
    write_text(path, "".join(map(line_of, kept)))


def drop_torn_line(path: Path) -> None:
    """Take away what follows the last line break: a kill cut it short."""
    if path.exists():
        whole = path.read_bytes().rfind(b"\n") + 1
        if whole < path.stat().st_size:
            os.truncate(path, whole)
