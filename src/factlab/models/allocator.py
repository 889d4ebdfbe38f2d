"""Memory: that which tensors free, kept for the next ones; and what to do when there is none."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from factlab.errors import MemoryLimitError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 512 * 2**20
_LARGEST_ON_HEAP = 32 * 2**20  # glibc accepts no more


def keep_freed_memory() -> bool:
    """Let the C library keep up to 512 MB that tensors free, instead of returning it at once.

    glibc hands freed memory back to the system and asks for it again a moment later, page by page.
    A trace on the CPU allocates and frees some megabytes hundreds of times a second; keeping them
    makes it a sixth faster. This is a setting of the whole process, so the library leaves it to
    you; the command line sets it. Nothing happens on a GPU, or where the C library is not glibc.

    Returns:
        Whether the C library took the setting.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    return bool(kept and mallopt(_M_MMAP_THRESHOLD, _LARGEST_ON_HEAP))


@contextmanager
def memory_bounded_by(setting: str) -> Iterator[None]:
    """Where memory runs out inside the block, say which setting to lower.

    Raises:
        MemoryLimitError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        # torch has a class of its own for GPUs only.
        is_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if is_memory or "allocate memory" in str(error) or "not enough memory" in str(error):
            raise MemoryLimitError(f"Memory ran out. Lower {setting}.") from error
        raise
