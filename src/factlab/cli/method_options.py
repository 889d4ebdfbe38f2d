"""Options for the settings of an editing method."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factlab.cli.session import validated
from factlab.errors import InvalidRequestError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from factlab.editing.methods import Method
    from factlab.editing.trained.editor import TrainedEditor

SettingsOption = Annotated[
    Path | None, typer.Option(help="TOML file with more settings of the method.")
]
LayerOption = Annotated[int | None, typer.Option(help="Layer to edit, from 0.")]
EditorOption = Annotated[
    Path | None,
    typer.Option(help="Folder of a trained editor, for --method mend or ke; see 'factlab train'."),
]

_TRAINED = ("mend", "ke")


def chosen_method(name: str, editor: Path | None) -> "tuple[Method, TrainedEditor | None]":
    """The method of a name; that of a trained editor with the editor.

    Raises:
        InvalidRequestError: there is no such method, or name and editor do not go together.
        StorageError: the folder holds no editor.
    """
    from factlab.editing.methods import method_named
    from factlab.editing.trained.store import load_editor

    if editor is None:
        if name in _TRAINED:
            raise InvalidRequestError(
                f"Method '{name}' must be trained: make an editor with 'factlab train {name}' and "
                "give its folder with --editor."
            )
        return method_named(name), None
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
) -> "BaseModel":
    """A method's config, of a TOML file and of options that win over it.

    Raises:
        StorageError: the file is missing, or not TOML.
        InvalidRequestError: a setting is unknown, or its value not allowed.
    """
    from factlab.storage import read_toml

    values: dict[str, Any] = {} if settings is None else read_toml(settings)
    fields = method.config.model_fields
    if layer is not None and not {"layer", "layers"} & {*fields}:
        raise InvalidRequestError(f"--layer does not go with method '{method.name}'.")
    if layer is not None:
        values |= {"layer": layer} if "layer" in fields else {"layers": (layer,)}
    if erase:
        values["erase"] = True
    if max_batch_tokens is not None:
        if "value" in fields and isinstance(values.get("value", {}), dict):
            values["value"] = values.get("value", {}) | {"max_batch_tokens": max_batch_tokens}
        elif "max_batch_tokens" in fields:
            values["max_batch_tokens"] = max_batch_tokens
    return validated(method.config, **values)
