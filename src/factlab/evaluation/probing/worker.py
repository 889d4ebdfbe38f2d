"""`Prober`: probes blocks of edited facts, each on a model with its own edit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from factlab.data.ripple.world import RippleWorld
from factlab.editing.background import Background
from factlab.editing.configs import MethodConfig
from factlab.editing.edit import Edit
from factlab.editing.noise_config import SubjectNoise
from factlab.errors import FactlabError, InvalidRequestError, TokenizationError
from factlab.evaluation.localising.effects import fact_effects
from factlab.evaluation.localising.exceptions import largest
from factlab.evaluation.probing.answers import Answering, Answers
from factlab.evaluation.probing.asked import AskedFact, asked_facts
from factlab.evaluation.probing.configs import ProbeConfig
from factlab.evaluation.probing.edits import ProbedEdits, Written
from factlab.evaluation.probing.inverse import Prompted
from factlab.evaluation.probing.rows import Compared, Decided, Essence, Inverse, ProbeRow
from factlab.evaluation.probing.written import TextWriter
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent

_BROKEN = "The edited model's probabilities are not finite."
_IS_TEXT = "the edit is a text in front of prompts, and texts about the subject stand behind none"


@dataclass(slots=True)
class Prober:
    """Makes rows.

    Attributes:
        lm: the model, left as it is.
        edited: facts and their edits.
        config: what to ask.
        world: facts and words for inverse prompts.
        method_config: of the method, with what is settled; None of saved edits.
        noise: of traces; None if nothing is traced.
        writer: has texts written; None if none are.
        background: statistics, contexts and values that are at hand.
        progress: told what is going on inside a block.
    """

    lm: LanguageModel
    edited: ProbedEdits
    config: ProbeConfig
    world: RippleWorld
    method_config: MethodConfig | None = None
    noise: SubjectNoise | None = None
    writer: TextWriter | None = None
    background: Background = field(default_factory=Background)
    progress: ProgressCallback = silent

    def rows(self, block: Sequence[int]) -> list[ProbeRow]:
        """Probe some facts, by their places: a row of each.

        Raises:
            FactlabError: none can be written, for a reason that is not one fact's own.
        """
        records = [self.edited.records[place] for place in block]
        asked = asked_facts(self.lm, records, self.world, self.config)
        edits, failed = self._edits(block, asked)
        with self.lm.frozen():
            answering = Answering(self.lm, asked, edits)
            before, after = answering.before, answering.after()
        kept: dict[int, Answers] = {}
        for i, found in after.items():
            if isinstance(found, str):
                failed[i] = found
            elif not found.is_finite:
                failed[i] = _BROKEN
            else:
                kept[i] = found
        written = self._written(block, {i: edits[i] for i in kept})
        return [
            self._row(
                one, failed.get(i, ""), before[i], kept.get(i),
                i in edits and bool(edits[i].prefix), written[i],
            )
            for i, one in enumerate(asked)
        ]  # fmt: skip

    def _edits(
        self, block: Sequence[int], asked: Sequence[AskedFact]
    ) -> tuple[dict[int, Edit], dict[int, str]]:
        """The edits that there are, by place in the block, and why there are no others."""
        failed = {i: one.unusable for i, one in enumerate(asked) if one.unusable}
        usable = [i for i in range(len(block)) if i not in failed]
        if not usable:
            return {}, failed
        made = self.edited.edits(
            self.lm, [block[i] for i in usable], self.method_config, self.background,
            self.progress,
        )  # fmt: skip
        edits: dict[int, Edit] = {}
        for i, edit in zip(usable, made, strict=True):
            if isinstance(edit, FactlabError):
                failed[i] = str(edit)
            elif asked[i].record.fact in edit.skipped:
                failed[i] = "The edit left this fact out, since its value had exploded."
            else:
                edits[i] = edit
        return edits, failed

    def _written(self, block: Sequence[int], edits: Mapping[int, Edit]) -> list[Written]:
        """What texts are like that were kept, or are written now."""
        if self.writer is None:
            return [self.edited.written.get(place, (None, None)) for place in block]
        records = {i: self.edited.records[block[i]] for i in edits}
        before, after = self.writer.before(records), self.writer.after(records, edits)
        return [(before.get(i), after.get(i)) for i in range(len(block))]

    def _row(
        self,
        asked: AskedFact,
        failed: str,
        before: Answers,
        after: Answers | None,
        is_text: bool,
        written: Written,
    ) -> ProbeRow:
        record, fact = asked.record, asked.record.fact
        decided = self._decided(fact) if not asked.unusable else "the fact cannot be asked"
        row = ProbeRow(
            case_id=record.case_id, relation_id=record.relation_id, subject=fact.subject,
            prompt=fact.prompt, target_new=fact.target_new, target_true=fact.target_true,
            failed=failed, no_inverse=asked.no_inverse,
            no_essence=_IS_TEXT if is_text else asked.no_essence,
            decided=None if isinstance(decided, str) else decided,
            not_traced=decided if isinstance(decided, str) else "",
            written_before=written[0], written_after=written[1],
        )  # fmt: skip
        if after is None:
            return row
        told = zip(asked.prompts, before.prompts, after.prompts, strict=True)
        by_prompt = {prompted: (first, then) for prompted, first, then in told}
        new, true = _own(fact, asked.own, by_prompt)
        essence = Essence(
            lengths=tuple(len(text.ids) for text in asked.texts),
            before=before.texts, after=after.texts,
        ) if asked.texts and not is_text else None  # fmt: skip
        return row.model_copy(update={
            "new": new, "true": true, "essence": essence, "kl": after.kl,
            "inverse": _inverse(asked.inverse, by_prompt),
            "inverse_true": _inverse(asked.inverse_true, by_prompt),
        })  # fmt: skip

    def _decided(self, fact: Fact) -> Decided | str:
        """Which token decides a true fact; or why that is not known."""
        if self.noise is None:
            return "traces were not asked for"
        if not fact.subject or fact.target_true is None:
            return "the fact has no subject" if not fact.subject else "what is true is not known"
        try:
            row = self.lm.fact_continuation(fact, fact.target_true)
        except (InvalidRequestError, TokenizationError) as error:
            return str(error)
        prob = self.lm.score([fact.prompt], [fact.target_true])[0].prob
        if prob < self.config.least_prob:
            return f"the model does not know the fact: its object has a probability of {prob:.2g}"
        window = self.config.window_of(self.lm.n_layers)
        found = fact_effects(self.lm, fact, self.noise, (window,), window)
        if found.corrupted_prob >= found.clean_prob:
            return "the noise takes nothing of the fact"
        effects = found.by_window[window]
        return Decided(
            clean_prob=found.clean_prob, corrupted_prob=found.corrupted_prob,
            n_subject_tokens=len(row.subject_ids), peak_token=found.peak_token,
            peak_share=largest(effects.by_layer), last_share=largest(effects.last_subject),
        )  # fmt: skip


def _own(
    fact: Fact,
    own: Prompted | None,
    told: Mapping[Prompted, tuple[tuple[float, ...], tuple[float, ...]]],
) -> tuple[Compared | None, Compared | None]:
    """How the fact's prompt is continued with the new object, and with the true one."""
    found: dict[str, Compared] = {}
    if own is not None:
        names = [
            name
            for name, target in (("new", fact.target_new), ("true", fact.target_true))
            if target is not None
        ]
        pairs = zip(names, *told[own], strict=True)
        found = {name: Compared(before=was, after=now) for name, was, now in pairs}
    return found.get("new"), found.get("true")


def _inverse(
    prompted: Prompted | None,
    told: Mapping[Prompted, tuple[tuple[float, ...], tuple[float, ...]]],
) -> Inverse | None:
    if prompted is None:
        return None
    before, after = told[prompted]
    return Inverse(prompt=prompted.prompt, subjects=prompted.targets, before=before, after=after)
