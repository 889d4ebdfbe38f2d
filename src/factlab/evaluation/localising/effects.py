"""Where a fact is held, by the measure of Hase et al. 2023.

P is the probability of the whole true object. Restoring MLPs of a window at one token brings some
of what the noise took back; the *effect* of a layer is the largest share over the tokens from the
subject on:

    effect(l) = max_i  max(0, P_restored(l, i) − P_noise) / |P_clean − P_noise|

P_clean is the largest of the clean run and of all restorations, so that no share is above 1.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.editing.noise_config import SubjectNoise
from factlab.evaluation.localising.rows import WindowEffects
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.tracing.configs import TraceConfig
from factlab.tracing.corruption_kinds import GaussianNoise
from factlab.tracing.result import CausalTrace
from factlab.tracing.trace import trace_fact

_DIGITS = 7  # of a number in a row: more than float32 results are good for


class FactEffects(NamedTuple):
    """What traces of one fact say.

    Attributes:
        clean_prob: of the true object.
        corrupted_prob: of it under noise.
        by_window: effects by the width of the window.
        peak_token: position behind the subject's first token of the largest share in the main
            window; None if nothing comes back.
        n_subject_tokens: how many tokens the subject has.
    """

    clean_prob: float
    corrupted_prob: float
    by_window: dict[int, WindowEffects]
    peak_token: int | None
    n_subject_tokens: int


def fact_effects(
    lm: LanguageModel, fact: Fact, noise: SubjectNoise, windows: Sequence[int], main: int
) -> FactEffects:
    """Trace a fact with MLP windows of several widths.

    Args:
        lm: the model.
        fact: with a `target_true`.
        noise: on the subject.
        windows: their widths.
        main: one of them.
    """
    row = lm.fact_continuation(fact)
    span, positions = row.subject, range(row.subject.start, row.n_prompt)
    by_window: dict[int, WindowEffects] = {}
    peak: int | None = None
    traces = {
        window: trace_fact(lm, fact, fact.target_true, trace_config(noise, window, positions))
        for window in windows
    }
    for window, trace in traces.items():
        shares = restored_shares(trace)
        by_window[window] = WindowEffects(
            by_layer=_written(_largest(shares)), last_subject=_written(shares[span.last])
        )
        if window == main and bool((shares > 0).any()):
            best = shares.nan_to_num(nan=-1.0)
            peak = int(best.max(dim=1).values.argmax()) - span.start
    trace = traces[main]
    return FactEffects(
        trace.clean_prob, trace.corrupted_prob, by_window, peak, span.stop - span.start
    )


def trace_config(noise: SubjectNoise, window: int, positions: Sequence[int]) -> TraceConfig:
    """The trace of one window at some tokens."""
    return TraceConfig(
        samples=noise.samples, window=window, corruption=GaussianNoise(level=noise.level),
        kinds=("mlp",), positions=tuple(positions), answer="product", seed=noise.seed,
    )  # fmt: skip


def restored_shares(trace: CausalTrace) -> Float[Tensor, "pos layer"]:
    """Of what the noise took, the share that each restoration brings back; at least 0."""
    effects = trace.effects["mlp"].cpu().double()
    restored = effects + trace.corrupted_prob
    best = restored.nan_to_num(nan=-torch.inf).max()
    taken = abs(max(trace.clean_prob, float(best)) - trace.corrupted_prob)
    if taken == 0:
        return torch.where(effects.isnan(), effects, 0.0)
    return effects.clamp(min=0) / taken


def _largest(shares: Float[Tensor, "pos layer"]) -> Float[Tensor, " layer"]:
    best = shares.nan_to_num(nan=-torch.inf).max(dim=0).values
    return torch.where(best.isinf(), torch.nan, best)


def _written(shares: Float[Tensor, " layer"]) -> tuple[float | None, ...]:
    return tuple(
        None if math.isnan(share) else float(f"{share:.{_DIGITS}g}") for share in shares.tolist()
    )
