"""Putting things back although a Ctrl-C may fall anywhere, into the putting back too."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def undone(undo: Callable[[], None]) -> Iterator[None]:
    """A block after which something is undone, whatever happens inside.

    Args:
        undo: puts everything back, however much of it was changed; called again from its beginning
            where an interrupt cut it short.
    """
    try:
        try:
            yield
        finally:
            undo()
    except BaseException:
        undo()
        raise
