"""EMMET: equality-constrained editing of many facts (Gupta et al. 2024, arXiv 2403.14236).

ROME's objective with several pairs: the smallest change, in the metric of C, that stores all of
them exactly,

    minimise ‖Ŵ K₀ − W K₀‖²  subject to  Ŵ kᵢ = vᵢ
    ΔW = R (K₁ᵀ C⁻¹ K₁)⁻¹ K₁ᵀ C⁻¹

For one fact this is ROME's update. Keys that are alike make the matrix in the middle
ill-conditioned; a little damping keeps the change small there.
"""

from collections.abc import Sequence

import torch

from factlab.arguments import checked, listed
from factlab.editing.background import Background
from factlab.editing.closed_form.layerwise import Keys, settled, write_facts
from factlab.editing.closed_form.value import DEFAULT_CLAMP
from factlab.editing.configs import EmmetConfig
from factlab.editing.edit import Edit
from factlab.editing.presets import memit_layers, preset_of, rome_layer
from factlab.editing.requests import first_fact
from factlab.errors import EditError
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.stats.moments import SecondMoment


@checked()
def emmet(
    lm: LanguageModel,
    facts: Fact | Sequence[Fact],
    config: EmmetConfig | None = None,
    background: Background | None = None,
    progress: ProgressCallback = silent,
) -> Edit:
    """Compute one edit that writes all facts; arguments and errors as for `memit`."""
    facts = listed(facts)
    background = background or Background()
    config = config or EmmetConfig()
    if config.layers is None:
        layer, source = rome_layer(lm, None, first_fact(facts), progress)
        layers = (layer,)
    else:
        layers, source = memit_layers(lm, config.layers, first_fact(facts), progress)
    preset = preset_of(lm)
    config = settled(config, layers, preset.rome_clamp if preset else DEFAULT_CLAMP)
    moments = background.second_moments(lm, layers, config.stats, progress)
    damping = config.damping

    def dual_keys(layer: int, keys: Keys) -> Keys:
        return equality_duals(keys, moments[layer], damping)

    return write_facts(lm, facts, "emmet", config, source, background, dual_keys, True, progress)[0]


def equality_duals(keys: Keys, second_moment: SecondMoment, damping: float) -> Keys:
    """D = (K C⁻¹ Kᵀ + εI)⁻¹ K C⁻¹, rows being facts; D Kᵀ = I without damping.

    Raises:
        StatisticsError: C is singular.
        EditError: two keys are the same, and there is no damping.
    """
    directions = second_moment.solve(keys)
    middle = directions @ keys.T
    middle = middle + damping * middle.diagonal().mean() * torch.eye(
        len(keys), dtype=torch.float64, device="cpu"
    )
    duals, info = torch.linalg.solve_ex(middle, directions)
    if int(info) or not duals.isfinite().all():
        raise EditError(
            "Two facts have the same key (one subject at the start of two templates), so they "
            "cannot both be stored exactly. Set a damping above 0, or leave one out."
        )
    return duals
