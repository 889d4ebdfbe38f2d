"""What is done with attributions: choosing, keeping, drawing; and what is refused."""

import dataclasses

import pytest
import torch
from PIL import Image

import factlab as fl
from factlab.errors import EditError, InvalidRequestError, StorageError, TokenizationError
from factlab.neurons.attribution import quadrature_of
from factlab.neurons.quadrature import Quadrature

PROMPT = "The Space Needle is in the city of"
QUICK = fl.neurons.NeuronConfig(steps=3, tolerance=None)


@pytest.fixture
def found(make_model) -> fl.neurons.NeuronAttribution:
    return fl.attribute_neurons(make_model("llama"), PROMPT, "Rome", QUICK)


def handmade(found, rows) -> fl.neurons.NeuronAttribution:
    n_layers = len(rows)
    return dataclasses.replace(
        found,
        attributions=torch.tensor(rows),
        silenced_probs=torch.zeros(n_layers),
        steps=torch.ones(n_layers, dtype=torch.long),
    )


# -- integrals ---------------------------------------------------------------------------------


def test_rules_by_hand():
    assert Quadrature("right", 4).nodes(4).shares == [0.25, 0.5, 0.75, 1]
    assert Quadrature("left", 4).nodes(4).shares == [0, 0.25, 0.5, 0.75]
    assert Quadrature("midpoint", 4).nodes(4).shares == [0.125, 0.375, 0.625, 0.875]
    assert Quadrature("closed", 3).nodes(3) == ([0, 0.5, 1], [1 / 3] * 3)
    assert Quadrature("closed", 1).nodes(1) == ([0], [1])


def test_gauss_is_exact_for_polynomials():
    nodes = Quadrature("gauss", 4).nodes(4)
    for power in range(8):
        total = sum(w * s**power for s, w in zip(*nodes, strict=True))
        assert total == pytest.approx(1 / (power + 1), abs=1e-13)


# -- attributing -------------------------------------------------------------------------------


def test_shapes_and_names(found):
    assert found.attributions.shape == (3, 56)
    assert found.silenced_probs.shape == (3,)
    assert found.target == "Rome"
    assert len(found.target_ids) == 1
    assert found.steps.tolist() == [3, 3, 3]


def test_by_default_what_the_model_says(make_model):
    lm = make_model("gpt2")
    found = fl.attribute_neurons(lm, PROMPT, config=QUICK)
    ((token, prob),) = lm.top_tokens(PROMPT, 1)
    assert found.target_tokens == (token,)
    assert found.prob == pytest.approx(prob, rel=1e-5)


def test_a_fact_brings_its_true_answer(make_model, fact):
    lm = make_model("gpt2")
    found = fl.attribute_neurons(lm, fact, config=QUICK)
    assert (found.prompt, found.target) == (fact.prompt, "Paris")


def test_the_whole_answer_or_its_first_token(make_model):
    lm = make_model("gpt2")
    target = "Rome and Paris"
    first = fl.attribute_neurons(lm, PROMPT, target, QUICK)
    whole = fl.attribute_neurons(lm, PROMPT, target, QUICK.model_copy(update={"answer": "product"}))
    score = lm.score([PROMPT], [target])[0]
    assert first.prob == pytest.approx(torch.tensor(score.logprobs[0]).exp().item(), rel=1e-4)
    assert whole.prob == pytest.approx(score.prob, rel=1e-4)
    assert len(whole.target_ids) == len(score.token_ids)


def test_more_steps_where_a_layer_does_not_add_up(make_model, caplog):
    lm = make_model("llama", dtype=torch.float64)
    rough = fl.attribute_neurons(
        lm, PROMPT, "Rome", fl.neurons.NeuronConfig(steps=1, tolerance=None)
    )
    gap = float(rough.gaps.abs().max() / rough.prob)
    assert not caplog.records
    config = fl.neurons.NeuronConfig(steps=1, tolerance=gap / 2)
    closer = fl.attribute_neurons(lm, PROMPT, "Rome", config)
    assert float(closer.gaps.abs().max()) <= gap / 2 * closer.prob
    assert closer.steps.max() in (4, 16, 64, 256)
    still = rough.gaps.abs() <= gap / 2 * rough.prob
    assert torch.equal(closer.attributions[still], rough.attributions[still])
    assert (closer.steps[still] == 1).all()
    short = fl.neurons.NeuronConfig(steps=1, tolerance=1e-12, max_steps=1)
    fl.attribute_neurons(lm, PROMPT, "Rome", short)
    assert "Raise max_steps" in caplog.text


def test_a_single_token_prompt(make_model):
    lm = make_model("gpt2", dtype=torch.float64)
    config = fl.neurons.NeuronConfig(steps=4, tolerance=None)
    each = fl.neurons.attribute_neurons_each(lm, ["R", PROMPT], ["ome", "Rome"], config)
    alone = fl.attribute_neurons(lm, "R", "ome", config)
    assert torch.allclose(each[0].attributions, alone.attributions, atol=1e-12)


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (([],), InvalidRequestError, "list of prompts is empty"),
        ((["a b"], ["c", "d"]), InvalidRequestError, "1 prompt but 2 targets"),
        (([" "],), TokenizationError, "prompt is empty"),
        (([PROMPT], [""]), InvalidRequestError, "target is empty"),
        ((["Rome " * 300],), TokenizationError, "takes at most 256"),
    ],
)
def test_what_cannot_be_attributed(make_model, args, error, message):
    with pytest.raises(error, match=message):
        fl.neurons.attribute_neurons_each(make_model("gpt2"), *args, config=QUICK)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"rule": "simpson"}, {"tolerance": 0}, {"step": 1}]
)
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(InvalidRequestError):
        fl.neurons.NeuronConfig(**wrong)


