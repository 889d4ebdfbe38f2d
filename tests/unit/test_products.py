"""Linear layers of a frozen model: the same numbers, and nothing left behind."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from factlab.models import products
from factlab.models.products import fast_products

pytestmark = pytest.mark.skipif(
    not products._is_worthwhile(), reason="this processor gains nothing from oneDNN"
)


def layers():
    torch.manual_seed(0)
    return [nn.Linear(24, 56), nn.Linear(24, 56, bias=False), Conv1D(56, 24)]


@pytest.fixture(autouse=True)
def random_state():
    with torch.random.fork_rng():
        yield


@pytest.mark.parametrize("shape", [(24,), (1, 24), (7, 3, 24), (0, 24)])
def test_products_equal_torchs(shape):
    inputs = torch.randn(shape)
    for layer in layers():
        with torch.no_grad():
            exact = layer.double()(inputs.double())
            layer.float()
            with fast_products([layer]):
                assert "forward" in vars(layer)
                fast = layer(inputs)
        assert fast.shape == exact.shape
        assert torch.allclose(fast.double(), exact, atol=1e-5)
        assert "forward" not in vars(layer)


def test_gradients_reach_the_inputs():
    for layer in layers():
        layer.requires_grad_(False)
        inputs = torch.randn(5, 24, requires_grad=True)
        weights = torch.randn(5, 56)
        (layer(inputs) * weights).sum().backward()
        expected, inputs.grad = inputs.grad, None
        with fast_products([layer]):
            (layer(inputs) * weights).sum().backward()
        assert torch.allclose(inputs.grad, expected, atol=1e-5)


def test_weights_that_learn_keep_their_gradient():
    for layer in layers():
        with fast_products([layer]):
            layer(torch.randn(5, 24)).sum().backward()
        assert layer.weight.grad is not None
        assert bool(layer.weight.grad.any())


def test_who_is_left_alone():
    class Mine(nn.Linear):
        pass

    wrapped = nn.Linear(3, 3)
    wrapped.forward = lambda inputs: inputs
    others = [wrapped, Mine(3, 3), nn.Linear(3, 3).double(), nn.Linear(3, 3, device="meta")]
    with fast_products(others):
        assert [("forward" in vars(module)) for module in others] == [True, False, False, False]
        assert wrapped(torch.ones(1)) == 1
    assert "forward" in vars(wrapped)


def test_layers_are_restored_after_an_error():
    (layer, *_) = layers()
    with pytest.raises(ZeroDivisionError), fast_products([layer]):
        _ = 1 // 0
    assert "forward" not in vars(layer)


def test_a_frozen_model_uses_them(make_model):
    lm = make_model("gpt2")
    with lm.frozen():
        assert "forward" in vars(lm.module(next(iter(_sites()))))
    assert "forward" not in vars(lm.module(next(iter(_sites()))))


def _sites():
    from factlab.hooks import Site, Stream

    yield Site(0, Stream.MLP)
