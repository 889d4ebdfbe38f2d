"""Ctrl-C while something runs that can be gone on with."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from factlab.cli.session import Session


@contextmanager
def finishing_on_interrupt(session: Session) -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C end a run after what is at hand; the second ends it at once."""
    asked = False

    def stop(_number: int, _frame: object) -> None:
        nonlocal asked
        asked = True
        session.err.print("Finishing what is at hand; press Ctrl-C again to stop now.")
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
