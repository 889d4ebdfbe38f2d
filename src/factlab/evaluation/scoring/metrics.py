"""Scores of one record, from how a model took the targets of its prompts.

Sources: ROME paper, sections 3.2 (zsRE) and 3.3 (CounterFact).

    symbol       here                                              of the prompts
    ES, PS       success(..., "new")                               rewrite, paraphrase
    NS           success(..., "true")                              neighborhood
    EM, PM, NM   magnitude, likewise
    S            harmonic_mean of the means of ES, PS and NS over all records

The paper defines the probability of a target as the product of its tokens' probabilities. What was
published was worked out with their geometric mean, which does not punish long targets: `form` says
which of the two is meant.

Two published scores let the model see the target: token accuracy asks for each token behind the
right ones before it. `exact_match` asks whether greedy decoding would write the whole target.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from factlab.evaluation.measuring.rows import Asked, TargetScore

ProbForm = Literal["mean", "product"]
Target = Literal["new", "true"]


class Score(NamedTuple):
    """A number, or NaN and why there is none."""

    value: float
    reason: str = ""


def target_logprob(score: TargetScore, form: ProbForm = "mean") -> float:
    """Natural logarithm of `target_prob`; it tells apart what is too small for a float."""
    total = math.fsum(score.logprobs)
    return total if form == "product" else total / len(score.logprobs)


def target_prob(score: TargetScore, form: ProbForm = "mean") -> float:
    """Probability of a target after its prompt, 0–1.

    Args:
        score: with at least one token.
        form: `mean` for the geometric mean of the tokens' probabilities, as published; `product`
            for the probability that the model writes the target.
    """
    return math.exp(target_logprob(score, form))


def success(prompts: Sequence[Asked], favoured: Target, form: ProbForm = "mean") -> Score:
    """Share of prompts after which the favoured target is the more probable of the two."""

    def wins(asked: Asked) -> float | None:
        pair = _pair(asked, favoured)
        if pair is None:
            return None
        return float(target_logprob(pair[0], form) > target_logprob(pair[1], form))

    return _mean(prompts, wins, "the new or the true target was not asked for")


def magnitude(prompts: Sequence[Asked], favoured: Target, form: ProbForm = "mean") -> Score:
    """Mean over prompts of the favoured target's probability minus the other's, −1 to 1."""

    def lead(asked: Asked) -> float | None:
        pair = _pair(asked, favoured)
        if pair is None:
            return None
        return target_prob(pair[0], form) - target_prob(pair[1], form)

    return _mean(prompts, lead, "the new or the true target was not asked for")


def exact_match(prompts: Sequence[Asked], target: Target) -> Score:
    """Share of prompts after which greedy decoding would write the whole target."""

    def writes(asked: Asked) -> float | None:
        score = _score_of(asked, target)
        return None if score is None else float(all(score.top))

    return _mean(prompts, writes, f"the {target} target was not asked for")


def token_accuracy(prompts: Sequence[Asked], target: Target) -> Score:
    """Mean over prompts of the share of the target's tokens that are the most probable ones.

    Each token is asked for behind the prompt and the right tokens before it, as published for zsRE.
    """

    def share(asked: Asked) -> float | None:
        score = _score_of(asked, target)
        return None if score is None else sum(score.top) / len(score.top)

    return _mean(prompts, share, f"the {target} target was not asked for")


def harmonic_mean(values: Sequence[float]) -> float:
    """Of shares: 0 if one of them is, NaN if one of them is or there are none."""
    if not values or any(math.isnan(value) for value in values):
        return math.nan
    if min(values) <= 0:
        return 0.0
    return len(values) / math.fsum(1 / value for value in values)


def _score_of(asked: Asked, target: Target) -> TargetScore | None:
    """How a target was taken; None if it was not asked for."""
    return asked.new if target == "new" else asked.true


def _pair(asked: Asked, favoured: Target) -> tuple[TargetScore, TargetScore] | None:
    """The favoured target and the other one."""
    new, true = _score_of(asked, "new"), _score_of(asked, "true")
    if new is None or true is None:
        return None
    return (new, true) if favoured == "new" else (true, new)


def _mean(
    prompts: Sequence[Asked], value_of: Callable[[Asked], float | None], missing: str
) -> Score:
    """Mean over all prompts; a prompt without a value leaves the record without one."""
    if not prompts:
        return Score(math.nan, "the record has no such prompts")
    values = [value for asked in prompts if (value := value_of(asked)) is not None]
    if len(values) < len(prompts):
        return Score(math.nan, missing)
    return Score(math.fsum(values) / len(values))
