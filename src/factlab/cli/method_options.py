"""Options for the settings of an editing method."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factlab.cli.registration import METHOD
from factlab.cli.session import validated_settings
from factlab.errors import InvalidRequestError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from factlab.editing.methods import Method
    from factlab.editing.trained.editor import TrainedEditor

SettingsOption = Annotated[
    Path | None,
    typer.Option(
        help="TOML file with more settings, named as 'factlab methods --json' does. The string "
        '"none" stands for no value.',
        rich_help_panel=METHOD,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="<name=value>",
        help="One more setting, such as value.steps=40 or contexts.bare_weight=none; wins over "
        "--settings. May be given several times.",
        rich_help_panel=METHOD,
    ),
]
LayerOption = Annotated[
    int | None,
    typer.Option(
        help="Layer to edit, from 0.",
        show_default="the model's preset, or by causal traces",
        rich_help_panel=METHOD,
    ),
]
EditorOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of a trained editor, for --method mend or ke; see 'factlab train'.",
        rich_help_panel=METHOD,
    ),
]


def chosen_method(name: str, editor: Path | None) -> "tuple[Method, TrainedEditor | None]":
    """The method of a name; that of a trained editor with the editor.

    Raises:
        InvalidRequestError: there is no such method, or name and editor do not go together.
        StorageError: the folder holds no editor.
    """
    from factlab.editing.methods import method_named
    from factlab.editing.trained.configs import KINDS

    if editor is None:
        if name in KINDS:
            raise InvalidRequestError(
                f"Method '{name}' must be trained: make an editor with 'factlab train {name}' and "
                "give its folder with --editor."
            )
        return method_named(name), None
    if name not in KINDS:
        method_named(name)
        raise InvalidRequestError(
            f"--editor goes with --method {' or '.join(KINDS)}, not with '{name}'."
        )
    from factlab.editing.shipping.folders import check_saved_editor

    check_saved_editor(editor)
    from factlab.editing.trained.store import load_editor

    trained = load_editor(editor)
    if name != trained.kind:
        raise InvalidRequestError(
            f"--editor '{editor}' is a {trained.name}, which goes with --method {trained.kind}, "
            f"not with '{name}'."
        )
    return trained.method(), trained


def method_config(
    method: "Method",
    layer: int | None,
    settings: Path | None,
    erase: bool = False,
    max_batch_tokens: int | None = None,
    assignments: Sequence[str] | None = None,
) -> "BaseModel":
    """A method's config, of a TOML file, of assignments that win over it, and of options.

    Raises:
        StorageError: the file is missing, or not TOML.
        InvalidRequestError: a setting is unknown, or its value not allowed.
    """
    values, flags = read_settings(settings, assignments), dict[str, str]()
    fields = method.config.model_fields
    if layer is not None and not {"layer", "layers"} & {*fields}:
        raise InvalidRequestError(f"--layer does not go with method '{method.name}'.")
    if layer is not None:
        name = "layer" if "layer" in fields else "layers"
        values[name] = layer if name == "layer" else (layer,)
        flags[name] = "--layer"
    if erase:
        values["erase"] = True
        flags["erase"] = "--erase"
    if max_batch_tokens is not None:
        if "value" in fields and isinstance(values.get("value", {}), dict):
            values["value"] = values.get("value", {}) | {"max_batch_tokens": max_batch_tokens}
        elif "max_batch_tokens" in fields:
            values["max_batch_tokens"] = max_batch_tokens
            flags["max_batch_tokens"] = "--max-batch-tokens"
    return validated_settings(method.config, values, flags)


def read_settings(file: Path | None, assignments: Sequence[str] | None) -> dict[str, Any]:
    """The settings of a TOML file, and of assignments such as `value.steps=40`, which win.

    Raises:
        StorageError: the file is missing, or not TOML.
        InvalidRequestError: an assignment is not understood.
    """
    from factlab.storage import read_toml

    values: dict[str, Any] = {} if file is None else read_toml(file)
    for text in assignments or ():
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
        table[names[-1]] = _toml_value(value.strip())
    return values


def _toml_value(text: str) -> Any:
    """A value as TOML writes it, or a word without quotes."""
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
