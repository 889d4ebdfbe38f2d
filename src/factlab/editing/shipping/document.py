"""A saved edit on disk: `edit.json` says what it is, `edit.safetensors` holds the numbers.

`edit.json` has a digest of every change, so that numbers that are not its own are noticed. When an
edit replaces another, its numbers are first written as `edit-new.safetensors`; the moment at which
`edit.json` is renamed is the moment of the change, and whenever a process is killed, one of the two
edits is there as a whole.
"""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, NonNegativeInt
from torch import Tensor

from factlab.documents import Growing, check_version, described, validated
from factlab.editing.remembered import Remembered
from factlab.editing.shipping.folders import JSON, NEW_TENSORS, TENSORS, check_saved_edit
from factlab.errors import EditError, FactlabError, StorageError, WrongModelError, counted
from factlab.facts import Fact
from factlab.families import Layout
from factlab.models.changes.change import Change
from factlab.models.changes.update import KINDS, read_change
from factlab.models.language_model import LanguageModel
from factlab.storage import (
    folder_written_atomically,
    read_json,
    read_tensors,
    rename,
    write_json,
    write_tensors,
)

# 1 knew low-rank updates only; 2 says of each update which kind it is; 3 has their digests; 4 has
# what is remembered; 5 may be a text in front of prompts, and is written for such an edit only.
_SCHEMA, _NEWEST = 4, 5
_ADVICE = "Make the edit again."


