"""House rules that a linter does not know."""

import re
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"


def test_files_can_be_read_in_one_sitting():
    long = {p.name: n for p in SOURCE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert not long


def test_no_file_is_named_after_nothing():
    names = {p.stem for p in SOURCE.rglob("*.py")}
    assert not names & {"utils", "util", "common", "helpers", "misc"}


def test_double_precision_is_for_the_cpu():
    """Apple's MPS has no float64: what is computed in it is fetched to the CPU first."""
    on_the_device = re.compile(r"(?<!\.cpu\(\))\.double\(\)|\.sum\(dtype=torch\.float64\)")
    found = [
        f"{path.name}:{number}"
        for path in sorted(SOURCE.rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if on_the_device.search(line)
    ]
    assert not found
