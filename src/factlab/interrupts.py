"""Putting things back although a Ctrl-C may fall anywhere, into the putting back too."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def undone(undo: Callable[[], None]) -> Iterator[None]:
    """A block after which something is undone, whatever happens inside.

    Args:
        undo: puts everything back, however much of it was changed. After an error it is called
            twice: the error may be an interrupt that cut the first call short.
    """
    try:
        try:
            yield
        finally:
            undo()
    except BaseException:
        undo()
        raise