class BaseModelInfo(BaseModel):
    """The model that an edit was made for.

    Attributes:
        name: as it was loaded.
        family: its architecture.
        fingerprint: of its weights without edits.
        on_top_of: digests of the updates that were applied when the edit was computed, but for
            those that others of them were computed on top of in turn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    family: str
    fingerprint: str
    on_top_of: tuple[str, ...] = ()

    @classmethod
    def of(cls, lm: LanguageModel) -> "BaseModelInfo":
        """Describe a model as it is now."""
        return cls(
            name=lm.name,
            family=lm.family,
            fingerprint=lm.fingerprint,
            on_top_of=_uncovered(lm),
        )


class _OnModel(NamedTuple):
    """An edit that is on a model: what it is for, and what it changes."""

    base: BaseModelInfo
    updates: tuple[Change, ...]


def _edits_on(lm: LanguageModel) -> list[_OnModel]:
    return [
        _OnModel(base, getattr(source, "updates", ()))
        for source in lm.patches.sources
        if isinstance(base := getattr(source, "base", None), BaseModelInfo)
    ]


def _uncovered(lm: LanguageModel) -> tuple[str, ...]:
    """Digests of the updates on a model that no edit on it was computed on top of.

    An edit that is the thousandth of a sequence thus names the one before it, not all.
    """
    covered = {digest for edit in _edits_on(lm) for digest in edit.base.on_top_of}
    active = dict.fromkeys(change.digest for change in lm.patches.active)
    return tuple(digest for digest in active if digest not in covered)


def _lacks_edits(lm: LanguageModel, base: BaseModelInfo) -> bool:
    """Whether a model lacks what an edit was computed on top of, or what that was in turn."""
    active = {change.digest for change in lm.patches.active}
    below = {
        update.digest: edit.base.on_top_of for edit in _edits_on(lm) for update in edit.updates
    }
    needed, seen = [*base.on_top_of], set[str]()
    while needed:
        digest = needed.pop()
        if digest not in active:
            return True
        if digest not in seen:
            seen.add(digest)
            needed += below.get(digest, ())
    return False


def check_base(lm: LanguageModel, base: BaseModelInfo) -> None:
    """Refuse a model that an edit was not made for; see `Edit.check_model`.

    Raises:
        WrongModelError: its weights without edits are others, or it lacks some edits.
    """
    if not lm.identity.matches(base.fingerprint, roughly=True):
        raise WrongModelError(
            f"This edit was made for {base.name} (fingerprint {base.fingerprint[:12]}), not for "
            f"{lm.name} ({lm.fingerprint[:12]}). Load that model, or apply with force if you know "
            "that it fits."
        )
    if _lacks_edits(lm, base):
        raise WrongModelError(
            "This edit was computed on a model that already carried other edits. Apply those "
            "first, in the same order, or apply with force."
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

    kind: str = "low_rank"
    weight_name: str
    layout: Layout
    sha256: str | None = None


class _RememberedEntry(BaseModel):
    """A block of what is remembered: of how many facts, and the digests of its tensors."""

    model_config = ConfigDict(extra="forbid")

    n_facts: NonNegativeInt
    sha256: dict[str, str]


class EditDocument(Growing):
    """`edit.json`, but for the list of updates, which goes with the tensors.

    Attributes:
        method: see `Edit`.
        facts: see `Edit`.
        base: see `Edit`.
        config: see `Edit`.
        diagnostics: see `Edit`.
        versions: see `Edit`.
        prefix: see `Edit`; left out where there is none.
    """

    model_config = ConfigDict(extra="forbid")
    added = frozenset({"prefix"})

    method: str
    facts: list[FactEntry]
    base: BaseModelInfo
    config: dict[str, Any]
    diagnostics: dict[str, Any]
    versions: dict[str, str]
    prefix: str = ""

    def checked_facts(self) -> tuple[Fact, ...]:
        """The facts themselves.

        Raises:
            InvalidRequestError: an entry is not a fact.
        """
        return tuple(Fact(**dict(entry)) for entry in self.facts)


class _EditFile(EditDocument):
    schema_version: int = _SCHEMA
    updates: list[_UpdateEntry]
    remembered: tuple[_RememberedEntry, ...] = ()


class SavedEdit(NamedTuple):
    """What is read of an edit.

    Attributes:
        document: all but the numbers.
        updates: the changes.
        remembered: what it leaves to later edits.
    """

    document: EditDocument
    updates: tuple[Change, ...]
    remembered: tuple[Remembered, ...]

    def fields(self) -> dict[str, Any]:
        """The fields of the `Edit`.

        Raises:
            InvalidRequestError: an entry is not a fact.
        """
        said = {name: getattr(self.document, name) for name in EditDocument.model_fields}
        read = {"updates": self.updates, "remembered": self.remembered}
        return {**said, **read, "facts": self.document.checked_facts()}


def edit_digest(
    document: EditDocument, updates: tuple[Change, ...], remembered: tuple[Remembered, ...]
) -> str:
    """SHA-256 of all that is saved of an edit."""
    content: list[Any] = [document.model_dump(mode="json"), [update.digest for update in updates]]
    if remembered:  # earlier versions had nothing, and an edit keeps its digest
        content.append([[len(block.facts), block.digests()] for block in remembered])
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_edit(
    folder: Path,
    document: EditDocument,
    updates: tuple[Change, ...],
    remembered: tuple[Remembered, ...],
) -> None:
    """Write both files: all of it or nothing. An edit that was in the folder is gone then.

    Raises:
        StorageError: the folder cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    entries: list[_UpdateEntry] = []
    for i, update in enumerate(updates):
        # Copies, since an edit that is there twice shares its tensors, which safetensors refuses.
        tensors |= {f"{i}.{part}": tensor.clone() for part, tensor in update.tensors().items()}
        entries.append(
            _UpdateEntry(
                kind=update.kind,
                weight_name=update.weight_name,
                layout=update.layout,
                sha256=update.digest,
            )
        )
    for i, block in enumerate(remembered):
        tensors |= {_key(i, name): tensor.clone() for name, tensor in block.tensors.items()}
    left = tuple(
        _RememberedEntry(n_facts=len(block.facts), sha256=block.digests()) for block in remembered
    )
    version = _NEWEST if document.prefix else _SCHEMA
    file = _EditFile(
        **dict(document), schema_version=version, updates=entries, remembered=left
    ).model_dump(mode="json")
    if (folder / JSON).exists():
        _finish_replacing(folder)
        write_tensors(folder / NEW_TENSORS, tensors)
        write_json(folder / JSON, file)
        _finish_replacing(folder)
        return
    with folder_written_atomically(folder) as unfinished:
        write_tensors(unfinished / TENSORS, tensors)
        write_json(unfinished / JSON, file)


