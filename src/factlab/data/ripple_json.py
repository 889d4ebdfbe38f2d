"""Ripple queries as JSON, beside a record in the layout of CounterFact.

    {"axis": "composition", "prompt": "The currency of the country of Oslo is",
     "answers": ["euro"], "old_answers": ["krone"], "manner": "say",
     "conditions": [{"prompt": "The currency of France is", "answers": ["euro"]}], "needs": "all"}

What a query has by default is not written.
"""

from dataclasses import MISSING, asdict, fields
from typing import Any, cast, get_args

from factlab.data.json_fields import Fields
from factlab.data.ripple_query import Axis, Condition, Manner, RippleQuery
from factlab.errors import InvalidRequestError, StorageError
from factlab.storage import JsonValue

_WORDS: dict[str, tuple[str, ...]] = {
    "axis": get_args(Axis), "manner": get_args(Manner), "needs": ("all", "any"),
}  # fmt: skip


def to_json(query: RippleQuery) -> dict[str, JsonValue]:
    """A query; `from_json` gives the same back."""
    written = _of(query)
    if query.conditions:
        written["conditions"] = [_of(condition) for condition in query.conditions]
    return {name: _listed(value) for name, value in written.items()}


def _of(one: RippleQuery | Condition) -> dict[str, Any]:
    """What differs from the defaults."""
    written: dict[str, Any] = asdict(one)
    for field in fields(one):
        if field.default is not MISSING and written[field.name] == field.default:
            del written[field.name]
    return written


def from_json(query: Fields) -> RippleQuery:
    """A query that was written.

    Raises:
        StorageError: a field is missing or wrong; names the record and the field.
    """
    given: dict[str, Any] = {"prompt": query.text("prompt")}
    for name, words in _WORDS.items():
        if name == "axis" or query.has(name):
            given[name] = query.one_of(name, words)
    for name in ("answers", "old_answers", "others"):
        given[name] = query.texts(name)
    given["conditions"] = [
        Condition(condition.text("prompt"), condition.texts("answers"), condition.texts("others"))
        for condition in query.inner_list_or_empty("conditions")
    ]
    try:
        return RippleQuery(**given)
    except InvalidRequestError as error:
        raise StorageError(f"{query.where}: {error}") from error


def _listed(value: Any) -> JsonValue:
    """Tuples as lists, all the way down."""
    if isinstance(value, dict):
        return {name: _listed(one) for name, one in cast("dict[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_listed(one) for one in cast("list[Any]", value)]
    return value
