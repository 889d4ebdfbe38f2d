"""Fields of JSON objects, checked: an error names the place, the field and the value seen."""

from collections.abc import Collection, Iterator, Mapping

from factlab.errors import InvalidRequestError, StorageError, nearest
from factlab.writing import check_text, short_repr

_DEEPEST = 2  # lists in lists of answers


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

    @property
    def value(self) -> Mapping[str, object]:
        """The object itself."""
        return self._value

    @property
    def names(self) -> tuple[str, ...]:
        """What fields there are."""
        return tuple(self._value)

    def has(self, field: str) -> bool:
        """Whether the field is there; null counts as not, and NaN, which pandas writes for it."""
        value = self._value.get(field)
        return value is not None and value == value  # noqa: PLR0124 - NaN differs from itself

    def is_null(self, field: str) -> bool:
        """Whether the field is there and holds null."""
        return field in self._value and self._value[field] is None

    def first_of(self, *fields: str) -> str:
        """The first of some names that is there; the first of all if none is."""
        return next((field for field in fields if field in self._value), fields[0])

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

    def answers(self, field: str) -> tuple[str, ...]:
        """Texts that are each as good as the others, without empty ones and copies.

        A text, a list of texts, or a list of such lists; nothing if the field is null.
        """
        if field in self._value and not self.has(field):
            return ()
        found = self._answers(self._wanted(field), self._full(field), _DEEPEST)
        return tuple(dict.fromkeys(found))

    def one_of(self, field: str, words: Collection[str]) -> str:
        """A text that is one of some words."""
        word = self.text(field)
        if word not in words:
            raise StorageError(
                f"{self.where}: {self._full(field)} is {short_repr(word)}, none of "
                f"{', '.join(words)}.{nearest(word, words)}"
            )
        return word

    def inner_list(self, field: str) -> "list[Fields]":
        """A list of objects."""
        values, name = self._wanted(field), self._full(field)
        if not isinstance(values, list):
            raise StorageError(
                f"{self.where}: {name} is {short_repr(values)}, not a list of objects."
            )
        return [Fields(value, self.where, f"{name}[{i}]") for i, value in enumerate(values)]

    def inner_list_or_empty(self, field: str) -> "list[Fields]":
        """A list of objects; a missing one is empty."""
        return self.inner_list(field) if self.has(field) else []

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

    def _answers(self, value: object, name: str, depth: int) -> Iterator[str]:
        if isinstance(value, list) and depth:
            for i, one in enumerate(value):
                yield from self._answers(one, f"{name}[{i}]", depth - 1)
        elif value is not None and not (isinstance(value, str) and not value.strip()):
            yield self._text(value, name)

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
