"""Two factors, as a change of a weight."""

from jaxtyping import Float
from torch import Tensor

from factlab.editing.closed_form.experts import update_of_experts
from factlab.models.changes.change import Change
from factlab.models.changes.update import DenseUpdate, LowRankUpdate
from factlab.models.experts import Mixture
from factlab.models.language_model import LanguageModel
from factlab.precision import wide


def update_of(
    lm: LanguageModel,
    name: str,
    mixture: Mixture | None,
    left: Float[Tensor, "d_out rank"],
    right: Float[Tensor, "rank d_in"],
) -> Change:
    """Left @ right, thin while its rank is below the width of what comes out.

    Args:
        lm: the model.
        name: of the parameter.
        mixture: of experts whose stacked matrix it is, if it is one.
        left: one column for each fact.
        right: one row for each.

    Raises:
        EditError: it is of a mixture, and zero for all experts.
    """
    precision = wide(lm.dtype)
    if mixture is not None:
        return update_of_experts(name, mixture, left, right, precision)
    layout = lm.layers.layout(name)
    if right.shape[0] < left.shape[0]:
        return LowRankUpdate(
            name, layout, left.contiguous().to(precision), right.contiguous().to(precision)
        )
    return DenseUpdate(name, layout, (left @ right).to(precision))
