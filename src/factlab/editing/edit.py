"""`Edit`: a change of a model as a thing of its own: applied, undone, saved, shared, exported."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from factlab.destinations import check_new_folder
from factlab.editing.edit_tables import fact_rows, layers_in_words
from factlab.editing.remembered import Remembered
from factlab.editing.shipping.adapter import ExportedAdapter, read_adapter, write_adapter
from factlab.editing.shipping.checkpoint import write_checkpoint
from factlab.editing.shipping.document import (
    BaseModelInfo,
    EditDocument,
    FactEntry,
    edit_digest,
    lacks_edits,
    read_edit,
    write_edit,
)
from factlab.editing.shipping.folders import check_destination
from factlab.errors import EditError, WrongModelError, counted
from factlab.facts import Fact
from factlab.models.changes.board import Pile
from factlab.models.changes.change import Change
from factlab.models.language_model import LanguageModel
from factlab.results import Tabular
from factlab.writing import behind

# Under which diagnostics say which facts, by their places, were left out.
SKIPPED = "skipped"
_FACTS_SHOWN, _UPDATES_SHOWN = 3, 5


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
        written = [f"{fact.prompt} -> {fact.target_new or '(erased)'}" for fact in self.facts]
        more = len(self.updates) - _UPDATES_SHOWN
        return "\n".join(
            [
                *self._heading(),
                *(f"  {fact}" for fact in written[:_FACTS_SHOWN]),
                *([f"  and {len(written) - _FACTS_SHOWN} more"] if written[_FACTS_SHOWN:] else []),
                *(f"  not written, its value exploded: {fact.prompt}" for fact in self.skipped),
                *(
                    f"  {row['weight']}: {_rank_in_words(row)}, norm of the change "
                    f"{row['norm']:.3g}"
                    for row in self.rows()[:_UPDATES_SHOWN]
                ),
                *([f"  and {counted(more, 'more weight')}"] if more > 0 else []),
            ]
        )

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
        return [
            {
                "weight": update.weight_name,
                "kind": update.kind.replace("_", " "),
                "shape": list(update.shape),
                "rank": update.rank,
                "norm": update.norm,
            }
            for update in self.updates
        ]

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
        if not lm.identity.matches(self.base.fingerprint, roughly=True):
            raise WrongModelError(
                f"This edit was made for {self.base.name} (fingerprint "
                f"{self.base.fingerprint[:12]}), not for {lm.name} ({lm.fingerprint[:12]}). "
                "Load that model, or apply with force if you know that it fits."
            )
        if lacks_edits(lm, self.base):
            raise WrongModelError(
                "This edit was computed on a model that already carried other edits. Apply those "
                "first, in the same order, or apply with force."
            )

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
    def load(cls, folder: str | Path) -> "Edit":
        """Read what `save` wrote.

        Raises:
            StorageError: the folder is not an edit, is damaged, or is of a newer schema.
        """
        saved = read_edit(Path(folder))
        document = saved.document
        return cls(
            method=document.method,
            facts=document.checked_facts(),
            updates=saved.updates,
            base=document.base,
            config=document.config,
            diagnostics=document.diagnostics,
            versions=document.versions,
            remembered=saved.remembered,
            prefix=document.prefix,
        )

    # -- for others -------------------------------------------------------------------------

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
        if _active_digests(lm) & {update.digest for update in self.updates}:
            raise EditError(
                "This edit is on the model already and would be merged twice. Undo it first."
            )
        with self.applied(lm):
            write_checkpoint(lm, Path(folder))

    def to_peft(self, folder: str | Path, rank: int | None = None) -> ExportedAdapter:
        """Write a LoRA adapter that the `peft` library loads onto the base model.

        Args:
            folder: a new or empty folder; gets `adapter_config.json` and
                `adapter_model.safetensors`.
            rank: at most so many outer products for a weight; by default as many as it takes.

        Returns:
            The rank of each module, and how much of the change it keeps.

        Raises:
            EditError: LoRA cannot express the edit, or the edit builds on others.
            InvalidRequestError: the rank is below 1.
            StorageError: the folder is not empty, or cannot be written.
        """
        self._check_weights()
        if self.base.on_top_of:
            raise EditError(
                "This edit was computed on a model that already carried other edits, and does not "
                "stand alone. Put them together with combine() and export the result."
            )
        check_new_folder(Path(folder))
        return write_adapter(self.updates, self.base.name, Path(folder), rank)

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


def _rank_in_words(row: dict[str, Any]) -> str:
    match row["kind"]:
        case "low rank":
            return f"rank {row['rank']}"
        case "experts":
            return f"rank {row['rank']} in each of its experts that are changed"
        case kind:
            return kind


def current_versions() -> dict[str, str]:
    """Versions of what computes an edit."""
    return {name: _version(name) for name in ("factlab", "torch", "transformers")}


@cache
def _version(name: str) -> str:
    """Of an installed package; looking it up takes longer than a small edit."""
    return version(name)


def _active_digests(lm: LanguageModel) -> set[str]:
    return {change.digest for change in lm.patches.active}
