"""Linear layers of a frozen model: the same numbers, and nothing left behind."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import factlab as fl
from factlab.models import products
from factlab.models.products import fast_products, gram
from factlab.precision import full_products

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


def test_who_asks_for_mixed_precision_gets_it():
    inputs = torch.randn(5, 24)
    for layer in layers():
        with fast_products([layer]), torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            assert layer(inputs).dtype is torch.bfloat16
        with fast_products([layer]), torch.no_grad():
            assert layer(inputs).dtype is torch.float32
    lm = fl.models.tiny_model("llama")
    with torch.autocast("cpu", torch.bfloat16):
        expected = lm.model(input_ids=torch.tensor([[3, 4, 5]])).logits
        with lm.frozen():
            assert torch.equal(lm.model(input_ids=torch.tensor([[3, 4, 5]])).logits, expected)


def test_second_moments_are_summed_in_full_precision_whatever_is_asked_for():
    rows = torch.randn(64, 24)
    exact = rows.double().T @ rows.double()
    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16):
        for fast in (True, False):
            patch.setattr(products, "_is_worthwhile", lambda fast=fast: fast)
            assert torch.allclose(gram(rows).double(), exact, rtol=1e-5, atol=1e-5)


@pytest.fixture(params=["as a whole", "by place"])
def coarse(request):
    """Products that are chosen to be coarse, in both ways that torch knows; how they are chosen."""
    if request.param == "as a whole":
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        yield torch.get_float32_matmul_precision
        torch.set_float32_matmul_precision(before)
        return
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this torch knows one way only")
    places = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [place.fp32_precision for place in places]
    places[0].fp32_precision, places[1].fp32_precision = "tf32", "bf16"
    yield lambda: [place.fp32_precision for place in places]
    for place, precision in zip(places, before, strict=True):
        place.fp32_precision = precision


def test_products_are_full_for_a_while_and_then_as_they_were(coarse):
    chosen = coarse()
    with pytest.raises(ZeroDivisionError), full_products():
        left = torch.randn(64, 24)
        exact = left.double() @ left.double().T
        assert torch.allclose((left @ left.T).double(), exact, rtol=1e-5, atol=1e-5)
        raise ZeroDivisionError
    assert coarse() == chosen


def test_a_model_is_accepted_and_summed_up_where_products_are_coarse(coarse, make_model):
    lm = make_model("llama")
    fl.LanguageModel(lm.model, lm.tokenizer)
    rows = torch.randn(300, 24, generator=torch.Generator().manual_seed(0))
    exact = rows.double().T @ rows.double()
    assert torch.allclose(gram(rows).double(), exact, rtol=1e-5, atol=1e-5)
    assert coarse()


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
