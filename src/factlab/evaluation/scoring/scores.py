"""Scores of a run: of every record, and their means with 95 % confidence intervals.

Which scores a benchmark has stands in `METRICS`; a mean over records is an `Estimate`, and S, the
harmonic mean of the three means in `SCORE_PARTS`, has an interval of its own. A record that cannot
be scored is NaN with a reason, is left out of that mean, and is counted.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Float

from factlab.data.records import Benchmark
from factlab.estimate import Estimate
from factlab.evaluation.configs import AnswerForm
from factlab.evaluation.measuring.generated_text import (
    essence_score,
    perplexity,
    weighted_entropy_bits,
)
from factlab.evaluation.measuring.rows import Measurement, Row
from factlab.evaluation.scoring.free_answers import AnswerKind, answer_score
from factlab.evaluation.scoring.metrics import (
    ProbForm,
    Score,
    exact_match,
    harmonic_mean,
    magnitude,
    success,
    token_accuracy,
)
from factlab.evaluation.scoring.resampling import (
    paired_p_value,
    paired_score_p_value,
    score_estimate,
)

Stage = Literal["before", "right_after", "after"]
SCORE = "score"
NOT_IN_CHAT = "not measured in the chat template"


@dataclass(frozen=True, slots=True)
class Metric:
    """A score of a record.

    Attributes:
        column: its short name in tables.
        meaning: in words, with the unit.
        of: works it out from what was measured, the same on the unedited model, and the form of
            probabilities.
        scale: what tables multiply it by.
        digits: decimal places in tables.
        is_share: whether it is a share of prompts or tokens, 0–1; its interval then is one for
            proportions.
    """

    column: str
    meaning: str
    of: Callable[[Measurement, Measurement, ProbForm], Score]
    scale: float = 100.0
    digits: int = 1
    is_share: bool = False


# -- what is scored ---------------------------------------------------------------------------


def _entropy(m: Measurement, _: Measurement, __: ProbForm) -> Score:
    if m.written is None:
        return Score(math.nan, "no texts were generated")
    if m.written.words != "nltk":  # of a version with other words
        return Score(weighted_entropy_bits(m.written.texts))
    return Score(m.written.entropy)


def _consistency(m: Measurement, _: Measurement, __: ProbForm) -> Score:
    if m.written is None:
        return Score(math.nan, "no texts were generated")
    if m.written.consistency is None:
        return Score(math.nan, m.written.no_consistency or "there are no references")
    return Score(m.written.consistency)


def _essence(m: Measurement, before: Measurement, _: ProbForm) -> Score:
    if m.essence_nll is None or before.essence_nll is None:
        return Score(math.nan, "essence was not measured")
    return Score(essence_score(before.essence_nll, m.essence_nll))


def _drift_kl(m: Measurement, _: Measurement, __: ProbForm) -> Score:
    return Score(math.nan, "drift was not measured") if m.drift is None else Score(m.drift.kl)


def _perplexity(m: Measurement, _: Measurement, __: ProbForm) -> Score:
    if m.drift is None:
        return Score(math.nan, "drift was not measured")
    return Score(perplexity(m.drift.nll))


def _free(
    form: AnswerForm, kind: AnswerKind, m: Measurement, _: Measurement, __: ProbForm
) -> Score:
    return answer_score(m.answers, form, kind)


_TEXTS = {
    "entropy_bits": Metric(
        "GE", "fluency: entropy of the word n-grams of generated texts, bits", _entropy),
    "consistency": Metric(
        "RS", "TF-IDF cosine between generated texts and references", _consistency),
}  # fmt: skip
_EXACT = {
    "rewrite_exact": Metric(
        "EX", "rewriting prompts answered with exactly the new target",
        lambda m, _, __: exact_match(m.rewrite, "new"), is_share=True),
    "paraphrase_exact": Metric(
        "PX", "paraphrases answered with exactly the new target",
        lambda m, _, __: exact_match(m.paraphrase, "new"), is_share=True),
    "neighborhood_exact": Metric(
        "NX", "prompts about other subjects answered with exactly what is true there",
        lambda m, _, __: exact_match(m.neighborhood, "true"), is_share=True),
}  # fmt: skip
_DAMAGE = {
    "essence": Metric("Ess", "what is left of the subject's essence", _essence),
    "drift_kl_nats": Metric(
        "KL", "from the unedited model on ordinary text, nats per token", _drift_kl, 1.0, 4),
    "perplexity": Metric("PPL", "perplexity on ordinary text", _perplexity, 1.0, 2),
}  # fmt: skip
_FORM_NAMES: Mapping[AnswerForm, str] = {"bare": "Bare", "qa": "QA", "chat": "Chat"}
_KINDS: Mapping[AnswerKind, str] = {
    "exact": "free answers about the edited fact that are the new target, normalised",
    "says": "free answers about the edited fact that hold the new target",
    "old": "free answers about the edited fact that hold the old one",
    "kept": "free answers about other subjects that hold what is true there",
    "judged": "free answers about the edited fact that a judge takes for right",
}
# "Bare exact", "QA says", "Chat old" and so on, by names such as `bare_exact`.
ANSWER_METRICS: Mapping[str, Metric] = {
    f"{form}_{kind}": Metric(
        f"{name} {kind}", f"{meaning}; asked {form}", partial(_free, form, kind), is_share=True)
    for form, name in _FORM_NAMES.items()
    for kind, meaning in _KINDS.items()
}  # fmt: skip

METRICS: Mapping[Benchmark, Mapping[str, Metric]] = {
    "counterfact": {
        "rewrite_success": Metric(
            "ES", "rewriting prompts on which the new target beats the true one",
            lambda m, _, form: success(m.rewrite, "new", form), is_share=True),
        "rewrite_magnitude": Metric(
            "EM", "by how much, in probability",
            lambda m, _, form: magnitude(m.rewrite, "new", form)),
        "paraphrase_success": Metric(
            "PS", "the same of paraphrases",
            lambda m, _, form: success(m.paraphrase, "new", form), is_share=True),
        "paraphrase_magnitude": Metric(
            "PM", "by how much, in probability",
            lambda m, _, form: magnitude(m.paraphrase, "new", form)),
        "neighborhood_success": Metric(
            "NS", "prompts about other subjects on which the true target beats the new one",
            lambda m, _, form: success(m.neighborhood, "true", form), is_share=True),
        "neighborhood_magnitude": Metric(
            "NM", "by how much, in probability",
            lambda m, _, form: magnitude(m.neighborhood, "true", form)),
        **_TEXTS, **_EXACT, **_DAMAGE, **ANSWER_METRICS,
    },
    "zsre": {
        "efficacy": Metric(
            "Efficacy", "the new answer's tokens that are right, on the edited question",
            lambda m, _, __: token_accuracy(m.rewrite, "new"), is_share=True),
        "paraphrase": Metric(
            "Paraphrase", "the same on a paraphrase of it",
            lambda m, _, __: token_accuracy(m.paraphrase, "new"), is_share=True),
        "specificity": Metric(
            "Specificity", "the same of the right answer, on an unrelated question",
            lambda m, _, __: token_accuracy(m.neighborhood, "true"), is_share=True),
        **_EXACT, **_TEXTS, **_DAMAGE, **ANSWER_METRICS,
    },
}  # fmt: skip
EXACT_METRICS = frozenset(_EXACT)
# What is measured once, whatever else is asked in the chat template too.
_ONCE = frozenset({*_TEXTS, *_DAMAGE, *ANSWER_METRICS})

SCORE_PARTS: Mapping[Benchmark, tuple[str, str, str]] = {
    "counterfact": ("rewrite_success", "paraphrase_success", "neighborhood_success"),
    "zsre": ("efficacy", "paraphrase", "specificity"),
}


# -- records ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RecordScores:
    """All scores of one record at one stage.

    Attributes:
        case_id: of the record.
        fact: what was to be written, in words; two data sets may number theirs alike.
        relation_id: of the record.
        values: by the names of its benchmark's `METRICS`.
    """

    case_id: int
    fact: str
    relation_id: str
    values: Mapping[str, Score]


def score_row(
    row: Row, stage: Stage, form: ProbForm = "mean", in_chat: bool = False
) -> RecordScores:
    """Score one record: unedited, right after its own edit, or after all edits.

    `right_after` and `after` of a record whose edit failed are NaN; in the chat template, so is
    what was not asked in it.
    """
    metrics = METRICS[row.benchmark]
    measured: Measurement | None = getattr(row, stage)
    reason = "the edit failed" if row.failed else "not measured at this stage"
    if in_chat and measured is not None:
        measured, reason = measured.in_chat, NOT_IN_CHAT
    if measured is None:
        values = dict.fromkeys(metrics, Score(math.nan, reason))
    else:
        values = {name: metric.of(measured, row.before, form) for name, metric in metrics.items()}
    if in_chat:
        values |= dict.fromkeys(_ONCE & values.keys(), Score(math.nan, NOT_IN_CHAT))
    return RecordScores(row.case_id, f"{row.prompt} {row.target_new}", row.relation_id, values)


# -- means ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MetricSummary:
    """The mean of a score.

    Attributes:
        estimate: over the records that have it.
        n: how many do.
        unscored: how many do not, by reason.
    """

    estimate: Estimate
    n: int
    unscored: Mapping[str, int]

    @property
    def n_nan(self) -> int:
        """Records without this score."""
        return sum(self.unscored.values())


@dataclass(frozen=True, slots=True)
class Summary:
    """All scores of a run at one stage.

    Attributes:
        n_records: scored or not.
        metrics: S under `score`, then the benchmark's `METRICS`.
    """

    n_records: int
    metrics: Mapping[str, MetricSummary]


def summarise(records: Sequence[RecordScores], benchmark: Benchmark) -> Summary:
    """Average over records, in whatever order they come."""
    ordered = sorted(records, key=_place)
    metrics = {
        name: _summary([r.values[name] for r in ordered], metric.is_share)
        for name, metric in METRICS[benchmark].items()
    }
    parts = [metrics[name] for name in SCORE_PARTS[benchmark]]
    reasons = Counter[str]()
    for part in parts:
        reasons |= Counter(part.unscored)  # a record may lack two parts for one reason
    score = MetricSummary(
        score_estimate(_part_values(ordered, benchmark)), min(part.n for part in parts), reasons
    )
    return Summary(len(ordered), {SCORE: score, **metrics})


def relation_means(
    records: Sequence[RecordScores], benchmark: Benchmark
) -> dict[str, dict[str, float]]:
    """By relation: how many records (`n`), the means that S is made of, and S (`score`)."""
    by_relation: dict[str, list[RecordScores]] = {}
    for record in sorted(records, key=_place):
        by_relation.setdefault(record.relation_id, []).append(record)
    found: dict[str, dict[str, float]] = {}
    for relation_id in sorted(by_relation):
        group = by_relation[relation_id]
        means = {
            name: _mean([r.values[name].value for r in group]) for name in SCORE_PARTS[benchmark]
        }
        score = harmonic_mean([*means.values()])
        found[relation_id] = {"n": float(len(group)), SCORE: score, **means}
    return found


def p_values(
    records: Sequence[RecordScores], others: Sequence[RecordScores], benchmark: Benchmark
) -> dict[str, float]:
    """How probable a difference as large as that between two runs is if there is none.

    Args:
        records: of one run.
        others: of another one; records are paired by their case and fact.
        benchmark: which both are of.

    Returns:
        For each metric and `score`: over the cases that both have scored; NaN if there are none.
    """
    theirs = {(record.case_id, record.fact): record for record in others}
    pairs = [
        (record, theirs[record.case_id, record.fact])
        for record in sorted(records, key=_place)
        if (record.case_id, record.fact) in theirs
    ]
    found: dict[str, float] = {}
    ours, them = [a for a, _ in pairs], [b for _, b in pairs]
    values, other_values = _part_values(ours, benchmark), _part_values(them, benchmark)
    both = ~(np.isnan(values) | np.isnan(other_values)).any(axis=1)
    found[SCORE] = paired_score_p_value(values[both], other_values[both])
    for name in METRICS[benchmark]:
        differences = np.array([a.values[name].value - b.values[name].value for a, b in pairs])
        found[name] = paired_p_value(differences[~np.isnan(differences)])
    return found


def _place(record: RecordScores) -> tuple[int, str]:
    return record.case_id, record.fact


def _summary(scores: Sequence[Score], is_share: bool) -> MetricSummary:
    values = [score.value for score in scores if not math.isnan(score.value)]
    unscored = Counter(score.reason for score in scores if math.isnan(score.value))
    return MetricSummary(
        Estimate.of_shares(values) if is_share else Estimate.of(values),
        len(values),
        {reason: unscored[reason] for reason in sorted(unscored)},
    )


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _part_values(
    records: Sequence[RecordScores], benchmark: Benchmark
) -> Float[np.ndarray, "record 3"]:
    rows = [[r.values[name].value for name in SCORE_PARTS[benchmark]] for r in records]
    return np.array(rows, dtype=float).reshape(len(rows), 3)