def _finish_replacing(folder: Path) -> None:
    """Give the new numbers their final name, if `edit.json` means them; else take them away."""
    new = folder / NEW_TENSORS
    if not new.exists():
        return
    is_meant = False
    with contextlib.suppress(FactlabError, KeyError):
        file = _read_file(folder)
        if any(entry.sha256 for entry in file.updates):
            _numbers(file, new)
            is_meant = True
    if is_meant:
        rename(new, folder / TENSORS)
    else:
        new.unlink()


def read_edit(folder: Path) -> SavedEdit:
    """Read what `write_edit` wrote, or an older factlab.

    Raises:
        StorageError: the folder is not an edit, is damaged, or is of a newer schema.
    """
    check_saved_edit(folder)
    file = _read_file(folder)
    try:
        try:
            return _numbers(file, folder / TENSORS)
        except (KeyError, FactlabError):
            if not (folder / NEW_TENSORS).exists():
                raise
        return _numbers(file, folder / NEW_TENSORS)  # a kill kept it from being renamed
    except (KeyError, FactlabError) as error:
        reason = f"tensor {error} is missing" if isinstance(error, KeyError) else described(error)
        raise StorageError(f"The edit in '{folder}' is damaged: {reason}. {_ADVICE}") from error


def _read_file(folder: Path) -> _EditFile:
    data, where = read_json(folder / JSON), f"'{folder / JSON}'"
    check_version(data.get("schema_version"), _NEWEST, where, _ADVICE)
    return validated(_EditFile, data, where, _ADVICE)


def _key(block: int, name: str) -> str:
    """What a tensor of a remembered block is called in the file."""
    return f"remembered.{block}.{name}"


def _numbers(file: _EditFile, path: Path) -> SavedEdit:
    """The document, with the numbers of a file that must be its own."""
    tensors, _ = read_tensors(path)
    updates = tuple(_update(entry, i, tensors) for i, entry in enumerate(file.updates))
    remembered = _remembered(file, tensors)
    n_used = sum(len(update.parts) for update in updates)
    n_used += sum(len(block.tensors) for block in remembered)
    if n_used != len(tensors):
        raise EditError(
            f"{path.name} holds {counted(len(tensors), 'tensor')}, and {JSON} lists {n_used}"
        )
    return SavedEdit(file, updates, remembered)


def _update(entry: _UpdateEntry, number: int, tensors: dict[str, Tensor]) -> Change:
    parts = KINDS[entry.kind].parts if entry.kind in KINDS else ()
    own = {part: tensors[f"{number}.{part}"] for part in parts}
    made = read_change(entry.kind, entry.weight_name, entry.layout, own)
    if entry.sha256 not in (None, made.digest):
        raise EditError(f"the change of '{entry.weight_name}' is not the one that {JSON} describes")
    return made


def _remembered(file: _EditFile, tensors: dict[str, Tensor]) -> tuple[Remembered, ...]:
    facts, at = file.checked_facts(), 0
    blocks: list[Remembered] = []
    for i, entry in enumerate(file.remembered):
        own = {name: tensors[_key(i, name)] for name in entry.sha256}
        block = Remembered(facts[at : at + entry.n_facts], own)
        at += entry.n_facts
        if block.digests() != entry.sha256:
            raise EditError(f"what it remembers of its facts is not what {JSON} describes")
        blocks.append(block)
    if blocks and at != len(facts):
        raise EditError(
            f"it remembers {counted(at, 'fact')} and writes {len(facts)}, which must be the same"
        )
    return tuple(blocks)
