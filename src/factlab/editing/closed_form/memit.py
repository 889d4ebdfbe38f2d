"""MEMIT: mass-editing memory in a transformer (Meng et al. 2023, arXiv 2210.07229).

Of all changes of a linear memory W, the one that stores new pairs best without losing the old ones
(equation 14):

    minimise  Σ_new ‖Ŵ kᵢ − mᵢ‖²  +  λ Σ_old ‖Ŵ k − W k‖²
    ΔW = R K₁ᵀ (C₀ + K₁ K₁ᵀ)⁻¹,     C₀ = λ E[k kᵀ]

How the facts are spread over layers is told in `layerwise`.
"""

from collections.abc import Sequence

import torch

from factlab.arguments import checked, listed
from factlab.editing.background import Background
from factlab.editing.closed_form.layerwise import (
    LAYER_CLAMP,
    Keys,
    settled,
    write_facts,
)
from factlab.editing.configs import MemitConfig
from factlab.editing.edit import Edit
from factlab.editing.presets import memit_layers, preset_of
from factlab.editing.requests import first_fact
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.stats.moments import SecondMoment


@checked()
def memit(
    lm: LanguageModel,
    facts: Fact | Sequence[Fact],
    config: MemitConfig | None = None,
    background: Background | None = None,
    progress: ProgressCallback = silent,
) -> Edit:
    """Compute one edit that writes all facts.

    Args:
        lm: the model, left as it is.
        facts: with a `target_new` each; several relations of one subject are fine.
        config: see `MemitConfig`.
        background: statistics and contexts that are at hand.
        progress: True for a bar, or a function that is told what is going on.

    Returns:
        An `Edit` with one change per layer, of a rank of at most the number of facts.

    Raises:
        InvalidRequestError: facts contradict each other, or one has nothing to write.
        StatisticsError: C is singular.
        EditError: the optimisation failed.
    """
    facts = listed(facts)
    return _memit(lm, facts, config, background, progress, together=True)[0]


@checked()
def memit_each(
    lm: LanguageModel,
    facts: Fact | Sequence[Fact],
    config: MemitConfig | None = None,
    background: Background | None = None,
    progress: ProgressCallback = silent,
) -> list[Edit]:
    """Compute one edit per fact; the δ of all of them are found in batches."""
    facts = listed(facts)
    return _memit(lm, facts, config, background, progress, together=False)


def _memit(
    lm: LanguageModel,
    facts: Sequence[Fact],
    config: MemitConfig | None,
    background: Background | None,
    progress: ProgressCallback,
    together: bool,
) -> list[Edit]:
    background = background or Background()
    config, preset = config or MemitConfig(), preset_of(lm)
    layers, source = memit_layers(lm, config.layers, first_fact(facts), progress)
    if preset is not None and "second_moment_weight" not in config.model_fields_set:
        config = config.model_copy(update={"second_moment_weight": preset.memit_weight})
    config = settled(config, layers, preset.memit_clamp if preset else LAYER_CLAMP)
    moments = background.second_moments(lm, layers, config.stats, progress)
    weight = config.second_moment_weight

    def dual_keys(layer: int, keys: Keys) -> Keys:
        return least_squares_duals(keys, moments[layer], weight)

    return write_facts(
        lm, facts, "memit", config, source, background, dual_keys, together, progress
    )


def least_squares_duals(keys: Keys, second_moment: SecondMoment, weight: float) -> Keys:
    """D = K (λC + KᵀK)⁻¹, rows being facts.

    With fewer facts than dimensions the same by Woodbury's identity:
    (I + K (λC)⁻¹ Kᵀ)⁻¹ K (λC)⁻¹.

    Raises:
        StatisticsError: C is singular.
    """
    n_facts, width = keys.shape
    if n_facts < width:
        weighted = second_moment.solve(keys) / weight
        return torch.linalg.solve(
            torch.eye(n_facts, dtype=torch.float64, device="cpu") + weighted @ keys.T, weighted
        )
    return torch.linalg.solve(weight * second_moment.matrix + keys.T @ keys, keys.T).T
