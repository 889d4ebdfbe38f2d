"""How long-running functions tell their caller how far they are.

Every function that can take over two seconds accepts a `progress` callback and calls it with a
label, the steps done and the steps in all. The library itself prints nothing.
"""

from collections.abc import Callable

ProgressCallback = Callable[[str, int, int], None]


def silent(label: str, done: int, total: int) -> None:
    """The default callback: say nothing."""
    del label, done, total
