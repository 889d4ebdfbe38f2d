"""Neuron attributions against the same done one layer and one step at a time."""

import pytest
import torch

import factlab as fl
from factlab.models.budget import GIB
from factlab.neurons.quadrature import Quadrature
from factlab.tokens import encode
from model_families import FAMILIES, HABITS, SINGLE_INSIDE

PROMPTS = ["Is the Space Needle in the city of", "Rome is", "In New York, people speak the"]
TARGETS = ["Rome and Paris", "Paris", "Dutch"]


def slow(lm, found, nodes) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole forward and backward passes of transformers' own model; P with a layer at zero."""
    last, target = len(found.prompt_ids) - 1, found.target_ids
    ids = torch.tensor([[*found.prompt_ids, *target[:-1]]])
    attributions = torch.zeros(lm.n_layers, lm.d_mlp, dtype=torch.float64)
    silenced = torch.zeros(lm.n_layers, dtype=torch.float64)

    def prob(layer, share) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        seen = []

        def scale(_module, args):
            state = args[0].detach().clone()
            rows = state.view(-1, state.shape[-1])  # one text: a row is a token
            scaled = (share * rows[last]).requires_grad_(True)
            seen.append((rows[last].clone(), scaled))
            rows = torch.cat([rows[:last], scaled[None], rows[last + 1 :]])
            return (rows.view(state.shape),)

        projection = lm.layer(layer).get_submodule(lm.layers.anatomy.parts[layer].mlp.output)
        handle = projection.register_forward_pre_hook(scale)
        logits = lm.model(ids, use_cache=False).logits[0].double()
        handle.remove()
        probs = logits.softmax(-1)
        wanted = [probs[last + i, token_id] for i, token_id in enumerate(target)]
        return torch.stack(wanted).prod(), *seen[0]

    for layer in range(lm.n_layers):
        silenced[layer] = prob(layer, 0.0)[0].detach()
        for share, weight in zip(*nodes, strict=True):
            p, neurons, scaled = prob(layer, share)
            (gradient,) = torch.autograd.grad(p, scaled)
            attributions[layer] += weight * neurons * gradient
    return attributions, silenced


@pytest.mark.parametrize("family", FAMILIES)
def test_attributions_of_every_family(make_model, family):
    lm = make_model(family, dtype=torch.float64, add_bos=family in ("llama", "opt"))
    config = fl.neurons.NeuronConfig(steps=3, tolerance=None, answer="product")
    each = fl.neurons.attribute_neurons_each(lm, PROMPTS, TARGETS, config)
    for prompt, target, found in zip(PROMPTS, TARGETS, each, strict=True):
        whole = encode(lm.tokenizer, prompt, target)
        n_prompt = whole.n_prompt
        assert found.prompt_ids == whole.ids[:n_prompt]
        assert found.target_ids == whole.ids[n_prompt:]
        expected, silenced = slow(lm, found, Quadrature("gauss", 3).nodes(3))
        # RMS norms are in single precision whatever the weights are.
        tolerance = 1e-3 if family in SINGLE_INSIDE else 1e-5
        scale = float(expected.abs().max())
        assert float((found.attributions - expected).abs().max()) < tolerance * scale
        assert torch.allclose(found.silenced_probs, silenced, rtol=tolerance, atol=0)
        score = lm.score([prompt], [target])[0]
        assert found.prob == pytest.approx(score.prob, rel=1e-4)


@pytest.mark.parametrize("family", HABITS)
def test_single_precision_is_close(make_model, family):
    lm, exact = make_model(family), make_model(family, dtype=torch.float64)
    config = fl.neurons.NeuronConfig(steps=3, tolerance=None)
    found = fl.attribute_neurons(lm, PROMPTS[0], TARGETS[0], config)
    expected, _ = slow(
        exact,
        fl.attribute_neurons(exact, PROMPTS[0], TARGETS[0], config),
        Quadrature("gauss", 3).nodes(3),
    )
    assert (found.attributions - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("family", ["gpt2", "gptj", "bloom", "llama"])
def test_attributions_add_up(make_model, family):
    """Completeness: what a layer's neurons account for is what goes when they go."""
    lm = make_model(family, dtype=torch.float64)
    fine = fl.attribute_neurons(lm, PROMPTS[2], TARGETS[2], fl.neurons.NeuronConfig(tolerance=1e-4))
    assert fine.gaps.abs().max() <= 1e-4 * fine.prob
    errors = {}
    for rule in ("right", "left", "closed", "midpoint"):
        for steps in (40, 160):
            config = fl.neurons.NeuronConfig(rule=rule, steps=steps, tolerance=None)
            found = fl.attribute_neurons(lm, PROMPTS[2], TARGETS[2], config)
            errors[rule, steps] = float((found.attributions - fine.attributions).norm())
    # The error of a sum from one side falls with the step, that of the midpoint much faster.
    for rule in ("right", "left", "closed"):
        assert errors[rule, 160] < errors[rule, 40] / 2.5
        assert errors["midpoint", 160] < errors[rule, 160] / 5


@pytest.mark.parametrize("family", HABITS)
def test_a_batch_is_one_by_one(make_model, family):
    lm = make_model(family, dtype=torch.float64)
    config = fl.neurons.NeuronConfig(steps=4, tolerance=1e-3, max_steps=64)
    each = fl.neurons.attribute_neurons_each(lm, PROMPTS, [None, *TARGETS[1:]], config)
    loose = family in SINGLE_INSIDE
    for i, found in enumerate(each):
        alone = fl.attribute_neurons(lm, PROMPTS[i], None if i == 0 else TARGETS[i], config)
        assert found.target_ids == alone.target_ids
        scale = float(alone.attributions.abs().max())
        gap = float((found.attributions - alone.attributions).abs().max())
        assert gap < (1e-4 if loose else 1e-9) * scale
        if not loose:
            assert torch.equal(found.steps, alone.steps)


def test_memory_bounds_change_nothing(make_model):
    lm = make_model("llama", dtype=torch.float64)
    config = fl.neurons.NeuronConfig(steps=3, tolerance=1e-3, max_steps=12, answer="product")
    whole = fl.neurons.attribute_neurons_each(lm, PROMPTS, TARGETS, config)
    for tokens in (1, 40):
        lm.memory_gib = tokens * lm.budget.sizes.gradient / GIB
        cut = fl.neurons.attribute_neurons_each(lm, PROMPTS, TARGETS, config)
        for one, other in zip(whole, cut, strict=True):
            assert torch.allclose(one.attributions, other.attributions, rtol=1e-9, atol=1e-15)
            assert torch.equal(one.steps, other.steps)
