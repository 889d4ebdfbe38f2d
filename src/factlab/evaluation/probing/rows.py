"""What the probes of one edit find, as it is written to disk: raw numbers, before and after."""

import math
from typing import Any

from pydantic import BaseModel, ConfigDict

from factlab.evaluation.localising.exceptions import TracedFact
from factlab.evaluation.probing.configs import ProbeConfig
from factlab.evaluation.running.saved_run import RunModel


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Compared(_Strict):
    """How a model takes something, natural-log probabilities before and after the edit."""

    before: float
    after: float


class Inverse(_Strict):
    """An inverse prompt, and how it is continued with subjects of the relation.

    Attributes:
        prompt: such as "The country of Italy is home to".
        subjects: the edited one, then those it is compared with.
        before: natural-log probability of each whole subject.
        after: the same with the edit.
    """

    prompt: str
    subjects: tuple[str, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]

    def place(self, stage: str) -> float:
        """Share of the other subjects that are less probable than the edited one, ties by half."""
        own, *others = self.after if stage == "after" else self.before
        below = sum((other < own) + (other == own) / 2 for other in others)
        return below / len(others)

    def rank(self, stage: str) -> int:
        """Of the edited subject among all, 1 being the most probable."""
        own, *others = self.after if stage == "after" else self.before
        return 1 + sum(other > own for other in others)

    @property
    def lift(self) -> float:
        """By how much the edited subject's log-probability has risen, in nats."""
        return self.after[0] - self.before[0]

    @property
    def others_lift(self) -> float:
        """The same of the other subjects, in the mean."""
        lifts = [after - before for before, after in zip(self.before, self.after, strict=True)]
        return math.fsum(lifts[1:]) / len(lifts[1:])

    @property
    def specific_lift(self) -> float:
        """What the edited subject has gained beyond the others."""
        return self.lift - self.others_lift


class Essence(_Strict):
    """The unedited model's own texts about the subject.

    Attributes:
        lengths: tokens of each text.
        before: natural-log probability of each, its first token not counted.
        after: the same with the edit.
    """

    lengths: tuple[int, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]


class TextScores(_Strict):
    """What texts about the subject are like that a model writes.

    Attributes:
        entropy: GE, in bits.
        consistency: RS, 0–1; None if there are no references.
    """

    entropy: float
    consistency: float | None = None


class Decided(_Strict):
    """Which token decides the true fact, by restored MLPs.

    Attributes:
        clean_prob: of the true object.
        corrupted_prob: of it under noise.
        n_subject_tokens: how many the subject has.
        peak_token: see `TracedFact`.
        peak_share: see `TracedFact`.
        last_share: see `TracedFact`.
    """

    clean_prob: float
    corrupted_prob: float
    n_subject_tokens: int
    peak_token: int | None
    peak_share: float
    last_share: float


class ProbeRow(_Strict):
    """One edited fact: a line of the journal. What could not be asked has a reason in its place.

    Attributes:
        case_id: of its record.
        relation_id: such as P36; empty where it is not known.
        subject: of the fact.
        prompt: of the fact.
        target_new: None of an edit that erases.
        target_true: None if it is not known.
        failed: why there is no edit, or none that can be asked; then there is nothing else but
            what is of the unedited model.
        new: how the prompt is continued with the new object.
        true: with the true one.
        inverse: the inverse prompt of the new object.
        inverse_true: of the true object.
        no_inverse: why there is none.
        essence: texts about the subject.
        no_essence: why there are none.
        kl: KL divergence of the next token after "{subject} is a", before ‖ after, in nats.
        written_before: of texts that the unedited model wrote.
        written_after: of those of the edited one.
        decided: which token decides the true fact.
        not_traced: why that is not known.
    """

    case_id: int
    relation_id: str
    subject: str
    prompt: str
    target_new: str | None
    target_true: str | None
    failed: str = ""
    new: Compared | None = None
    true: Compared | None = None
    inverse: Inverse | None = None
    inverse_true: Inverse | None = None
    no_inverse: str = ""
    essence: Essence | None = None
    no_essence: str = ""
    kl: float | None = None
    written_before: TextScores | None = None
    written_after: TextScores | None = None
    decided: Decided | None = None
    not_traced: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the edited model prefers the new object to the true one; None if unknown."""
        if self.new is None or self.true is None:
            return None
        return self.new.after > self.true.after

    @property
    def traced(self) -> TracedFact | None:
        """The fact with the token that decides it."""
        found = self.decided
        if found is None:
            return None
        return TracedFact(
            self.case_id, self.prompt, self.subject, self.relation_id, found.n_subject_tokens,
            found.peak_token, found.peak_share, found.last_share,
        )  # fmt: skip

    def as_line(self) -> dict[str, Any]:
        """As it is written."""
        return self.model_dump(mode="json", exclude_defaults=True)


class ProbedData(_Strict):
    """Which facts were edited, and how.

    Attributes:
        name: of the records, the run or the saved edits.
        sha256: of the facts.
        n_records: how many.
        method: what wrote them.
        config: of the method, where edits are computed.
        edits: digests of saved edits.
    """

    name: str
    sha256: str
    n_records: int
    method: str
    config: dict[str, Any] | None = None
    edits: tuple[str, ...] = ()


class ProbeRequest(BaseModel):
    """What was asked for.

    Attributes:
        model: that was edited.
        data: the edited facts.
        references: hash of the texts that written ones are compared with, if any are written.
        world: hash of the facts and words that inverse prompts are made of.
        config: what was asked.
    """

    model_config = ConfigDict(frozen=True)

    model: RunModel
    data: ProbedData
    references: str = ""
    world: str = ""
    config: ProbeConfig


class ProbeFindings(BaseModel):
    """What was found out before the first edit.

    Attributes:
        cases: numbers of the facts.
        method_config: of the method, with what is settled; None of saved edits.
        noise_level: ν of the traces; None if nothing is traced.
        versions: of what began it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cases: tuple[int, ...]
    method_config: dict[str, Any] | None
    noise_level: float | None
    versions: dict[str, str]
