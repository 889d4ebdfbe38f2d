"""`TrainedEditor`: a MEND or KE that has been trained, bound to its model, and as a method."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from factlab.arguments import checked_method
from factlab.continuations import Continuation
from factlab.data.records import Record
from factlab.data.split import subject_hash
from factlab.editing.background import Background
from factlab.editing.edit import BaseModelInfo, Edit, current_versions
from factlab.editing.method import Method, Settled, succeeded
from factlab.editing.trained.configs import (
    DataKind,
    NetworkConfig,
    TrainedEditConfig,
)
from factlab.editing.trained.gradients import Matrix, last_matrices
from factlab.editing.trained.losses import changes_of
from factlab.editing.trained.network import EditorNetwork
from factlab.editing.trained.states import States
from factlab.editing.trained.together import edits_together
from factlab.errors import (
    FactlabError,
    InvalidRequestError,
    TokenizationError,
    WrongModelError,
    counted,
)
from factlab.facts import Fact
from factlab.models.changes.algebra import summed
from factlab.models.changes.carried import ChangeFactors
from factlab.models.changes.update import LowRankUpdate
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.results import Result

# The digest stands for the network's weights.
_COMPARED = ("data", "base", "config", "subjects", "training", "versions", "digest")
_SUFFIXES: dict[DataKind, str] = {"text": "", "counterfact": "-CF", "zsre": "-zsRE"}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TrainedEditor(Result):
    """A trained editor.

    Two are equal if the same would be saved of them.

    Attributes:
        data: what it was trained on.
        base: the model it is for.
        config: of the network.
        network: its weights.
        subjects: hashes of the subjects of training and validation; empty if trained on text.
        training: how it was trained and how far it came, as JSON.
        versions: of factlab, torch and transformers.
        digest: SHA-256 of the weights; see `weights_digest`.
    """

    data: DataKind
    base: BaseModelInfo
    config: NetworkConfig
    network: EditorNetwork
    subjects: frozenset[str]
    training: dict[str, Any]
    versions: dict[str, str]
    digest: str

    @property
    def kind(self) -> str:
        """MEND or KE."""
        return self.config.kind

    @property
    def name(self) -> str:
        """As in table 4 of the ROME paper, such as MEND-CF."""
        return name_of(self.kind, self.data)

    def __repr__(self) -> str:
        best = self.training.get("validation", {})
        says = f"; says {best['says']:.0%} of what it was to write" if "says" in best else ""
        return (
            f"TrainedEditor {self.name} of {self.base.name} ({self.base.fingerprint[:12]})\n"
            f"  {counted(len(self.network.matrices), 'projection')}; best at step "
            f"{self.training.get('step')}{says}\n"
            f"  trained on {counted(len(self.subjects), 'subject')}, which it is not to edit"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TrainedEditor):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in _COMPARED)

    def __hash__(self) -> int:
        return hash(self.digest)

    # -- what it may edit -------------------------------------------------------------------

    def has_seen(self, fact: Fact) -> bool:
        """Whether the fact's subject is one of training or validation."""
        return subject_hash(fact.topic) in self.subjects

    def check_unseen(self, facts: Sequence[Fact]) -> None:
        """Refuse facts about subjects of training and validation.

        Raises:
            InvalidRequestError: says how many there are, and the first.
        """
        seen = [fact for fact in facts if self.has_seen(fact)]
        if seen:
            which = "" if len(facts) == 1 else f", and {len(seen)} of {len(facts)} facts like it"
            raise InvalidRequestError(
                f"{self.name} was trained on '{seen[0].topic}'{which}: an edit of it would not "
                "show what the editor can do. Use held-out records (--held-out), or for study set "
                "allow_seen_subjects."
            )

    def held_out(
        self, records: Sequence[Record], offset: int = 0, limit: int | None = None
    ) -> list[Record]:
        """The records that the editor may be evaluated on: about subjects it was not trained on.

        Args:
            records: some records.
            offset: leave out so many of those that remain.
            limit: no more than this many.

        Raises:
            InvalidRequestError: none are left, or a number is out of range.
        """
        if offset < 0 or (limit is not None and limit < 1):
            raise InvalidRequestError(
                f"offset={offset} and limit={limit}: the first must be at least 0, the second 1."
            )
        unseen = [record for record in records if not self.has_seen(record.fact)]
        kept = unseen[offset : None if limit is None else offset + limit]
        if not kept:
            raise InvalidRequestError(
                f"None are left of {counted(len(records), 'record')}: {self.name} was trained on "
                f"the subjects of {len(records) - len(unseen)}, and offset={offset}. Take "
                "other records."
            )
        return kept

    def check_model(self, lm: LanguageModel) -> None:
        """Refuse another model.

        Raises:
            WrongModelError: its projections have other names or shapes, or its weights differ.
        """
        try:
            matrices: tuple[Matrix, ...] = last_matrices(lm, self.config.n_blocks)
        except InvalidRequestError:
            matrices = ()
        if matrices != self.network.matrices:
            first = self.network.matrices[0]
            raise WrongModelError(
                f"This {self.name} edits {counted(len(self.network.matrices), 'projection')} of "
                f"{self.base.name}, the first '{first.weight_name}' ({first.d_out}x{first.d_in}); "
                f"{lm.name} has others there. Load {self.base.name}, or train an editor for "
                f"{lm.name}."
            )
        if not lm.identity.matches(self.base.fingerprint):
            raise WrongModelError(
                f"This {self.name} was trained for {self.base.name} (fingerprint "
                f"{self.base.fingerprint[:12]}), not for {lm.name} ({lm.fingerprint[:12]}). Load "
                f"that model, in the dtype it was trained in, or train an editor for this one."
            )

    # -- editing ----------------------------------------------------------------------------

    def admit(
        self, lm: LanguageModel, facts: Sequence[Fact], config: TrainedEditConfig | None
    ) -> TrainedEditConfig:
        """Refuse what this editor must not edit; its config, bound to this editor.

        Raises:
            WrongModelError: the editor is for another model.
            InvalidRequestError: the config is of another editor, or a fact is about a subject that
                this one was trained on.
        """
        config = config or TrainedEditConfig()
        if config.editor not in ("", self.digest):
            raise InvalidRequestError(
                f"This was begun with another editor (digest {config.editor[:12]}) than this "
                f"{self.name} ({self.digest[:12]}). Use that one, or begin anew."
            )
        if not config.allow_seen_subjects:
            self.check_unseen(facts)
        self.check_model(lm)
        return config.model_copy(update={"editor": self.digest})

    @checked_method
    def edits(
        self,
        lm: LanguageModel,
        facts: Sequence[Fact],
        config: TrainedEditConfig | None = None,
        progress: ProgressCallback = silent,
    ) -> list[Edit]:
        """One edit for each fact, all for the model as it is; many facts in a batch.

        Args:
            lm: the model, left as it is.
            facts: with a `target_new` each.
            config: see `TrainedEditConfig`.
            progress: called with facts done and in all.

        Raises:
            WrongModelError: the editor is for another model.
            InvalidRequestError: a fact has nothing to write, or is about a subject that the editor
                was trained on.
        """
        return self.method().each(lm, facts, config, None, progress)

    @checked_method
    def edit_together(
        self,
        lm: LanguageModel,
        facts: Sequence[Fact],
        config: TrainedEditConfig | None = None,
        progress: ProgressCallback = silent,
    ) -> Edit:
        """One edit with all facts: the sum of their own; see `edits`.

        Raises:
            InvalidRequestError: also if facts contradict each other.
        """
        return self.method().together(lm, facts, config, None, progress)

    def method(self) -> Method:
        """The editor as a method, called by its name in small letters."""
        about = f"{self.name}, trained for {self.base.name}."
        return Method(
            self.name.lower(),
            about,
            TrainedEditConfig,
            self.compute,
            self.compute_together,
            admit=self.admit,
            needs="gradient",
            needs_subject=False,
        )

    @torch.inference_mode(False)
    @torch.no_grad()
    def compute(
        self,
        lm: LanguageModel,
        facts: Sequence[Fact],
        settled: Settled[TrainedEditConfig],
        background: Background,
        progress: ProgressCallback,
    ) -> list[Edit | FactlabError]:
        """One edit for each fact, of a config that was admitted."""
        del background  # all it needs was learned
        config = settled.config
        results: dict[int, Edit | FactlabError] = {}
        texts: dict[int, Continuation] = {}
        for number, fact in enumerate(facts):
            try:
                texts[number] = _continuation(lm, fact)
            except TokenizationError as error:
                results[number] = error
        n_blocks, order = self.config.n_blocks, [*texts]
        states = States(lm, lm.n_layers - n_blocks)
        with lm.frozen():
            self.network.to(lm.device)
            for places in edits_together(lm, self.network, n_blocks, [*texts.values()]):
                progress(f"editing with {self.name}", len(results), len(facts))
                numbers = [order[place] for place in places]
                batch = states.batch([texts[number] for number in numbers])
                changes = changes_of(lm, self.network, batch)
                for row, number in enumerate(numbers):
                    results[number] = self._edit(lm, facts[number], changes, row, config)
        progress(f"editing with {self.name}", len(facts), len(facts))
        return [results[number] for number in range(len(facts))]

    def compute_together(
        self,
        lm: LanguageModel,
        facts: Sequence[Fact],
        settled: Settled[TrainedEditConfig],
        background: Background,
        progress: ProgressCallback,
    ) -> Edit:
        """One edit with all facts: the sum of their own."""
        edits = succeeded(self.compute(lm, facts, settled, background, progress))
        if len(edits) == 1:
            return edits[0]
        updates = tuple(
            summed(list(same)) for same in zip(*(e.updates for e in edits), strict=True)
        )
        seen = [self.has_seen(fact) for fact in facts]
        told = {**edits[0].diagnostics["editor"], "seen_subject": any(seen), "seen_subjects": seen}
        diagnostics = edits[0].diagnostics | {
            "editor": told,
            "update_norms": [update.norm for update in updates],
        }
        return Edit(
            edits[0].method, tuple(facts), updates, edits[0].base, edits[0].config, diagnostics,
            edits[0].versions,
        )  # fmt: skip

    def _edit(
        self,
        lm: LanguageModel,
        fact: Fact,
        changes: dict[str, ChangeFactors],
        place: int,
        config: TrainedEditConfig,
    ) -> Edit:
        updates: list[LowRankUpdate] = []
        for matrix in self.network.matrices:
            change = changes[matrix.weight_name]
            left, right = change.left[place], change.right[place]
            used = (left != 0).any(-1) & (right != 0).any(-1)
            used[0] = True  # a change of rank 0 cannot be saved
            updates.append(
                LowRankUpdate(
                    matrix.weight_name,
                    matrix.layout,
                    (config.scale * left[used]).T.contiguous().cpu(),
                    right[used].contiguous().cpu(),
                )
            )
        first_block = lm.n_layers - self.config.n_blocks
        return Edit(
            method=self.name.lower(),
            facts=(fact,),
            updates=tuple(updates),
            base=BaseModelInfo.of(lm),
            config=config.model_dump(mode="json"),
            diagnostics={
                "editor": {
                    "name": self.name,
                    "digest": self.digest,
                    "network": self.config.model_dump(mode="json"),
                    "seen_subject": self.has_seen(fact),
                },
                "layers": list(range(first_block, lm.n_layers)),
                "layer_source": "the editor's",
                "update_norms": [update.norm for update in updates],
            },
            versions=current_versions(),
        )


def name_of(kind: str, data: DataKind) -> str:
    """As in table 4 of the ROME paper, such as MEND-CF."""
    return f"{kind.upper()}{_SUFFIXES[data]}"


def new_network(
    matrices: Sequence[Matrix], d_embedding: int, config: NetworkConfig
) -> EditorNetwork:
    """An untrained network.

    Args:
        matrices: what it edits.
        d_embedding: width of the model's token embeddings, which a few models widen afterwards.
        config: says which kind.
    """
    module, name = config.home
    return getattr(import_module(module), name).made(matrices, d_embedding, config)


def _continuation(lm: LanguageModel, fact: Fact) -> Continuation:
    try:
        return lm.continuation(fact.prompt, str(fact.target_new))
    except TokenizationError as error:
        raise TokenizationError(f"Fact '{fact.prompt}': {error}") from error
