"""Fields of JSON objects, checked: an error names the place, the field and the value seen."""

from collections.abc import Mapping

from factlab.errors import InvalidRequestError, StorageError
from factlab.writing import check_text, short_repr


class Fields:
    """A JSON object of which fields are wanted.

    Args:
        value: what was read.
        where: where it stands, such as "Line 3 of 'x.json', record 7".
        name: what it is called in messages; empty for a whole value.

    Raises:
        StorageError: it is not an object. The methods raise it too, for a field.
    """

    def __init__(self, value: object, where: str, name: str = "") -> None:
        if not isinstance(value, Mapping):
            raise StorageError(
                f"{where}: {name or 'the value'} is {short_repr(value)}, not a JSON object."
            )
        self.where = where
        self._value: Mapping[str, object] = value
        self._name = name

    def has(self, field: str) -> bool:
        """Whether the field is there; null counts as not."""
        return self._value.get(field) is not None

    def inner(self, field: str) -> "Fields":
        """A field that is an object itself."""
        return Fields(self._wanted(field), self.where, self._full(field))

    def text(self, field: str) -> str:
        """A field that is a text with at least one word."""
        return self._text(self._wanted(field), self._full(field))

    def text_or_empty(self, field: str) -> str:
        """A text, or nothing if the field is missing or empty."""
        return self.text(field) if self.has(field) and self._value[field] != "" else ""

    def texts(self, field: str) -> tuple[str, ...]:
        """A list of texts; a missing one is empty."""
        values = self._value.get(field)
        name = self._full(field)
        if values is None:
            return ()
        if not isinstance(values, list):
            raise StorageError(
                f"{self.where}: {name} is {short_repr(values)}, not a list of texts."
            )
        return tuple(self._text(value, f"{name}[{i}]") for i, value in enumerate(values))

    def inner_list(self, field: str) -> "list[Fields]":
        """A list of objects."""
        values, name = self._wanted(field), self._full(field)
        if not isinstance(values, list):
            raise StorageError(
                f"{self.where}: {name} is {short_repr(values)}, not a list of objects."
            )
        return [Fields(value, self.where, f"{name}[{i}]") for i, value in enumerate(values)]

    def number(self, field: str) -> int:
        """A whole number from 0."""
        value = self._wanted(field)
        if type(value) is not int or value < 0:
            raise StorageError(
                f"{self.where}: {self._full(field)} is {short_repr(value)}, "
                "not a whole number from 0."
            )
        return value

    def _full(self, field: str) -> str:
        return f"{self._name}.{field}" if self._name else field

    def _wanted(self, field: str) -> object:
        if not self.has(field):
            there = ", ".join(self._value) or "none"
            raise StorageError(
                f"{self.where}: field '{self._full(field)}' is missing. Fields there: {there}."
            )
        return self._value[field]

    def _text(self, value: object, name: str) -> str:
        if not isinstance(value, str):
            raise StorageError(f"{self.where}: {name} is {short_repr(value)}, not a text.")
        if not value.strip():
            raise StorageError(f"{self.where}: {name} is empty. Give at least one word.")
        try:
            check_text(value, name)
        except InvalidRequestError as error:
            raise StorageError(f"{self.where}: {error}") from error
        return value
