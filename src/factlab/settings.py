"""Settings as people write them, in a TOML file, an option or a form, made into a config."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from factlab.config import config_problem, refuse_retired, with_none
from factlab.documents import toml_value
from factlab.errors import InvalidRequestError
from factlab.storage import read_toml

Settings = TypeVar("Settings", bound=BaseModel)


def made_of(
    kind: type[Settings], values: dict[str, Any], options: Mapping[str, str] | None = None
) -> Settings:
    """Make a config of settings that a person gave.

    Args:
        kind: of config.
        values: by name; the word none stands for None, where a setting may be that.
        options: what a setting is called where it was given, such as `--layer`.

    Raises:
        InvalidRequestError: a setting is unknown, or its value not allowed.
    """
    refuse_retired(values, kind.model_fields)
    try:
        return kind.model_validate(with_none(kind, values))
    except ValidationError as error:
        raise InvalidRequestError(config_problem(kind, error, options)) from error


def read_settings(file: Path | None, assignments: Sequence[str] = ()) -> dict[str, Any]:
    """The settings of a TOML file, and of assignments such as `value.steps=40`, which win.

    Raises:
        StorageError: the file is missing, or not TOML.
        InvalidRequestError: an assignment is not understood.
    """
    values: dict[str, Any] = {} if file is None else read_toml(file)
    for text in assignments:
        path, equals, value = text.partition("=")
        names = [name.strip() for name in path.split(".")]
        if not equals or not all(names):
            raise InvalidRequestError(
                f"--set '{text}' is not understood. Write name=value, such as value.steps=40."
            )
        table = values
        for name in names[:-1]:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise InvalidRequestError(f"--set '{text}': '{name}' is a value, not a table.")
        table[names[-1]] = toml_value(value.strip())
    return values
