"""MEMIT: mass-editing memory in a transformer (Meng et al. 2023, arXiv 2210.07229).

Of all changes of a linear memory W, the one that stores new pairs best without losing the old ones
(equation 14):

    minimise  Σ_new ‖Ŵ kᵢ − mᵢ‖²  +  λ Σ_old ‖Ŵ k − W k‖²
    ΔW = R K₁ᵀ (C₀ + K₁ K₁ᵀ)⁻¹,     C₀ = λ E[k kᵀ]

How the facts are spread over layers is told in `layerwise`, and how the keys of earlier edits are
added to the old ones in `protection`.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.arguments import checked, listed
from factlab.editing.background import Background
from factlab.editing.closed_form.layerwise import LayerwiseMethod
from factlab.editing.configs import EmmetConfig, MemitConfig
from factlab.editing.edit import Edit
from factlab.editing.methods import METHODS
from factlab.editing.metric import Keys, Metric, OrdinaryKeys
from factlab.editing.preset_table import Preset
from factlab.facts import Fact
from factlab.large_matrices import product, solve
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.stats.expert_moments import Moment


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

    Source: Meng et al., "Mass-Editing Memory in a Transformer" (2023), algorithm 1.

    Examples:
        >>> edit = fl.memit(lm, facts)
        >>> len(edit.facts)
        2
        >>> undo = edit.apply_(lm)
        >>> undo()
    """
    return METHODS["memit"].together(lm, listed(facts), config, background, progress)


@checked()
def memit_each(
    lm: LanguageModel,
    facts: Fact | Sequence[Fact],
    config: MemitConfig | None = None,
    background: Background | None = None,
    progress: ProgressCallback = silent,
) -> list[Edit]:
    """Compute one edit per fact; the δ of all of them are found in batches."""
    return METHODS["memit"].each(lm, listed(facts), config, background, progress)


def least_squares_duals(keys: Keys, metric: Metric) -> Keys:
    """D = K (A + KᵀK)⁻¹, rows being facts; A⁻¹ = M is the metric.

    With fewer facts than dimensions by Woodbury's identity: (I + K M Kᵀ)⁻¹ K M.

    Raises:
        StatisticsError: A is singular.
    """
    n_facts, width = keys.shape
    inverse = metric.inverse() if n_facts >= width else None
    if inverse is None:
        solved = metric.solve(keys)
        return solve(_eye(n_facts) + product(solved, keys.T), solved)
    weighed = product(inverse, product(keys.T, keys))
    return solve(_eye(width) + weighed, product(inverse, keys.T)).T


def _eye(size: int) -> Float[Tensor, "size size"]:
    return torch.eye(size, dtype=torch.float64, device="cpu")


def ordinary_keys(
    moment: Moment, config: MemitConfig | EmmetConfig, first_keys: Keys
) -> OrdinaryKeys:
    """λC, whatever keys are written."""
    del first_keys
    return OrdinaryKeys(moment, config.second_moment_weight)


def _duals(keys: Keys, metric: Metric, config: MemitConfig) -> Keys:
    del config
    return least_squares_duals(keys, metric)


def _with_weight(config: MemitConfig, preset: Preset | None) -> MemitConfig:
    """The preset's λ, unless one is set."""
    if preset is None or "second_moment_weight" in config.model_fields_set:
        return config
    return config.model_copy(update={"second_moment_weight": preset.memit_weight})


MEMIT = LayerwiseMethod("memit", MemitConfig, ordinary_keys, _duals, completed=_with_weight)
