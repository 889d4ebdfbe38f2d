"""`Config`: what all settings have in common, and how a wrong one is told."""

from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    model_validator,
)

from factlab.documents import Growing, JsonValue
from factlab.errors import InvalidRequestError, nearest

# Settings of earlier versions that bounded memory. No result ever depended on them: what a file
# says of them is left out when it is read or compared.
RETIRED = frozenset({"max_batch_tokens", "memory_gib", "examples_at_once"})


class _Explaining(type(BaseModel)):
    """Makes the call of a class raise a factlab error.

    Only the call: pydantic itself, when it validates a config inside another or one from a file,
    still raises and collects its own errors.
    """

    if not TYPE_CHECKING:  # a type checker takes the arguments from the fields

        def __call__(cls, *args, **values):
            refuse_retired(values, cls.model_fields)
            try:
                return super().__call__(*args, **values)
            except ValidationError as error:
                raise InvalidRequestError(config_problem(cls, error)) from error


class Config(Growing, metaclass=_Explaining):
    """Base of all settings: frozen, without unknown names and without infinite numbers.

    Raises:
        InvalidRequestError: a setting is unknown, or has a value that is not allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, values: Any) -> Any:
        """Leave out what a file of an earlier version says of memory."""
        if not isinstance(values, Mapping):
            return values
        gone = RETIRED - cls.model_fields.keys()
        return {name: value for name, value in values.items() if name not in gone}


def refuse_retired(values: Mapping[str, Any], known: Container[str] = ()) -> None:
    """Refuse settings of earlier versions where a person gives them.

    Args:
        values: what is given, by name; of settings inside a setting likewise.
        known: names that mean something all the same.

    Raises:
        InvalidRequestError: says what has taken their place.
    """
    for name, value in values.items():
        if name in RETIRED and name not in known:
            raise InvalidRequestError(
                f"'{name}' is no setting any more: how much memory may be used is said once, for "
                "all that a model does. Use --memory-gib on the command line, and in Python "
                "fl.load(..., memory_gib=4) or lm.memory_gib = 4."
            )
        if isinstance(value, Mapping):
            refuse_retired(value)


def without_retired(value: JsonValue) -> JsonValue:
    """A JSON value without the settings of earlier versions that bounded memory.

    Two runs that differ in nothing else are the same run.
    """
    if isinstance(value, dict):
        kept = {name: inner for name, inner in value.items() if name not in RETIRED}
        return {name: without_retired(inner) for name, inner in kept.items()}
    return [without_retired(inner) for inner in value] if isinstance(value, list) else value


def config_problem(
    kind: type[BaseModel], error: ValidationError, options: Mapping[str, str] | None = None
) -> str:
    """One sentence about the first thing that is wrong with some settings.

    Args:
        kind: the class that they were for.
        error: what pydantic says.
        options: settings that a person gave by another name, such as a command's option.
    """
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InvalidRequestError):
        return str(cause)  # a sentence of its own
    path = [str(part) for part in first["loc"]]
    name, reason = ".".join(path), first["msg"].removeprefix("Value error, ")
    reason = (reason[:1].lower() + reason[1:]).replace("input should", "it must", 1)
    if first["type"] == "extra_forbidden":
        owner = _owner(kind, path[:-1])
        known = list(owner.model_fields)
        return (
            f"{owner.__name__} has no setting '{name}'.{nearest(path[-1], known)} "
            f"Choose from {', '.join(sorted(known))}."
        )
    if not name:  # settings that do not go together
        return f"These settings do not go together: {reason}."
    called = (options or {}).get(path[0]) or f"Setting '{name}' of {kind.__name__}"
    return f"{called} cannot be {first['input']!r}: {reason}."


def _owner(kind: type[BaseModel], path: Sequence[str]) -> type[BaseModel]:
    """The config inside a config that a path leads to; of several kinds, the path names one."""
    inner: list[type[BaseModel]] = []
    for name in path:
        tagged = [kind for kind in inner if _tag(kind) == name]
        if tagged:
            kind = tagged[0]
        elif name in kind.model_fields:
            inner = _configs_in(kind.model_fields[name].annotation)
            kind = inner[0] if len(inner) == 1 else kind
    return kind


def _tag(kind: type[BaseModel]) -> object:
    return kind.model_fields["type"].default if "type" in kind.model_fields else None


def _configs_in(annotation: object) -> list[type[BaseModel]]:
    """The configs that a setting may be."""
    kinds = [annotation, *getattr(annotation, "__args__", ())]
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def with_none(kind: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    """Values as a person writes them: the word none, where a setting may be None, is None.

    TOML has no null, and an option has no other way to say it either.
    """
    read: dict[str, Any] = {}
    for name, value in values.items():
        inner = _chosen(kind, name, value) if isinstance(value, dict) else kind
        if inner is not kind:
            read[name] = with_none(inner, value)
        else:
            is_none = isinstance(value, str) and value.lower() == "none"
            read[name] = None if is_none and _may_be_none(kind, name) else value
    return read


def _chosen(kind: type[BaseModel], name: str, values: dict[str, Any]) -> type[BaseModel]:
    """The config that the values of a setting are of; of several kinds, their type names one."""
    if "type" in values:
        return _owner(kind, [name, str(values["type"])])
    field = kind.model_fields.get(name)
    default = field.get_default(call_default_factory=True) if field is not None else None
    return type(default) if isinstance(default, BaseModel) else _owner(kind, [name])


def _may_be_none(kind: type[BaseModel], name: str) -> bool:
    field = kind.model_fields.get(name)
    return field is not None and type(None) in getattr(field.annotation, "__args__", ())