# -- choosing ----------------------------------------------------------------------------------


def test_neurons_above_a_threshold(found):
    made = handmade(found, [[0.1, 0.5, -0.9], [0.0, 0.26, 0.24]])
    assert made.top(2) == [
        fl.neurons.Neuron(0, 1, 0.5),
        fl.neurons.Neuron(1, 1, float(made.attributions[1, 1])),
    ]
    assert [(n.layer, n.index) for n in made.neurons(0.5)] == [(0, 1), (1, 1)]
    assert [(n.layer, n.index) for n in made.neurons(0.0)] == [(0, 1), (1, 1), (1, 2), (0, 0)]
    assert len(made.top(100)) == 6
    assert handmade(found, [[-0.1, 0.0]]).neurons() == []
    for threshold in (-0.1, 1.0, 2.0):
        with pytest.raises(InvalidRequestError, match="Choose it from 0 up to"):
            made.neurons(threshold)
    with pytest.raises(InvalidRequestError, match="Ask for 1 or more"):
        made.top(0)


def test_neurons_that_prompts_share(found):
    prompts = [
        handmade(found, [[1.0, 0.9, 0.0], [0.5, 0.1, 0.0]]),
        handmade(found, [[0.1, 1.0, 0.0], [0.6, 0.0, 0.0]]),
        handmade(found, [[0.0, 1.0, 0.4], [0.1, 0.0, 0.0]]),
    ]

    def places(**kwargs):
        return [(n.layer, n.index) for n in fl.neurons.shared_neurons(prompts, **kwargs)]

    assert places(share=1.0) == [(0, 1)]
    assert places(share=0.6) == [(0, 1), (1, 0)]
    assert places(share=2 / 3) == [(0, 1), (1, 0)]
    assert places(share=0.3) == [(0, 1), (1, 0), (0, 0), (0, 2)]
    assert places(share=0.3, max_neurons=1) == [(0, 1)]
    assert fl.neurons.shared_neurons(prompts, share=1.0)[0].attribution == pytest.approx(2.9 / 3)


def test_when_nothing_is_left(found):
    apart = [handmade(found, [[1.0, 0.0]]), handmade(found, [[0.0, 1.0]])]
    with pytest.raises(EditError, match=r"the\s+most shared is in 50%. Lower the share"):
        fl.neurons.shared_neurons(apart)
    with pytest.raises(EditError, match="No neuron makes 'Rome' more probable"):
        fl.neurons.shared_neurons([handmade(found, [[-1.0, 0.0]])])
    with pytest.raises(InvalidRequestError, match="list of attributions is empty"):
        fl.neurons.shared_neurons([])
    with pytest.raises(InvalidRequestError, match="Choose it above 0, up to 1"):
        fl.neurons.shared_neurons(apart, share=0.0)
    with pytest.raises(InvalidRequestError, match="must be at least 1"):
        fl.neurons.shared_neurons(apart, max_neurons=0)


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_scaled_neurons(make_model, family):
    lm = make_model(family, dtype=torch.float64)
    found = fl.attribute_neurons(lm, PROMPT, "Rome", QUICK)
    every = [fl.neurons.Neuron(1, i, 0.0) for i in range(lm.d_mlp)]
    assert fl.neurons.prob_with_scaled(lm, found, every, 1.0) == pytest.approx(found.prob, rel=1e-9)
    silenced = fl.neurons.prob_with_scaled(lm, found, every, 0.0)
    assert silenced == pytest.approx(float(found.silenced_probs[1]), rel=1e-9)
    assert fl.neurons.prob_with_scaled(lm, found, found.top(3), 2.0) != pytest.approx(
        found.prob, rel=1e-6
    )


# -- keeping -----------------------------------------------------------------------------------


def test_the_file_round_trips(found, tmp_path):
    found.save(tmp_path / "n.safetensors")
    again = fl.neurons.NeuronAttribution.load(tmp_path / "n.safetensors")
    assert again.summary() == found.summary()
    assert torch.equal(again.attributions, found.attributions)
    assert again.config == found.config
    assert again.neurons() == found.neurons()
    assert len(found.to_json()["attributions"][0]) == 56


def test_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "n.safetensors"
    fl.stats.SecondMoment(torch.eye(2, dtype=torch.float64), 0, 1, "x", "y").save(path)
    with pytest.raises(StorageError, match="not a neuron attribution"):
        fl.neurons.NeuronAttribution.load(path)


def test_the_picture(found, tmp_path):
    found.plot(tmp_path / "n.png")
    with Image.open(tmp_path / "n.png") as image:
        colours = image.convert("RGB").getcolors(1 << 20)
    assert any(green > red + 60 for _, (red, green, _blue) in colours)
    found.plot(tmp_path / "n.svg", chosen=[])
    handmade(found, [[-0.1, 0.0]] * 3).plot(tmp_path / "none.png")
    with pytest.raises(InvalidRequestError, match="must end in one of"):
        found.plot(tmp_path / "n.pgn")


def test_nothing_is_integrated_more_exactly_than_the_model_computes():
    config = fl.neurons.NeuronConfig(tolerance=0.01)
    assert quadrature_of(config, torch.float32).tolerance == 0.01
    assert quadrature_of(config, torch.bfloat16).tolerance > 0.03
    assert quadrature_of(fl.neurons.NeuronConfig(tolerance=None), torch.bfloat16).tolerance is None
