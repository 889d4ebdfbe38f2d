"""AlphaEdit: edits in the null space of what the model uses (Fang et al. 2024, arXiv 2410.02355).

MEMIT's update is projected onto the directions in which ordinary keys have next to nothing, so that
their outputs stay what they are; keys of earlier edits are protected by name:

    ΔW = R K₁ᵀ P (K₁ K₁ᵀ P + K_p K_pᵀ P + ε I)⁻¹

P projects onto the eigenvectors of C with the smallest eigenvalues. The original code keeps those
below 0.02 whatever the model; here they are the ones that together hold a given share of C.
"""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.arguments import checked, listed
from factlab.editing.background import Background
from factlab.editing.closed_form.layerwise import DualKeys, Keys, LayerwiseMethod
from factlab.editing.configs import AlphaEditConfig
from factlab.editing.edit import Edit
from factlab.editing.methods import METHODS
from factlab.errors import InvalidRequestError
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.stats.expert_moments import Moment
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
    return METHODS["alphaedit"].together(lm, listed(facts), config, background, progress)


@checked()
def alphaedit_each(
    lm: LanguageModel,
    facts: Fact | Sequence[Fact],
    config: AlphaEditConfig | None = None,
    background: Background | None = None,
    progress: ProgressCallback = silent,
) -> list[Edit]:
    """Compute one edit per fact; the δ of all of them are found in batches."""
    return METHODS["alphaedit"].each(lm, listed(facts), config, background, progress)


def null_space(second_moment: SecondMoment, share: float) -> Float[Tensor, "d_mlp free"]:
    """Orthonormal directions in which ordinary keys have least, together this share of C.

    Raises:
        StatisticsError: C is singular: what few keys left out would pass for what none ever uses.
    """
    second_moment.check_full_rank()
    values, vectors = second_moment.eigen
    held = values.clamp(min=0).cumsum(0) / values.clamp(min=0).sum()
    return vectors[:, : max(1, int((held <= share).sum()))]


def null_space_duals(keys: Keys, basis: Float[Tensor, "d_mlp free"], ridge: float) -> Keys:
    """(G + εI)⁻¹ K P with G = K P Kᵀ; the keys to protect are rows of K like the new ones."""
    projected = keys @ basis
    gram = projected @ projected.T
    gram = gram + ridge * gram.diagonal().mean() * torch.eye(
        len(gram), dtype=torch.float64, device="cpu"
    )
    return torch.linalg.solve(gram, projected) @ basis.T


def _duals(second_moment: Moment, config: AlphaEditConfig) -> DualKeys:
    if not isinstance(second_moment, SecondMoment):
        raise InvalidRequestError(
            f"AlphaEdit does not write to experts, and layer {second_moment.layer} has "
            f"{second_moment.n_experts}: which directions an expert never uses is not told by the "
            "few tokens that it gets. Use MEMIT, EMMET or ROME there, or another layer."
        )
    basis = null_space(second_moment, config.null_share)
    return partial(null_space_duals, basis=basis, ridge=config.ridge)


ALPHAEDIT = LayerwiseMethod("alphaedit", AlphaEditConfig, _duals, protects=True)
