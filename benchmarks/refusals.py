"""Seconds until a command refuses what shows to be wrong without a model.

    python benchmarks/refusals.py
    python benchmarks/refusals.py --against ../older/src

Each command line is run in a process of its own, three times; the median of the wall time is
shown, beside that of an older source tree if one is given. Nothing is downloaded.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPT, SUBJECT = "The Space Needle is located in", "The Space Needle"
EDIT = ["edit", "{} is in", "--subject", SUBJECT, "--target", "Rome"]
TRACE = ["trace", PROMPT, "--subject", SUBJECT]

# In a folder with `full`, a folder that is not empty, and `known.json`.
REFUSED = {
    "unknown method": [*EDIT, "--method", "rom"],
    "subject not in the prompt": ["trace", PROMPT, "--subject", "Space Needles"],
    "missing --target": ["edit", "{} is in", "--subject", SUBJECT],
    "bad option value": [*TRACE, "--samples", "0"],
    "bad layer text": [*TRACE, "--layers", "1,x"],
    "bad dtype": ["ask", "hi", "--dtype", "float23"],
    "device that is not there": ["ask", "hi", "--device", "cuda"],
    "unknown tiny family": ["ask", "hi", "--model", "tiny:gtp2"],
    "missing model file": ["ask", "hi", "--model", "no.gguf"],
    "missing file of facts": ["edit", "--facts", "no.csv"],
    "missing edit folder": ["ask", "hi", "--edit", "nothing"],
    "output folder not empty": ["eval", "--out", "full", "--limit", "1"],
    "bad --resume": ["trace-average", "known.json", "--out", "full", "--resume"],
    "sweep's folder not empty": ["sweep", "--out", "full", "--layers", "3-1"],
    "editor that is none": [*EDIT, "--method", "mend", "--editor", "full"],
}
ANSWERED = {
    "--help": ["--help"],
    "methods": ["methods"],
    "models": ["models"],
    "data stats": ["data", "stats"],
}


def seconds(source: Path, arguments: list[str], folder: Path) -> tuple[float, int]:
    """Median wall time of a command, and its exit code."""
    environment = os.environ | {"PYTHONPATH": str(source)}
    times: list[float] = []
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "factlab", *arguments],
            cwd=folder, env=environment, capture_output=True, check=False,
        )  # fmt: skip
        times.append(time.perf_counter() - began)
    return statistics.median(times), done.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="src folder of an older factlab")
    against: Path | None = parser.parse_args().against
    here = Path(__file__).parents[1] / "src"
    print(f"{'':<28}{'s':>8}" + (f"{'older':>8}" if against else ""))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "full").mkdir()
        (folder / "full" / "file").write_text("text")
        known = {"subject": "Rome", "prompt": "Rome is in", "attribute": "Italy"}
        (folder / "known.json").write_text(json.dumps([known]))
        for label, arguments in (REFUSED | ANSWERED).items():
            took, code = seconds(here, arguments, folder)
            if code != (2 if label in REFUSED else 0):
                raise SystemExit(f"{label}: exit code {code}")
            line = f"{label:<28}{took:>8.2f}"
            if against:
                line += f"{seconds(against.resolve(), arguments, folder)[0]:>8.2f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
