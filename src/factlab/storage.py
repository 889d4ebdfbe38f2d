"""Files: atomic writes, checked reads, and where the cache lives.

Only JSON, safetensors and PNG are written, and nothing is ever unpickled. A file appears under its
name only when it is complete: it is written beside it and then renamed.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
from safetensors import SafetensorError, safe_open

from factlab.errors import FactlabError, StorageError

if TYPE_CHECKING:
    from torch import Tensor

JsonValue = None | bool | int | float | str | list[Any] | dict[str, Any]


def cache_dir() -> Path:
    """Folder for what can be made again: models, statistics. `FACTLAB_CACHE` overrides it."""
    override = os.environ.get("FACTLAB_CACHE")
    return Path(override) if override else Path(platformdirs.user_cache_dir("factlab"))


@contextmanager
def _explained(action: str, path: Path) -> Iterator[None]:
    """Turn the operating system's refusal into one sentence that names the file."""
    try:
        yield
    except FactlabError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(
            f"Cannot {action} '{path}': {reason}. Check that the path exists, that you may write "
            "there, and that the disk has room."
        ) from error
    except SafetensorError as error:
        raise StorageError(f"Cannot {action} '{path}': {error}.") from error


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary name beside `path`, then rename: all of the file or none of it.

    Raises:
        StorageError: the folder cannot be made, or the file cannot be written or renamed.
    """
    with _explained("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix
        )
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def folder_written_atomically(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `folder` when the block ends without an error.

    An existing folder of that name is replaced only then.
    """
    with _explained("write", folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        try:
            temporary.chmod(0o777 & ~_umask())
            yield temporary
            if folder.exists():
                retired = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-old-"))
                folder.replace(retired)
                try:
                    temporary.replace(folder)
                except OSError:
                    retired.replace(folder)
                    raise
                shutil.rmtree(retired)
            else:
                temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_writable(path: Path, is_folder: bool = False) -> None:
    """Find out before hours of work, not after, that a file or folder can be made at `path`.

    Raises:
        StorageError: it cannot.
    """
    if path.is_dir() and not is_folder:
        raise StorageError(f"Cannot write '{path}': it is a folder. Give the name of a file.")
    if path.exists() and not os.access(path, os.W_OK):
        raise StorageError(f"Cannot write '{path}': it exists and is not writable.")
    existing = next(parent for parent in path.absolute().parents if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise StorageError(f"Cannot write '{path}': folder '{existing}' is not writable.")


def write_json(path: Path, value: JsonValue) -> None:
    """Write indented JSON, atomically. NaN is refused: JSON has no such number."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def read_text(path: Path) -> str:
    """Read a UTF-8 text file.

    Raises:
        StorageError: the file is missing or unreadable, or not UTF-8; names the line.
    """
    with _explained("read", path):
        data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise StorageError(
            f"Line {line} of '{path}' is not UTF-8 (byte 0x{data[error.start]:02x}). "
            "Save the file as UTF-8."
        ) from error


def read_json(path: Path) -> dict[str, JsonValue]:
    """Read one JSON object.

    Raises:
        StorageError: the file is missing, unreadable, or not a JSON object.
    """
    with _explained("read", path):
        data = path.read_bytes()
    try:
        value = json.loads(data)
    except ValueError as error:
        raise StorageError(f"'{path}' is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise StorageError(f"'{path}' holds a JSON {type(value).__name__}, not an object.")
    return value


def write_tensors(
    path: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, atomically."""
    from safetensors.torch import save_file  # noqa: PLC0415 - text files need no PyTorch

    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda temporary: save_file(ready, temporary, dict(metadata or {})))


def read_tensors(path: Path) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """Read a safetensors file: its tensors (on the CPU) and its metadata.

    Raises:
        StorageError: the file is missing or damaged.
    """
    with _explained("read", path), safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, dict(file.metadata() or {})
