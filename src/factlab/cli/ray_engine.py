"""The same command on a Ray cluster: workers that take blocks of a run from a folder that all see.

Ray finds a place for each worker, with GPUs if they are asked for, and starts it elsewhere if it
dies or its node does. What is done is in the run's folder, so that nothing is done twice. This
process loads no model: the first worker prints what the command prints, and it is passed on.
"""

import importlib
import importlib.util
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from factlab.cli.ray_worker import ERROR, Outcome, last_words, work
from factlab.cli.workers import LOGS, THREADS, arguments_of_worker
from factlab.errors import InvalidRequestError, MissingPackageError, counted

_LOOKS_EVERY_S = 1.0
_REACHED_WITHIN_S = 5.0
_STORE_BYTES = 80 * 2**20  # no large objects go through Ray
_ADDRESS = "RAY_ADDRESS"


@dataclass(frozen=True, kw_only=True)
class Need:
    """What each worker gets on its node.

    Attributes:
        cpus: cores, and threads that compute.
        gpus: GPUs; a fraction shares one with other workers.
    """

    cpus: int = 1
    gpus: int | float = 0

    def check(self) -> None:
        """Refuse what no node can give.

        Raises:
            InvalidRequestError: it is more than a GPU and no whole number.
        """
        if not (0 <= self.gpus <= 1 or float(self.gpus).is_integer()):
            raise InvalidRequestError(
                f"--gpus {self.gpus} must be a part of one, such as 0.5, or a whole number."
            )

    def __str__(self) -> str:
        """In words."""
        return _in_words(self.cpus, self.gpus)

    @property
    def device(self) -> str:
        """Where the model of a worker goes: without GPUs of its own it must not take others'."""
        return "cpu" if not self.gpus else "cuda" if self.gpus <= 1 else "auto"

    def places_on(self, resources: Mapping[str, float]) -> int:
        """For how many workers a node has room."""
        n_places = int(resources.get("CPU", 0) // self.cpus)
        if not self.gpus:
            return n_places
        n_gpus = int(resources.get("GPU", 0))
        n_on_gpus = n_gpus * int(1 / self.gpus) if self.gpus <= 1 else n_gpus // int(self.gpus)
        return min(n_places, n_on_gpus)


@dataclass(frozen=True, kw_only=True)
class Work:
    """A command for workers of Ray.

    Attributes:
        arguments: of the command, as they were given.
        folder: of the run, seen by all nodes under this name.
        n_workers: how many do it.
        need: of each.
        memory_gib: that each may use, if that was said.
        columns: width of what the command prints, if that is known.
    """

    arguments: Sequence[str]
    folder: Path
    n_workers: int
    need: Need
    memory_gib: float | None = None
    columns: int | None = None

    def environment(self, number: int) -> dict[str, str]:
        """Variables for a worker: nodes have their own, besides those of factlab."""
        own = {name: said for name, said in os.environ.items() if name.startswith("FACTLAB_")}
        if number == 1 and self.columns is not None:
            own["COLUMNS"] = str(self.columns)
        return own | {THREADS: os.environ.get(THREADS, str(self.need.cpus))}


@dataclass(slots=True)
class _Tail:
    """What is new in a file of a worker.

    Attributes:
        file: that it writes; it may not be there yet.
        is_all: whether to tell all of it up to an error, which is told at the end; or only where
            the worker is.
        n_read: bytes that were told.
    """

    file: Path
    is_all: bool
    n_read: int = field(default=0)

    def lines(self) -> Iterator[str]:
        """Whole lines that were not told yet."""
        try:
            with self.file.open("rb") as log:
                log.seek(self.n_read)
                new = log.read()
        except OSError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        self.n_read += len(whole)
        for line in whole.decode("utf-8", "replace").splitlines():
            self.is_all &= not line.startswith(ERROR)
            if self.is_all or line.startswith("Worker "):
                yield line


def _in_words(cpus: int, gpus: int | float) -> str:
    cores = counted(cpus, "core")
    return f"{gpus:g} {'GPU' if gpus == 1 else 'GPUs'} and {cores}" if gpus else cores


def check_ray() -> None:
    """Refuse at once what needs Ray, where it is not.

    Raises:
        MissingPackageError: it is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingPackageError(
            "--engine ray needs another package: pip install 'factlab[ray]', on all nodes."
        )


def done_on_ray(asked: Work, tell: Callable[[str], None]) -> list[Outcome]:
    """Have workers on a Ray cluster do a command, and wait until it is done.

    The cluster is that of `RAY_ADDRESS`, or else the one that runs on this machine; without one, a
    cluster of this machine alone is started.

    Args:
        asked: what to do.
        tell: called with lines about where workers are and what the first one says.

    Returns:
        How each worker ended, the first one's first. If that was lost, and another was not, the
        first is the one that then showed what came of the run.

    Raises:
        MissingPackageError: Ray is not installed.
        InvalidRequestError: the cluster cannot be reached or started, or no node has what a worker
            needs.
    """
    check_ray()
    ray = importlib.import_module("ray")
    with _connected(ray, asked, tell):
        places = _places(ray, asked.need)
        _check_places(ray, asked, places, tell)
        with _marked(asked.folder / LOGS) as mark:
            cluster = _Cluster(ray, asked, tell, _share_of_memory(places, asked), mark)
            outcomes = cluster.done_by(range(1, asked.n_workers + 1))
            if not outcomes[1].is_good and any(outcome.is_good for outcome in outcomes.values()):
                tell(f"Worker 1 was lost: {outcomes[1].words} Another one shows what was done.")
                outcomes |= cluster.done_by([1])
    return [outcomes[number] for number in sorted(outcomes)]


class _Cluster:
    """Workers of one command on a cluster."""

    def __init__(
        self,
        ray: Any,
        asked: Work,
        tell: Callable[[str], None],
        memory_gib: float | None,
        mark: str,
    ) -> None:
        self._ray, self._asked, self._tell, self._mark = ray, asked, tell, mark
        memory = [] if memory_gib is None else ["--memory-gib", f"{memory_gib:.2f}"]
        self._arguments = arguments_of_worker([*asked.arguments, *memory], asked.need.device)
        self._task = ray.remote(
            num_cpus=asked.need.cpus,
            num_gpus=asked.need.gpus,
            max_retries=-1,  # of nodes and processes of Ray's that are lost
            scheduling_strategy="SPREAD",
        )(work)

    def done_by(self, numbers: Sequence[int]) -> dict[int, Outcome]:
        """Have the command done by workers with these numbers, and wait for all of them."""
        tails = [_Tail(self._log(number), is_all=number == 1) for number in numbers]
        running = {self._begun(number): number for number in numbers}
        outcomes: dict[int, Outcome] = {}
        had_place = True
        while running:
            ended, _ = self._ray.wait([*running], num_returns=1, timeout=_LOOKS_EVERY_S)
            for tail in tails:
                for line in tail.lines():
                    self._tell(line)
            for reference in ended:
                outcomes[running.pop(reference)] = self._outcome(reference)
            has_place = bool(_places(self._ray, self._asked.need))
            if running and had_place and not has_place:
                self._tell(
                    f"No node with {self._asked.need} is left. The run goes on when there is one "
                    "again; what is done is safe."
                )
            had_place = has_place
        return outcomes

    def _log(self, number: int) -> Path:
        return self._asked.folder / LOGS / f"{number}.log"

    def _begun(self, number: int) -> Any:
        self._log(number).write_bytes(b"")
        return self._task.remote(
            number, self._arguments, str(Path.cwd()), str(self._asked.folder), self._mark,
            self._asked.environment(number),
        )  # fmt: skip

    def _outcome(self, reference: Any) -> Outcome:
        try:
            return Outcome(*self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            return Outcome(1, f"Ray could not do it: {last_words(str(error)) or repr(error)}")


@contextmanager
def _marked(logs: Path) -> Iterator[str]:
    """A block in which a new file is there, by which workers see whether they have the folder."""
    mark = f"ray-{secrets.token_hex(8)}"
    logs.mkdir(parents=True, exist_ok=True)
    (logs / mark).touch()
    try:
        yield mark
    finally:
        (logs / mark).unlink(missing_ok=True)


@contextmanager
def _connected(ray: Any, asked: Work, tell: Callable[[str], None]) -> Iterator[None]:
    """A block in which this process is connected with a cluster."""
    # Ray would send numbers about its use to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # ... and lets workers wait for whatever else a machine does.
    os.environ.setdefault("RAY_worker_niceness", "0")
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    address = os.environ.get(_ADDRESS) or "auto"
    try:
        if address not in {"auto", "local"}:
            _check_reached(address)
        if address != "local":
            ray.init(address=address, **quiet)
    except (Exception, SystemExit) as error:  # Ray itself ends the process after two minutes
        if address != "auto" or not isinstance(error, ConnectionError):
            said = "it does not answer" if isinstance(error, SystemExit) else str(error)[:300]
            raise InvalidRequestError(
                f"The Ray cluster at '{address}' cannot be used: {said.strip(' .')}. Set "
                f"{_ADDRESS} to that of a running one, or to local."
            ) from error
        address = "local"
    if address == "local":
        tell("Ray starts on this machine ...")
        try:
            ray.init(
                address="local", num_cpus=asked.n_workers * asked.need.cpus,
                include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet,
            )  # fmt: skip
        except Exception as error:  # Ray has no one kind of error for all that can be wrong here
            raise InvalidRequestError(
                f"Ray could not start on this machine: {last_words(str(error))[:300]}"
            ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reached(address: str) -> None:
    """Ask whether anybody listens at an address, which Ray takes two minutes to see.

    Raises:
        OSError: nobody does.
        ValueError: its port is no number.
    """
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname and parts.port:  # or else Ray says at once what is wrong
        socket.create_connection((parts.hostname, parts.port), _REACHED_WITHIN_S).close()


def _nodes(ray: Any) -> list[dict[str, float]]:
    """What each node has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _places(ray: Any, need: Need) -> list[tuple[int, float]]:
    """For how many workers each node has room, if it has any, and its GiB."""
    return [
        (n_places, resources.get("memory", 0) / 2**30)
        for resources in _nodes(ray)
        if (n_places := need.places_on(resources))
    ]


def _check_places(
    ray: Any, asked: Work, places: Sequence[tuple[int, float]], tell: Callable[[str], None]
) -> None:
    n_places = sum(n for n, _ in places)
    if not n_places:
        has = [_in_words(int(each.get("CPU", 0)), each.get("GPU", 0)) for each in _nodes(ray)]
        raise InvalidRequestError(
            f"No node of the Ray cluster has {asked.need} for a worker. They have: "
            f"{'; '.join(has)}. Ask for less with --gpus and --cpus, or start a node that has them."
        )
    if n_places < asked.n_workers:
        tell(f"{n_places} of {asked.n_workers} workers have a place at once; the others wait.")


def _share_of_memory(places: Sequence[tuple[int, float]], asked: Work) -> float | None:
    """GiB for each worker without a GPU: those of a node together take half of what it has."""
    if asked.memory_gib is not None or asked.need.gpus:
        return None
    return min(max(0.25, gib / 2 / min(n, asked.n_workers)) for n, gib in places)
