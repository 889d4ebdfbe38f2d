"""MEND: gradients as outer products, and what an untrained one does with them."""

import copy
from types import SimpleNamespace

import pytest
import torch

import factlab as fl
from factlab.editing.trained.configs import MendConfig
from factlab.editing.trained.gradients import last_matrices, target_nll_of, token_gradients
from factlab.editing.trained.losses import changes_of
from factlab.editing.trained.mend import Mend, RunningScale
from factlab.editing.trained.states import States
from factlab.models.changes.carried import carrying, substituted
from model_families import FAMILIES, HABITS, SINGLE_INSIDE

FACTS = [
    fl.Fact("Is {} in the city of", "the Space Needle", "Rome and Paris", "Seattle"),
    fl.Fact("{} is", "Rome", "Paris"),
]

# The window of these tiny models is so small that the first tokens are out of sight at the end.
WINDOWED = ("gemma2", "gemma3_text", "gpt_neo", "mistral", "olmo3")


def batch_of(lm, facts=FACTS, n_blocks=2):
    readings = [lm.continuation(fact.prompt, fact.target_new) for fact in facts]
    return States(lm, lm.n_layers - n_blocks).batch(readings)


def autograd(lm, reading, matrices) -> dict[str, torch.Tensor]:
    """torch's own gradient of a whole forward pass, out×in."""
    model = copy.deepcopy(lm.model).eval()
    logprobs = model(torch.tensor([reading.inputs])).logits[0].log_softmax(-1)
    wanted = zip(reading.reads, reading.target_ids, strict=True)
    (-sum(logprobs[at, token] for at, token in wanted) / len(reading.reads)).backward()
    found = {}
    for matrix in matrices:
        grad = model.get_parameter(matrix.weight_name).grad
        found[matrix.weight_name] = grad if matrix.layout == "out_in" else grad.T
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_outer_products_sum_to_the_gradient(make_model, family):
    lm = make_model(family, dtype=torch.float64, add_bos=family in ("llama", "opt"))
    matrices = last_matrices(lm, 2)
    batch = batch_of(lm)
    with lm.frozen():
        found = token_gradients(lm, batch, matrices)
    for i, reading in enumerate(batch.continuations):
        for name, expected in autograd(lm, reading, matrices).items():
            error = (found[name].dense()[i] - expected).abs().max() / expected.abs().max()
            assert error < (1e-5 if family in SINGLE_INSIDE else 1e-12)
    last, first = found[matrices[-1].weight_name], found[matrices[0].weight_name]
    # In the last block only the places where the target is read count; before it all of them.
    assert last.live.sum(1).tolist() == [len(r.reads) for r in batch.continuations]
    if family not in WINDOWED:
        assert first.live.sum(1).tolist() == [len(r.inputs) for r in batch.continuations]


@pytest.mark.parametrize("family", HABITS)
@pytest.mark.parametrize("square", [False, True])
def test_untrained_it_is_a_gradient_step(make_model, family, square):
    lm = make_model(family, dtype=torch.float64, square=square)
    matrices = last_matrices(lm, 2)
    mend = Mend(matrices, MendConfig(n_blocks=2, rank=5)).double()
    batch = batch_of(lm)
    for observed in (False, True):
        with lm.frozen(), torch.no_grad():
            changes = changes_of(lm, mend, batch, observe=observed)
        steps = mend.gradient_steps()
        assert set(mend.step_sizes.tolist()) == {float(torch.tensor(1e-4))}
        assert observed or set(steps.values()) == set(mend.step_sizes.tolist())
        for i, reading in enumerate(batch.continuations):
            for name, gradient in autograd(lm, reading, matrices).items():
                expected = -steps[name] * gradient
                found = changes[name].dense()[i]
                error = (found - expected).abs().max() / expected.abs().max()
                assert error < (1e-4 if family in SINGLE_INSIDE else 1e-7)


def test_the_published_beginning_is_standardised(make_model):
    lm = make_model("llama", dtype=torch.float64)
    matrices = last_matrices(lm, 1)
    mend = Mend(matrices, MendConfig(n_blocks=1, rank=5, begin_with="standardised")).double()
    batch = batch_of(lm, n_blocks=1)
    with lm.frozen(), torch.no_grad():
        gradients = token_gradients(lm, batch, matrices)
        changes = changes_of(lm, mend, batch, observe=True)
    name = matrices[-1].weight_name  # the only one of its shape
    inputs = gradients[name].inputs[gradients[name].live]
    expected = (inputs - inputs.mean(0)) / inputs.std(0)
    assert torch.allclose(changes[name].right[gradients[name].live], expected)


