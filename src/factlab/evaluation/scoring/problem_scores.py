"""Scores of an edit by how far it has gone of what was left to go (Hase et al. 2023, 3.4).

p is the probability of the edit's target, the product over its tokens, before and after.

| score | |
|---|---|
| rewrite, paraphrase | (p' − p) / (1 − p), at least 2·10⁻⁸; erasing (p − p') / p, at least 0 |
| neighborhood | 1 − abs(p' − p) / (½ + abs(p − ½)) |
| essence | 1 − the rise in perplexity of the unedited model's texts, cut off at 0 and 5, over 5 |
| overall, overall_essence | mean of rewrite, paraphrase and neighborhood; of all four |

The published code asks the first paraphrase and the first neighbour only. Here both are there: the
first ones (`first`), and the mean over all (`all`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from factlab.editing.variants import Variant

Prompts = Literal["first", "all"]
PROMPTS: tuple[Prompts, ...] = get_args(Prompts)
ProblemScore = Literal[
    "rewrite", "paraphrase", "neighborhood", "essence", "overall", "overall_essence"
]
PROBLEM_SCORES: tuple[ProblemScore, ...] = get_args(ProblemScore)

_LEAST = 2e-8
_WORST_RISE = 5.0
_LARGEST_EXPONENT = 700.0  # exp of more is no float


def _of_a_probability(value: float) -> float:
    if not value <= 1e-2:  # rounding may bring that of 1 a little above 0
        raise ValueError("a log-probability is at most 0")
    return min(value, 0.0)


_LogProb = Annotated[float, AfterValidator(_of_a_probability)]


class Told(BaseModel):
    """How a model takes the target of a problem, and its own texts about the subject.

    Attributes:
        rewrite: natural-log probability of the target after the fact's prompt.
        paraphrase: the same after each paraphrase.
        neighborhood: the same after each prompt about another subject.
        essence: natural-log probability of each text, its first token not counted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rewrite: _LogProb
    paraphrase: tuple[_LogProb, ...] = ()
    neighborhood: tuple[_LogProb, ...] = ()
    essence: tuple[float, ...] = Field(default=())


def recovered(before: float, after: float) -> float:
    """Share of what was missing to certainty that was gained, from log-probabilities.

    Zero and less are 2·10⁻⁸, as published; NaN where nothing was missing.
    """
    missing = -math.expm1(before)
    if missing <= 0:
        return math.nan
    return max(_LEAST, 1 + math.expm1(after) / missing)


def erased(before: float, after: float) -> float:
    """Share of the probability that is gone, from log-probabilities; at least 0."""
    return max(0.0, -math.expm1(min(after - before, _LARGEST_EXPONENT)))


def untouched(before: float, after: float) -> float:
    """1 − the change of a probability as a share of the largest that there could be."""
    prob = math.exp(before)
    return 1 - abs(math.exp(after) - prob) / (0.5 + abs(prob - 0.5))


def perplexity(logprob: float, n_tokens: int) -> float:
    """Of a text, its first token counted though nothing predicts it, as published."""
    return math.exp(min(-logprob / n_tokens, _LARGEST_EXPONENT))


def essence_kept(before: float, after: float) -> float:
    """1 − the rise in mean perplexity, cut off at 0 and 5, over 5."""
    return 1 - min(max(after - before, 0.0), _WORST_RISE) / _WORST_RISE


def problem_scores(
    before: Told,
    after: Told,
    variant: Variant,
    text_lengths: Sequence[int] = (),
    prompts: Prompts = "all",
) -> dict[ProblemScore, float]:
    """All scores of an edit; NaN where the record has no such prompts or there are no texts.

    Args:
        before: the unedited model.
        after: the edited one.
        variant: what the edit was asked to do.
        text_lengths: tokens of each text about the subject.
        prompts: `first`, as published: one paraphrase and one neighbour; or `all`, their means.

    Examples:
        >>> import math
        >>> from factlab.evaluation.scoring.problem_scores import Told, problem_scores
        >>> before, after = Told(rewrite=math.log(0.2)), Told(rewrite=math.log(0.6))
        >>> round(problem_scores(before, after, "injection")["rewrite"], 6)
        0.5
    """
    gained = erased if variant == "erasure" else recovered
    end = 1 if prompts == "first" else None
    pairs = {
        name: zip(getattr(before, name)[:end], getattr(after, name)[:end], strict=True)
        for name in ("paraphrase", "neighborhood")
    }
    ppls = [
        _mean([perplexity(*text) for text in zip(told.essence, text_lengths, strict=True)])
        for told in (before, after)
    ]
    parts: dict[ProblemScore, float] = {
        "rewrite": gained(before.rewrite, after.rewrite),
        "paraphrase": _mean([gained(*pair) for pair in pairs["paraphrase"]]),
        "neighborhood": _mean([untouched(*pair) for pair in pairs["neighborhood"]]),
        "essence": math.nan if math.isnan(ppls[0]) else essence_kept(*ppls),
    }
    return with_overall(parts)


def with_overall(parts: Mapping[ProblemScore, float]) -> dict[ProblemScore, float]:
    """Four scores with the means of the first three and of all."""
    three = [parts["rewrite"], parts["paraphrase"], parts["neighborhood"]]
    return {
        **parts,
        "overall": _mean(three),
        "overall_essence": _mean([*three, parts["essence"]]),
    }


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
