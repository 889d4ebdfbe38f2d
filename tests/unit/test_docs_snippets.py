"""The Python blocks of the pages about tracing and neurons run as they stand."""

import re
from pathlib import Path

import pytest

import factlab as fl

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["neurons.md", "tracing.md"])
def test_the_first_block_of_a_page_runs(page, make_model, fact, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    block = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    names = {"fl": fl, "lm": make_model("gpt2", seed=1), "fact": fact}
    exec(block[0], names)  # noqa: S102 - what the page tells readers to run
    assert list(tmp_path.glob("*.png"))
