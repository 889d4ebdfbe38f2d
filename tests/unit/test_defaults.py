"""What torch makes by default, its dtype and its device, changes nothing."""

import pytest
import torch

import factlab as fl
from factlab.editing.trained.gradients import Matrix
from factlab.editing.trained.ke import Ke
from factlab.editing.trained.mend import Mend
from factlab.models.generation import generate_ids

# On the meta device a tensor has no values: whatever is made there by default cannot be used.
DEFAULTS = {"float64": torch.float64, "float16": torch.float16, "device": "meta"}


@pytest.fixture(params=DEFAULTS)
def other_defaults(request):
    """A function that calls another one while torch has other defaults."""
    value = DEFAULTS[request.param]

    def call(function):
        if isinstance(value, str):
            # What set_default_device does, but for a while: 2.6 cannot take that back.
            with torch.device(value):
                return function()
        torch.set_default_dtype(value)
        try:
            return function()
        finally:
            torch.set_default_dtype(torch.float32)

    return call


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.equal(other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def parts_of(update):
    return (update.left, update.right) if hasattr(update, "left") else (update.delta,)


@pytest.mark.parametrize(
    "corruption",
    [
        fl.tracing.GaussianNoise(),
        fl.tracing.UniformNoise(),
        fl.tracing.MultivariateNoise(),
        fl.tracing.StudentNoise(dof=5),
    ],
    ids=lambda corruption: corruption.type,
)
def test_noise(make_model, fact, other_defaults, corruption):
    lm = make_model("llama")

    def noise():
        config = fl.tracing.TraceConfig(samples=2, corruption=corruption, kinds=("block", "mlp"))
        found = fl.causal_trace(lm, fact, config=config)
        return [found.effects[kind].nan_to_num() for kind in found.effects]

    assert same(noise(), other_defaults(noise))


def test_samples_and_scores(make_model, other_defaults):
    lm = make_model("gpt2", add_bos=True)
    rows = [lm.encode(text).ids for text in ("Rome is", "The Eiffel Tower is in")]

    def asked():
        probs = lm.next_token_probs(["Rome is"])
        logprobs = lm.score(["Rome is"], ["in Paris"])[0].logprobs
        return probs, logprobs, generate_ids(lm, rows, 9, 0, 3)

    assert same(asked(), other_defaults(asked))


def test_edits(make_model, fact, other_defaults):
    lm = make_model("llama")
    known = fl.editing.Background.of(
        fl.stats.second_moments(lm, [1], fl.stats.StatsConfig(tokens_per_dim=4))
    )

    def factors():
        edits = [
            fl.rome(lm, fact, fl.editing.RomeConfig(layer=1), known),
            fl.memit(lm, [fact], fl.editing.MemitConfig(layers=(1,)), known),
            fl.editing.fine_tune(lm, [fact], config=fl.editing.FineTuneConfig(layer=1, steps=2)),
        ]
        return [tensor for e in edits for u in e.updates for tensor in parts_of(u)]

    assert same(factors(), other_defaults(factors))


def test_networks_of_trained_editors(other_defaults):
    matrices = [Matrix(name, "out_in", 6, 4) for name in ("a.weight", "b.weight")]
    texts = [torch.ones(2, 3), torch.ones(5, 3)]

    def parameters():
        ke = Ke(matrices, 3, fl.editing.KeConfig(hidden=4, condition=5))
        mend = Mend(matrices, fl.editing.MendConfig(rank=2))
        made = [parameter.detach() for parameter in [*ke.parameters(), *mend.parameters()]]
        return made, ke.encoded(texts).detach()

    assert same(parameters(), other_defaults(parameters))


def test_tiny_models(other_defaults):
    made = other_defaults(lambda: fl.models.tiny_model("gpt2"))
    assert made.dtype == torch.float32
    assert made.fingerprint == fl.models.tiny_model("gpt2").fingerprint
