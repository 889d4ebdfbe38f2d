"""Which layer to edit: where MLPs at the last subject token matter most (ROME, section 2.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.arguments import checked
from factlab.data.well_known import WELL_KNOWN
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.tracing.average import LAST_SUBJECT
from factlab.tracing.average_run import average_trace
from factlab.tracing.configs import TraceConfig

_MEMIT_LAYERS = 5


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """Where to edit a model.

    Attributes:
        layer: for an edit of one layer (ROME): the peak of the averaged effect, the last layer
            aside.
        memit_layers: for an edit spread over layers: up to five that end with the peak, as MEMIT's
            do (section 4.1 there).
        effects: average indirect effect of an MLP window at the last subject token, by layer.
        half_widths: of 95 % confidence intervals.
        n_facts: how many facts were averaged.
        window: how many layers were restored together.
    """

    layer: int
    memit_layers: tuple[int, ...]
    effects: Float[Tensor, " layer"]
    half_widths: Float[Tensor, " layer"]
    n_facts: int
    window: int


@checked()
def recommend_layer(
    lm: LanguageModel,
    facts: Sequence[Fact] | None = None,
    limit: int = 20,
    progress: ProgressCallback = silent,
) -> LayerChoice:
    """Find the layer to edit from causal traces of MLP windows at the last subject token.

    Never the last one: nothing that follows the subject depends on it.

    Args:
        lm: the model.
        facts: what to trace, such as the facts that are to be edited; by default well-known ones.
            Facts with a `target_true` that the model does not know are left out.
        limit: how many of those that it knows.
        progress: True for a bar, or a function that is called with facts done and in all.

    Raises:
        InvalidRequestError: the model knows none of the facts.
    """
    # Narrow windows: wide ones are cut off at the first layers, which moves the peak inwards.
    window = max(1, lm.n_layers // 5)
    config = TraceConfig(kinds=("mlp",), positions="last_subject", window=window)
    average = average_trace(
        lm, WELL_KNOWN if facts is None else facts, config, limit=limit, progress=progress
    )
    effects = average.effects["mlp"][LAST_SUBJECT]
    # No token looks at another behind the last layer, so an edit there reaches no later word. (A
    # window that is cut off at the end gives that layer an effect all the same.)
    candidates = effects[: max(1, lm.n_layers - 1)].nan_to_num(nan=-torch.inf)
    layer = int(candidates.argmax())
    return LayerChoice(
        layer=layer,
        memit_layers=tuple(range(max(0, layer - _MEMIT_LAYERS + 1), layer + 1)),
        effects=effects,
        half_widths=average.half_widths["mlp"][LAST_SUBJECT],
        n_facts=average.n_facts,
        window=window,
    )
