"""How long-running functions tell their caller how far they are, and a bar that shows it.

Every function that can take over two seconds accepts `progress`: `True` for a bar, or a function
that it calls with a label, the steps done and the steps in all. The library itself prints nothing.

    fl.causal_trace(lm, fact, progress=True)

    with fl.progress_bar() as bar:  # one bar for several calls
        trace = fl.causal_trace(lm, fact, progress=bar)
        edit = fl.rome(lm, fact, progress=bar)
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

from factlab.errors import InvalidRequestError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, Task

ProgressCallback = Callable[[str, int, int], None]

_SECONDS_BETWEEN_LINES = 60.0


def silent(label: str, done: int, total: int) -> None:
    """The default callback: say nothing."""
    del label, done, total


def tell_step(progress: ProgressCallback, label: str, first: int, total: int, step: int) -> None:
    """Tell of a step of a batch whose first step is number `first` of `total` in all batches."""
    progress(label, first + step, total)


def progress_bar() -> "ProgressBar":
    """A bar on stderr that any function's `progress` takes; in notebooks too.

    As a context manager it serves several calls and ends with the block. Given to a function
    without one, it ends with the function. `progress=True` is the same in short.
    """
    return ProgressBar()


@contextmanager
def reporting(progress: object) -> Iterator[ProgressCallback]:
    """What to call for whatever a caller gave as `progress`; its bar ends with the block.

    Args:
        progress: True for a bar; False or None for nothing; or a callable, which is used as it is.

    Raises:
        InvalidRequestError: it is none of these.
    """
    if progress is True:
        progress = progress_bar()
    if progress is None or progress is False:
        yield silent
    elif isinstance(progress, ProgressBar) and not progress.is_shown:
        with progress:
            yield progress
    elif callable(progress):
        yield cast(ProgressCallback, progress)
    else:
        raise InvalidRequestError(
            f"progress cannot be {progress!r}. Pass True for a bar, or a function "
            "(label, done, total)."
        )


class ProgressBar:
    """Shows what is being done, how far it is and how long it will still take.

    Where stderr can show no bar, a line now and then takes its place.

    Args:
        console: where to draw; by default stderr.
    """

    def __init__(self, console: "Console | None" = None) -> None:
        self._console = console
        self._shown: _Bar | _Lines | None = None

    @property
    def is_shown(self) -> bool:
        """Whether it is inside its `with` block."""
        return self._shown is not None

    def __enter__(self) -> "ProgressBar":
        from rich.console import Console  # noqa: PLC0415 - `import factlab` is instant

        console = self._console or Console(stderr=True)
        has_bar = find_spec("ipywidgets") is not None if console.is_jupyter else console.is_terminal
        self._shown = _Bar(console) if has_bar else _Lines(console)
        return self

    def __exit__(self, *_reason: object) -> None:
        if self._shown is not None:
            self._shown.close()
        self._shown = None

    def __call__(self, label: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of what the label says are finished."""
        if self._shown is None:
            raise RuntimeError("a bar that is called by hand belongs in a `with` block")
        self._shown.report(label, done, total)


@dataclass
class _Step:
    """What is known of the steps with one label."""

    began_s: float
    first: int
    done: int

    def seconds_left(self, total: int) -> float | None:
        """How long the rest will take at the speed since the first report; None before a step.

        The speed of the last half minute, which bars often go by, knows nothing of steps that take
        longer than that, and jumps where steps are uneven.
        """
        done = self.done - self.first
        if done <= 0:
            return None
        return (time.monotonic() - self.began_s) / done * (total - self.done)


class _Steps:
    """When each label began. Labels may take turns: one step of a long one has steps inside."""

    def __init__(self) -> None:
        self._steps: dict[str, _Step] = {}

    def reached(self, label: str, done: int) -> _Step:
        """The label's step, brought up to date; a count that falls begins it anew."""
        step = self._steps.get(label)
        if step is None or done < step.done:
            step = self._steps[label] = _Step(time.monotonic(), done, done)
        step.done = done
        return step


class _Bar:
    """A line that is redrawn: the step that was reported last."""

    def __init__(self, console: "Console") -> None:
        self._steps = _Steps()
        self._progress = _columns(console)
        self._task = self._progress.add_task("", visible=False, step=None)
        self._between = self._progress.add_task("working", total=None, visible=False, step=None)
        self._progress.start()

    def report(self, label: str, done: int, total: int) -> None:
        step, is_going_on = self._steps.reached(label, done), done < total
        self._progress.update(
            self._task,
            description=label, completed=done, total=total, visible=is_going_on, step=step,
        )  # fmt: skip
        # Whatever comes next may not say so at once: a full bar that stays would be a lie.
        self._progress.update(self._between, visible=not is_going_on)

    def close(self) -> None:
        self._progress.stop()


class _Lines:
    """Says what is being done, and each minute how far it is and how long it will take.

    Each label has a minute of its own: a step of hours is not outshouted by those inside it.
    """

    def __init__(self, console: "Console") -> None:
        self._console, self._steps = console, _Steps()
        self._spoke_s: dict[str, float] = {}

    def report(self, label: str, done: int, total: int) -> None:
        step, now_s = self._steps.reached(label, done), time.monotonic()
        spoke_s = self._spoke_s.get(label)
        if spoke_s is None:
            self._say(label, f"{label} ...")
        elif 0 < done < total and now_s - spoke_s >= _SECONDS_BETWEEN_LINES:
            left_s = step.seconds_left(total)
            left = "" if left_s is None else f", about {max(1, round(left_s / 60))} min left"
            self._say(label, f"{label}: {done} of {total}{left}")

    def _say(self, label: str, text: str) -> None:
        self._spoke_s[label] = time.monotonic()
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Nothing is left to take away."""


def _columns(console: "Console") -> "Progress":
    """What a line shows, from left to right."""
    from rich.progress import (  # noqa: PLC0415 - `import factlab` is instant
        BarColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        TextColumn,
    )
    from rich.table import Column  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    class Count(ProgressColumn):
        def render(self, task: "Task") -> Text:
            return Text("" if task.total is None else f"{task.completed:.0f}/{task.total:.0f}")

    class Time(ProgressColumn):
        def render(self, task: "Task") -> Text:
            step: _Step | None = task.fields["step"]
            if step is None or task.total is None:
                return Text("")
            left_s = step.seconds_left(int(task.total))
            left = "" if left_s is None else f", about {_clock(left_s)} left"
            return Text(f"{_clock(time.monotonic() - step.began_s)}{left}")

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),  # gives way where the line would not fit
        Count(Column(no_wrap=True)),
        Time(Column(no_wrap=True)),
        console=console,
        transient=True,
    )


def _clock(seconds: float) -> str:
    """A length of time as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
