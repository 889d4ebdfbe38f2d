"""Numbers of the probes: means over edited facts with their intervals.

Shares have Wilson's interval where they are of yes and no, other means Student's (`Estimate`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from factlab.estimate import Estimate
from factlab.evaluation.probing.rows import Essence, Inverse, ProbeRow
from factlab.evaluation.scoring.association import Correlation
from factlab.evaluation.scoring.problem_scores import essence_kept, perplexity
from factlab.results import known


@dataclass(frozen=True, slots=True)
class InverseScores:
    """What came of inverse prompts.

    Attributes:
        prompt: whose: `new` for the new object's, `true` for the true one's.
        facts: `all`, or those that `hold`: where the new object beats the true one after the edit.
        n: how many facts.
        place_before: share of other subjects that are less probable than the edited one; 0.5 by
            chance.
        place_after: with the edit.
        moved: the difference of both.
        first_before: share of facts whose subject is the most probable one.
        first_after: with the edit.
        lift: of the subject's log-probability, in nats.
        others_lift: of the other subjects', in the mean.
        specific_lift: of the subject's beyond theirs.
        rose: share of facts whose subject gained more than the others.
    """

    prompt: str
    facts: str
    n: int
    place_before: Estimate
    place_after: Estimate
    moved: Estimate
    first_before: Estimate
    first_after: Estimate
    lift: Estimate
    others_lift: Estimate
    specific_lift: Estimate
    rose: Estimate

    @classmethod
    def of(cls, prompt: str, facts: str, found: Sequence[Inverse]) -> "InverseScores":
        """Of some facts."""
        before, after = ([one.place(stage) for one in found] for stage in ("before", "after"))
        return cls(
            prompt, facts, len(found),
            Estimate.of_shares(before), Estimate.of_shares(after),
            Estimate.of([now - was for was, now in zip(before, after, strict=True)]),
            Estimate.of_shares([float(one.rank("before") == 1) for one in found]),
            Estimate.of_shares([float(one.rank("after") == 1) for one in found]),
            Estimate.of([one.lift for one in found]),
            Estimate.of([one.others_lift for one in found]),
            Estimate.of([one.specific_lift for one in found]),
            Estimate.of_shares([float(one.specific_lift > 0) for one in found]),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class EssenceScores:
    """What an edit does to its subject beside the fact.

    Attributes:
        n: facts with texts.
        ppl_before: perplexity of the unedited model's texts about the subject, their first token
            counted as published; mean over the texts of a fact, then over facts.
        ppl_after: with the edit.
        rise: the difference of both.
        kept: 1 − the rise, cut off at 0 and 5, over 5.
        n_kl: facts with a divergence.
        kl: of the next token after "{subject} is a", in nats.
    """

    n: int
    ppl_before: float
    ppl_after: float
    rise: Estimate
    kept: Estimate
    n_kl: int
    kl: Estimate

    @classmethod
    def of(cls, rows: Sequence[ProbeRow]) -> "EssenceScores":
        """Of some facts."""
        pairs = [perplexities(row.essence) for row in rows if row.essence is not None]
        kls = [row.kl for row in rows if row.kl is not None]
        return cls(
            len(pairs),
            _mean([before for before, _ in pairs]),
            _mean([after for _, after in pairs]),
            Estimate.of([after - before for before, after in pairs]),
            Estimate.of_shares([essence_kept(before, after) for before, after in pairs]),
            len(kls), Estimate.of(kls),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class WrittenScores:
    """Fluency (GE, bits) and consistency (RS, 0–1) of texts, and how they go together over facts.

    Attributes:
        stage: `before`, `after`, or `change` from one to the other.
        n: facts with texts.
        entropy: GE.
        n_both: facts that have RS too.
        consistency: RS.
        together: of both.
    """

    stage: str
    n: int
    entropy: Estimate
    n_both: int
    consistency: Estimate
    together: Correlation


def written_scores(rows: Sequence[ProbeRow]) -> list[WrittenScores]:
    """Before, after, and the change; nothing if no texts were written."""
    if not any(row.written_after for row in rows):
        return []
    return [
        WrittenScores(
            stage, len(points), Estimate.of([entropy for entropy, _ in points]),
            sum(near is not None for _, near in points),
            consistency([near for _, near in points if near is not None]),
            Correlation.of([(entropy, near) for entropy, near in points if near is not None]),
        )
        for stage in ("before", "after", "change")
        for points in [written_points(rows, stage)]
        for consistency in [Estimate.of if stage == "change" else Estimate.of_shares]
    ]  # fmt: skip


def written_points(rows: Sequence[ProbeRow], stage: str) -> list[tuple[float, float | None]]:
    """GE and RS of every fact that has texts before and after."""
    found: list[tuple[float, float | None]] = []
    for row in rows:
        before, after = row.written_before, row.written_after
        if before is None or after is None:
            continue
        if stage != "change":
            one = before if stage == "before" else after
            found.append((one.entropy, one.consistency))
            continue
        has_both = before.consistency is not None and after.consistency is not None
        near = (after.consistency or 0) - (before.consistency or 0) if has_both else None
        found.append((after.entropy - before.entropy, near))
    return found


def inverse_scores(rows: Sequence[ProbeRow]) -> list[InverseScores]:
    """Of all facts and of those that hold, for the new object and for the true one."""
    found: list[InverseScores] = []
    for facts in ("all", "hold"):
        some = [row for row in rows if facts == "all" or row.holds]
        if facts == "hold" and len(some) == len(rows):
            continue
        those = {
            "new": [row.inverse for row in some if row.inverse is not None],
            "true": [row.inverse_true for row in some if row.inverse_true is not None],
        }
        found += [InverseScores.of(name, facts, each) for name, each in those.items() if each]
    return found


def perplexities(essence: Essence) -> tuple[float, float]:
    """Mean perplexity of a fact's texts, before and after."""
    before, after = (
        [perplexity(*text) for text in zip(logprobs, essence.lengths, strict=True)]
        for logprobs in (essence.before, essence.after)
    )
    return math.fsum(before) / len(before), math.fsum(after) / len(after)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def in_json(scores: object) -> Any:
    """Scores ready for JSON: an estimate is its mean with the ends of its interval."""
    if isinstance(scores, float):
        return known(scores)
    if isinstance(scores, Estimate):
        low, high = scores.interval
        return {"mean": known(scores.mean), "low": known(low), "high": known(high)}
    if isinstance(scores, Correlation):
        return {
            "n": scores.n, "linear": in_json(scores.linear), "ranks": in_json(scores.ranks),
        }  # fmt: skip
    if isinstance(scores, InverseScores | EssenceScores | WrittenScores):
        return {name: in_json(getattr(scores, name)) for name in scores.__dataclass_fields__}
    return scores


