"""JSON arrays and files of one JSON value per line, read so that an error can name its line."""

import json
from collections.abc import Iterator
from pathlib import Path

from factlab.errors import StorageError
from factlab.storage import read_text


def read_values(path: Path) -> Iterator[tuple[int, object]]:
    """The values of a JSON array, or of a file of JSON values, with the line each begins on.

    Raises:
        StorageError: the file is missing, not UTF-8 or not JSON; names the line.
    """
    text = read_text(path)
    decoder = json.JSONDecoder()
    at = _skip(text, 0)
    is_array = text.startswith("[", at)
    at = _skip(text, at + 1) if is_array else at
    line, counted = 1, 0
    while at < len(text) and not (is_array and text[at] == "]"):
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError as error:
            raise StorageError(f"Line {line} of '{path}' is not valid JSON: {error}.") from error
        yield line, value
        at = _skip(text, at)
        if is_array and text.startswith(",", at):
            at = _skip(text, at + 1)
        elif is_array and not text.startswith("]", at):
            line = text.count("\n", 0, at) + 1
            raise StorageError(
                f"Line {line} of '{path}': the array is not closed or lacks a comma."
            )
    if is_array and text[at:].strip() != "]":
        line = text.count("\n", 0, at) + 1
        raise StorageError(f"Line {line} of '{path}': a JSON array ends with ']' and nothing else.")


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at
