"""Numbers in words, and lists of them as people write them."""

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import BeforeValidator, NonNegativeInt, PositiveInt

_PART = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6})(?::([0-9]{1,6}))?)?")


def listed_ranges(numbers: Iterable[int]) -> str:
    """Whole numbers in words, neighbours together: `0 to 3, 5`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def numbers_listed(text: str) -> tuple[int, ...]:
    """The whole numbers that a text lists: `0,3,6`, `0-9` with both ends, `0-29:3` every third.

        >>> numbers_listed("0-2,5")
        (0, 1, 2, 5)
        >>> numbers_listed("0-9:3")
        (0, 3, 6, 9)

    Raises:
        ValueError: it is no such list, or a range in it holds nothing; says how to write one.
    """
    numbers: list[int] = []
    for part in text.split(","):
        read = _PART.fullmatch(part.strip())
        if read is None or (read[3] and not int(read[3])):
            raise ValueError(f"'{part.strip()}' is no number or range; write 0,3,6 or 0-9 or 0-9:3")
        span = range(int(read[1]), int(read[2] or read[1]) + 1, int(read[3] or 1))
        if not span:
            raise ValueError(f"'{part.strip()}' names nothing; write the smaller number first")
        numbers += span
    return tuple(numbers)


def _listed(value: object) -> object:
    return numbers_listed(value) if isinstance(value, str) else value


# A setting that is a list of numbers, from 0 or from 1, as a list or as a person writes it.
NumberList = Annotated[tuple[NonNegativeInt, ...], BeforeValidator(_listed)]
CountList = Annotated[tuple[PositiveInt, ...], BeforeValidator(_listed)]
