"""Whose change each row of a batch carries."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from factlab.errors import InvalidRequestError
from factlab.places import places


@dataclass(frozen=True, slots=True)
class Owners:
    """Which change each row of a batch carries.

    Attributes:
        numbers: of the changes, row by row.
        everyone: there is one change, and all rows carry it.
    """

    numbers: tuple[int, ...]
    everyone: bool = False

    def of(self, stack: Tensor) -> Tensor:
        """Each row's own of a stack; the stack itself if every row has the next one."""
        if self.numbers == tuple(range(len(stack))):
            return stack
        return stack[places(self.numbers, stack.device)]

    def together(
        self, rows: Float[Tensor, "row pos d"], n: int
    ) -> Float[Tensor, "n some d"] | None:
        """Rows of one owner joined, if each of n has as many as the next, all in order."""
        if self.everyone and n != 1:
            raise InvalidRequestError(
                f"There are {n} changes to carry, and no owners. Say whose each row carries."
            )
        each, rest = divmod(len(self.numbers), max(1, n))
        if rest or each < 1 or self.numbers != tuple(i // each for i in range(len(self.numbers))):
            return None
        return rows.reshape(n, -1, rows.shape[-1])
