"""Saved edits of the workbench, and those that are on its model."""

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factlab.editing.combined import combine
from factlab.editing.edit import Edit
from factlab.errors import FactlabError, InvalidRequestError, StorageError
from factlab.models.language_model import LanguageModel
from factlab.web.requests import ExportJob, check_folder_name
from factlab.writing import behind


@dataclass(slots=True)
class Shelf:
    """A folder of edits. Names are of folders in it and of nothing else.

    Attributes:
        folder: of the edits that were kept.
        fresh: of those that jobs computed, by the job's name.
        exports: of what was written for other programs.
    """

    folder: Path
    fresh: Path
    exports: Path

    def names(self) -> list[str]:
        """Of the edits that were kept, in alphabetical order."""
        if not self.folder.is_dir():
            return []
        return sorted(path.name for path in self.folder.iterdir() if (path / "edit.json").is_file())

    def load(self, name: str) -> Edit:
        """An edit that was kept.

        Raises:
            StorageError: there is none of that name, or it is damaged.
        """
        if name not in self.names():
            raise StorageError(f"There is no saved edit '{name}'.")
        return Edit.load(self.folder / name)

    def listed(self) -> list[dict[str, Any]]:
        """What there is to know of each, ready for JSON; an `error` in place of a damaged one."""
        found: list[dict[str, Any]] = []
        for name in self.names():
            try:
                edit = self.load(name)
            except FactlabError as error:
                found.append({"name": name, "error": str(error)})
                continue
            found.append(
                {
                    "name": name,
                    "method": edit.method,
                    "model": edit.base.name,
                    "facts": [
                        {"prompt": fact.prompt, "new": fact.target_new, "true": fact.target_true}
                        for fact in edit.facts[:20]
                    ],
                    "n_facts": len(edit.facts),
                    "changes": edit.rows(),
                }
            )
        return found

    def keep_fresh(self, job: str, edit: Edit) -> None:
        """Keep what a job computed until somebody gives it a name."""
        edit.save(self.fresh / job, overwrite=True)

    def keep(self, job: str, name: str) -> None:
        """Give the edit of a job a name.

        Raises:
            InvalidRequestError: the name cannot be one of a folder, or there is an edit of it.
            StorageError: the job computed none.
        """
        check_folder_name(name)
        if not re.fullmatch(r"[\w-]+", job) or not (self.fresh / job).is_dir():
            raise StorageError("This job computed no edit, or it is gone.")
        if (self.folder / name).exists():
            raise InvalidRequestError(f"There is a saved edit '{name}'. Choose another name.")
        Edit.load(self.fresh / job).save(self.folder / name)

    def export(self, lm: LanguageModel, request: ExportJob) -> dict[str, Any]:
        """Write edits for other programs; a checkpoint has these and no others of the model's.

        Raises:
            StorageError: an edit is not there, or a folder of the name is.
            FactlabError: what is asked for cannot hold these edits.
        """
        edit = combine([self.load(name) for name in request.on])
        edit.check_model(lm)
        folder = self.exports / request.name
        modules: list[dict[str, Any]] = []
        if request.to == "peft":
            made = edit.to_peft(folder, request.rank)
            modules = [
                {"module": m.module, "rank": m.rank, "energy kept": m.kept_energy}
                for m in made.modules
            ]
        else:
            with lm.patches.lifted():
                edit.merge_into(lm, folder)
        return {"folder": str(folder), "modules": modules}


@dataclass(slots=True)
class Stack:
    """The edits that are on a model, in the order in which they were applied.

    Attributes:
        lm: the model.
        shelf: where edits come from.
        on: their names.
    """

    lm: LanguageModel
    shelf: Shelf
    on: list[str] = field(default_factory=list[str])
    prefixes: list[str] = field(default_factory=list[str])
    _undo: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])

    @property
    def prefix(self) -> str:
        """What stands in front of prompts, of edits that change no weight."""
        return behind(*self.prefixes)

    def put(self, names: Sequence[str]) -> None:
        """Have these edits on the model and no others.

        Raises:
            StorageError: there is no such edit.
            WrongModelError: one is of another model.
            EditError: one was computed on top of another that is not on; then all are off.
        """
        edits = [self.shelf.load(name) for name in names]
        self.clear()
        try:
            for name, edit in zip(names, edits, strict=True):
                if edit.prefix:
                    edit.check_model(self.lm)
                    self.prefixes.append(edit.prefix)
                else:
                    self._undo.append(edit.apply_(self.lm))
                self.on.append(name)
        except FactlabError:
            self.clear()
            raise

    def clear(self) -> None:
        """Take all edits off; the weights are what they were, to the bit."""
        while self._undo:
            self._undo.pop()()
        self.on.clear()
        self.prefixes.clear()

    @contextmanager
    def instead(self, names: Sequence[str]) -> Generator[str, None, None]:
        """A block in which only these edits are on the model.

        Yields:
            What stands in front of prompts.

        Raises:
            FactlabError: see `put`.
        """
        edits = [self.shelf.load(name) for name in names]
        with ExitStack() as opened:
            opened.enter_context(self.lm.patches.lifted())
            for edit in edits:
                if edit.prefix:
                    edit.check_model(self.lm)
                else:
                    opened.enter_context(edit.applied(self.lm))
            yield behind(*(edit.prefix for edit in edits))
