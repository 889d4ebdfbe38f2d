"""JSON arrays and files of one JSON value per line, read so that an error can name its line.

Files are read piece by piece, and one value is in memory at a time: the texts that come with
CounterFact are 900 MB. A value has to end some time, and a packed file may not unpack to a thousand
times its size, as one does that was made to fill the machine.
"""

import codecs
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Callable, Generator
from pathlib import Path

from factlab.documents import check_unicode, may_have_halves
from factlab.errors import StorageError

_CHUNK_BYTES = 1 << 16
# A value may go on in the next piece. The decoder then fails this close to the end at most, or
# says that a text is not closed; a number seems complete.
_CLOSE_TO_THE_END = 12
# A record has some thousand characters, and all texts of one relation and object some million.
_LONGEST_VALUE = 1 << 25
_LONGEST_NAME = 1000
# Text is packed to a tenth or a thirtieth of its size; beyond the first bytes more is no text.
_MOST_UNPACKED, _MOST_TIMES = 1 << 26, 200
_SPACES = re.compile(r"\s*")
_FIRST_NAME = re.compile(r'\{\s*"(?:[^"\\]|\\.)*"\s*:\s*')


def read_values(
    path: Path, is_entry: Callable[[object], bool] | None = None
) -> Generator[tuple[int, object], None, None]:
    """The values of a JSON array, or of a file of JSON values, with the line each begins on.

    A file whose name ends with .gz is unpacked on the way. What is wrong with a file is found out
    when it has been read that far.

    Args:
        path: the file.
        is_entry: tells the values of a file that is one object with an entry for each name. If the
            first value of an object at the beginning is one, each entry is given out as an object
            with this one name.

    Raises:
        StorageError: the file is missing, not UTF-8, not JSON, or a damaged .gz; names the line.
    """
    with _opened(path) as file:
        text = _Text(path, file)
        if is_entry is not None and text.next_sign() == "{" and is_entry(text.first_member()):
            while text.next_sign():
                yield from _members(text, path)
            return
        is_array = text.next_sign() == "["
        if is_array:
            text.at += 1
        while (sign := text.next_sign()) and not (is_array and sign == "]"):
            line = text.place()[0]
            yield line, text.value()
            if not is_array:
                continue
            sign = text.next_sign()
            if sign == ",":
                text.at += 1
            elif sign != "]":
                raise StorageError(
                    f"Line {text.place()[0]} of '{path}': the array is not closed or lacks a comma."
                )
        if is_array:
            closed = text.next_sign() == "]"
            text.at += closed
            if not closed or text.next_sign():
                raise StorageError(
                    f"Line {text.place()[0]} of '{path}': a JSON array ends with ']' and nothing "
                    "else."
                )


def _members(text: "_Text", path: Path) -> Generator[tuple[int, object], None, None]:
    """The members of an object, one after another."""
    sign = "," if text.next_sign() == "{" else ""
    text.at += 1
    while sign == ",":
        text.next_sign()
        line, name = text.place()[0], text.value()
        if not isinstance(name, str) or text.next_sign() != ":":
            raise StorageError(f"Line {line} of '{path}': an entry begins with a name and ':'.")
        text.at += 1
        text.next_sign()
        yield line, {name: text.value()}
        sign = text.next_sign()
        text.at += sign == ","
    text.at += sign == "}"
    if sign != "}":
        raise StorageError(
            f"Line {text.place()[0]} of '{path}': an object of entries is not closed, lacks a "
            "comma, or is followed by something else."
        )


