"""Causal tracing of one fact (ROME paper, section 2.1).

Three runs: *clean*; *corrupted*, with noise on the subject's embeddings; and *corrupted with
restoration*, where one state of the corrupted run is put back to its clean value and everything
after it runs freely. How much of P(answer) comes back is the indirect effect of that state.

| paper | here |
|---|---|
| h_i^(l), m_i^(l), a_i^(l) | `Stream.BLOCK`, `MLP`, `ATTN` at layer l, position i |
| P[o], P*[o] | `clean_prob`, `corrupted_prob` |
| P*, clean h_i^(l) [o] − P*[o] | `effects["block"][i, l]` |

How each run is made is told in `factlab.tracing.runs` and `factlab.tracing.restoration`.
"""

import logging
import math
from collections.abc import Sequence

import torch

from factlab.arguments import checked
from factlab.errors import InvalidRequestError
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.tokens import shown
from factlab.tracing.cells import with_kinds_of
from factlab.tracing.configs import TraceConfig
from factlab.tracing.gradient import gradient_effects
from factlab.tracing.restoration import exact_effects
from factlab.tracing.result import CausalTrace
from factlab.tracing.runs import plan_corrupted, run_clean
from factlab.tracing.whole_passes import effects_by_whole_passes

_log = logging.getLogger(__name__)

_MEASURES = {"exact": exact_effects, "gradient": gradient_effects}


@checked(several="fl.average_trace")
def causal_trace(
    lm: LanguageModel,
    fact_or_prompt: Fact | str,
    subject: str | None = None,
    answer: str | None = None,
    config: TraceConfig | None = None,
    sigma_facts: Sequence[Fact] | None = None,
    progress: ProgressCallback = silent,
) -> CausalTrace:
    """Find which states carry a fact.

    Args:
        lm: the model, left as it is.
        fact_or_prompt: a fact, or a whole prompt together with `subject`.
        subject: the part of the prompt to corrupt; its first occurrence is used.
        answer: what to follow; by default the clean run's most probable token, or the fact's
            `target_true` if the whole answer is to be followed.
        config: see `TraceConfig`.
        sigma_facts: facts over whose subjects σ is taken; by default over this subject alone.
        progress: True for a bar, or a function that is called with positions done and in all.

    Raises:
        InvalidRequestError: the subject is missing or not in the prompt, a text is empty, or the
            config asks for tokens or layers that are not there.
        TokenizationError: the prompt is longer than the model's context.

    Warns through `logging` where the trace says little, as of a fact that the model does not know;
    see `CausalTrace.notes`.

    Examples:
        >>> trace = fl.causal_trace(lm, fact)
        >>> position, layer, effect = trace.peak("mlp")
        >>> trace.effects["mlp"].shape == (len(trace.tokens), lm.n_layers)
        True
    """
    trace = trace_fact(lm, _as_fact(fact_or_prompt, subject), answer, config, sigma_facts, progress)
    for note in trace.notes:
        _log.warning("%s", note)
    return trace


@torch.no_grad()
def trace_fact(
    lm: LanguageModel,
    fact: Fact,
    answer: str | None = None,
    config: TraceConfig | None = None,
    sigma_facts: Sequence[Fact] | None = None,
    progress: ProgressCallback = silent,
) -> CausalTrace:
    """The same without warnings, for one of many."""
    config = config or TraceConfig()
    lm.abilities.need("trace")
    config.check(lm.n_layers)
    config = with_kinds_of(lm.layers, config, lm.name)
    config = config.model_copy(update={"window": config.window_of(lm.n_layers)})
    with lm.frozen():
        clean = run_clean(lm, fact, answer, config)
        if math.isnan(clean.prob):
            raise InvalidRequestError(
                f"The model's probabilities are not numbers in {lm.dtype}. Load it in float32."
            )
        positions = config.positions_of(clean.span, clean.continuation.n_prompt)
        planned = plan_corrupted(lm, fact, clean, config, sigma_facts or [])
        measure = _MEASURES[config.method]
        if config.method == "exact" and not lm.engine.replays_other_texts:
            measure = effects_by_whole_passes
        effects = measure(lm, clean, planned, positions, config, progress)
    return CausalTrace(
        prompt=fact.prompt.rstrip(" "),
        tokens=tuple(shown(lm.tokenizer, clean.continuation.prompt_ids)),
        subject_span=clean.span,
        answer="".join(shown(lm.tokenizer, clean.continuation.target_ids)),
        clean_prob=clean.prob,
        corrupted_prob=effects.corrupted_prob,
        effects=effects.by_kind,
        noise_level=planned[0].noise_level,
        config=config,
        model_name=lm.name,
        fingerprint=lm.identity.now(live=True, progress=progress).fingerprint,
        said="".join(shown(lm.tokenizer, (clean.said_id,))),
        expected=answer or fact.target_true,
        says_expected=None if clean.expected_id is None else clean.expected_id == clean.said_id,
        engine=lm.engine.name,
        part_names=lm.layers.part_names,
    )


def _as_fact(fact_or_prompt: Fact | str, subject: str | None) -> Fact:
    if isinstance(fact_or_prompt, Fact):
        return fact_or_prompt
    if subject is None:
        raise InvalidRequestError(
            "A prompt is traced by corrupting its subject, and none was given. "
            "Pass subject=..., exactly as written in the prompt."
        )
    return Fact.from_prompt(fact_or_prompt, subject)
