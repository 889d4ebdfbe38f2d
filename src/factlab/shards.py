"""Which part of a long run a process does: a shard by number, or whatever nobody else is at."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from factlab.errors import InvalidRequestError

_MOST_SHARDS = 10**6
_ANY = "any"


class Shard(NamedTuple):
    """Part `number` (from 1) of `total` parts of a run that are as equal as its blocks allow.

    `Shard.any()` is no fixed part: it takes the blocks that no other process is at, one after the
    other, so that processes can come and go.
    """

    number: int = 1
    total: int = 1

    @classmethod
    def any(cls) -> "Shard":
        """Whatever no other process is at, until all is done; see `factlab.claims`."""
        return cls(0, 0)

    @property
    def takes_any(self) -> bool:
        """Whether this is no fixed part."""
        return self == (0, 0)

    @property
    def is_part(self) -> bool:
        """Whether other processes may have begun the run, or may be at it."""
        return self != (1, 1)

    def __str__(self) -> str:
        """As `parse` reads it."""
        return _ANY if self.takes_any else f"{self.number}/{self.total}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read `2/5` as the second of five, and `any` as whatever nobody else is at.

        Raises:
            InvalidRequestError: it is neither, or out of range.

        Examples:
            >>> fl.Shard.parse("2/4")
            Shard(number=2, total=4)
        """
        if text == _ANY:
            return cls.any()
        number, _, total = text.partition("/")
        digits = len(str(_MOST_SHARDS))
        if not all(n.isascii() and n.isdigit() and len(n) <= digits for n in (number, total)):
            raise InvalidRequestError(
                f"Shard '{text[:40]}' is not understood. Write 2/5 for the second of five, any for "
                "whatever no other process is at, or auto for what a cluster says."
            )
        return cls(int(number), int(total)).checked()

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] | None = None) -> tuple["Shard", str]:
        """The part that a cluster gave to this process, and where that was read.

        Args:
            environment: variables; those of this process by default. The first of these that is
                complete counts: `FACTLAB_SHARD` (as `2/5`); a Slurm array; an indexed job of
                Kubernetes, whose number of completions must be in `FACTLAB_SHARDS`; ranks of
                torchrun.

        Raises:
            InvalidRequestError: none is there, or one makes no sense.

        Examples:
            >>> fl.Shard.of_environment({"RANK": "1", "WORLD_SIZE": "4"})
            (Shard(number=2, total=4), 'RANK and WORLD_SIZE of torchrun')
        """
        given = os.environ if environment is None else environment
        if "FACTLAB_SHARD" in given:
            return cls.parse(given["FACTLAB_SHARD"]), "FACTLAB_SHARD"
        if "SLURM_ARRAY_TASK_ID" in given:
            return _of_slurm(given), "the Slurm array"
        if "JOB_COMPLETION_INDEX" in given:
            index, total = _number(given, "JOB_COMPLETION_INDEX"), _number(given, "FACTLAB_SHARDS")
            return cls(index + 1, total).checked(), "JOB_COMPLETION_INDEX and FACTLAB_SHARDS"
        if "RANK" in given and "WORLD_SIZE" in given:
            rank, total = _number(given, "RANK"), _number(given, "WORLD_SIZE")
            return cls(rank + 1, total).checked(), "RANK and WORLD_SIZE of torchrun"
        raise InvalidRequestError(
            "Nothing says which shard this process is: there is no FACTLAB_SHARD, and this is no "
            "array of Slurm, indexed job of Kubernetes or rank of torchrun. Write --shard 2/5, or "
            "--shard any."
        )

    def checked(self) -> "Shard":
        """Itself.

        Raises:
            InvalidRequestError: there is no such part.
        """
        if not self.takes_any and not 1 <= self.number <= self.total <= _MOST_SHARDS:
            raise InvalidRequestError(
                f"Shard {self.number}/{self.total} is out of range: the first number goes from 1 "
                f"to the second, and the second to {_MOST_SHARDS}."
            )
        return self

    def of(self, cases: Sequence[int]) -> Sequence[int]:
        """The cases that are this shard's; all of them may be, if it is no fixed part."""
        return cases if self.takes_any else cases[self.number - 1 :: self.total]

    def blocks(self, cases: Sequence[int], batch_size: int, most: int) -> list[Sequence[int]]:
        """The cases of this shard, block by block.

        Which cases they are does not depend on the batch size: shards with different ones must
        neither leave cases out nor do them twice. What is computed together in a block differs by
        rounding from what is computed otherwise; so shards have whole blocks as long as there are
        enough of them.

        Args:
            cases: of the run.
            batch_size: cases of a block.
            most: cases that stay together in one shard if there are enough: the usual size.
        """
        size = min(most, -(-len(cases) // max(1, self.total)))
        own = [*cases]
        if self.is_part and not self.takes_any:
            starts = self.of(range(0, len(cases), size))
            own = [case for start in starts for case in cases[start : start + size]]
        return [own[i : i + batch_size] for i in range(0, len(own), batch_size)]


def _of_slurm(given: Mapping[str, str]) -> Shard:
    first, last = (_number(given, f"SLURM_ARRAY_TASK_{end}") for end in ("MIN", "MAX"))
    step = _number(given, "SLURM_ARRAY_TASK_STEP") if "SLURM_ARRAY_TASK_STEP" in given else 1
    place, odd = divmod(_number(given, "SLURM_ARRAY_TASK_ID") - first, max(1, step))
    total = (last - first) // max(1, step) + 1
    if odd or _number(given, "SLURM_ARRAY_TASK_COUNT") != total:
        raise InvalidRequestError(
            "The Slurm array has gaps, so that parts of the run would be left out. Give it "
            "numbers in a row, such as --array=1-5."
        )
    return Shard(place + 1, total).checked()


def _number(given: Mapping[str, str], name: str) -> int:
    text = given.get(name, "")
    if not (text.isascii() and text.isdigit()):
        raise InvalidRequestError(
            f"{name} must be a whole number to tell the shard, and is '{text[:40]}'."
        )
    return int(text)
