"""How a long command is shared out: a numbered shard, whatever is left, or workers of its own."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from factlab.cli.registration import RUNNING
from factlab.cli.session import Session
from factlab.cli.workers import (
    end_with_parent,
    is_started,
    is_worker,
    share_cores,
    workers_beside,
)
from factlab.errors import InvalidRequestError, nearest
from factlab.shards import Shard

if TYPE_CHECKING:
    from factlab.cli.ray_engine import Need

_ENGINES = ("processes", "ray")


@dataclass(frozen=True, kw_only=True)
class SharingOptions:
    """Which part of a run this process does, and who does the rest."""

    shard: Annotated[
        str | None,
        typer.Option(
            help="Do part 2 of 5 only: 2/5; auto: as Slurm, Kubernetes or torchrun says. any: "
            "whatever no other process is at; start it as often as you like, on all machines that "
            "see the folder.",
            rich_help_panel=RUNNING,
        ),
    ] = None
    workers: Annotated[
        int,
        typer.Option(min=1, help="So many processes, with a model each.", rich_help_panel=RUNNING),
    ] = 1
    devices: Annotated[
        str | None,
        typer.Option(
            help="With --workers: a device for each in turn, such as cuda:0,cuda:1.",
            show_default="the same for all",
            rich_help_panel=RUNNING,
        ),
    ] = None
    engine: Annotated[
        str,
        typer.Option(
            help="What runs the workers: processes of this machine; or ray, on nodes of a Ray "
            "cluster that see the folder (extra factlab[ray]).",
            rich_help_panel=RUNNING,
        ),
    ] = "processes"
    cpus: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --engine ray: cores for each worker.",
            show_default="1",
            rich_help_panel=RUNNING,
        ),
    ] = None
    gpus: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="With --engine ray: GPUs for each worker; 0.5 for two on one.",
            show_default="none",
            rich_help_panel=RUNNING,
        ),
    ] = None

    def part(self, session: Session, may_be_numbered: bool = True) -> Shard:
        """What this process does.

        Args:
            session: whose options about the model count for the other workers too.
            may_be_numbered: whether the command can do a fixed part of its run.

        Raises:
            InvalidRequestError: there is no such part, or it does not go with workers.
        """
        if self.devices is not None and self.workers == 1:
            raise InvalidRequestError("--devices is for several processes. Give --workers too.")
        if self.devices is not None and session.device is not None:
            raise InvalidRequestError("Choose one of --device and --devices.")
        self._check_engine(session)
        shard = Shard()
        if self.shard == "auto":
            shard, source = Shard.of_environment()
            session.err.print(f"Shard {shard}, from {source}.")
        elif self.shard is not None:
            shard = Shard.parse(self.shard)
        is_fixed = shard.is_part and not shard.takes_any
        if is_fixed and not may_be_numbered:
            raise InvalidRequestError(
                f"There is no shard {shard} of this: its evaluations build on each other. Share it "
                "out with --shard any, or --workers."
            )
        if self.workers == 1 and not self._is_on_ray:
            return shard
        if is_fixed:
            raise InvalidRequestError(
                f"Workers take whatever no other is at, and shard {shard} is a fixed part. Leave "
                "--shard out."
            )
        for device in self._each_device(session):
            session.check_device(device)
        return Shard.any()

    @property
    def how_to_go_on(self) -> str:
        """What to do after a run was stopped."""
        return "--resume" if self.shard is None else "the same command"

    def may_go_on(self, resume: bool) -> bool:
        """Whether a run may be in the folder already: others may have begun it."""
        return resume or self.shard is not None

    @contextmanager
    def workers_beside(self, session: Session, folder: Path) -> Iterator[None]:
        """A block beside which the other workers do the same.

        Args:
            session: whose model this process has.
            folder: of the run.

        Raises:
            Exit: workers of Ray did all of it, or could not; the block is left out.
        """
        if is_started():
            end_with_parent()
        if self._is_on_ray:
            self._do_on_ray(session, folder)
        if self.workers == 1:
            yield
            return
        import torch

        torch.set_num_threads(share_cores(self.workers))
        own, *others = self._each_device(session)
        session.device = own
        arguments = sys.argv[1:]
        if session.memory_gib is None and own in {None, "cpu"}:
            session.memory_gib = _share_of_memory(self.workers)
            arguments = [*arguments, "--memory-gib", f"{session.memory_gib:.2f}"]
        with workers_beside(arguments, others, folder) as workers:
            yield
        for sentence in workers.lost:
            session.err.print(sentence, highlight=False, markup=False)

    @property
    def _is_on_ray(self) -> bool:
        return self.engine == "ray"

    def _check_engine(self, session: Session) -> None:
        if self.engine not in _ENGINES:
            raise InvalidRequestError(
                f"There is no engine '{self.engine}'.{nearest(self.engine, _ENGINES)} Choose from "
                f"{', '.join(_ENGINES)}."
            )
        if not self._is_on_ray:
            if self.cpus is not None or self.gpus is not None:
                raise InvalidRequestError(
                    "--cpus and --gpus are for --engine ray. On one machine name --devices."
                )
            return
        if self.devices is not None or session.device is not None:
            raise InvalidRequestError(
                "With --engine ray the devices of a worker are what --gpus asks for, or its cores. "
                "Leave --device and --devices out."
            )
        from factlab.cli.ray_engine import check_ray

        self._need().check()
        check_ray()

    def _need(self) -> "Need":
        from factlab.cli.ray_engine import Need

        return Need(cpus=self.cpus or 1, gpus=self.gpus or 0)

    def _do_on_ray(self, session: Session, folder: Path) -> NoReturn:
        """Have all of the command done on a cluster, and show what it showed there."""
        from factlab.cli.ray_engine import Work, done_on_ray
        from factlab.cli.ray_worker import ERROR

        is_read = session.out.is_terminal or "COLUMNS" in os.environ
        asked = Work(
            arguments=sys.argv[1:], folder=folder, n_workers=self.workers, need=self._need(),
            memory_gib=session.memory_gib, columns=session.out.width if is_read else None,
        )  # fmt: skip
        try:
            first, *others = done_on_ray(asked, partial(_tell, session))
        except KeyboardInterrupt:
            session.say(f"Stopped. Go on with {self.how_to_go_on}.")
            raise typer.Exit(130) from None
        for number, outcome in enumerate(others, start=2):
            if not outcome.is_good:
                rest = ", and the others did its part" if first.is_good else ""
                _tell(session, f"Worker {number} was lost{rest}: {outcome.words}")
        sys.stdout.write(first.output)
        if not first.is_good:
            _tell(session, f"{ERROR}{first.words}")
        raise typer.Exit(first.code if first.code >= 0 else 1)

    def _each_device(self, session: Session) -> list[str | None]:
        named = [name.strip() for name in self.devices.split(",")] if self.devices else []
        return [
            named[number % len(named)] if named else session.device
            for number in range(self.workers)
        ]


def _tell(session: Session, line: str) -> None:
    session.err.print(line, highlight=False, markup=False, soft_wrap=True)


def _share_of_memory(n_processes: int) -> float:
    """GiB for each of some processes: together they take half of what is free."""
    import torch

    from factlab.models.free_memory import free_bytes

    free = free_bytes(torch.device("cpu"))
    return round(max(0.25, (free or 2**32) / 2**31 / n_processes), 2)


def leave_if_worker() -> None:
    """End a command whose results the process shows that started this one."""
    if is_worker():
        raise typer.Exit
