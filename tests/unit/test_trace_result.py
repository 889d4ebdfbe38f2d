import dataclasses

import pytest
import torch
from PIL import Image

import factlab as fl
from factlab.errors import InvalidRequestError, StorageError


@pytest.fixture
def trace(make_model):
    lm = make_model("gpt2")
    config = fl.tracing.TraceConfig(samples=2, window=2)
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
    fl.stats.SecondMoment(torch.eye(2, dtype=torch.float64), 0, 1, "x", "y").save(path)
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
        fl.tracing.TraceConfig(windwo=3)
    with pytest.raises(ValueError, match="must not repeat"):
        fl.tracing.TraceConfig(kinds=("mlp", "mlp"))
    with pytest.raises(ValueError, match="cannot sever paths"):
        fl.tracing.TraceConfig(kinds=("block", "mlp_severed"), method="gradient")


def test_the_default_window_fits_the_model():
    widths = {n: fl.tracing.TraceConfig().window_of(n) for n in (1, 3, 12, 28, 48)}
    assert widths == {1: 1, 3: 1, 12: 6, 28: 10, 48: 10}


def test_what_was_not_traced_is_null(make_model, tmp_path):
    lm = make_model("gpt2")
    config = fl.tracing.TraceConfig(samples=1, positions="last_subject", layers=(1,))
    trace = fl.causal_trace(lm, "See the Space Needle is in", "Space Needle", config=config)
    rows = trace.to_json()["effects"]["mlp"]
    found = [
        (i, j) for i, row in enumerate(rows) for j, value in enumerate(row) if value is not None
    ]
    assert found == [(trace.subject_span.last, 1)]
    assert trace.peak("mlp")[:2] == (trace.subject_span.last, 1)
    trace.plot(tmp_path / "t.png")
    trace.save(tmp_path / "t.safetensors")
    again = fl.CausalTrace.load(tmp_path / "t.safetensors")
    assert again.to_json() == trace.to_json()


def test_the_fraction_of_the_drop_that_comes_back(make_model):
    lm = make_model("gpt2")
    config = fl.tracing.TraceConfig(samples=2)
    trace = fl.causal_trace(lm, "See the Space Needle is in", "Space Needle", config=config)
    flat = dataclasses.replace(trace, corrupted_prob=trace.clean_prob)
    with pytest.raises(InvalidRequestError, match="no drop to recover"):
        flat.fraction_recovered("mlp")
    steep = dataclasses.replace(trace, clean_prob=0.9, corrupted_prob=0.4)
    fractions = steep.fraction_recovered("mlp")
    assert float(fractions.min()) >= 0
    assert torch.allclose(fractions, (trace.effects["mlp"] / 0.5).clamp(min=0))


def test_a_prompt_needs_its_subject(make_model):
    with pytest.raises(InvalidRequestError, match="none was given"):
        fl.causal_trace(make_model("gpt2"), "Rome is in")
