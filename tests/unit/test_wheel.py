"""What pip installs: a wheel with all the code and data, and a version that is written once."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import factlab as fl

pytest.importorskip("hatchling", reason="the environments of other versions build no wheels")

ROOT = Path(__file__).parent.parent.parent


def test_the_wheel_has_everything(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    subprocess.run([*build, "--directory", tmp_path], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"factlab-{fl.__version__}-")
    source = ROOT / "src"
    expected = {
        str(path.relative_to(source))
        for path in (source / "factlab").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == expected
    assert any(name.endswith("builtin/facts.tsv") for name in packed)


def test_the_locks_hold_what_the_project_asks_for():
    """Each name with exact versions and hashes, and no address of an index."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = settings["project"]
    needed = {re.split("[>[]", line)[0].lower() for line in project["dependencies"]}
    tools = {re.split("[>[]", line)[0] for line in settings["dependency-groups"]["docs"]}
    for lock, names in (("locked.txt", needed), ("oldest.txt", needed), ("docs.txt", tools)):
        text = (ROOT / "requirements" / lock).read_text(encoding="utf-8")
        blocks = [block for block in text.split("\n") if block and block[0].isalnum()]
        assert names <= {block.split("==")[0] for block in blocks}
        assert all("==" in block for block in blocks)
        assert text.count("--hash=sha256:") >= len(blocks)
        assert "://" not in text
    oldest = (ROOT / "requirements" / "oldest.txt").read_text(encoding="utf-8")
    for line in project["dependencies"]:
        name, bound = line.replace(",<6", "").split(">=")
        assert f"{name.lower()}=={bound}" in oldest, f"{line} is not what make test-oldest runs"
