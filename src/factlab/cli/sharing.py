"""How a long command is shared out: a numbered shard, whatever is left, or workers of its own."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from factlab.cli.registration import RUNNING
from factlab.cli.session import Session
from factlab.cli.workers import end_with_parent, is_worker, share_cores, workers_beside
from factlab.errors import InvalidRequestError
from factlab.shards import Shard


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
        if self.workers == 1:
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
        """
        if is_worker():
            end_with_parent()
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

    def _each_device(self, session: Session) -> list[str | None]:
        named = [name.strip() for name in self.devices.split(",")] if self.devices else []
        return [
            named[number % len(named)] if named else session.device
            for number in range(self.workers)
        ]


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
