"""What can be done with a model: a ladder, from asking it to editing many rows at once.

Every model gets each rung that it can bear. Which these are is found out when it is loaded; what
needs a higher one says which, and why the model does not reach it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from factlab.errors import UnsupportedModelError

RungName = Literal[
    "ask", "trace", "windows", "severed", "neurons", "closed_form", "gradient", "rows"
]

TITLES: dict[RungName, str] = {
    "ask": "ask and score",
    "trace": "trace block states",
    "windows": "trace windows of MLP and mixer outputs",
    "severed": "trace with paths severed",
    "neurons": "knowledge neurons",
    "closed_form": "statistics and closed-form edits",
    "gradient": "edits by gradient descent",
    "rows": "rows of a batch, each with an edit of its own",
}


@dataclass(frozen=True, slots=True)
class Rung:
    """One thing that can be done with a model, or not.

    Attributes:
        can: whether it can.
        why: what keeps it from that, or what is to be known about it; may be empty.
        layers: in which layers; None if that is no matter of layers.
    """

    can: bool
    why: str = ""
    layers: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Abilities:
    """What can be done with a model.

    Attributes:
        model: what it is called in errors.
        engine: how it is run; see `factlab.models.engines.engine`.
        rungs: by name, in the order of the ladder.
    """

    model: str
    engine: str
    rungs: Mapping[RungName, Rung]

    def need(self, name: RungName) -> None:
        """Refuse what a model cannot do.

        Raises:
            UnsupportedModelError: says why, and what it can do.
        """
        rung = self.rungs[name]
        if not rung.can:
            able = ", ".join(TITLES[n] for n, other in self.rungs.items() if other.can)
            raise UnsupportedModelError(
                f"{self.model} cannot be used for this ({TITLES[name]}): {rung.why}. "
                f"What can be done with it: {able}."
            )
