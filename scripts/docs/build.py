"""Builds the documentation into site/ and checks it: `make docs`.

A broken link, a page that no other leads to, a formula that cannot be shown, a name that the
reference does not find, and anything that a page would fetch from another host end the build.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import links

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
_COLOUR = re.compile(r"\x1b\[[\d;]*m")


def main() -> int:
    """Build and check; the exit code."""
    folders = [str(HERE), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    built = subprocess.run(
        command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True
    )
    if built.returncode:
        said = _COLOUR.sub("", built.stdout + built.stderr)
        sys.stderr.write(said.split("Traceback", maxsplit=1)[0] if "issue" in said else said)
        return built.returncode
    if code := links.main(ROOT / "site"):
        return code
    sys.stdout.write("Open site/index.html. To search in it, serve it and open the address:\n")
    sys.stdout.write("    python -m http.server --bind 127.0.0.1 --directory site\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
