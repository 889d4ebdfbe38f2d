"""The files of records in the folder of a run: who writes which, and what they say.

    folder/
      records-1-of-2.jsonl      by shard 1 of 2, one line per case
      records-any-3f1c….jsonl   by a process that takes what nobody else is at (see `claims`)
      .records-….lock           held while a process writes the file beside it

When the last of those that take anything ends and all is done, their files become one, in the order
of a run that one process did.
"""

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from factlab.appending import (
    GrowingLines,
    Line,
    append_line,
    check_no_link,
    damaged_line,
    drop_torn_line,
    file_id,
    keep_lines,
    line_of,
)
from factlab.claims import claimed
from factlab.destinations import check_writable
from factlab.errors import StorageError
from factlab.shards import Shard
from factlab.storage import write_text

_WHOLE = "records-1-of-1.jsonl"
_ANY = "any"
_CLAIMS = ".claims"


class RecordFiles:
    """The records of a run, as far as they have been read.

    Attributes:
        folder: of the run.
        records: every finished case by its number, whichever process did it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: dict[int, Line] = {}
        self._files: dict[str, GrowingLines] = {}
        self.refresh()

    def refresh(self) -> dict[int, Line]:
        """The records, with those that other processes have added.

        Raises:
            StorageError: a file cannot be read, or is damaged.
        """
        while True:
            found = _sizes(self.folder)
            for name in sorted(found):
                lines = self._files.setdefault(name, GrowingLines(self.folder / name))
                if found[name] == lines.n_bytes:
                    continue
                for number, record in lines.new():
                    case = record.pop("case", None)
                    if type(case) is not int:
                        raise damaged_line(lines.path, number)
                    self.records[case] = record
            if found.keys() <= _sizes(self.folder).keys():
                break  # or else another process has put files together meanwhile
        return self.records

    @contextmanager
    def writing(self, shard: Shard) -> Iterator["Writer"]:
        """Append records of a shard; no other process may do so at the same time.

        Raises:
            StorageError: another process is at it, or is doing parts that have cases in common
                with this one; or the file cannot be written, or is a link.
        """
        with self._held(shard) as (path, lock):
            drop_torn_line(path)
            self.refresh()  # what another process has done since
            writer = Writer(self, shard, path, lock)
            yield writer
        if shard.takes_any:
            self._settle(writer.order)

    @contextmanager
    def all_held(self) -> Iterator[list[Path]]:
        """A block in which no other process writes; gives the files.

        Raises:
            StorageError: one is writing, or a file is a link.
        """
        with ExitStack() as locks:
            locks.enter_context(self._run_lock())
            paths = sorted(self.folder.glob("records-*.jsonl"))
            for path in paths:
                check_no_link(path)
                try:
                    locks.enter_context(FileLock(_lock_path(path)).acquire(timeout=0))
                except Timeout as error:
                    raise StorageError(
                        f"Another process is writing '{path}'. Wait for it; then ask for more."
                    ) from error
            yield paths

    # -- inside ---------------------------------------------------------------------------

    def _run_lock(self) -> FileLock:
        return FileLock(self.folder / ".run.lock")

    @contextmanager
    def _held(self, shard: Shard) -> Iterator[tuple[Path, Path]]:
        """The file of a shard and its lock, which this process has inside the block."""
        name = f"any-{secrets.token_hex(6)}" if shard.takes_any else "{}-of-{}".format(*shard)
        path = self.folder / f"records-{name}.jsonl"
        lock = FileLock(_lock_path(path))
        for inside in (path, Path(lock.lock_file)):
            check_no_link(inside)
            check_writable(inside)
        try:
            with self._run_lock():  # two that begin now must see each other
                lock.acquire(timeout=0)
                self._check_others(shard)
        except Timeout as error:
            raise StorageError(
                f"Another process is writing '{path}'. Wait for it, or choose another shard."
            ) from error
        except StorageError:
            lock.release()
            raise
        except OSError as error:
            raise StorageError(f"Cannot lock '{path}': {error.strerror or error}.") from error
        try:
            yield path, Path(lock.lock_file)
        finally:
            if shard.takes_any:  # nobody else ever wants it
                Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()

    def _check_others(self, shard: Shard) -> None:
        """Refuse to do cases that a process may be doing that shares the run out otherwise."""
        for lock in self._held_by_others(shard):
            name = lock.stem.removeprefix(".records-")
            if name.startswith(_ANY):
                raise StorageError(
                    f"Processes are sharing '{self.folder}' out among themselves. Wait for them, "
                    "or join them with --shard any."
                )
            other = name.replace("-of-", "/")
            raise StorageError(
                f"Another process is doing shard {other} of '{self.folder}', which has cases in "
                f"common with shard {shard}. Wait for it, or use shards of "
                f"{other.partition('/')[2]}."
            )

    def _held_by_others(self, shard: Shard) -> Iterator[Path]:
        """Locks of processes whose parts do not go with a shard."""
        alike = _ANY if shard.takes_any else f"-of-{shard.total}"
        for path in self.folder.glob(".records-*.lock"):
            if (alike == _ANY and path.stem.startswith(f".records-{_ANY}")) or (
                alike != _ANY and path.stem.endswith(alike)
            ):
                continue
            if _is_held(path):
                yield path

    def _settle(self, order: Sequence[int]) -> None:
        """Make one file of all, if all is done and nobody else is at it.

        Whatever ends this process meanwhile, every record is in a file: at worst in two.
        """
        with self._run_lock():
            if not order or any(map(_is_held, self.folder.glob(".records-*.lock"))):
                return
            records = self.refresh()
            if any(case not in records for case in order):
                return
            others = [p for p in self.folder.glob("records-*.jsonl") if p.name != _WHOLE]
            if others:
                lines = (line_of({"case": case} | records[case]) for case in order)
                write_text(self.folder / _WHOLE, "".join(lines))
                for path in others:
                    path.unlink()
            for path in [*(self.folder / _CLAIMS).glob("*"), *self.folder.glob(".records-any-*")]:
                path.unlink(missing_ok=True)


class Writer:
    """Appends records to one file of a run, and says which blocks to do.

    Attributes:
        order: the cases of the whole run, as blocks had them.
    """

    def __init__(self, files: RecordFiles, shard: Shard, path: Path, lock: Path) -> None:
        self.order: list[int] = []
        self._files, self._shard, self._path = files, shard, path
        self._lock, self._lock_id = lock, file_id(lock)

    def append(self, case: int, record: Line) -> None:
        """Put a finished case on the disk.

        Raises:
            StorageError: it cannot be written, or the lock has been taken away.
        """
        if file_id(self._lock) != self._lock_id:
            raise StorageError(
                f"'{self._lock}' was deleted while this process was writing '{self._path}', so "
                "that another may be writing it too. What was finished before is safe; resume."
            )
        append_line(self._path, {"case": case} | record)
        self._files.records[case] = record

    def replace(self, records: Mapping[int, Line]) -> None:
        """Put records in the place of all that the file holds, in the order of their cases.

        Raises:
            StorageError: it cannot be written.
        """
        lines = (line_of({"case": case} | records[case]) for case in sorted(records))
        write_text(self._path, "".join(lines))
        self._files.refresh()

    def to_do(
        self,
        blocks: Sequence[Sequence[int]],
        should_stop: Callable[[], bool] = lambda: False,
        waiting: Callable[[], None] = lambda: None,
        waits: bool = True,
    ) -> Iterator[Sequence[int]]:
        """The blocks in which a case is missing and that are this process's to do.

        Args:
            blocks: of the shard; of one that takes any, of the whole run.
            should_stop: asked before a block is claimed, and while other processes are at all that
                is left; whoever does the blocks stops by itself after one.
            waiting: called now and then in that time.
            waits: whether to stay until what other processes are at is done.

        Raises:
            StorageError: other processes share the run out in blocks of another size.
        """
        self.order = [case for block in blocks for case in block]
        if not self._shard.takes_any:
            records = self._files.records
            return (block for block in blocks if any(case not in records for case in block))
        claims = self._files.folder / _CLAIMS
        self._agree(claims, max(map(len, blocks), default=0))
        return claimed(blocks, claims, self._files.refresh, should_stop, waiting, waits)

    def _agree(self, claims: Path, size: int) -> None:
        """Claims are of whole blocks, so that all who claim must have the same."""
        noted = claims / "cases-in-a-block"
        with FileLock(self._files.folder / ".run.lock"):
            own = self._lock.name
            others = [p for p in self._files.folder.glob(".records-any-*.lock") if p.name != own]
            if any(map(_is_held, others)) and noted.exists() and noted.read_text() != str(size):
                raise StorageError(
                    f"'{self._files.folder}' is being shared out in blocks of {noted.read_text()}, "
                    f"not of {size}. Ask for the same --batch-size."
                )
            claims.mkdir(exist_ok=True)
            write_text(noted, str(size))


def _sizes(folder: Path) -> dict[str, int]:
    """How long each file of records is, as far as there are any."""
    try:
        with os.scandir(folder) as entries:
            return {
                entry.name: entry.stat().st_size
                for entry in entries
                if entry.name.startswith("records-") and entry.name.endswith(".jsonl")
            }
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StorageError(f"Cannot read '{folder}': {error.strerror or error}.") from error


def drop_cases(paths: Sequence[Path], wanted: Callable[[Line], bool]) -> None:
    """Take records out of files that no other process writes."""
    for path in paths:
        drop_torn_line(path)
        keep_lines(path, wanted)


def _lock_path(path: Path) -> Path:
    return path.with_name(f".{path.stem}.lock")


def _is_held(lock: Path) -> bool:
    """Whether a living process has a lock."""
    if not lock.exists():
        return False
    try:
        FileLock(lock).acquire(timeout=0).lock.release()
    except Timeout:
        return True
    return False
