"""Which part of a long run a process does."""

from collections.abc import Sequence
from typing import NamedTuple

from factlab.errors import InvalidRequestError

_MOST_SHARDS = 10**6


class Shard(NamedTuple):
    """Part `number` (from 1) of `total` equal parts of a run."""

    number: int = 1
    total: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read `2/5` as the second of five.

        Raises:
            InvalidRequestError: it is not such a pair, or out of range.

        Examples:
            >>> fl.Shard.parse("2/4")
            Shard(number=2, total=4)
        """
        number, _, total = text.partition("/")
        digits = len(str(_MOST_SHARDS))
        if not all(n.isascii() and n.isdigit() and len(n) <= digits for n in (number, total)):
            raise InvalidRequestError(
                f"Shard '{text[:40]}' is not understood. Write 2/5 for the second of five."
            )
        return cls(int(number), int(total)).checked()

    def checked(self) -> "Shard":
        """Itself.

        Raises:
            InvalidRequestError: there is no such part.
        """
        if not 1 <= self.number <= self.total <= _MOST_SHARDS:
            raise InvalidRequestError(
                f"Shard {self.number}/{self.total} is out of range: the first number goes from 1 "
                f"to the second, and the second to {_MOST_SHARDS}."
            )
        return self

    def of(self, cases: Sequence[int]) -> Sequence[int]:
        """The cases that are this shard's."""
        return cases[self.number - 1 :: self.total]
