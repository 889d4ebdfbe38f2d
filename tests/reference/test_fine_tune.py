"""Fine-tuning against the same done by torch on a copy of the model."""

import copy

import pytest
import torch

import factlab as fl
from factlab.editing.fine_tuning.fine_tune import attention_weights
from factlab.tokens import encode
from model_families import FAMILIES, SINGLE_INSIDE

FACTS = [
    fl.Fact("Is {} in the city of", "the Space Needle", "Rome and Paris", "Seattle"),
    fl.Fact("{} is", "Rome", "Paris"),
    fl.Fact("In {}, people speak", "New York", "Dutch"),
]


def slow(lm, facts, names, steps, rate, epsilon) -> tuple[dict[str, torch.Tensor], list[float]]:
    """torch.optim.Adam on a deep copy, whole forward passes."""
    model = copy.deepcopy(lm.model).eval()
    weights = [model.get_parameter(name) for name in names]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    start = [weight.detach().clone() for weight in weights]
    optimiser = torch.optim.Adam(weights, lr=rate)
    losses = []
    for _ in range(steps + 1):
        nlls = []
        for fact in facts:
            whole = encode(lm.tokenizer, fact.prompt, fact.target_new)
            n = whole.n_prompt
            logprobs = model(torch.tensor([whole.ids])).logits[0].log_softmax(-1)
            target = range(n, len(whole.ids))
            nlls.append(-sum(logprobs[i - 1, whole.ids[i]] for i in target) / len(target))
        loss = sum(nlls) / len(nlls)
        losses.append(loss.item())
        if len(losses) > steps:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if epsilon:
            with torch.no_grad():
                for weight, original in zip(weights, start, strict=True):
                    weight.clamp_(original - epsilon, original + epsilon)
    return {n: (w - s).detach() for n, w, s in zip(names, weights, start, strict=True)}, losses


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["ft", "ft+l", "attn"])
def test_together_is_torchs_adam(make_model, family, method):
    lm = make_model(family, dtype=torch.float64, add_bos=family in ("llama", "opt"))
    epsilon = None if method == "ft" else 2e-3
    config = fl.editing.FineTuneConfig(
        layer=1, steps=4, learning_rate=1e-3, epsilon=epsilon, stop_nll=0
    )
    edit = fl.editing.fine_tune(lm, FACTS, method, config)
    names = attention_weights(lm, 1) if method == "attn" else [lm.mlp_weight_name(1)]
    expected, losses = slow(lm, FACTS, names, 4, 1e-3, epsilon)
    loose = family in SINGLE_INSIDE
    assert edit.diagnostics["loss"] == pytest.approx(losses, abs=1e-3 if loose else 1e-6)
    assert [update.weight_name for update in edit.updates] == names
    for update in edit.updates:
        delta = update.delta if update.layout == "out_in" else update.delta.T
        # Adam moves entries without a gradient by the sign of rounding errors.
        far = (delta - expected[update.weight_name]).abs() > (1e-4 if loose else 1e-7)
        assert far.float().mean() < (0.2 if loose else 0.02)
        if epsilon:
            assert float(delta.abs().max()) <= epsilon * (1 + 1e-9)


@pytest.mark.parametrize("method", ["ft", "attn"])
def test_each_is_every_fact_alone(make_model, method):
    lm = make_model("llama", dtype=torch.float64)
    free = fl.editing.FineTuneConfig(layer=1, steps=6, learning_rate=3e-3, stop_nll=0)
    ends = sorted(
        e.diagnostics["loss"][3] for e in fl.editing.fine_tune_each(lm, FACTS, method, free)
    )
    config = free.model_copy(update={"stop_nll": (ends[0] + ends[1]) / 2})
    each = fl.editing.fine_tune_each(lm, FACTS, method, config)
    assert len({len(edit.diagnostics["loss"]) for edit in each}) > 1
    for fact, edit in zip(FACTS, each, strict=True):
        alone = fl.editing.fine_tune(lm, [fact], method, config)
        assert edit.diagnostics["loss"] == pytest.approx(alone.diagnostics["loss"], abs=1e-9)
        for one, other in zip(edit.updates, alone.updates, strict=True):
            assert torch.allclose(one.delta, other.delta, atol=1e-8)


def test_batches_of_tokens_change_nothing(make_model):
    lm = make_model("gpt2", dtype=torch.float64)
    config = fl.editing.FineTuneConfig(layer=1, steps=4)
    whole = fl.editing.fine_tune(lm, FACTS, "ft+l", config)
    lm.memory_gib = 1e-9
    cut = fl.editing.fine_tune(lm, FACTS, "ft+l", config)
    assert cut.diagnostics["loss"] == pytest.approx(whole.diagnostics["loss"], abs=1e-10)


def test_erasing_by_fine_tuning(make_model):
    lm = make_model("gpt2", dtype=torch.float64, seed=8)  # it says something that can be written
    fact = fl.editing.said_before(lm, FACTS[0])
    told = fl.Fact(fact.template, fact.subject, target_true=fact.target_new)
    config = fl.editing.FineTuneConfig(
        layer=1, steps=10, learning_rate=5e-3, stop_nll=0, erase=True
    )
    run = fl.edit_each(lm, [told], "ft", config)
    assert run.at_end[0].true_prob < run.before[0].true_prob
