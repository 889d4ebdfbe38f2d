"""EMMET: equality-constrained editing of many facts (Gupta et al. 2024, arXiv 2403.14236).

ROME's objective with several pairs: the smallest change, in the metric of C, that stores all of
them exactly,

    minimise ‖Ŵ K₀ − W K₀‖²  subject to  Ŵ kᵢ = vᵢ
    ΔW = R (K₁ᵀ C⁻¹ K₁)⁻¹ K₁ᵀ C⁻¹

For one fact this is ROME's update. Keys that are alike make the matrix in the middle
ill-conditioned; a little damping keeps the change small there.
"""

from collections.abc import Sequence
from functools import partial

import torch

from factlab.arguments import checked, listed
from factlab.editing.background import Background
from factlab.editing.closed_form.layerwise import DualKeys, Keys, LayerwiseMethod
from factlab.editing.configs import EmmetConfig
from factlab.editing.edit import Edit
from factlab.editing.methods import METHODS
from factlab.errors import EditError
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.stats.expert_moments import Moment


@checked()
def emmet(
    lm: LanguageModel,
    facts: Fact | Sequence[Fact],
    config: EmmetConfig | None = None,
    background: Background | None = None,
    progress: ProgressCallback = silent,
) -> Edit:
    """Compute one edit that writes all facts; arguments and errors as for `memit`."""
    return METHODS["emmet"].together(lm, listed(facts), config, background, progress)


@checked()
def emmet_each(
    lm: LanguageModel,
    facts: Fact | Sequence[Fact],
    config: EmmetConfig | None = None,
    background: Background | None = None,
    progress: ProgressCallback = silent,
) -> list[Edit]:
    """Compute one edit per fact; the δ of all of them are found in batches."""
    return METHODS["emmet"].each(lm, listed(facts), config, background, progress)


def equality_duals(keys: Keys, second_moment: Moment, damping: float) -> Keys:
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


def _duals(second_moment: Moment, config: EmmetConfig) -> DualKeys:
    return partial(equality_duals, second_moment=second_moment, damping=config.damping)


EMMET = LayerwiseMethod("emmet", EmmetConfig, _duals, default_layers="one")
