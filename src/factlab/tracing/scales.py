"""How effects become shades: kinds that are made to be compared share one scale."""

from collections.abc import Mapping
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

# A hidden state with a path severed is drawn as the hidden state beside it is.
COLOURED_LIKE = {
    "block": "block",
    "mlp": "mlp",
    "attn": "attn",
    "mlp_severed": "block",
    "attn_severed": "block",
}
# A negative effect below this share of the largest is not worth a part of the scale.
_NOTICEABLE = 0.02
_SMALLEST = 1e-6


class Scale(NamedTuple):
    """The smallest (0 or negative) and the largest effect that has a shade."""

    low: float
    high: float

    @property
    def reach(self) -> float:
        """The effect of either sign that has the full colour."""
        return max(self.high, -self.low)


def scales(effects: Mapping[str, Float[Tensor, "row layer"]]) -> dict[str, Scale]:
    """The scale of each kind, by what was traced of it and of those it is compared with."""
    made: dict[str, Scale] = {}
    for kind in effects:
        alike = [
            one for other, one in effects.items() if COLOURED_LIKE[other] == COLOURED_LIKE[kind]
        ]
        high = max(_SMALLEST, *(float(one.nan_to_num().max()) for one in alike))
        low = min(0.0, *(float(one.nan_to_num().min()) for one in alike))
        made[kind] = Scale(low if low < -_NOTICEABLE * high else 0.0, high)
    return made
