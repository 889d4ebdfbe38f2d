"""`ProbedEdits`: edited facts, and where their edits come from: computed now, or saved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from factlab.data.record_files import record_hash
from factlab.data.records import Record, References, as_records
from factlab.data.ripple.world import RippleWorld
from factlab.documents import validated
from factlab.editing.background import Background
from factlab.editing.configs import MethodConfig
from factlab.editing.edit import Edit
from factlab.editing.method import Method, check_targets
from factlab.editing.methods import method_named
from factlab.editing.trained.configs import KINDS
from factlab.errors import (
    FactlabError,
    InvalidRequestError,
    WrongModelError,
    counted,
)
from factlab.evaluation.measuring.generated_text import weighted_entropy_bits
from factlab.evaluation.measuring.rows import Measurement, Row
from factlab.evaluation.probing.folders import edit_folders, run_folder
from factlab.evaluation.probing.rows import ProbedData, TextScores
from factlab.evaluation.running.saved_run import ADVICE, load_run
from factlab.facts import Fact, fill
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent

# What texts an evaluation has kept are like, without and with the edit.
Written = tuple[TextScores | None, TextScores | None]


@dataclass(frozen=True, slots=True, repr=False)
class ProbedEdits:
    """Facts, each with the edit it is probed with; make one with `of_method`, `of_saved`, `of_run`.

    Attributes:
        name: what to call them.
        records: the facts, with what else is known of them.
        method: computes the edits, each fact for itself; None if they are saved.
        config: of the method.
        saved: edits, each of one fact or of many.
        owners: for each record the number of its saved edit.
        references: texts to compare written ones with.
        written: by place, texts that an evaluation has kept.
        fingerprint: of the model that the evaluation was of; empty if there was none.
    """

    name: str
    records: tuple[Record, ...]
    method: Method | None = None
    config: MethodConfig | None = None
    saved: tuple[Edit, ...] = ()
    owners: tuple[int, ...] = ()
    references: References = field(default_factory=References)
    written: Mapping[int, Written] = field(default_factory=lambda: MappingProxyType({}))
    fingerprint: str = ""

    def __repr__(self) -> str:
        n_facts = counted(len(self.records), "fact")
        return f"ProbedEdits({self.method_name} on {self.name}: {n_facts})"

    @property
    def method_name(self) -> str:
        """What wrote the facts."""
        return self.saved[0].method if self.method is None else self.method.name

    @classmethod
    def of_method(
        cls,
        records: Sequence[Record | Fact],
        method: str | Method = "rome",
        config: MethodConfig | None = None,
        name: str = "records",
        references: References | None = None,
    ) -> "ProbedEdits":
        """Edits that a method makes, one for each fact.

        Args:
            records: what to edit; of facts alone the relation is found by their words.
            method: see `METHODS`; or one that is at hand, such as a trained editor's.
            config: of the method.
            name: what to call the records.
            references: texts to compare written ones with; see `load_references`.

        Raises:
            InvalidRequestError: there are none, there is no such method, or a fact lacks what it
                needs.

        Examples:
            >>> fl.evaluation.ProbedEdits.of_method(facts, "ft").records[0].fact.subject
            'The Eiffel Tower'
        """
        chosen, given = method_named(method), as_records(records)
        facts = [record.fact for record in given]
        check_targets(facts, config is not None and config.is_erasing)
        chosen.check_subjects(facts)
        return cls(name, _with_relations(given), chosen, config, references=references or {})

    @classmethod
    def of_saved(cls, edits: Sequence[Edit], name: str = "saved edits") -> "ProbedEdits":
        """Edits that are at hand; every fact of theirs is probed.

        Raises:
            InvalidRequestError: there are none, or one lists no facts.
        """
        if not edits:
            raise InvalidRequestError("The list of edits is empty. Give at least one.")
        for number, edit in enumerate(edits):
            if not edit.facts:
                raise InvalidRequestError(
                    f"Number {number} of the edits (by {edit.method}) lists no facts, so there is "
                    "nothing to probe. Give an edit that factlab has computed."
                )
        pairs = [(fact, owner) for owner, edit in enumerate(edits) for fact in edit.facts]
        records = _with_relations(as_records([fact for fact, _ in pairs]))
        return cls(name, records, saved=tuple(edits), owners=tuple(owner for _, owner in pairs))

    @classmethod
    def of_run(cls, folder: str | Path) -> "ProbedEdits":
        """The edits of an evaluation: computed again as it did, or all in one as it kept them.

        Raises:
            StorageError: the folder holds no evaluation, or is damaged.
            InvalidRequestError: it is not finished, or its edits cannot be had.
        """
        folder = Path(folder)
        run = load_run(folder)
        if run.n_missing or not run.rows:
            raise InvalidRequestError(
                f"'{folder}' has {counted(run.n_missing, 'record')} left to do. Finish it with "
                "--resume (in Python: resume=True) first."
            )
        name, asked = run.request.method, run.request
        if asked.mode == "sequence":
            raise InvalidRequestError(
                f"'{folder}' wrote its facts one after the other into one model, so no edit is "
                f"one fact's own. Apply some of '{folder / 'edits'}' with --edit and probe the "
                "next one, or probe a run of --mode each."
            )
        world = RippleWorld.load()
        records = _with_relations([
            Record(
                case_id=row.case_id, benchmark=row.benchmark, fact=_fact_of(row, world),
                relation_id=row.relation_id,
            )
            for row in run.rows
        ])  # fmt: skip
        written = {
            place: (_text_scores(row.before), _text_scores(row.after))
            for place, row in enumerate(run.rows)
        }
        made = cls(
            f"{folder.name} ({asked.data.name})", records, written=written,
            fingerprint=asked.model.fingerprint,
        )  # fmt: skip
        if asked.mode == "together":
            return replace(made, saved=(Edit.load(folder / "edit"),), owners=(0,) * len(records))
        if name in KINDS:
            raise InvalidRequestError(
                f"'{folder}' is of the trained editor '{name}', which it does not keep. Probe it "
                f"with --method {name} --editor FOLDER."
            )
        method = method_named(name)
        where = f"The config in '{folder / 'run.json'}'"
        return replace(
            made, method=method, config=validated(method.config, run.config, where, ADVICE)
        )

    @classmethod
    def of_paths(cls, paths: Sequence[Path]) -> "ProbedEdits":
        """What folders hold: one evaluation; or saved edits, each by itself or many in a folder.

        Raises:
            StorageError: a folder holds neither.
            InvalidRequestError: an evaluation stands beside others, or as `of_run`.
        """
        run = run_folder(paths)
        if run is not None:
            return cls.of_run(run)
        edits = [Edit.load(folder) for folder in edit_folders(paths)]
        return cls.of_saved(edits, ", ".join(path.name for path in paths))

    def data(self) -> ProbedData:
        """What makes two of these the same."""
        return ProbedData(
            name=self.name, sha256=record_hash(self.records), n_records=len(self.records),
            method=self.method_name,
            config=None if self.config is None else self.config.model_dump(mode="json"),
            edits=tuple(edit.digest for edit in self.saved),
        )  # fmt: skip

    def check_model(self, lm: LanguageModel) -> None:
        """Refuse a model that these edits are not for.

        Raises:
            WrongModelError: it is another one.
        """
        if self.fingerprint and not lm.identity.matches(self.fingerprint, roughly=True):
            raise WrongModelError(
                f"'{self.name}' was made with a model of fingerprint {self.fingerprint[:12]}, and "
                f"{lm.name} is {lm.fingerprint[:12]}. Load that model."
            )
        for edit in self.saved:
            edit.check_model(lm)

    def edits(
        self,
        lm: LanguageModel,
        places: Sequence[int],
        config: MethodConfig | None,
        background: Background,
        progress: ProgressCallback = silent,
    ) -> list[Edit | FactlabError]:
        """The edit of each of some facts, or why there is none.

        Args:
            lm: the model.
            places: of the facts among the records.
            config: with all settled that is the same for every fact.
            background: statistics, contexts and values that are at hand.
            progress: told what is being computed.

        Raises:
            FactlabError: none can be made, for a reason that is not one fact's own.
        """
        if self.method is None:
            return [self.saved[self.owners[place]] for place in places]
        facts = [self.records[place].fact for place in places]
        return self.method.attempts(lm, facts, config, background, progress)


def _with_relations(records: Sequence[Record]) -> tuple[Record, ...]:
    """Records with the relation that their words tell, where they do not say it."""
    if all(record.relation_id for record in records):
        return tuple(records)
    world = RippleWorld.load()
    return tuple(
        record
        if record.relation_id
        else replace(record, relation_id=world.relation_of(record.fact))
        for record in records
    )


def _fact_of(row: Row, world: RippleWorld) -> Fact:
    """The fact of a row, which keeps its prompt and its subject."""
    targets = row.target_new, row.target_true
    if not row.subject:
        return Fact(row.prompt, "", *targets)
    phrasing = world.source.phrasing.get(row.relation_id)
    for template in phrasing.prompts if phrasing is not None else ():
        if fill(template, row.subject) == row.prompt:
            return Fact(template, row.subject, *targets)
    return Fact.from_prompt(row.prompt, row.subject, *targets, occurrence=1)


def _text_scores(measured: Measurement | None) -> TextScores | None:
    """What kept texts are like; the entropy of earlier versions' words is worked out again."""
    if measured is None or measured.written is None:
        return None
    written = measured.written
    is_current = written.words == "nltk"
    entropy = written.entropy if is_current else weighted_entropy_bits(written.texts)
    return TextScores(entropy=entropy, consistency=written.consistency)
