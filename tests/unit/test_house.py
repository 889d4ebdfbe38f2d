"""House rules that a linter does not know."""

from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"


def test_files_can_be_read_in_one_sitting():
    long = {p.name: n for p in SOURCE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert not long


def test_no_file_is_named_after_nothing():
    names = {p.stem for p in SOURCE.rglob("*.py")}
    assert not names & {"utils", "util", "common", "helpers", "misc"}
