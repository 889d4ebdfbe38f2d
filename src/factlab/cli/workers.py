"""Other processes that do the same command beside this one, and take what it does not.

Each runs the command as it was given, with `--shard any`: blocks of the run are claimed one after
the other, and those of a process that ends, however it ends, are taken by the rest. What they print
goes to files beside the run. They end when the run is done, and when the process ends that started
them: its end of a pipe closes.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PROGRAM = (sys.executable, "-m", "factlab")
WORKER = "FACTLAB_WORKER"  # the number of a worker, in its environment
THREADS = "OMP_NUM_THREADS"
STARTS = 4  # of one worker that is killed again and again
LOGS = ".workers"  # in the folder of a run, for what workers print
_LOOKS_EVERY_S = 0.5
# Options that are said otherwise for a worker, and how many words follow each.
_REPLACED = {
    "--workers": 1, "--devices": 1, "--shard": 1, "--device": 1, "--resume": 0, "--engine": 1,
    "--cpus": 1, "--gpus": 1,
}  # fmt: skip
_SHOWS = "1"  # the number of the worker that prints what the command prints


def is_started() -> bool:
    """Whether this process was started by another one of factlab's, and is to end with it."""
    return WORKER in os.environ


def is_worker() -> bool:
    """Whether this process helps another one, which shows what comes of it."""
    return os.environ.get(WORKER, _SHOWS) != _SHOWS


def end_with_parent() -> None:
    """End this process at once when the one that started it has ended; what is done stays done."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def share_cores(n_processes: int) -> int:
    """Give every process its part of the cores, unless somebody has said how many threads.

    Returns:
        Threads of each, for this process too, which may have begun with more.
    """
    has_affinity = hasattr(os, "sched_getaffinity")
    n_cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    said = os.environ.setdefault(THREADS, str(max(1, n_cores // n_processes)))
    first = said.partition(",")[0]  # of nested loops the outermost
    return int(first) if first.isdigit() and int(first) else 1


def arguments_of_worker(arguments: Sequence[str], device: str | None) -> list[str]:
    """The arguments of a command as a worker is given them."""
    kept: list[str] = []
    left_out = 0
    for word in arguments:
        name, is_one_word, _ = word.partition("=")
        if left_out:
            left_out -= 1
        elif name in _REPLACED:
            left_out = 0 if is_one_word else _REPLACED[name]
        else:
            kept.append(word)
    on = [] if device is None else ["--device", device]
    return [*kept, "--shard", "any", *on]


@dataclass(slots=True)
class _Worker:
    """One of them.

    Attributes:
        number: from 2; the process that starts them is the first.
        command: what it runs.
        log: where what it prints goes.
        process: that runs it now, or ran it last.
        n_starts: how often it was started.
    """

    number: int
    command: list[str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    n_starts: int = 0

    def start(self) -> None:
        """Start it, or start it again."""
        self.n_starts += 1
        self.let_go()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=log, stderr=log,
                env=os.environ | {WORKER: str(self.number)},
            )  # fmt: skip

    @property
    def code(self) -> int | None:
        """How its process ended; None if it runs."""
        return None if self.process is None else self.process.poll()

    def let_go(self) -> None:
        """Close the pipe by which it sees that this process is there."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()

    def last_words(self) -> str:
        """The last line that it printed."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else f"It ended with {self.code} and said nothing."


@dataclass(slots=True)
class Workers:
    """All of them.

    Attributes:
        workers: each.
        lost: what there is to say of those that did not end well.
    """

    workers: list[_Worker]
    lost: list[str] = field(default_factory=list[str])
    _is_over: threading.Event = field(default_factory=threading.Event)

    def look_after(self) -> None:
        """Start those again that are killed, until it is over."""
        while not self._is_over.wait(_LOOKS_EVERY_S):
            for worker in self.workers:
                code = worker.code
                if code is not None and code < 0 and worker.n_starts < STARTS:
                    worker.start()

    def end(self) -> None:
        """Wait until all have ended, and note what went wrong."""
        self._is_over.set()
        for worker in self.workers:
            if worker.process is not None:
                worker.process.wait()
                worker.let_go()
            if worker.code not in {0, 130}:
                self.lost.append(
                    f"Worker {worker.number} was lost, and the others did its part: "
                    f"{worker.last_words()}"
                )


@contextmanager
def workers_beside(
    arguments: Sequence[str], devices: Sequence[str | None], folder: Path
) -> Iterator[Workers]:
    """A block beside which other processes do the same command.

    Args:
        arguments: of the command, as they were given.
        devices: one for each of the others.
        folder: of the run; what they print goes into it, below `.workers`.
    """
    logs = folder / LOGS
    logs.mkdir(parents=True, exist_ok=True)
    made = [
        _Worker(number, [*PROGRAM, *arguments_of_worker(arguments, device)], logs / f"{number}.log")
        for number, device in enumerate(devices, start=2)
    ]
    workers = Workers(made)
    for worker in made:
        worker.log.write_bytes(b"")
        worker.start()
    watch = threading.Thread(target=workers.look_after, daemon=True)
    watch.start()
    try:
        yield workers
    finally:
        workers.end()
        watch.join()
