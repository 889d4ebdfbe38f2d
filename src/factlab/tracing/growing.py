"""A trace while it is made: token by token, each time with all that is known."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.tracing.configs import TraceConfig
from factlab.tracing.result import CausalTrace
from factlab.tracing.trace import trace_fact


def growing_trace(
    lm: LanguageModel,
    fact: Fact,
    answer: str | None = None,
    config: TraceConfig | None = None,
    progress: ProgressCallback = silent,
) -> Iterator[CausalTrace]:
    """The trace of a fact again and again, with one token more each time.

    The subject's tokens come first, its last one before the others. The last trace is the one that
    `causal_trace` makes; each token costs a clean and a corrupted run besides.

    Args:
        lm: the model, left as it is.
        fact: to trace.
        answer: to follow; see `causal_trace`.
        config: see `TraceConfig`. An estimate comes whole.
        progress: called with tokens done and in all.

    Raises:
        InvalidRequestError: see `causal_trace`.
    """
    config = config or TraceConfig()
    row = lm.fact_continuation(fact)
    if config.is_estimate:
        yield trace_fact(lm, fact, answer, config, progress=progress)
        return
    positions = config.positions_of(row.subject, row.n_prompt)
    whole: CausalTrace | None = None
    for done, position in enumerate(_by_interest(positions, row.subject)):
        progress("tracing", done, len(positions))
        one = trace_fact(lm, fact, answer, config.model_copy(update={"positions": (position,)}))
        whole = one if whole is None else _joined(whole, one)
        yield replace(whole, config=config.model_copy(update={"window": one.config.window}))
    progress("tracing", len(positions), len(positions))


def _by_interest(positions: Sequence[int], subject: tuple[int, int]) -> list[int]:
    """The subject's tokens, the last one first; then what follows it, then what precedes it."""
    start, stop = subject
    inside = [p for p in reversed(positions) if start <= p < stop]
    return inside + [p for p in positions if p >= stop] + [p for p in positions if p < start]


def _joined(whole: CausalTrace, one: CausalTrace) -> CausalTrace:
    """A trace with the effects of another where it has none."""
    effects = {
        kind: torch.where(have.isnan(), one.effects[kind], have)
        for kind, have in whole.effects.items()
    }
    return replace(whole, effects=effects)
