"""The script that is run where there is a GPU, on small shapes."""

import json
import sys
from pathlib import Path

import pytest


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import gpu

    yield gpu
    for name in ("gpu", "machine"):
        sys.modules.pop(name, None)


def test_every_part_comes_to_an_end(gpu, tmp_path):
    out = tmp_path / "gpu.json"
    found = gpu.main(
        ["--tiny", "--device", "cpu", "--families", "gpt2", "--shape", "llama-3-8b",
         "--minutes", "20", "--out", str(out)]
    )  # fmt: skip
    assert json.loads(out.read_text()) == found
    assert not [part for part in found.values() if {"error", "stopped", "left_out"} & part.keys()]
    assert found["family gpt2"]["logits float64"] == 0
    assert {name for name in found if name.startswith("llama-3-8b")} == {
        f"llama-3-8b {part}"
        for part in ("model", "generation", "traces", "statistics", "rome", "memit", "evaluation")
    }  # fmt: skip


def test_what_has_no_time_is_left_out(gpu, tmp_path):
    found = gpu.main(["--tiny", "--device", "cpu", "--families", "gpt2", "--minutes", "0.01"])
    assert found
    assert all("left_out" in part for part in found.values())


def test_a_part_that_takes_too_long_is_stopped(gpu):
    report = gpu.Report(ends=gpu.time.monotonic() + 60, out=None)
    before = gpu.signal.signal(gpu.signal.SIGALRM, gpu._time_is_up)
    try:
        with report.part("endless", 1) as part:
            while True:
                part["began"] = True
    finally:
        gpu.signal.signal(gpu.signal.SIGALRM, before)
    assert part["began"]
    assert "stopped" in part