def row_of(row: ProbeRow) -> dict[str, Any]:
    """A fact as a line of a table."""
    found: dict[str, Any] = {
        "case_id": row.case_id, "relation": row.relation_id, "subject": row.subject,
        "prompt": row.prompt, "target_new": row.target_new, "target_true": row.target_true,
        "failed": row.failed, "holds": row.holds,
        **_inverse_cells("inverse", row.inverse), "no_inverse": row.no_inverse,
        **_inverse_cells("inverse_true", row.inverse_true),
    }  # fmt: skip
    ppl = (None, None) if row.essence is None else perplexities(row.essence)
    decided = row.traced
    return found | {
        "ppl_before": ppl[0], "ppl_after": ppl[1],
        "essence": None if row.essence is None else essence_kept(*perplexities(row.essence)),
        "no_essence": row.no_essence, "kl": row.kl,
        **_written_cells("before", row), **_written_cells("after", row),
        "n_subject_tokens": None if decided is None else decided.n_subject_tokens,
        "peak_token": None if decided is None else decided.peak_token,
        "decided": None if decided is None else decided.place,
        "not_traced": row.not_traced,
    }  # fmt: skip


def _inverse_cells(name: str, one: Inverse | None) -> Mapping[str, Any]:
    numbers = {
        "candidates": None if one is None else len(one.subjects),
        "rank_before": None if one is None else one.rank("before"),
        "rank_after": None if one is None else one.rank("after"),
        "lift": None if one is None else one.lift,
        "specific_lift": None if one is None else one.specific_lift,
    }
    return {f"{name}_{key}": value for key, value in numbers.items()}


def _written_cells(stage: str, row: ProbeRow) -> Mapping[str, Any]:
    one = row.written_before if stage == "before" else row.written_after
    return {
        f"ge_{stage}": None if one is None else one.entropy,
        f"rs_{stage}": None if one is None else one.consistency,
    }
