"""A method with its settings, as a person asks for it by name; nothing here needs PyTorch."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from factlab.config import Config
from factlab.editing.configs import MethodConfig
from factlab.editing.method import Method
from factlab.editing.methods import method_named
from factlab.editing.shipping.folders import check_saved_editor
from factlab.editing.trained.configs import KINDS
from factlab.errors import InvalidRequestError
from factlab.settings import made_of

if TYPE_CHECKING:
    from factlab.editing.trained.editor import TrainedEditor


@dataclass(frozen=True, slots=True)
class MethodChoice:
    """A method that is ready to be used.

    Attributes:
        method: the method; that of the editor, if it is a trained one.
        config: its settings.
        editor: the trained editor, if it is one.
    """

    method: Method
    config: MethodConfig
    editor: "TrainedEditor | None" = None


class MethodRequest(Config):
    """Which method to edit with, and how.

    Attributes:
        name: of the method; see `factlab methods`.
        editor: folder of a trained editor, for methods that must be trained.
        layer: to edit; by default the model's preset, or by causal traces.
        erase: make the true answer improbable instead of a new one probable.
        chat: edit the fact in the model's chat template as well.
        settings: of the method, by name; layer and the others above win over them.
    """

    added: ClassVar[frozenset[str]] = frozenset({"chat"})

    name: str = "rome"
    editor: Path | None = None
    layer: int | None = None
    erase: bool = False
    chat: bool = False
    settings: dict[str, Any] = Field(default_factory=dict)

    def chosen(self) -> MethodChoice:
        """The method with its settings, and its editor from the disk.

        Raises:
            InvalidRequestError: there is no such method, name and editor do not go together, or a
                setting is unknown or not allowed.
            StorageError: the folder holds no editor.
        """
        method, editor = self._method()
        return MethodChoice(method, self._config(method), editor)

    def _method(self) -> "tuple[Method, TrainedEditor | None]":
        if self.editor is None:
            if self.name in KINDS:
                raise InvalidRequestError(
                    f"Method '{self.name}' must be trained: make an editor with 'factlab train "
                    f"{self.name}' and give its folder with --editor."
                )
            return method_named(self.name), None
        if self.name not in KINDS:
            method_named(self.name)
            raise InvalidRequestError(
                f"--editor goes with --method {' or '.join(KINDS)}, not with '{self.name}'."
            )
        check_saved_editor(self.editor)
        from factlab.editing.trained.store import load_editor  # noqa: PLC0415 - imports PyTorch

        trained = load_editor(self.editor)
        if self.name != trained.kind:
            raise InvalidRequestError(
                f"--editor '{self.editor}' is a {trained.name}, which goes with --method "
                f"{trained.kind}, not with '{self.name}'."
            )
        return trained.method(), trained

    def _config(self, method: Method) -> MethodConfig:
        values, options = dict(self.settings), dict[str, str]()
        if self.layer is not None:
            placed = method.config.at_layer(self.layer)
            if not placed:
                raise InvalidRequestError(f"--layer does not go with method '{method.name}'.")
            values |= placed
            options |= dict.fromkeys(placed, "--layer")
        if self.erase:
            if not method.config.can_erase:
                raise InvalidRequestError(f"--erase does not go with method '{method.name}'.")
            values["erase"] = True
            options["erase"] = "--erase"
        if self.chat:
            values = method.config.in_chat(values)
            if not values:
                raise InvalidRequestError(
                    f"--chat does not go with method '{method.name}', which takes a fact's prompt "
                    "as it is. Use rome, memit, emmet, alphaedit, ft, ft+l or attn; or give the "
                    "fact in the template itself, as lm.chat_prompt() writes it."
                )
        return made_of(method.config, values, options)
