"""The fast trace against the slow one."""

import pytest
import torch
from slow_trace import slow_effects, trace_modules

import factlab as fl
from conftest import FAMILIES, SINGLE_INSIDE
from factlab.tracing.corruption import embedding_sigma, put_noise


def gaussian(lm, config, n_tokens, level):
    generator = torch.Generator("cpu").manual_seed(config.seed)
    shape = (config.samples, n_tokens, lm.embedding.weight.shape[1])
    return level * torch.randn(shape, generator=generator)


def compare(lm, fact, config, tolerance, **subset):
    trace = fl.causal_trace(lm, fact, config=config)
    tokens, span = lm.encode_fact(fact)
    noise = gaussian(lm, config, span.stop - span.start, trace.noise_level)
    with torch.no_grad():
        slow, clean, corrupted = slow_effects(
            lm.model,
            lm.embedding,
            trace_modules(lm),
            list(tokens.ids),
            span,
            noise,
            trace.config.window,
            **subset,
        )
    assert trace.clean_prob == pytest.approx(clean, abs=tolerance)
    assert trace.corrupted_prob == pytest.approx(corrupted, abs=tolerance)
    for kind, expected in slow.items():
        asked = ~expected.isnan()
        assert asked.any()
        gap = (trace.effects[kind][asked] - expected[asked]).abs().max()
        assert float(gap) < tolerance, f"{kind}: {gap:.2g}"
    return trace


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_in_float64(make_model, family):
    lm = make_model(family, dtype=torch.float64, add_bos=family in ("llama", "opt"))
    fact = fl.Fact("See {} is in", "Space Needle")
    config = fl.TraceConfig(samples=3, window=2, seed=4)
    trace = compare(lm, fact, config, 1e-4 if family in SINGLE_INSIDE else 1e-6)
    assert trace.effects["block"][: trace.subject_span.start].abs().max() == 0
    assert max(trace.peak(kind)[2] for kind in trace.effects) > 1e-4, "the test would be empty"


@pytest.mark.parametrize("max_batch_tokens", [1, 50, 10_000])
def test_batch_size_changes_nothing(make_model, max_batch_tokens):
    lm = make_model("llama", dtype=torch.float64)
    fact = fl.Fact("{} is in", "Space Needle")
    whole = fl.causal_trace(lm, fact, config=fl.TraceConfig(samples=3, window=3))
    config = fl.TraceConfig(samples=3, window=3, max_batch_tokens=max_batch_tokens)
    parts = fl.causal_trace(lm, fact, config=config)
    for kind in whole.effects:
        assert torch.allclose(whole.effects[kind], parts.effects[kind], atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_restoring_every_state_gives_the_clean_run(make_model, family):
    lm = make_model(family, dtype=torch.float64)
    tokens, span = lm.encode_fact(fl.Fact("See {} is in", "Space Needle"))
    ids = torch.tensor([tokens.ids])
    sites = [fl.Site(layer, fl.Stream.BLOCK) for layer in range(lm.n_layers)]
    with fl.record(lm, sites) as states:
        clean = lm.model(ids).logits
    noise = gaussian(lm, fl.TraceConfig(samples=1), span.stop - span.start, 1.0)
    corrupt = {fl.Site(0, fl.Stream.EMBED): lambda e: put_noise(e, noise, span, replace=False)}
    with fl.intervene(lm, corrupt):
        assert not torch.allclose(lm.model(ids).logits, clean, atol=1e-3)

    for site, state in states.items():  # every position of any one layer
        with fl.intervene(lm, corrupt | {site: lambda _, state=state: state}):
            assert torch.equal(lm.model(ids).logits, clean), site


def test_restoring_the_last_state_of_all_gives_the_total_effect(make_model):
    lm = make_model("llama", dtype=torch.float64)
    trace = fl.causal_trace(lm, fl.Fact("{} is in", "Rome"), config=fl.TraceConfig(samples=2))
    assert float(trace.effects["block"][-1, -1]) == pytest.approx(trace.total_effect, abs=1e-7)


def test_the_given_answer_is_followed(make_model):
    lm = make_model("gpt2")
    fact = fl.Fact("{} is in", "Space Needle")
    trace = fl.causal_trace(lm, fact, answer="Seattle is nice", config=fl.TraceConfig(samples=2))
    first = lm.score([fact.prompt], ["Seattle is nice"])[0]
    assert trace.clean_prob == pytest.approx(torch.tensor(first.logprobs[0]).exp().item(), rel=1e-4)


def test_noise_level_comes_from_subject_embeddings(make_model):
    lm = make_model("gpt2")
    facts = [fl.Fact("{} is", "Rome"), fl.Fact("the {} is", "Space Needle")]
    ids = []
    for fact in facts:
        tokens, span = lm.encode_fact(fact)
        ids += tokens.ids[span.start : span.stop]
    expected = lm.embedding.weight.detach()[ids].std().item()
    assert embedding_sigma(lm, facts) == pytest.approx(expected)
    small = fl.TraceConfig(samples=1, kinds=("block",))
    trace = fl.causal_trace(lm, facts[0], config=small, sigma_facts=facts)
    assert trace.noise_level == pytest.approx(3 * expected)
    fixed = small.model_copy(update={"corruption": fl.GaussianNoise(level=0.7)})
    assert fl.causal_trace(lm, facts[0], config=fixed).noise_level == 0.7


@pytest.mark.slow
def test_the_bundled_model_in_float32(bundled):
    fact = fl.Fact("{} is located in the city of", "The Eiffel Tower")
    config = fl.TraceConfig(samples=10)
    compare(bundled, fact, config, 1e-5, positions=[0, 2, 3, 6, 9], layers=[0, 3, 14, 29])
