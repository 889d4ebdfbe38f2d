"""`Edit`: a change of a model as a thing of its own, that is applied, undone, saved and shared."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from factlab.architectures import Layout
from factlab.editing.update import LowRankUpdate
from factlab.errors import EditError, FactlabError, StorageError, WrongModelError
from factlab.facts import Fact
from factlab.models.decoder import Decoder
from factlab.storage import (
    folder_written_atomically,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)

_SCHEMA = 1
_JSON, _TENSORS = "edit.json", "edit.safetensors"


class BaseModelInfo(BaseModel):
    """The model that an edit was made for.

    Attributes:
        name: as it was loaded.
        family: its architecture.
        fingerprint: of its weights without edits.
        on_top_of: digests of the updates that were applied when the edit was computed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    family: str
    fingerprint: str
    on_top_of: tuple[str, ...] = ()

    @classmethod
    def of(cls, lm: Decoder) -> "BaseModelInfo":
        """Describe a model as it is now."""
        active = [p.digest for p in lm.patches.active if isinstance(p, LowRankUpdate)]
        return cls(
            name=lm.name,
            family=lm.architecture.family,
            fingerprint=lm.fingerprint,
            on_top_of=tuple(active),
        )


@dataclass(frozen=True, slots=True)
class Edit:
    """Weight updates, with the facts they write and how they were found.

    Attributes:
        method: name of the method, such as `rome`.
        facts: what the edit writes.
        updates: the changes.
        base: the model they are for.
        config: the method's settings, as JSON.
        diagnostics: what the method measured on its way, as JSON.
        versions: of factlab, torch and transformers.
    """

    method: str
    facts: tuple[Fact, ...]
    updates: tuple[LowRankUpdate, ...]
    base: BaseModelInfo
    config: dict[str, Any]
    diagnostics: dict[str, Any]
    versions: dict[str, str]

    @contextmanager
    def applied(self, lm: Decoder, force: bool = False) -> Iterator[None]:
        """Apply inside the block and undo after it, to the bit, whatever happens inside.

        Edits nest, and may be undone in any order.

        Raises:
            WrongModelError: as `apply_`.
        """
        undo = self.apply_(lm, force)
        try:
            yield
        finally:
            undo()

    def apply_(self, lm: Decoder, force: bool = False) -> Callable[[], None]:
        """Change the model's weights.

        Args:
            lm: the model.
            force: apply even if the edit was made for different weights.

        Returns:
            A function that takes this edit off again and leaves the others on; call it once.

        Raises:
            WrongModelError: the edit was made for another model, and `force` is not set.
        """
        if not force:
            self._check_model(lm)
        lm.patches.add(self.updates)

        def undo() -> None:
            lm.patches.remove(self.updates)

        return undo

    def _check_model(self, lm: Decoder) -> None:
        if self.base.fingerprint != lm.fingerprint:
            raise WrongModelError(
                f"This edit was made for {self.base.name} (fingerprint "
                f"{self.base.fingerprint[:12]}), not for {lm.name} ({lm.fingerprint[:12]}). "
                "Load that model, or apply with force if you know that it fits."
            )
        active = {p.digest for p in lm.patches.active if isinstance(p, LowRankUpdate)}
        if not active.issuperset(self.base.on_top_of):
            raise WrongModelError(
                "This edit was computed on a model that already carried other edits. Apply those "
                "first, in the same order, or apply with force."
            )

    def save(self, folder: str | Path) -> None:
        """Write `edit.json` and `edit.safetensors` into a folder: all of it or nothing.

        Raises:
            StorageError: the folder exists and is not an edit, or cannot be written.
        """
        folder = Path(folder)
        check_destination(folder)
        tensors: dict[str, torch.Tensor] = {}
        listed: list[dict[str, Any]] = []
        for i, update in enumerate(self.updates):
            tensors |= {f"{i}.left": update.left, f"{i}.right": update.right}
            listed.append({"weight_name": update.weight_name, "layout": update.layout})
        document = _EditDocument(
            method=self.method,
            facts=[_FactEntry(**asdict(fact)) for fact in self.facts],
            updates=[_UpdateEntry(**entry) for entry in listed],
            base=self.base,
            config=self.config,
            diagnostics=self.diagnostics,
            versions=self.versions,
        )
        with folder_written_atomically(folder) as unfinished:
            write_tensors(unfinished / _TENSORS, tensors)
            write_json(unfinished / _JSON, document.model_dump(mode="json"))

    @classmethod
    def load(cls, folder: str | Path) -> "Edit":
        """Read what `save` wrote.

        Raises:
            StorageError: the folder is not an edit, is damaged, or is of a newer schema.
        """
        folder = Path(folder)
        if not (folder / _JSON).is_file():
            raise StorageError(
                f"'{folder}' is not a saved edit: it has no {_JSON}. "
                "Pass the folder that 'factlab edit --out' wrote."
            )
        data = read_json(folder / _JSON)
        if data.get("schema_version") != _SCHEMA:
            raise StorageError(
                f"'{folder / _JSON}' has schema version {data.get('schema_version')}, and this "
                f"factlab reads {_SCHEMA}. Update factlab, or make the edit again."
            )
        try:
            document = _EditDocument.model_validate(data)
            tensors, _ = read_tensors(folder / _TENSORS)
            return cls(
                method=document.method,
                facts=tuple(Fact(**dict(fact)) for fact in document.facts),
                updates=tuple(
                    _checked_update(entry, tensors[f"{i}.left"], tensors[f"{i}.right"])
                    for i, entry in enumerate(document.updates)
                ),
                base=document.base,
                config=document.config,
                diagnostics=document.diagnostics,
                versions=document.versions,
            )
        except (ValidationError, KeyError, TypeError, FactlabError) as error:
            raise StorageError(
                f"The edit in '{folder}' is damaged: {_one_line(error)} Make it again."
            ) from error


def check_destination(folder: Path) -> None:
    """Refuse to replace what is not an edit and nothing but an edit.

    Raises:
        StorageError: the path is a file, or a folder that holds something else.
    """
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    if folder.is_file() or not found <= {_JSON, _TENSORS}:
        raise StorageError(
            f"'{folder}' exists and holds something other than a saved edit; nothing was written. "
            "Choose another name."
        )


def current_versions() -> dict[str, str]:
    """Versions of what computes an edit."""
    return {name: version(name) for name in ("factlab", "torch", "transformers")}


class _FactEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    template: str
    subject: str
    target_new: str | None
    target_true: str | None


class _UpdateEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    weight_name: str
    layout: Layout


class _EditDocument(BaseModel):
    """`edit.json`."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = _SCHEMA
    method: str
    facts: list[_FactEntry]
    updates: list[_UpdateEntry]
    base: BaseModelInfo
    config: dict[str, Any]
    diagnostics: dict[str, Any]
    versions: dict[str, str]


def _checked_update(entry: _UpdateEntry, left: torch.Tensor, right: torch.Tensor) -> LowRankUpdate:
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0]:
        raise EditError(f"the factors of '{entry.weight_name}' do not fit together.")
    if not (left.isfinite().all() and right.isfinite().all()):
        raise EditError(f"the factors of '{entry.weight_name}' are not finite.")
    return LowRankUpdate(entry.weight_name, entry.layout, left, right)


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}."
    if isinstance(error, KeyError):
        return f"tensor {error} is missing."
    return str(error)
