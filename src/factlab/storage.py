"""Files: atomic writes, checked reads, and where the cache lives.

Nothing is ever unpickled. A file appears under its name only when it is complete: it is written
beside it and then renamed. Whether something may be written is asked in `destinations`.
"""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import platformdirs
from safetensors import SafetensorError, safe_open

from factlab.documents import JsonValue, parse_json, parse_toml
from factlab.errors import FactlabError, StorageError

if TYPE_CHECKING:
    from torch import Tensor

# A temporary name begins with so much of the final one, so that it is never too long itself.
_KEPT_OF_A_NAME = 40


class TensorInfo(NamedTuple):
    """What a safetensors file says of a tensor before it is read.

    Attributes:
        dtype: as safetensors names it, such as F32.
        shape: of the tensor.
    """

    dtype: str
    shape: tuple[int, ...]


def cache_dir() -> Path:
    """Folder for what can be made again: models, statistics. `FACTLAB_CACHE` overrides it."""
    override = os.environ.get("FACTLAB_CACHE")
    return Path(override) if override else Path(platformdirs.user_cache_dir("factlab"))


def first_there(*paths: Path) -> Path:
    """The first path at which there is something; if there is nothing at any, the first."""
    return next((path for path in paths if path.exists()), paths[0])


@contextmanager
def explained(action: str, path: Path) -> Iterator[None]:
    """Turn the operating system's refusal into one sentence that names the file."""
    try:
        yield
    except FactlabError:
        raise
    except UnicodeEncodeError as error:
        raise StorageError(
            f"Cannot {action} '{path}': its text has half of a surrogate pair "
            f"(\\u{ord(error.object[error.start]):04x}), which no file can hold. Mend that text."
        ) from error
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

    A link is replaced, never followed.

    Raises:
        StorageError: the folder cannot be made, or the file cannot be written or renamed.
    """
    with explained("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path, path.suffix[:_KEPT_OF_A_NAME])
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        mode = os.fstat(handle).st_mode & 0o777  # what the user's umask leaves
        os.close(handle)
        try:
            write(temporary)
            temporary.chmod(mode)  # some writers make a file of their own in its place
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def rename(path: Path, new: Path) -> None:
    """Give a file another name in one step; a file of that name is replaced.

    Raises:
        StorageError: it cannot be renamed.
    """
    with explained("write", new):
        path.replace(new)


def _beside(path: Path, ending: str = "") -> Path:
    """A new hidden name in the folder of a path."""
    start = path.name.removesuffix(ending)[:_KEPT_OF_A_NAME]
    return path.with_name(f".{start}-{secrets.token_hex(4)}{ending}")


@contextmanager
def folder_written_atomically(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `folder` when the block ends without an error.

    There may be an empty folder of that name, or a link to one.

    Raises:
        StorageError: the folder is not empty, or cannot be written.
    """
    with explained("write", folder):
        folder = folder.resolve()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StorageError(f"'{folder}' is not an empty folder. Choose another name.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(folder)
        temporary.mkdir()
        try:
            yield temporary
            if folder.exists():
                folder.rmdir()
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: JsonValue) -> None:
    """Write indented JSON, atomically.

    Raises:
        StorageError: the file cannot be written, or would hold NaN or an infinite number, which
            JSON lacks.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError as error:
        raise StorageError(
            f"Cannot write '{path}': it would hold NaN or an infinite number, which JSON lacks."
        ) from error
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, atomically; its line breaks stay what they are.

    Raises:
        StorageError: the file cannot be written, or the text is not Unicode.
    """
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")


def read_bytes(path: Path) -> bytes:
    """Read a file.

    Raises:
        StorageError: the file is missing or unreadable.
    """
    with explained("read", path):
        return path.read_bytes()


def read_text(path: Path) -> str:
    """Read a UTF-8 text file.

    Raises:
        StorageError: the file is missing or unreadable, or not UTF-8; names the line.
    """
    data = read_bytes(path)
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
    data = read_bytes(path)
    value = parse_json(data, f"'{path}'")
    if not isinstance(value, dict):
        raise StorageError(f"'{path}' holds a JSON {type(value).__name__}, not an object.")
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        StorageError: the file is missing, unreadable, not UTF-8, or not TOML.
    """
    return parse_toml(read_text(path), f"'{path}'")


def write_tensors(
    path: Path, tensors: "Mapping[str, Tensor]", metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, atomically: the same bytes for the same tensors and metadata."""
    from safetensors.torch import save_file  # noqa: PLC0415 - text files need no PyTorch

    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def write(temporary: Path) -> None:
        # Without tensors safetensors would write a header with empty metadata wrongly.
        save_file(ready, temporary, dict(metadata or {}) if ready or metadata else None)
        _sort_metadata(temporary)

    write_atomically(path, write)


def _sort_metadata(path: Path) -> None:
    """Put a new safetensors file's metadata in order: safetensors writes it in any."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
        metadata: dict[str, str] = header.pop("__metadata__", {})
        in_order = {"__metadata__": dict(sorted(metadata.items()))} | header
        text = json.dumps(in_order, ensure_ascii=False, separators=(",", ":")).encode()
        if len(metadata) > 1 and len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))


def read_tensors(path: Path) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """Read a safetensors file: its tensors (on the CPU) and its metadata.

    Raises:
        StorageError: the file is missing or damaged.
    """
    with explained("read", path), safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, dict(file.metadata() or {})


def tensor_infos(path: Path) -> dict[str, TensorInfo]:
    """What a safetensors file holds, from its header: nothing else is read.

    Raises:
        StorageError: the file is missing or damaged.
    """
    infos: dict[str, TensorInfo] = {}
    with explained("read", path), safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            part = file.get_slice(name)
            infos[name] = TensorInfo(part.get_dtype(), tuple(part.get_shape()))
    return infos
