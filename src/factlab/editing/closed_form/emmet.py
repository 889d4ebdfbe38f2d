"""EMMET: equality-constrained editing of many facts (Gupta et al. 2024, arXiv 2403.14236).

ROME's objective with several pairs: the smallest change, in the metric of C, that stores all of
them exactly,

    minimise ‖Ŵ K₀ − W K₀‖²  subject to  Ŵ kᵢ = vᵢ
    ΔW = R (K₁ᵀ C⁻¹ K₁)⁻¹ K₁ᵀ C⁻¹

For one fact this is ROME's update. In a sequence C is λC + K_p K_pᵀ, with the keys of earlier edits
(`protection`); alone, λ cancels. Keys that are alike make the matrix in the middle
ill-conditioned; a little damping keeps the change small there.
"""

from collections.abc import Sequence

import torch

from factlab.arguments import checked, listed
from factlab.editing.background import Background
from factlab.editing.closed_form.layerwise import LayerwiseMethod
from factlab.editing.closed_form.memit import ordinary_keys
from factlab.editing.configs import EmmetConfig
from factlab.editing.edit import Edit
from factlab.editing.methods import METHODS
from factlab.editing.metric import Keys, Metric
from factlab.errors import EditError
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent


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


def equality_duals(keys: Keys, metric: Metric, damping: float) -> Keys:
    """D = (K M Kᵀ + εI)⁻¹ K M, rows being facts; D Kᵀ = I without damping.

    Raises:
        StatisticsError: C is singular.
        EditError: two keys are the same, and there is no damping.
    """
    directions = metric.solve(keys)
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


def _duals(keys: Keys, metric: Metric, config: EmmetConfig) -> Keys:
    return equality_duals(keys, metric, config.damping)


EMMET = LayerwiseMethod("emmet", EmmetConfig, ordinary_keys, _duals, default_layers="one")
