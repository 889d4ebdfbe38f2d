"""Runs the fast tests at one end of what pyproject.toml allows, on every Python at hand.

    python scripts/test_range.py oldest|locked|newest [3.11 3.12 ...] [-- pytest arguments]

`oldest` and `locked` install a lock of requirements/. `newest` installs whatever the index has
today, and lets new deprecations pass: only errors and failures count. Each environment is a folder
.venv-END-PYTHON, made anew when what it was made of has changed. Ends with one line for each, and
with exit code 1 if any of them failed.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
UV = (sys.executable, "-m", "uv", "--quiet")
LOCKS = {"oldest": ("oldest.txt",), "locked": ("locked.txt", "locked-cuda.txt"), "newest": ()}
_SUMMARY = re.compile(r"^=*\s*(\d+ (?:passed|failed|error).*?)\s*=*$", re.MULTILINE)


def interpreter(version: str) -> str | None:
    """A Python of this version: on the path, or among those that pyenv keeps."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [shutil.which(f"python{version}"), sys.executable]
    candidates += map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python")))
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, candidates):
        answer = subprocess.run([candidate, "-c", ask], capture_output=True, text=True, check=False)
        if answer.stdout.strip() == version:
            return candidate
    return None


def environment(end: str, python: str) -> Path:
    """The Python of an environment with everything that the tests need."""
    locks = [ROOT / "requirements" / name for name in LOCKS[end]]
    sources = [ROOT / "pyproject.toml", *locks]
    made_of = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    if end == "newest":
        made_of += time.strftime(" %Y-%m-%d")
    folder = ROOT / f".venv-{end}-{python}"
    mark, executable = folder / "made-of", folder / "bin" / "python"
    if mark.is_file() and mark.read_text() == made_of:
        return executable
    subprocess.run(
        [*UV, "venv", "--clear", f"--python={interpreter(python)}", folder, "--seed"], check=True
    )
    install = [*UV, "pip", "install", f"--python={executable}"]
    if locks:
        listed = [f"--requirement={path}" for path in locks]
        subprocess.run([*install, "--require-hashes", *listed], check=True)
    else:
        subprocess.run([*install, "--upgrade", ".", "--group", "test"], check=True, cwd=ROOT)
    builders = ROOT / "requirements" / "locked.txt"
    subprocess.run(
        [*install, "--no-deps", f"--build-constraints={builders}", "--editable", "."],
        check=True, cwd=ROOT,
    )  # fmt: skip
    mark.write_text(made_of)
    return executable


def run_tests(end: str, executable: Path, arguments: list[str]) -> tuple[bool, str]:
    """Whether the fast tests pass, and what pytest says at its end."""
    command = [str(executable), "-m", "pytest", "-m", "not slow", "-q"]
    command += ["--numprocesses=auto", "--dist=worksteal"]
    # Shapes are the same under all versions: `make test` checks them.
    command += ["--override-ini=addopts=--strict-markers --strict-config"]
    if end == "newest":
        command += ["-W", "default"]
    lines: list[str] = []
    with subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as running:
        for line in running.stdout or ():
            sys.stdout.write(line)
            lines.append(line)
    summary = _SUMMARY.findall("".join(lines))
    return running.returncode == 0, summary[-1] if summary else f"exit code {running.returncode}"


def versions(executable: Path) -> str:
    """Of the two packages that matter most."""
    ask = "from importlib.metadata import version as v; print(v('torch'), v('transformers'))"
    answer = subprocess.run([executable, "-c", ask], capture_output=True, text=True, check=True)
    torch, transformers = answer.stdout.split()
    return f"torch {torch}, transformers {transformers}"


def main(arguments: list[str]) -> int:
    """Run the tests; 0 if all pass."""
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, for_pytest = arguments[:cut], arguments[cut + 1 :]
    else:
        for_pytest = []
    if not arguments or arguments[0] not in LOCKS:
        sys.stderr.write(__doc__ or "")
        return 2
    end, pythons = arguments[0], arguments[1:] or ["3.11", "3.12", "3.13"]
    lines: list[str] = []
    passed = True
    for python in pythons:
        if interpreter(python) is None:
            lines.append(f"{end}, Python {python}: not installed here")
            continue
        executable = environment(end, python)
        good, summary = run_tests(end, executable, for_pytest)
        passed = passed and good
        lines.append(f"{end}, Python {python}, {versions(executable)}: {summary}")
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