class _Text:
    """The part of a file that has been read and not used, and how far into the file it is."""

    def __init__(self, path: Path, file: io.BufferedIOBase) -> None:
        self.at = 0  # of what has been read, this much is used
        self._path, self._file = path, file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._json = json.JSONDecoder()
        self._read = ""
        self._is_all = False
        self._line, self._column = 1, 1  # where `_read` begins
        self._lines_decoded = 0
        self._n_bytes, self._most_bytes = 0, math.inf
        if isinstance(file, gzip.GzipFile):
            self._most_bytes = _MOST_UNPACKED + _MOST_TIMES * path.stat().st_size

    def place(self, ahead: int | None = None) -> tuple[int, int]:
        """Line and column, from 1, of a character of what has been read; by default of `at`."""
        ahead = self.at if ahead is None else ahead
        line = self._line + self._read.count("\n", 0, ahead)
        start = self._read.rfind("\n", 0, ahead)
        return line, (self._column + ahead if start < 0 else ahead - start)

    def next_sign(self) -> str:
        """Go to the next character that is not a space; empty at the end of the file."""
        while True:
            if spaces := _SPACES.match(self._read, self.at):
                self.at = spaces.end()
            if self.at < len(self._read):
                return self._read[self.at]
            if self._is_all:
                return ""
            self._go_on()

    def first_member(self) -> object:
        """The first value of the object that begins here; None if there is none. Stays here."""
        while True:
            name = _FIRST_NAME.match(self._read, self.at)
            try:
                if name is not None:
                    return self._json.raw_decode(self._read, name.end())[0]
            except (ValueError, RecursionError) as error:
                if not self._may_go_on(error):
                    return None
            longest = _LONGEST_NAME if name is None else _LONGEST_VALUE
            if self._is_all or len(self._read) - self.at > longest:
                return None
            self._go_on()

    def value(self) -> object:
        """The value that begins here."""
        while True:
            try:
                value, end = self._json.raw_decode(self._read, self.at)
            except (ValueError, RecursionError) as error:
                if self._may_go_on(error):
                    self._go_on()
                    self._check_length()
                    continue
                raise self._not_json(error) from error
            if self._is_all or end + _CLOSE_TO_THE_END < len(self._read):
                if may_have_halves(self._read, self.at, end):
                    check_unicode(value, f"Line {self.place()[0]} of '{self._path}'")
                self.at = end
                return value
            self._go_on()

    def _check_length(self) -> None:
        if len(self._read) - self.at > _LONGEST_VALUE:
            raise StorageError(
                f"Line {self.place()[0]} of '{self._path}' begins a value of more than "
                f"{_LONGEST_VALUE >> 20} million characters. Write an array of smaller ones, or "
                "one on each line."
            )

    def _may_go_on(self, error: Exception) -> bool:
        if self._is_all or not isinstance(error, json.JSONDecodeError):
            return False
        cut = error.pos + _CLOSE_TO_THE_END >= len(self._read)
        return cut or error.msg.startswith("Unterminated string")

    def _not_json(self, error: Exception) -> StorageError:
        reason = f"{error}"
        if isinstance(error, RecursionError):
            reason = "it is nested too deeply"
        if isinstance(error, json.JSONDecodeError):
            line, column = self.place(error.pos)
            reason = f"{error.msg}: line {line} column {column}"
        return StorageError(
            f"Line {self.place()[0]} of '{self._path}' is not valid JSON: {reason}."
        )

    def _go_on(self) -> None:
        """Drop what is used and read more: as much again as is left, so that it stays linear."""
        self._line, self._column = self.place()
        self._read, self.at = self._read[self.at :], 0
        try:
            data = self._file.read(max(_CHUNK_BYTES, len(self._read)))
            self._n_bytes += len(data)
        except (OSError, EOFError, zlib.error) as error:
            raise _unreadable(self._path, error) from error
        if self._n_bytes > self._most_bytes:
            raise StorageError(
                f"'{self._path}' unpacks to more than {_MOST_TIMES} times its size, which no text "
                "does. It is damaged, or was made to fill the machine; unpack it by hand to see."
            )
        try:
            self._read += self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            line = self._lines_decoded + error.object.count(b"\n", 0, error.start) + 1
            raise StorageError(
                f"Line {line} of '{self._path}' is not UTF-8 (byte "
                f"0x{error.object[error.start]:02x}). Save the file as UTF-8."
            ) from error
        self._lines_decoded += data.count(b"\n")
        self._is_all = not data


def _opened(path: Path) -> io.BufferedIOBase:
    try:
        return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> StorageError:
    reason = getattr(error, "strerror", None) or str(error)
    return StorageError(
        f"Cannot read '{path}': {reason}. Check that the file exists, that you may read it, and "
        "that it is complete."
    )
