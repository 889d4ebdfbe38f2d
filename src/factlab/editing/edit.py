"""`Edit`: a change of a model as a thing of its own: applied, undone, saved, shared, exported."""

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from factlab.destinations import check_new_folder
from factlab.editing.edit_tables import (
    fact_lines,
    fact_rows,
    layers_in_words,
    update_lines,
    update_rows,
)
from factlab.editing.remembered import Remembered
from factlab.editing.shipping.adapter import read_adapter, write_adapter
from factlab.editing.shipping.card import base_as_known, model_card
from factlab.editing.shipping.checkpoint import check_not_on, write_checkpoint
from factlab.editing.shipping.document import (
    BaseModelInfo,
    EditDocument,
    FactEntry,
    check_base,
    edit_digest,
    read_edit,
    write_edit,
)
from factlab.editing.shipping.folders import check_destination, check_gguf_destination
from factlab.editing.shipping.gguf_adapter import write_gguf
from factlab.editing.shipping.hub import PushedEdit, check_pushable, edit_place, push
from factlab.editing.shipping.thinned import ExportedAdapter, thinned
from factlab.editing.shipping.versions import current_versions
from factlab.errors import EditError
from factlab.facts import Fact
from factlab.models.changes.board import Pile
from factlab.models.changes.change import Change
from factlab.models.language_model import LanguageModel
from factlab.results import Tabular
from factlab.writing import behind

