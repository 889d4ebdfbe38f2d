"""JSON and TOML that came from elsewhere: read so that whatever is wrong with it is one sentence.

Python's own readers let through what cannot be written back or compared (NaN, infinities, halves of
surrogate pairs), and give up on deep nesting with an error that says nothing of the file.
"""

import json
import math
import re
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import BaseModel, ValidationError, model_serializer

from factlab.errors import StorageError

JsonValue = None | bool | int | float | str | list[Any] | dict[str, Any]
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
Document = TypeVar("Document", bound=BaseModel)


class NewerVersionError(StorageError):
    """What was read was written by a newer factlab."""


class Growing(BaseModel):
    """A document that grows: later entries are written only where they say something.

    So a file that does not use them stays what it was, what was begun before there were any is
    still the same run, and a cache finds what it has.

    Attributes:
        added: their names.
    """

    added: ClassVar[frozenset[str]] = frozenset()

    if TYPE_CHECKING:  # a subclass with a metaclass of its own takes what its fields are

        def __init__(self, **values: Any) -> None: ...

    @model_serializer(mode="wrap")
    def _without_added(self, whole: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        written, fields = whole(self), type(self).model_fields
        for name in self.added:
            if getattr(self, name) == fields[name].default:
                written.pop(name, None)
        return written


def parse_json(text: str | bytes, where: str, finite: bool = True) -> JsonValue:
    """Read one JSON value.

    Args:
        text: of the value; bytes are UTF-8.
        where: what the text is, in words that can begin a sentence, such as `'run.json'`.
        finite: refuse NaN and infinite numbers, which JSON lacks and Python reads all the same.

    Raises:
        StorageError: it is not JSON, is nested too deeply, or has a text that is not Unicode.
    """
    try:
        # Strictly: the reader of bytes in json lets halves of surrogate pairs through.
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        if finite:
            value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        else:
            value = json.loads(text)
    except RecursionError as error:
        raise _too_deep(where) from error
    except ValueError as error:  # also bytes that are no UTF-8, and numbers of thousands of digits
        raise StorageError(f"{where} is not valid JSON: {error}.") from error
    if may_have_halves(text):
        check_unicode(value, where)
    return value


def may_have_halves(text: str, start: int = 0, end: int = sys.maxsize) -> bool:
    """Whether JSON may say half of a surrogate pair: nothing but such an escape can."""
    return _HALF.search(text, start, end) is not None


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Read a TOML document.

    Raises:
        StorageError: it is not TOML, or is nested too deeply.
    """
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise _too_deep(where) from error
    except ValueError as error:
        raise StorageError(f"{where} is not valid TOML: {error}.") from error


def toml_value(text: str) -> Any:
    """A value as TOML writes it; what is none is a word without quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (RecursionError, ValueError):
        return text


def check_unicode(value: object, where: str) -> None:
    """Refuse halves of surrogate pairs, which no file can hold.

    Args:
        value: to look through; of what JSON lacks, such as a path, its text.
        where: what it is, in words that can begin a sentence.

    Raises:
        StorageError: shows where in the text the first one is.
    """
    text = json.dumps(value, ensure_ascii=False, default=str)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        near = text[max(0, error.start - 20) : error.start + 20]
        raise StorageError(
            f"{where} has a text that is not Unicode, with half of a surrogate pair "
            f"(\\u{ord(text[error.start]):04x}) in it: {near!a}. Mend that text."
        ) from error


def validated(kind: type[Document], value: object, where: str, advice: str) -> Document:
    """A JSON value as a model of pydantic.

    Args:
        kind: of the model.
        value: what was read.
        where: what it was read from, in words that can begin a sentence.
        advice: what to do if it is damaged, as a sentence.

    Raises:
        NewerVersionError: its only fault is an entry that this version does not know.
        StorageError: it is damaged; names the entry.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        faults = error.errors()
        unknown = [fault for fault in faults if fault["type"] == "extra_forbidden"]
        fault = (unknown if len(unknown) == len(faults) else faults)[0]
        name = ".".join(map(str, fault["loc"]))
        if len(unknown) == len(faults):
            raise newer(where, f"it has an entry '{name}'") from error
        raise StorageError(
            f"{where} is damaged: {f'{name}: ' if name else ''}{fault['msg']}. {advice}"
        ) from error


def check_version(found: object, newest: int, where: str, advice: str) -> None:
    """Refuse a document of a version that this factlab cannot read; it reads all from 1.

    Raises:
        NewerVersionError: it is newer.
        StorageError: it does not say which it is.
    """
    if type(found) is int and 1 <= found <= newest:
        return
    if type(found) is int and found > newest:
        raise newer(where, f"its schema version is {found}, and this one reads 1 to {newest}")
    raise StorageError(
        f"{where} is damaged: its schema version is {found!r}, not a number from 1 to {newest}. "
        f"{advice}"
    )


def check_format(found: object, expected: str, where: str, what: str) -> None:
    """Refuse a file of another kind or of a newer version.

    Args:
        found: the format that the file names.
        expected: the one that this factlab reads; ends with its version, such as `factlab trace 1`.
        where: what was read, in words that can begin a sentence.
        what: what it should be, with its article, such as `a causal trace`.

    Raises:
        NewerVersionError: it is of the same kind, and newer.
        StorageError: it is of another kind.
    """
    if found == expected:
        return
    kind, _, newest = expected.rpartition(" ")
    found_kind, _, found_version = str(found).rpartition(" ")
    if found_kind == kind and found_version.isdecimal() and int(found_version) > int(newest):
        raise newer(where, f"its format is '{found}', and this one reads '{expected}'")
    said = "it does not name its format" if found is None else f"its format is {str(found)[:60]!r}"
    raise StorageError(f"{where} is not {what}: {said}, not '{expected}'.")


def newer(where: str, how: str) -> NewerVersionError:
    """The error for what a newer factlab wrote."""
    return NewerVersionError(
        f"{where} was written by a newer factlab than this {version('factlab')}: {how}. Upgrade "
        "factlab to read it."
    )


def described(error: Exception) -> str:
    """What an error says, as one sentence without a stop at its end."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _too_deep(where: str) -> StorageError:
    return StorageError(f"{where} is nested too deeply to be read. It is damaged, or was made to.")
