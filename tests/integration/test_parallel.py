"""A model that is run by two processes with halves of its weights can be asked and traced."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from parallel_model import FACT, found

import factlab as fl

SCRIPT = Path(__file__).with_name("parallel_model.py")


def test_two_processes_come_to_what_one_does(make_model, tmp_path):
    lm = make_model("llama", dtype=torch.float64)
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    config = fl.editing.FineTuneConfig(layer=0, steps=2)
    fl.editing.fine_tune(lm, FACT, config=config).save(tmp_path / "edit")
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [*run, SCRIPT, tmp_path / "model", tmp_path / "edit", tmp_path / "out.json"],
        check=True, capture_output=True, timeout=600,
    )  # fmt: skip
    by_two = json.loads((tmp_path / "out.json").read_text())
    by_one = found(fl.load(tmp_path / "model", "cpu", "float64"), fl.Edit.load(tmp_path / "edit"))
    assert by_two["logprob"] == pytest.approx(by_one["logprob"], rel=1e-9)
    assert by_two["text"] == by_one["text"]
    assert by_two["fingerprint"] == by_one["fingerprint"]
    assert by_two["effects"].keys() == by_one["effects"].keys()
    for kind, effects in by_one["effects"].items():
        torch.testing.assert_close(
            torch.tensor(by_two["effects"][kind]), torch.tensor(effects), rtol=0, atol=1e-9
        )
    assert by_one["refusals"] == ["", "", ""]
    for sentence in by_two["refusals"][:2]:
        assert "MLP in pieces, one for each process" in sentence
    assert "cannot be edited" in by_two["refusals"][2]
