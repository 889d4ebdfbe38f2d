"""What the model would say with one state put back: a cell of a causal trace, in words."""

import torch

from factlab.arguments import checked
from factlab.errors import InvalidRequestError, UnsupportedModelError
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.tokens import shown
from factlab.tracing.cells import with_kinds_of
from factlab.tracing.configs import Kind, TraceConfig
from factlab.tracing.restoration import Restorer
from factlab.tracing.runs import plan_corrupted, run_clean

_AT_A_TIME = 64  # rows of logits


@checked()
@torch.no_grad()
def said_with_state(
    lm: LanguageModel,
    fact: Fact,
    kind: Kind,
    position: int,
    layer: int,
    answer: str | None = None,
    config: TraceConfig | None = None,
    k: int = 5,
) -> list[tuple[str, float]]:
    """The most probable next tokens of the corrupted run in which one state is clean again.

    Args:
        lm: the model, left as it is.
        fact: that is traced.
        kind: of state; see `TraceConfig`.
        position: of its token in the prompt.
        layer: 0-based; of a window its centre.
        answer: that the trace follows.
        config: of the trace; noise, samples and window are taken from it.
        k: how many tokens.

    Returns:
        Tokens as text with probabilities, means over the noise samples; most probable first.

    Raises:
        InvalidRequestError: there is no such token or layer, or nothing of that kind in the layer.
        UnsupportedModelError: the model's layers cannot be run one by one.

    Examples:
        >>> trace = fl.causal_trace(lm, fact)
        >>> position, layer, _ = trace.peak("block")
        >>> (said, prob), *_ = fl.tracing.said_with_state(lm, fact, "block", position, layer)
        >>> 0 < prob <= 1
        True
    """
    config = config or TraceConfig()
    one = {"kinds": (kind,), "positions": (position,), "layers": (layer,), "method": "exact"}
    config = config.model_copy(update=one)
    lm.abilities.need("trace")
    config.check(lm.n_layers)
    config = with_kinds_of(lm.layers, config, lm.name)
    config = config.model_copy(update={"window": config.window_of(lm.n_layers)})
    if not lm.engine.replays_other_texts:
        raise UnsupportedModelError(
            f"The layers of {lm.name} cannot be run one by one, so single states are not shown."
        )
    with lm.frozen():
        clean = run_clean(lm, fact, answer, config)
        config.positions_of(clean.span, clean.continuation.n_prompt)
        total, n_rows = torch.zeros(()), 0
        for plan in plan_corrupted(lm, fact, clean, config, []):
            if position in plan.aligned:
                restorer = Restorer(lm, clean, plan.run(lm, clean), config)
                for _, reads in restorer.reads(position):
                    for rows in reads[:, 0].split(_AT_A_TIME):
                        total = total + lm.readout(rows).float().softmax(-1).sum(0).cpu()
                        n_rows += len(rows)
    if not n_rows:
        raise InvalidRequestError(
            f"The corrupted prompt has no counterpart of token {position}, or layer {layer} no "
            "such part."
        )
    best = (total / n_rows).topk(k)
    return [
        ("".join(shown(lm.tokenizer, (token_id,))), prob)
        for token_id, prob in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
