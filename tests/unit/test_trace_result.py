import pytest
import torch
from PIL import Image

import factlab as fl
from factlab.errors import InvalidRequestError, StorageError


@pytest.fixture
def trace(make_model):
    lm = make_model("gpt2")
    config = fl.TraceConfig(samples=2, window=2)
    return fl.causal_trace(lm, "See the Space Needle is in", "Space Needle", config=config)


def test_the_file_round_trips(trace, tmp_path):
    trace.save(tmp_path / "t.safetensors")
    again = fl.CausalTrace.load(tmp_path / "t.safetensors")
    assert list(again.effects) == ["block", "mlp", "attn"]
    for kind in trace.effects:
        assert torch.equal(trace.effects[kind], again.effects[kind])
    assert again.summary() == trace.summary()
    assert again.config == trace.config


def test_json_has_nested_lists(trace):
    document = trace.to_json()
    assert len(document["effects"]["mlp"]) == len(document["tokens"])
    assert len(document["effects"]["mlp"][0]) == 3
    assert document["subject_span"] == list(trace.subject_span)


def test_a_foreign_or_damaged_file_is_refused(trace, tmp_path):
    path = tmp_path / "t.safetensors"
    with pytest.raises(StorageError, match="No such file"):
        fl.CausalTrace.load(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(StorageError, match="Cannot read"):
        fl.CausalTrace.load(path)
    fl.SecondMoment(torch.eye(2, dtype=torch.float64), 0, 1, "x", "y").save(path)
    with pytest.raises(StorageError, match="not a causal trace"):
        fl.CausalTrace.load(path)


def test_the_picture_has_three_panels_of_colour(trace, tmp_path):
    trace.plot(tmp_path / "t.png")
    with Image.open(tmp_path / "t.png") as image:
        assert image.width > 1.5 * image.height
        assert len(image.convert("RGB").getcolors(1 << 20)) > 20
    assert list(tmp_path.glob(".*")) == []


def test_the_pictures_format_is_checked(trace, tmp_path):
    with pytest.raises(InvalidRequestError, match=r"must end in one of \.png"):
        trace.plot(tmp_path / "t.pgn")


def test_configs_refuse_what_they_do_not_know():
    with pytest.raises(ValueError, match="windwo"):
        fl.TraceConfig(windwo=3)


@pytest.mark.parametrize(("text", "expected"), [("3s", (3.0, None)), ("0.35", (3.0, 0.35))])
def test_noise_is_parsed(text, expected):
    noise = fl.GaussianNoise.parse(text)
    assert (noise.sigmas, noise.level) == expected


@pytest.mark.parametrize("text", ["", "s", "loud", "-1", "0s"])
def test_bad_noise_is_refused(text):
    with pytest.raises(InvalidRequestError, match="is not understood"):
        fl.GaussianNoise.parse(text)


def test_a_prompt_needs_its_subject(make_model):
    with pytest.raises(InvalidRequestError, match="none was given"):
        fl.causal_trace(make_model("gpt2"), "Rome is in")
