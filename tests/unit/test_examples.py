"""Examples in docstrings are run, as they stand, on a toy: the reference shows them as true."""

import doctest
import importlib
from pathlib import Path

import pytest

import factlab as fl

SOURCE = Path(fl.__path__[0])
MODULES = [
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
    for path in sorted(SOURCE.rglob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, monkeypatch, tmp_path):
    """With `fl`, a toy `lm`, a `fact` and two `facts` at hand, in an empty folder."""
    lm = fl.models.tiny_model("llama")
    fact = fl.Fact("{} is located in the city of", "The Eiffel Tower", "Rome", "Paris")
    facts = [fact, fl.Fact("{} is in downtown", "The Space Needle", "Paris", "Seattle")]
    monkeypatch.setattr(fl, "load", lambda *_args, **_kwargs: lm)
    monkeypatch.chdir(tmp_path)
    names = {"fl": fl, "lm": lm, "fact": fact, "facts": facts}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for test in doctest.DocTestFinder().find(importlib.import_module(name), extraglobs=names):
        runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)
