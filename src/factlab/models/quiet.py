"""Keeping transformers' bars and notices off the terminal, for one thread and no other.

transformers says what it does on stderr: bars, log lines, warnings. Its own switches, like
`contextlib.redirect_stderr`, silence the whole process, so that another thread's messages would be
lost meanwhile. Here a stand-in for stderr and a filter on the log drop only what is written in the
thread (to be exact: the context) that asked for quiet, and hand on all else.
"""

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

_is_quiet: ContextVar[bool] = ContextVar("is_quiet", default=False)
_LOGGERS = ("transformers", "huggingface_hub")


class _Stderr:
    """Hands everything on to the real stream, but for what a quiet thread writes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if _is_quiet.get() else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Filter(logging.Filter):
    """Drops what a quiet thread logs, errors excepted."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or not _is_quiet.get()


class _Switch:
    """Puts stand-in and filter in place for the first quiet block, and away after the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_blocks = 0
        self._filter = _Filter()
        self._before: Any = None
        self._stand_in: _Stderr | None = None
        self._handlers: list[logging.Handler] = []

    def enter(self) -> None:
        with self._lock:
            self._n_blocks += 1
            if self._n_blocks > 1:
                return
            self._before, self._stand_in = sys.stderr, _Stderr(sys.stderr)
            sys.stderr = self._stand_in
            self._handlers = [h for name in _LOGGERS for h in logging.getLogger(name).handlers]
            for handler in self._handlers:
                handler.addFilter(self._filter)

    def leave(self) -> None:
        with self._lock:
            self._n_blocks -= 1
            if self._n_blocks:
                return
            if sys.stderr is self._stand_in:  # or else it is another's by now
                sys.stderr = self._before
            for handler in self._handlers:
                handler.removeFilter(self._filter)


_switch = _Switch()


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' bars and notices off the terminal inside the block, in this thread."""
    token = _is_quiet.set(True)
    _switch.enter()
    try:
        yield
    finally:
        _switch.leave()
        _is_quiet.reset(token)