def test_the_networks_change_more_than_the_step(make_model):
    lm = make_model("gpt2", dtype=torch.float64)
    matrices = last_matrices(lm, 2)
    mend = Mend(matrices, MendConfig(n_blocks=2, rank=5)).double()
    batch = batch_of(lm)
    with lm.frozen():
        changes = changes_of(lm, mend, batch, observe=True)
        with carrying(lm, changes, range(len(batch.continuations))):
            loss = target_nll_of(lm, batch).sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in (
        mend.step_sizes, *(n.first.out for n in mend.networks.values()),
        *(n.second.out for n in mend.networks.values()),
    ))  # fmt: skip
    with torch.no_grad():
        for network in mend.networks.values():
            network.first.out += 0.1 * network.first.into.T
    with lm.frozen(), torch.no_grad():
        after = changes_of(lm, mend, batch)
    name = matrices[0].weight_name
    assert not torch.allclose(after[name].dense(), changes[name].dense())
    # Padding stays nothing, and so the rank stays the number of tokens.
    n_tokens = [len(reading.inputs) for reading in batch.continuations]
    assert torch.linalg.matrix_rank(after[name].dense()).tolist() == n_tokens


def test_matrices_of_a_shape_share_all_but_scale_and_shift(make_model):
    lm = make_model("llama")
    mend = Mend(last_matrices(lm, 3), MendConfig(rank=5))
    assert set(mend.networks) == {"24x56", "56x24"}
    gate_and_up = mend.networks["24x56"].first
    assert gate_and_up.out.shape == (80, 5)
    assert gate_and_up.scale.shape == gate_and_up.shift.shape == (6, 80)
    assert mend.networks["56x24"].first.scale.shape == (3, 80)
    assert mend.step_sizes.shape == (9,)


@pytest.mark.parametrize("family", FAMILIES)
def test_carried_factors_are_the_changed_weights(make_model, family):
    lm = make_model(family, dtype=torch.float64)
    matrices = last_matrices(lm, 2)
    mend = Mend(matrices, MendConfig(n_blocks=2, rank=5, step_size=1e-2)).double()
    batch = batch_of(lm)
    with lm.frozen(), torch.no_grad():
        changes = changes_of(lm, mend, batch, observe=True)
        with carrying(lm, changes, range(len(batch.continuations))):
            found = target_nll_of(lm, batch)
        weights = {}
        for matrix in matrices:
            dense = changes[matrix.weight_name].dense()
            delta = dense if matrix.layout == "out_in" else dense.mT
            weights[matrix.weight_name] = lm.model.get_parameter(matrix.weight_name) + delta
        with substituted(lm, weights, range(len(batch.continuations))):
            expected = target_nll_of(lm, batch)
        unedited = target_nll_of(lm, batch)
    loose = family in SINGLE_INSIDE
    assert torch.allclose(found, expected, atol=1e-5 if loose else 1e-9)
    assert not torch.allclose(found, unedited, atol=1e-4)


def test_running_scale_is_that_of_all_tokens_at_once():
    rows = torch.randn(40, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = rows * 3 + 100
    running = RunningScale(7)
    assert running.size == 1
    for part in rows.split([1, 0, 4, 35]):
        running.add(part)
    assert torch.allclose(running.mean, rows.mean(0))
    assert torch.allclose(running.scale, rows.std(0))
    assert torch.allclose(running.size, rows.square().mean().sqrt(), rtol=1e-3)
    assert torch.allclose(running.standardised(rows).std(0), torch.ones(7, dtype=torch.float64))


def test_a_dimension_that_never_varies_is_not_blown_up():
    rows = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    rows[:, 2] = 0
    running = RunningScale(4)
    running.add(rows)
    surprise = running.standardised(torch.ones(1, 4))
    assert surprise.abs().max() < 200


def test_models_without_such_blocks_are_refused(make_model):
    lm = make_model("gpt2")
    with pytest.raises(fl.FactlabError, match="n_blocks=4 is out of range"):
        last_matrices(lm, 4)
    mlp = lm.model.transformer.h[2].mlp
    plain = mlp.c_fc
    mlp.c_fc = torch.nn.Sequential(plain)
    with pytest.raises(fl.FactlabError, match="no plain input projections of the MLP"):
        last_matrices(lm, 1)
    mlp.c_fc = plain


def test_running_statistics_stay_on_the_cpu_where_the_device_has_no_float64():
    """As on Apple's MPS, of which there is none here: only what it does with float64 is played."""

    def to_mps(tensor):
        if tensor.dtype is torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return SimpleNamespace(device=SimpleNamespace(type="mps"))

    running = RunningScale(4)
    running._apply(to_mps)
    assert running.mean.dtype is torch.float64
    running.add(torch.ones(3, 4))
    assert torch.equal(running.mean, torch.ones(4).double())
    assert running.to(torch.device("cpu")).mean.dtype is torch.float64
    assert running.to(torch.device("meta")).mean.device.type == "meta"