# Under which diagnostics say which facts, by their places, were left out.
SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Edit(Tabular):
    """Weight updates, with the facts they write and how they were found.

    `print(edit)` says the main things in a few lines. Two edits are equal if the same would be
    saved of them: to the last number, for the same model.

    Attributes:
        method: name of the method, such as `rome`.
        facts: what the edit writes.
        updates: the changes.
        base: the model they are for.
        config: the method's settings, as JSON.
        diagnostics: what the method measured on its way, as JSON.
        versions: of factlab, torch and transformers.
        remembered: what the method leaves to later edits of a sequence, such as the keys that it
            wrote at: nothing, or blocks that cover all facts in their order.
        prefix: of an edit that changes no weight, the text that stands in front of every prompt
            instead; see `in_front_of`.
    """

    method: str
    facts: tuple[Fact, ...]
    updates: tuple[Change, ...]
    base: BaseModelInfo
    config: dict[str, Any]
    diagnostics: dict[str, Any]
    versions: dict[str, str]
    remembered: tuple[Remembered, ...] = ()
    prefix: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of all that is saved."""
        return edit_digest(self._document(), self.updates, self.remembered)

    @property
    def skipped(self) -> tuple[Fact, ...]:
        """Facts that were not written because their value had exploded; see `norm_anchor`."""
        return tuple(self.facts[place] for place in self.diagnostics.get(SKIPPED, ()))

    def __repr__(self) -> str:
        lines = [*self._heading(), *fact_lines(self.facts, self.skipped)]
        return "\n".join([*lines, *update_lines(self.rows())])

    def _heading(self) -> list[str]:
        """Method and model, and what stands in front of prompts."""
        return [
            f"Edit by {self.method} of {self.base.name} ({self.base.fingerprint[:12]})",
            *([f"  in front of every prompt: {self.prefix.strip()}"] if self.prefix else []),
        ]

    def _words(self) -> str:
        return "\n".join([*self._heading(), *layers_in_words(self.diagnostics)])

    def _tables(self) -> dict[str, list[dict[str, Any]]]:
        facts = fact_rows(self.facts, self.diagnostics)
        for place in self.diagnostics.get(SKIPPED, ()):
            facts[place]["prompt"] += " (not written, its value exploded)"
        return {"Facts": facts, "What is changed": self.rows()}

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per weight that is changed.

        Its keys: weight, kind (such as `low rank`), shape, rank, norm (of the change).
        """
        return update_rows(self.updates)

    def to_json(self) -> dict[str, Any]:
        """All but the numbers of the updates, ready for JSON."""
        return {
            "method": self.method,
            "facts": [asdict(fact) for fact in self.facts],
            "updates": self.rows(),
            "base": self.base.model_dump(mode="json"),
            "config": self.config,
            "diagnostics": self.diagnostics,
            "versions": self.versions,
            **({"prefix": self.prefix} if self.prefix else {}),
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Edit) and (self is other or self.digest == other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)

    # -- on a model -------------------------------------------------------------------------

    def in_front_of(self, prompt: str) -> str:
        """A prompt as this edit has it asked: with its text in front, if it is one.

        Examples:
            >>> edit = fl.edit_each(lm, fact, "in-context").edits[0]
            >>> edit.in_front_of("The Louvre is in").split()[:2]
            ['Imagine', 'that']
        """
        return behind(self.prefix, prompt)

    def _check_weights(self) -> None:
        """Refuse to put on or export what is no change of weights."""
        if self.prefix:
            raise EditError(
                f"This edit by {self.method} changes no weight, so there is nothing to apply or "
                "export: ask with edit.in_front_of(prompt), or 'factlab ask --edit'."
            )

    def applied(self, lm: LanguageModel, force: bool = False) -> AbstractContextManager[Pile]:
        """Apply inside the block and undo after it, to the bit, whatever happens inside.

        Edits nest, and may be undone in any order. An interrupt (Ctrl-C), wherever it falls, leaves
        the model without the edit. Other threads wait for the end of the block.

        Raises:
            WrongModelError: as `apply_`.
            EditError: an updated weight was changed by other code, or would have NaN; or the edit
                changes no weight.

        Examples:
            >>> edit = fl.rome(lm, fact)
            >>> before = lm.top_tokens(fact.prompt)
            >>> with edit.applied(lm):
            ...     lm.top_tokens(fact.prompt) == before
            False
            >>> lm.top_tokens(fact.prompt) == before
            True
        """
        self._check_weights()
        if not force:
            self.check_model(lm)
        return lm.patches.applied(self.updates, self)

    def apply_(self, lm: LanguageModel, force: bool = False) -> Callable[[], None]:
        """Change the model's weights: all that the edit changes, or in an error none.

        Args:
            lm: the model.
            force: apply even if the edit was made for different weights.

        Returns:
            A function that takes this application of the edit off again and leaves all others on;
            a second call is an EditError.

        Raises:
            WrongModelError: the edit was made for another model, and `force` is not set.

        Examples:
            >>> undo = fl.rome(lm, fact).apply_(lm)
            >>> undo()
        """
        self._check_weights()
        with lm.lock:
            if not force:
                self.check_model(lm)
            return partial(lm.patches.remove, lm.patches.add(self.updates, self))

    def check_model(self, lm: LanguageModel) -> None:
        """Refuse a model that the edit was not made for.

        Raises:
            WrongModelError: its weights without edits are others, or it lacks the edits that this
                one was computed on top of.
        """
        check_base(lm, self.base)

    # -- as a folder ------------------------------------------------------------------------

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write `edit.json` and `edit.safetensors` into a folder: all of it or nothing.

        Args:
            folder: new, or empty.
            overwrite: replace an edit that is there already. What is not an edit is never replaced.

        Raises:
            StorageError: the folder holds an edit and `overwrite` is not set, or holds something
                else, or cannot be written.

        Examples:
            >>> edit = fl.rome(lm, fact)
            >>> edit.save("eiffel-in-rome")
            >>> fl.Edit.load("eiffel-in-rome") == edit
            True
        """
        check_destination(Path(folder), overwrite)
        write_edit(Path(folder), self._document(), self.updates, self.remembered)

    def _document(self) -> EditDocument:
        return EditDocument(
            method=self.method,
            facts=[FactEntry(**asdict(fact)) for fact in self.facts],
            base=self.base,
            config=self.config,
            diagnostics=self.diagnostics,
            versions=self.versions,
            prefix=self.prefix,
        )

    @classmethod
    def load(cls, folder: str | Path, revision: str | None = None) -> "Edit":
        """Read what `save` wrote, or what `push_to_hub` put on the Hugging Face Hub.

        Args:
            folder: on this machine; or, as a text, `user/repo` on the Hub. A folder of that name
                comes first. Only JSON and safetensors are fetched, and checked alike.
            revision: branch, tag or commit on the Hub.

        Raises:
            StorageError: the folder is not an edit, is damaged, or is of a newer schema; or it is
                not here, and the Hub does not have it or was not reached.
            InvalidRequestError: a revision of what cannot be on the Hub.
        """
        return cls(**read_edit(edit_place(folder, revision)).fields())

    # -- for others -------------------------------------------------------------------------

    def push_to_hub(
        self,
        repo: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        message: str = "Add an edit",
        overwrite: bool = False,
    ) -> PushedEdit:
        """Share the edit on the Hugging Face Hub: what `save` writes, and a model card.

        Args:
            repo: `user/repo`; made if it is not there.
            private: whether only those see it whom the owner lets; None leaves it to the account.
            token: for this call, and written nowhere; by default the one that you logged in with.
            message: of the commit.
            overwrite: replace an edit that is there already. What is not an edit is never replaced.

        Returns:
            The repository and the commit.

        Raises:
            InvalidRequestError: `repo` is no name on the Hub.
            StorageError: the Hub refused or was not reached; or the repository holds an edit and
                `overwrite` is not set, holds something else, or is public and was to be private.
        """
        check_pushable(repo)
        card = model_card(repo, self.method, self.facts, self.base.name, self.rows(), self.versions)
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work) / "edit"
            self.save(folder)
            return push(folder, card, repo, private, token, message, overwrite)

    def merge_into(self, lm: LanguageModel, folder: str | Path) -> None:
        """Write the edited model as an ordinary Hugging Face checkpoint; `lm` stays as it is.

        Other edits that are on the model are written too.

        Args:
            lm: the model that the edit was made for.
            folder: a new or empty folder; gets weights (safetensors), config and tokenizer, in the
                dtype that the model has now.

        Raises:
            WrongModelError: the edit was made for another model.
            EditError: the edit is on the model already, and would count twice.
            StorageError: the folder is not empty, or cannot be written.
        """
        self._check_weights()
        check_new_folder(Path(folder))
        check_not_on(lm, self.updates)
        with self.applied(lm):
            write_checkpoint(lm, Path(folder))

    def to_peft(
        self,
        folder: str | Path,
        max_rank: int | None = None,
        every_layer: LanguageModel | None = None,
    ) -> ExportedAdapter:
        """Write a LoRA adapter that the `peft` library loads onto the base model.

        Args:
            folder: a new or empty folder; gets `adapter_config.json` and
                `adapter_model.safetensors`.
            max_rank: at most so many outer products for a weight, the largest in the sense of the
                singular value decomposition; by default as many as it takes.
            every_layer: the model that the edit is for, to write zeros for its other layers too,
                and one rank for all. TGI passes over adapters of some layers only.

        Returns:
            The rank of each module, and how much of the change it keeps.

        Raises:
            EditError: LoRA cannot express the edit, or the edit builds on others; or the layers of
                the model differ.
            WrongModelError: `every_layer` is another model than the edit's.
            InvalidRequestError: the rank is below 1.
            StorageError: the folder is not empty, or cannot be written.

        Examples:
            >>> edit = fl.editing.memit(lm, facts)
            >>> exported = edit.to_peft("adapter", max_rank=1)
            >>> exported.rank, 0 < exported.kept_energy < 1
            (1, True)
        """
        self._check_weights()
        check_new_folder(Path(folder))
        made = thinned(self.updates, self.remembered, self.base, max_rank, every_layer)
        write_adapter(made, self.base.name, Path(folder))
        return made.report

    def to_gguf(self, path: str | Path, max_rank: int | None = None) -> ExportedAdapter:
        """Write a GGUF adapter, which llama.cpp adds to the base model's own GGUF file.

        Args:
            path: a new file whose name ends in `.gguf`.
            max_rank: see `to_peft`, as for what is returned.

        Raises:
            EditError: as `to_peft`; or GGUF keeps a weight under another name or in another order.
            InvalidRequestError: the rank is below 1, or the name has another ending.
            StorageError: the file is there, or cannot be written.
        """
        self._check_weights()
        check_gguf_destination(Path(path))
        made = thinned(self.updates, self.remembered, self.base, max_rank)
        write_gguf(made, self.base.family, base_as_known(self.base.name)[0], Path(path))
        return made.report

    @classmethod
    def from_peft(cls, folder: str | Path, lm: LanguageModel) -> "Edit":
        """Read a plain LoRA adapter as an edit; its method is `peft` and it lists no facts.

        Args:
            folder: holds `adapter_config.json` and `adapter_model.safetensors`.
            lm: the model that the adapter is for, as it is now.

        Raises:
            EditError: the adapter does something other than add low-rank matrices to weights, or
                does not fit the model.
            StorageError: the folder is not an adapter, or is damaged.
        """
        read = read_adapter(Path(folder), lm)
        return cls(
            method="peft",
            facts=(),
            updates=read.updates,
            base=BaseModelInfo.of(lm),
            config=read.config,
            diagnostics={},
            versions=current_versions(),
        )
