"""How much memory is free where a model is: of the machine, of its container, or of a GPU."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch

_MEMINFO = Path("/proc/meminfo")
_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
# Where the limit of a control group is, what it holds now, and what of that can be dropped: in
# version 2 and in version 1.
_GROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be had on a device; None if it does not say."""
    match device.type:
        case "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            # torch keeps what tensors free, for its own next ones.
            idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            return free + idle
        case "mps":
            return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        case "cpu":
            found = [_free_on_machine(), *_free_in_groups()]
            return min((n for n in found if n is not None), default=None)
        case _:
            return None


def _free_on_machine() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(AttributeError, OSError, ValueError):  # not on Windows
        # What the machine has; other systems do not say simply what of it is free.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return None


def _free_in_groups() -> Iterator[int]:
    """What the control groups that this process is in, such as a container, leave it."""
    for folder in dict.fromkeys(_group_folders()):
        for limit_name, used_name, reclaimable in _GROUP_FILES:
            with contextlib.suppress(OSError, ValueError):
                limit = int((folder / limit_name).read_text(encoding="ascii"))  # or "max"
                used = int((folder / used_name).read_text(encoding="ascii"))
                yield max(0, limit - used + _counted(folder / "memory.stat", reclaimable))


def _group_folders() -> Iterator[Path]:
    yield from (_GROUPS, _GROUPS / "memory")
    with contextlib.suppress(OSError):
        for line in _OWN_GROUPS.read_text(encoding="utf-8").splitlines():
            _, _, rest = line.partition(":")
            kinds, _, path = rest.partition(":")
            if kinds == "" or "memory" in kinds.split(","):
                root = _GROUPS / "memory" if kinds else _GROUPS
                yield root / path.lstrip("/")


def _counted(file: Path, name: str) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in file.read_text(encoding="ascii").splitlines():
            if line.split()[0] == name:
                return int(line.split()[1])
    return 0
