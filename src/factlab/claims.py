"""Blocks of a run that processes take by claim: nobody says beforehand who does what.

A claim is a lock on a small file, which the operating system takes away from a process that ends,
however it ends; over a shared folder, so does the file system. So there is nothing to wait out: a
block of a process that was killed can be taken at once, and no clock is read, which on two machines
may differ. Whether a block is done is told by the records alone: they are on the disk before its
claim is given up, and are read once more after a claim was won.

A folder whose file system knows no locks cannot be shared in this way; numbered shards need none.
"""

import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from factlab.errors import StorageError

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.02, 0.5

Block = Sequence[int]


def claimed(
    blocks: Sequence[Block],
    folder: Path,
    look: Callable[[], Collection[int]],
    should_stop: Callable[[], bool],
    waiting: Callable[[], None] = lambda: None,
    waits: bool = True,
) -> Iterator[Block]:
    """Blocks that this process has claimed, one after the other, until every case is done.

    Args:
        blocks: of the whole run.
        folder: for the claims.
        look: the cases that are done by now, whoever did them.
        should_stop: asked while it waits.
        waiting: called each time after it looked in vain.
        waits: whether to stay until what others are at is done, and to take it if they are lost.

    Raises:
        StorageError: the folder cannot be used for claims.
    """
    left, wait_s = [*blocks], _FIRST_WAIT_S
    while left and not should_stop():
        done = look()
        left = [block for block in left if not _is_done(block, done)]
        for block in _tried(left):
            with _claim(folder, block) as is_mine:
                if is_mine and not _is_done(block, look()):
                    yield block
                    wait_s = _FIRST_WAIT_S
                    break
        else:
            if left and not waits:
                return
            if left:
                waiting()
                time.sleep(wait_s)  # locks tell nobody when they are let go
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


def _tried(blocks: Sequence[Block]) -> Iterator[Block]:
    """The first, and then all from some place on, so that many processes seldom try the same."""
    if blocks:
        yield blocks[0]
        place = secrets.randbelow(len(blocks))
        yield from (*blocks[place:], *blocks[:place])


def _is_done(block: Block, done: Collection[int]) -> bool:
    return all(case in done for case in block)


@contextmanager
def _claim(folder: Path, block: Block) -> Iterator[bool]:
    """A block of code in which nobody else has the block of cases; or False if somebody has."""
    lock = FileLock(folder / f"{block[0]}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise StorageError(
            f"Cannot claim a part of the run in '{folder.parent}': {error.strerror or error}. "
            "What was finished is safe. Numbered shards, as --shard 1/4, need no claims."
        ) from error
    try:
        yield True
    finally:
        lock.release()
