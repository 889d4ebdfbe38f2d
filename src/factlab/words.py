"""Numbers in words."""

from collections.abc import Iterable


def listed_ranges(numbers: Iterable[int]) -> str:
    """Whole numbers in words, neighbours together: `0 to 3, 5`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
