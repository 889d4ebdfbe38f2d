"""What a person asks an evaluation for, and what is read before there is a model; no PyTorch here.

An editor that was trained is read too, and imports it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from factlab.config import Config
from factlab.data.records import Record, References
from factlab.data.ripple.compile import RippleRecords, with_ripple
from factlab.data.ripple.world import RippleWorld
from factlab.data.selection import RecordsRequest
from factlab.data.shipped import ordinary_passages
from factlab.editing.configs import LOOKUP_TOKENS, LookupToken, Mode, RomeConfig
from factlab.editing.method_choice import MethodChoice, MethodRequest
from factlab.editing.trained.configs import TrainedEditConfig
from factlab.errors import InvalidRequestError, nearest
from factlab.evaluation.configs import MeasureConfig
from factlab.progress import ProgressCallback, silent
from factlab.words import NumberList


class EvaluationRequest(Config):
    """Which methods to evaluate on which records.

    Attributes:
        records: which records, and the texts that go with them.
        methods: with their settings; each gets a run of its own.
        mode: a model of its own for each record, or one for all; see `evaluate`.
        turn: in a sequence, facts of one edit.
        measure: what to measure.
        held_out: leave out records about subjects that a trained editor has seen, before any are
            counted off.
        ripple_data: folder with facts, words and values of one's own to make ripple queries of;
            by default those that come with factlab.
    """

    records: RecordsRequest = RecordsRequest()
    methods: tuple[MethodRequest, ...] = Field(default=(MethodRequest(),), min_length=1)
    mode: Mode = "each"
    turn: PositiveInt = 1
    measure: MeasureConfig = MeasureConfig()
    held_out: bool = False
    ripple_data: Path | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "EvaluationRequest":
        if self.ripple_data is not None and not self.measure.ripple:
            raise InvalidRequestError("--ripple-data is of ripple queries: add --ripple.")
        names = [method.name for method in self.methods]
        if len({*names}) < len(names):
            raise InvalidRequestError(
                f"Method '{max(names, key=names.count)}' is named twice. Give each method once."
            )
        if self.mode != "sequence" and (self.turn != 1 or self.measure.checkpoints):
            raise InvalidRequestError(
                "--turn and --checkpoints are of a sequence: add --mode sequence."
            )
        if self.held_out and all(method.editor is None for method in self.methods):
            raise InvalidRequestError("--held-out needs --editor: other methods are not trained.")
        return self

    def folders(self, out: Path) -> list[Path]:
        """Where each method's run goes: `out` itself, or if there are several, inside it."""
        names = [method.name for method in self.methods]
        return [out] if len(names) == 1 else [out / name for name in names]


@dataclass(frozen=True, slots=True)
class EvaluationMaterial:
    """What a request asks for, read from the disk.

    Attributes:
        records: to edit and ask.
        references: texts to compare written ones with.
        passages: ordinary text, if a drift is to be measured.
        choices: the methods with their settings, and editors.
        ripple: the records with their ripple queries, and what is missing, if they are asked.
    """

    records: Sequence[Record]
    references: References
    passages: tuple[str, ...]
    choices: Sequence[MethodChoice]
    ripple: RippleRecords | None = None

    @classmethod
    def of(
        cls, request: EvaluationRequest, progress: ProgressCallback = silent
    ) -> "EvaluationMaterial":
        """Read what a request asks for.

        Raises:
            InvalidRequestError: there is no such method, setting or data set, an editor has seen
                a subject that it is to be evaluated on, or a fact lacks one that is needed.
            StorageError: something cannot be read.
        """
        choices = [method.chosen() for method in request.methods]
        for choice in choices:
            choice.method.check_turn(request.turn)
        editor = next((choice.editor for choice in choices if choice.editor is not None), None)
        wanted = request.records
        if editor is None or not request.held_out:
            records = wanted.load(progress)
        else:
            records = editor.held_out(wanted.every(progress), wanted.offset, wanted.limit)
        ripple = None
        if request.measure.ripple:
            world = RippleWorld.load(request.ripple_data)
            ripple = with_ripple(records, world, request.measure.seed)
            records = ripple.records
        references = wanted.load_references(progress)
        for choice in choices:
            choice.method.check_subjects([record.fact for record in records])
            allowed = isinstance(choice.config, TrainedEditConfig) and (
                choice.config.allow_seen_subjects
            )
            if choice.editor is not None and not allowed:
                choice.editor.check_unseen([record.fact for record in records])
        has_drift = request.measure.drift_tokens > 0
        passages = ordinary_passages() if has_drift else ()
        return cls(records, references, passages, choices, ripple)


class SweepRequest(Config):
    """Where to edit with ROME, on which records.

    Attributes:
        records: which records.
        layers: 0-based; by default every third.
        tokens: which token of the prompt to look up; a text names several with commas between.
        config: of ROME; its layer and token are replaced.
        trace: folder of an averaged trace to put beside the scores.
        trace_facts: how many well-known facts to trace first; 0 for no trace, None for as many as
            there are records, within reason.
    """

    records: RecordsRequest = RecordsRequest(limit=20)
    layers: NumberList | None = Field(default=None, min_length=1)
    tokens: tuple[LookupToken, ...] = Field(default=LOOKUP_TOKENS, min_length=1)
    config: RomeConfig = RomeConfig()
    trace: Path | None = None
    trace_facts: NonNegativeInt | None = None

    @field_validator("tokens", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        names = [name.strip() for name in value.split(",")]
        for name in names:
            if name not in LOOKUP_TOKENS:
                raise InvalidRequestError(
                    f"--tokens: '{name}' is none of {', '.join(LOOKUP_TOKENS)}."
                    f"{nearest(name, LOOKUP_TOKENS)}"
                )
        return tuple(names)

    @model_validator(mode="after")
    def _consistent(self) -> "SweepRequest":
        if self.trace is not None and self.trace_facts is not None:
            raise InvalidRequestError("Choose one of --trace and --trace-facts.")
        return self

    def layers_of(self, n_layers: int) -> Sequence[int]:
        """The layers to edit in a model of so many."""
        return range(0, n_layers, 3) if self.layers is None else self.layers
