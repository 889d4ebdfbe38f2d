"""A saved edit on disk: `edit.json` says what it is, `edit.safetensors` holds the numbers."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from factlab.editing.update import DenseUpdate, LowRankUpdate, Update
from factlab.errors import EditError, FactlabError, StorageError
from factlab.facts import Fact
from factlab.families import Layout
from factlab.models.decoder import Decoder
from factlab.storage import (
    folder_written_atomically,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)

# 1 knew low-rank updates only; 2 says of each update which kind it is.
_SCHEMA = 2
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
        active = [p.digest for p in lm.patches.active if isinstance(p, Update)]
        return cls(
            name=lm.name,
            family=lm.architecture.family,
            fingerprint=lm.fingerprint,
            on_top_of=tuple(active),
        )


class FactEntry(BaseModel):
    """A fact, as JSON."""

    model_config = ConfigDict(extra="forbid")

    template: str
    subject: str
    target_new: str | None
    target_true: str | None


class _UpdateEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Literal["low_rank", "dense"] = "low_rank"
    weight_name: str
    layout: Layout


class EditDocument(BaseModel):
    """`edit.json`, but for the list of updates, which goes with the tensors.

    Attributes:
        method: see `Edit`.
        facts: see `Edit`.
        base: see `Edit`.
        config: see `Edit`.
        diagnostics: see `Edit`.
        versions: see `Edit`.
    """

    model_config = ConfigDict(extra="forbid")

    method: str
    facts: list[FactEntry]
    base: BaseModelInfo
    config: dict[str, Any]
    diagnostics: dict[str, Any]
    versions: dict[str, str]

    def checked_facts(self) -> tuple[Fact, ...]:
        """The facts themselves.

        Raises:
            InvalidRequestError: an entry is not a fact.
        """
        return tuple(Fact(**dict(entry)) for entry in self.facts)


class _EditFile(EditDocument):
    schema_version: Literal[1, 2] = _SCHEMA
    updates: list[_UpdateEntry]


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


def write_edit(folder: Path, document: EditDocument, updates: tuple[Update, ...]) -> None:
    """Write both files: all of it or nothing. What was in the folder is gone then.

    Raises:
        StorageError: the folder cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    entries: list[_UpdateEntry] = []
    for i, update in enumerate(updates):
        # Copies, since an edit that is there twice shares its tensors, which safetensors refuses.
        if isinstance(update, LowRankUpdate):
            kind = "low_rank"
            tensors[f"{i}.left"] = update.left.clone()
            tensors[f"{i}.right"] = update.right.clone()
        else:
            kind = "dense"
            tensors[f"{i}.delta"] = update.delta.clone()
        entries.append(
            _UpdateEntry(kind=kind, weight_name=update.weight_name, layout=update.layout)
        )
    file = _EditFile(**dict(document), updates=entries)
    with folder_written_atomically(folder) as unfinished:
        write_tensors(unfinished / _TENSORS, tensors)
        write_json(unfinished / _JSON, file.model_dump(mode="json"))


def read_edit(folder: Path) -> tuple[EditDocument, tuple[Update, ...]]:
    """Read what `write_edit` wrote, or an older factlab.

    Raises:
        StorageError: the folder is not an edit, is damaged, or is of a newer schema.
    """
    if not (folder / _JSON).is_file():
        raise StorageError(
            f"'{folder}' is not a saved edit: it has no {_JSON}. "
            "Pass the folder that 'factlab edit --out' wrote."
        )
    data = read_json(folder / _JSON)
    if data.get("schema_version") not in range(1, _SCHEMA + 1):
        raise StorageError(
            f"'{folder / _JSON}' has schema version {data.get('schema_version')}, and this "
            f"factlab reads 1 to {_SCHEMA}. Update factlab, or make the edit again."
        )
    try:
        file = _EditFile.model_validate(data)
        tensors, _ = read_tensors(folder / _TENSORS)
        file.checked_facts()
        updates = tuple(_update(entry, i, tensors) for i, entry in enumerate(file.updates))
    except (ValidationError, KeyError, TypeError, FactlabError) as error:
        raise StorageError(
            f"The edit in '{folder}' is damaged: {_one_line(error)} Make it again."
        ) from error
    return file, updates


def _update(entry: _UpdateEntry, number: int, tensors: dict[str, Tensor]) -> Update:
    name = entry.weight_name
    if entry.kind == "dense":
        delta = tensors[f"{number}.delta"]
        if delta.ndim != 2:
            raise EditError(f"the change of '{name}' is not a matrix.")
        made = DenseUpdate(name, entry.layout, delta)
    else:
        left, right = tensors[f"{number}.left"], tensors[f"{number}.right"]
        if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0]:
            raise EditError(f"the factors of '{name}' do not fit together.")
        made = LowRankUpdate(name, entry.layout, left, right)
    parts = (made.delta,) if isinstance(made, DenseUpdate) else (made.left, made.right)
    if not all(part.isfinite().all() for part in parts):
        raise EditError(f"the change of '{name}' is not finite.")
    return made


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}."
    if isinstance(error, KeyError):
        return f"tensor {error} is missing."
    return str(error)
