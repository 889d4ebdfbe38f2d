"""What a worker of `--engine ray` does on its node: the command itself, in a process of its own.

Ray gets texts and numbers only, and imports no torch. The command ends with the process of Ray's
that started it, since its end of a pipe closes; so nothing stays behind on a node that was lost.
"""

import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from factlab.cli.workers import LOGS, PROGRAM, STARTS, WORKER

ERROR = "Error: "  # how the line begins that tells why a command failed


class Outcome(NamedTuple):
    """How a worker ended.

    Attributes:
        code: of its command; negative if it was killed again and again.
        words: why it failed.
        output: what it printed as the command's result.
    """

    code: int
    words: str = ""
    output: str = ""

    @property
    def is_good(self) -> bool:
        """Whether it came to its end."""
        return self.code == 0


def work(
    number: int,
    arguments: Sequence[str],
    place: str,
    folder: str,
    mark: str,
    environment: Mapping[str, str],
) -> tuple[int, str, str]:
    """Do a command, and again if it is killed.

    Args:
        number: of the worker; the first prints what the command prints.
        arguments: of the command.
        place: working folder, to which paths among the arguments are relative.
        folder: of the run, relative to it or not.
        mark: a file beside the logs, which is there if this machine sees the folder.
        environment: variables for the command.

    Returns:
        The fields of an `Outcome`.
    """
    logs = Path(place, folder, LOGS)
    if not ((logs / mark).exists() and Path(place).is_dir()):
        words = (
            f"'{logs.parent}' on {socket.gethostname()} is not the folder of the run. All nodes "
            "must see it, and the working folder, under the same name."
        )
        return Outcome(2, words)
    code, output, words = 0, b"", ""
    for _ in range(STARTS):
        code, output, words = _started(
            number, arguments, place, logs / f"{number}.log", environment
        )
        if code >= 0:
            break
    if code < 0:
        words = f"It was killed {STARTS} times, by {_signal_name(-code)}."
    return Outcome(code, words if code else "", output.decode("utf-8", "replace"))


def _started(
    number: int, arguments: Sequence[str], place: str, log: Path, environment: Mapping[str, str]
) -> tuple[int, bytes, str]:
    """Do the command once: its code, what it printed, and its last words."""
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [*PROGRAM, *arguments], cwd=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=errors, env={**os.environ, **environment, WORKER: str(number)},
        )  # fmt: skip
        start = f"Worker {number} on {socket.gethostname()}, process {process.pid}.\n".encode()
        errors.write(start)
    with process:
        output = process.stdout.read() if process.stdout else b""
        code = process.wait()
    said = log.read_bytes().rpartition(start)[2].decode("utf-8", "replace")
    return code, output, last_words(said) or f"It ended with {code} and said nothing."


def last_words(text: str) -> str:
    """The error that a command ended with, or else its last line."""
    _, is_error, sentence = text.rpartition(ERROR)
    lines = text.strip().splitlines()
    return " ".join(sentence.split()) if is_error else lines[-1] if lines else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
