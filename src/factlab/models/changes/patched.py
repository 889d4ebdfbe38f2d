"""A weight with changes on it: what it was, what is on, and some of the states in between."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from factlab.models.changes.change import Change
from factlab.models.changes.ride import Ride, changed

# States of a weight that are kept, beside its original and what is written: as many as take so many
# bytes, within these bounds.
_KEPT_BYTES, _LEAST_KEPT, _MOST_KEPT = 2**25, 2, 16


@dataclass(frozen=True, slots=True, eq=False)
class Application:
    """One time that a change was put on. The same change may be on several times.

    Attributes:
        patch: the change.
        source: what it is a part of, such as an edit; None if nobody said.
        number: of the time, counted from 0.
    """

    patch: Change
    source: object = None
    number: int = 0

    @property
    def weight_name(self) -> str:
        """Parameter name in the model."""
        return self.patch.weight_name


@dataclass(frozen=True, slots=True, eq=False)
class Patched:
    """A changed weight.

    Attributes:
        original: without changes.
        active: the changes, in order.
        states: the weight after some numbers of changes, at least after all of them.
    """

    original: Tensor | Ride
    active: tuple[Application, ...] = ()
    states: Mapping[int, Tensor | Ride] = field(default_factory=dict[int, Tensor | Ride])

    @property
    def written(self) -> Tensor | Ride:
        """What the live weight is to the bit."""
        return self.states[len(self.active)] if self.active else self.original

    def having(self, active: tuple[Application, ...], model: nn.Module) -> "Patched":
        """The same weight with other changes on it; made from the last state that both share."""
        pairs = enumerate(zip(self.active, active, strict=False))
        shared = next((i for i, (one, other) in pairs if one is not other), None)
        shared = min(len(self.active), len(active)) if shared is None else shared
        states = {n: state for n, state in self.states.items() if n <= shared}
        begin = max(states, default=0)
        weight = states.get(begin, self.original)
        for number, application in enumerate(active[begin:], begin + 1):
            weight = changed(weight, application.patch, model)
            states[number] = weight
            _forget_some(states)
        return Patched(self.original, active, states)


def _forget_some(states: dict[int, Tensor | Ride]) -> None:
    """Of the states before the last keep a few, closer together the later they are."""
    size = states[max(states)].nbytes
    kept = min(_MOST_KEPT, max(_LEAST_KEPT, _KEPT_BYTES // max(1, size)))
    while len(states) > kept + 1:
        *earlier, last = sorted(states)
        pairs = zip([0, *earlier], earlier, [*earlier[1:], last], strict=False)
        gaps = {at: (above - below) / (last - at) for below, at, above in pairs}
        del states[min(gaps, key=gaps.__getitem__)]
