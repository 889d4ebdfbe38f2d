"""Processes that tests start, watch and kill. They have imported everything and begin at once."""

import multiprocessing
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "torch",
        "transformers",
        "factlab.models.tiny",
        "factlab.editing.value_run",
        "factlab.tracing.average_run",
        "factlab.evaluation.localising.study",
        "factlab.evaluation.probing.probe",
        "factlab.evaluation.running.run",
    ]
)


def started(function: Callable[..., object], *args: object) -> BaseProcess:
    """A process that calls a function of a module."""
    process = _context.Process(target=_on_one_thread, args=(function, *args), daemon=True)
    process.start()
    return process


def finished(function: Callable[..., object], *args: object) -> None:
    """Call a function in a process of its own, and wait for it."""
    process = started(function, *args)
    process.join()
    assert process.exitcode == 0


def killed_as_it_writes(process: BaseProcess, folder: Path, within_s: float = 0.02) -> None:
    """Kill a process that was just started, some moment after it wrote records below a folder."""
    before = _written(folder)
    while process.exitcode is None and _written(folder) <= before:
        time.sleep(0.002)  # looks again soon; nothing is measured
    time.sleep(random.Random(process.pid).uniform(0, within_s))  # noqa: S311 - no secret
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "killed too late to test"


def _written(folder: Path) -> int:
    """Bytes of records."""
    return sum(path.stat().st_size for path in folder.rglob("records-*.jsonl"))


def _on_one_thread(function: Callable[..., object], *args: object) -> None:
    import torch

    torch.set_num_threads(1)
    function(*args)
