"""AlphaEdit: edits in the null space of what the model uses (Fang et al. 2024, arXiv 2410.02355).

MEMIT's update is projected onto the directions in which ordinary keys have next to nothing, so that
their outputs stay what they are; keys of earlier edits are protected by name:

    ΔW = R K₁ᵀ P (K₁ K₁ᵀ P + K_p K_pᵀ P + ε I)⁻¹

P projects onto the eigenvectors of C with the smallest eigenvalues. The original code keeps those
below 0.02 whatever the model; here they are the ones that together hold a given share of C.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.arguments import checked, listed
from factlab.editing.background import Background
from factlab.editing.closed_form.contexts import context_weights
from factlab.editing.closed_form.layerwise import (
    LAYER_CLAMP,
    Keys,
    settled,
    write_facts,
)
from factlab.editing.closed_form.lookup import mean_keys
from factlab.editing.configs import AlphaEditConfig
from factlab.editing.edit import Edit
from factlab.editing.presets import memit_layers, preset_of
from factlab.editing.requests import first_fact
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.stats.moments import SecondMoment


@checked()
def alphaedit(
    lm: LanguageModel,
    facts: Fact | Sequence[Fact],
    config: AlphaEditConfig | None = None,
    background: Background | None = None,
    progress: ProgressCallback = silent,
) -> Edit:
    """Compute one edit that writes all facts; arguments and errors as for `memit`.

    The keys of `background.past_facts` are looked up again and left alone.
    """
    facts = listed(facts)
    background = background or Background()
    config, preset = config or AlphaEditConfig(), preset_of(lm)
    layers, source = memit_layers(lm, config.layers, first_fact(facts), progress)
    config = settled(config, layers, preset.memit_clamp if preset else LAYER_CLAMP)
    moments = background.second_moments(lm, layers, config.stats, progress)
    contexts = background.contexts(lm, config.contexts)
    # A fact that is written anew is not protected from it.
    replaced = {fact.question for fact in facts}
    past = [f for f in background.past_facts if f.question not in replaced]
    weights, share, ridge = (
        context_weights(config.contexts, len(contexts)),
        config.null_share,
        config.ridge,
    )

    def dual_keys(layer: int, keys: Keys) -> Keys:
        basis = null_space(moments[layer], share)
        old = mean_keys(lm, past, contexts, layer, weights).keys if past else keys[:0]
        return null_space_duals(keys, old, basis, ridge)

    return write_facts(
        lm, facts, "alphaedit", config, source, background, dual_keys, True, progress
    )[0]


def null_space(second_moment: SecondMoment, share: float) -> Float[Tensor, "d_mlp free"]:
    """Orthonormal directions in which ordinary keys have least, together this share of C.

    Raises:
        StatisticsError: C is singular: what few keys left out would pass for what none ever uses.
    """
    second_moment.check_full_rank()
    values, vectors = second_moment.eigen
    held = values.clamp(min=0).cumsum(0) / values.clamp(min=0).sum()
    return vectors[:, : max(1, int((held <= share).sum()))]


def null_space_duals(
    keys: Keys, past: Float[Tensor, "past d_mlp"], basis: Float[Tensor, "d_mlp free"], ridge: float
) -> Keys:
    """The rows of (G + εI)⁻¹ K P that belong to new facts; G = K P Kᵀ over new and past keys."""
    projected = torch.cat([keys, past]) @ basis
    gram = projected @ projected.T
    gram = gram + ridge * gram.diagonal().mean() * torch.eye(
        len(gram), dtype=torch.float64, device="cpu"
    )
    return torch.linalg.solve(gram, projected)[: len(keys)] @ basis.T
