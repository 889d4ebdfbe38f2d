"""What a model takes is known before it is loaded, and one that does not fit is refused."""

import json

import pytest
import torch
from transformers import AutoConfig

import factlab as fl
from factlab.errors import InvalidRequestError, ModelLoadError
from factlab.models import footprints
from factlab.models.footprints import Footprint, check_fits
from factlab.models.loading import footprint, load


@pytest.fixture
def folder(model_folder):
    return model_folder


def with_free(monkeypatch, n_bytes):
    monkeypatch.setattr(footprints, "free_bytes", lambda _: n_bytes)


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama", "mpt", "gemma2"])
def test_it_is_that_of_the_model(make_model, family):
    lm = make_model(family)
    model = Footprint.of(lm.model.config, "it")
    numbers = {id(n): n.numel() for n in (*lm.model.parameters(), *lm.model.buffers())}
    assert (model.n_layers, model.d_mlp) == (lm.n_layers, lm.d_mlp)
    assert model.n_weights == sum(numbers.values())
    assert model.weights_gib(torch.float64) == 8 * model.n_weights / 2**30
    assert model.besides(3)["memit"] == 2 * 3 * 8 * lm.d_mlp**2 / 2**30
    assert model.besides(3)["generate, trace, ft"] == 0


def test_layers_of_an_unknown_family_are_not_guessed(make_model):
    model = Footprint.of(make_model("mamba").model.config, "it")
    assert model.n_weights > 0
    assert (model.n_layers, model.d_mlp) == (0, 0)


def test_a_model_that_does_not_fit_is_refused_before_it_is_read(folder, monkeypatch):
    n = footprint(folder).n_weights
    (folder / "model.safetensors").write_bytes(b"")  # not looked at
    with_free(monkeypatch, 3 * n)
    with pytest.raises(ModelLoadError, match=r"does not fit: .* in float32, and cpu has 0\.0 GiB "
                                             r"free\. In bfloat16 .* would fit\. 'factlab memory'"):  # fmt: skip
        load(folder, "cpu")
    with_free(monkeypatch, n)
    with pytest.raises(ModelLoadError, match="would not fit either"):
        load(folder, "cpu")
    with pytest.raises(ModelLoadError, match="does not fit") as refused:
        load(folder, "cpu", "bfloat16")
    assert "would" not in str(refused.value)


def test_a_model_that_fits_is_loaded(folder, monkeypatch):
    with_free(monkeypatch, 4 * footprint(folder).n_weights)
    assert load(folder, "cpu").n_layers == 3
    with_free(monkeypatch, 3 * footprint(folder).n_weights)
    assert load(folder, "cpu", "bfloat16").n_layers == 3


def test_where_nothing_is_known_nothing_is_refused(folder, monkeypatch):
    with_free(monkeypatch, None)
    assert load(folder, "cpu").n_layers == 3
    with_free(monkeypatch, 0)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "nobody-knows"}
    (folder / "config.json").write_text(json.dumps(config))
    check_fits(AutoConfig.from_pretrained(folder), torch.float32, "cpu", "quantised")


def test_the_command(folder, run):
    code, out, _ = run("memory", "--model", folder, "--n-layers", 2, "--memory-gib", 3, "--json")
    told, model = json.loads(out), footprint(folder)
    assert code == 0
    assert told["n_weights"] == model.n_weights
    assert told["weights_gib"]["bfloat16"] == model.weights_gib(torch.bfloat16)
    assert told["besides_gib"] == model.besides(2)
    assert told["batches_gib"] == 3
    assert told["free_gib"]["cpu"] > 0
    code, out, _ = run("memory", "--model", "tiny:gpt2")
    assert code == 0
    assert "alphaedit" in out
    code, out, _ = run("memory", "--model", "tiny:gpt2", "--dtype", "float16")
    assert "float16" in out
    assert "float32" not in out
    for wrong in (
        ["--dtype", "float12"],
        ["--n-layers", 0],
        ["--memory-gib", 0],
        ["--model", "nowhere/at/all"],
    ):
        code, out, err = run("memory", *wrong)
        assert (code, out, err.count("\n")) == (2, "", 1)


def test_a_gguf_file_does_not_say(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(InvalidRequestError, match="not told by its header"):
        fl.models.footprint(tmp_path / "model.gguf")
