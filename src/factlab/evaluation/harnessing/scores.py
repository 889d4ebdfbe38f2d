"""What lm_eval says of a model, read from its results: one score for each task and metric."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, SupportsFloat, TypeGuard

from pydantic import BaseModel, ConfigDict

from factlab.estimate import Estimate

# The filter of answers that are taken as they are.
_NO_FILTER = "none"


class HarnessScore(BaseModel):
    """One metric of one task or group of tasks.

    Attributes:
        task: its name.
        metric: its name, with the filter of the answers behind it if there is one.
        value: None if it is NaN or infinite.
        stderr: its standard error as lm_eval gives it; None if it gives none.
        n: questions or texts.
        higher_is_better: None if the task does not say.
        values: of every question, in the task's order; None if the metric is not their mean, as a
            perplexity is not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    metric: str
    value: float | None
    stderr: float | None = None
    n: int
    higher_is_better: bool | None = None
    values: tuple[float, ...] | None = None

    def change_from(self, before: "HarnessScore") -> Estimate:
        """How much higher this score is than an earlier one of the same questions.

        The 95 % interval is that of paired answers: a question that is answered as before adds
        nothing to it. Of answers that are right or wrong it is Bonett and Price's (2012), of other
        values Student's. A metric that is no mean over questions has no interval.

        Examples:
            >>> Score = fl.evaluation.HarnessScore
            >>> before = Score(task="t", metric="acc", value=0.5, n=4, values=(1, 1, 0, 0))
            >>> after = Score(task="t", metric="acc", value=0.25, n=4, values=(1, 0, 0, 0))
            >>> after.change_from(before).mean
            -0.25
        """
        if self.value is None or before.value is None:
            return Estimate(math.nan, math.nan)
        if self.values is None or before.values is None or len(self.values) != len(before.values):
            return Estimate(self.value - before.value, math.nan)
        if {*self.values, *before.values} <= {0.0, 1.0}:
            return Estimate.of_paired_shares(before.values, self.values)
        return Estimate.of([now - was for now, was in zip(self.values, before.values, strict=True)])


def read_scores(found: Mapping[str, Any]) -> tuple[HarnessScore, ...]:
    """The scores in what `lm_eval.simple_evaluate` returns with `log_samples`.

    Args:
        found: its dictionary.
    """
    return tuple(
        _score(found, task, str(key), float(value))
        for task, numbers in found["results"].items()
        for key, value in numbers.items()
        if "," in str(key) and _is_number(value) and not key.split(",")[0].endswith("_stderr")
    )


def _score(found: Mapping[str, Any], task: str, key: str, value: float) -> HarnessScore:
    metric, _, filtered = key.partition(",")
    leaves = list(_leaves(task, found.get("group_subtasks") or {}))
    stderr = found["results"][task].get(f"{metric}_stderr,{filtered}")
    return HarnessScore(
        task=task,
        metric=metric if filtered == _NO_FILTER else f"{metric} ({filtered})",
        value=_finite(value),
        stderr=_finite(stderr),
        n=sum(int(found["n-samples"][leaf]["effective"]) for leaf in leaves),
        higher_is_better=found["higher_is_better"].get(task, {}).get(metric),
        values=_values(found["samples"], leaves, metric, filtered, value),
    )


def _leaves(task: str, children: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """The tasks of a group, of the groups in it too; a task itself."""
    if not children.get(task):
        yield task
    for child in children.get(task, ()):
        yield from _leaves(child, children)


def _values(
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    leaves: Sequence[str],
    metric: str,
    filtered: str,
    mean: float,
) -> tuple[float, ...] | None:
    """What every question adds to a metric, if the metric is the mean of that."""
    asked = [
        sample.get(metric)
        for leaf in leaves
        for sample in samples.get(leaf, ())
        if sample.get("filter", _NO_FILTER) == filtered
    ]
    values = [float(value) for value in asked if _is_number(value)]
    if not values or len(values) < len(asked):
        return None
    is_mean = math.isclose(math.fsum(values) / len(values), mean, rel_tol=1e-9, abs_tol=1e-12)
    return tuple(values) if is_mean else None


def _finite(value: object) -> float | None:
    return float(value) if _is_number(value) and math.isfinite(value) else None


def _is_number(value: object) -> TypeGuard[SupportsFloat]:
    """Whether a value is a number, such as one of numpy's; a text such as N/A is none."""
    return hasattr(value, "__float__") and not hasattr(value, "__len__")
