"""AlphaEdit: edits in the null space of what the model uses (Fang et al. 2024, arXiv 2410.02355).

MEMIT's update is projected onto the directions in which ordinary keys have next to nothing, so that
their outputs stay what they are; keys of earlier edits are protected by name:

    ΔW = R K₁ᵀ P (K₁ K₁ᵀ P + K_p K_pᵀ P + ε I)⁻¹

P projects onto the eigenvectors of C with the smallest eigenvalues. The original code keeps those
below 0.02 whatever the model; here they are the ones that together hold a given share of C. With
M = P / ε in place of (λC)⁻¹ this is MEMIT's formula.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from factlab.arguments import checked, listed
from factlab.editing.background import Background
from factlab.editing.closed_form.layerwise import LayerwiseMethod
from factlab.editing.closed_form.memit import least_squares_duals
from factlab.editing.configs import AlphaEditConfig
from factlab.editing.edit import Edit
from factlab.editing.methods import METHODS
from factlab.editing.metric import Keys, Metric
from factlab.errors import InvalidRequestError
from factlab.facts import Fact
from factlab.large_matrices import product
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
    """Compute one edit that writes all facts; arguments and errors as for `memit`."""
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


@dataclass(frozen=True, slots=True)
class NullSpace:
    """M = P / ε: directions in the null space may change, at a price of ε, and no others.

    Attributes:
        basis: of the null space.
        price: ε.
    """

    basis: Float[Tensor, "d_mlp free"]
    price: float

    def solve(self, keys: Keys) -> Keys:
        """M k of every key."""
        return product(product(keys, self.basis), self.basis.T) / self.price

    def inverse(self) -> Float[Tensor, "d_mlp d_mlp"]:
        """M itself."""
        return product(self.basis, self.basis.T) / self.price


def null_space_metric(moment: Moment, config: AlphaEditConfig, first_keys: Keys) -> NullSpace:
    """The null space of C, with ε as a share of the projected keys' mean squared length."""
    if not isinstance(moment, SecondMoment):
        raise InvalidRequestError(
            f"AlphaEdit does not write to experts, and layer {moment.layer} has "
            f"{moment.n_experts}: which directions an expert never uses is not told by the "
            "few tokens that it gets. Use MEMIT, EMMET or ROME there, or another layer."
        )
    basis = null_space(moment, config.null_share)
    return NullSpace(basis, config.ridge * float((first_keys @ basis).square().sum(1).mean()))


def _duals(keys: Keys, metric: Metric, config: AlphaEditConfig) -> Keys:
    del config
    return least_squares_duals(keys, metric)


ALPHAEDIT = LayerwiseMethod("alphaedit", AlphaEditConfig, null_space_metric, _duals)
