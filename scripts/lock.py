"""Writes the locks in requirements/: exact, hashed versions for every Python and platform.

    python scripts/lock.py ["torch==2.13.0" ...]

Arguments narrow what the newest versions may be. Four files come out:

    locked.txt       what `make` installs, without CUDA: enough where torch has a CPU build
    locked-cuda.txt  what torch's ordinary Linux build needs besides
    docs.txt         what `make docs` needs besides
    oldest.txt       the lower bounds of pyproject.toml, for `make test-oldest`

uv resolves them. Two things are added to what it writes: the hashes of torch's CPU builds, which
some indexes have under the same version with `+cpu` behind it, and the split between the files.
"""

import hashlib
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
REQUIREMENTS = ROOT / "requirements"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_28_aarch64")

# What only torch's CUDA builds ask for.
_CUDA = re.compile(r"(nvidia|cuda|triton)\b")
_HASH = re.compile(r"--hash=(sha256:\w+)")

_HEADER = "# Made by `make lock`. {}\n"


def compiled(source: str, *options: str) -> list[str]:
    """Blocks of a lock, one per package: name, version, marker and hashes."""
    with tempfile.NamedTemporaryFile("w", suffix=".in", dir=ROOT) as file:
        file.write(source)
        file.flush()
        text = subprocess.run(
            [
                sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal",
                "--python-version", PYTHONS[0], "--generate-hashes", "--no-header", "--no-annotate",
                "--no-emit-index-url", "--no-emit-find-links", *options, file.name,
            ],
            check=True, capture_output=True, text=True, cwd=ROOT,
        ).stdout  # fmt: skip
    return re.split(r"\n(?=\S)", text.strip())


def cpu_hashes(version: str) -> set[str]:
    """Hashes of torch's CPU wheels that pip finds here."""
    hashes: set[str] = set()
    for python in PYTHONS:
        for platform in PLATFORMS:
            with tempfile.TemporaryDirectory() as folder:
                subprocess.run(
                    [
                        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                        "--only-binary=:all:", f"--python-version={python}",
                        f"--platform={platform}", f"--dest={folder}", f"torch=={version}+cpu",
                    ],
                    check=False, capture_output=True,
                )  # fmt: skip
                for wheel in Path(folder).glob("*.whl"):
                    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
                    hashes.add(f"sha256:{digest}")
    return hashes


def known_cpu_hashes(version: str, listed: set[str]) -> set[str]:
    """CPU hashes of the present lock, for versions that stay and wheels that are not found here."""
    path = REQUIREMENTS / "locked.txt"
    if not path.is_file():
        return set()
    block = re.search(rf"^torch=={re.escape(version)} .*(\n .*)*", path.read_text(), re.MULTILINE)
    return set(_HASH.findall(block[0])) - listed if block else set()


def with_cpu_builds(block: str) -> str:
    """Torch's block with its CPU builds."""
    version = re.match(r"torch==([\d.]+)", block)
    if version is None:
        raise SystemExit(f"Not torch: {block}")
    listed = set(_HASH.findall(block))
    more = (cpu_hashes(version[1]) | known_cpu_hashes(version[1], listed)) - listed
    return block + "".join(f" \\\n    --hash={each}" for each in sorted(more))


def requirements() -> tuple[list[str], list[str], list[str]]:
    """What pyproject.toml asks for: of the package, of the tests and of the site."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    return project["project"]["dependencies"], groups["test"], groups["docs"]


def write(name: str, about: str, blocks: list[str]) -> None:
    """Write one lock."""
    path = REQUIREMENTS / name
    path.write_text(_HEADER.format(about) + "\n".join(blocks) + "\n")
    sys.stdout.write(f"{path.relative_to(ROOT)}: {len(blocks)} packages\n")


def main(narrowed: list[str]) -> None:
    """Write all locks."""
    package, tests, docs = requirements()
    blocks = compiled("\n".join(narrowed), "pyproject.toml", "--group", "dev")
    cuda = [block for block in blocks if _CUDA.match(block)]
    rest = [with_cpu_builds(block) if re.match("torch==", block) else block
            for block in blocks if block not in cuda]  # fmt: skip
    write("locked.txt", "What `make` installs.", rest)
    write("locked-cuda.txt", "What torch's CUDA build needs besides.", cuda)

    # The tools of the site fit what is locked, and are installed only where the site is built.
    versions = "\n".join(block.split(" \\\n")[0] for block in blocks)
    site = compiled("\n".join([*docs, versions]))
    besides = [block for block in site if block not in blocks]
    write("docs.txt", "What `make docs` needs besides.", besides)

    # Tools of the tests as locked, but for peft, which goes with transformers.
    pinned = {re.split("[=>]", block)[0]: block.split(" ")[0] for block in blocks}
    tools = [
        f"{name}==0.18.0" if name == "peft" else pinned[name]
        for name in (re.split("[=><]", each)[0] for each in tests)
    ]
    oldest = compiled("\n".join([*package, *tools]), "--resolution", "lowest-direct")
    write("oldest.txt", "The lower bounds of pyproject.toml.", oldest)


if __name__ == "__main__":
    main(sys.argv[1:])
