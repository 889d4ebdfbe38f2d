"""The fast trace against the slow one."""

import pytest
import torch
from slow_trace import slow_effects, slow_severed, trace_modules

import factlab as fl
from factlab.tracing.cells import cells_of
from factlab.tracing.corruption import embedding_sigma, put_noise
from model_families import FAMILIES, HABITS, SINGLE_INSIDE, is_present


def gaussian(lm, config, n_tokens, level):
    generator = torch.Generator("cpu").manual_seed(config.seed)
    shape = (config.samples, n_tokens, lm.embedding.weight.shape[1])
    return level * torch.randn(shape, generator=generator)


def compare(lm, fact, config, tolerance, **subset):
    trace = fl.causal_trace(lm, fact, config=config)
    tokens = lm.fact_continuation(fact)
    span = tokens.subject
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
    config = fl.tracing.TraceConfig(samples=3, window=2, seed=4)
    trace = compare(lm, fact, config, 1e-4 if family in SINGLE_INSIDE else 1e-6)
    assert trace.effects["block"][: trace.subject_span.start].abs().max() == 0
    assert max(trace.peak(kind)[2] for kind in trace.effects) > 1e-5, "the test would be empty"


@pytest.mark.parametrize("severed", ["mlp", "attn"])
@pytest.mark.parametrize("family", HABITS)
def test_severed_paths_in_float64(make_model, family, severed):
    lm = make_model(family, dtype=torch.float64)
    fact = fl.Fact("See {} is in", "Space Needle")
    kinds = ("block", f"{severed}_severed")
    config = fl.tracing.TraceConfig(samples=3, kinds=kinds, positions="last_subject")
    trace = fl.causal_trace(lm, fact, config=config)
    tokens = lm.fact_continuation(fact)
    span = tokens.subject
    noise = gaussian(lm, config, span.stop - span.start, trace.noise_level)
    with torch.no_grad():
        slow = slow_severed(
            lm.model,
            lm.embedding,
            trace_modules(lm),
            list(tokens.ids),
            span,
            noise,
            severed,
            span.last,
        )
    fast = trace.effects[f"{severed}_severed"]
    tolerance = 1e-4 if family in SINGLE_INSIDE else 1e-6
    assert float((fast[span.last] - slow).abs().max()) < tolerance
    above = trace.effects["block"][span.last, -1]
    assert abs(float(fast[span.last, -1] - above)) < 1e-12, "nothing left to sever"
    assert not torch.allclose(fast[span.last], trace.effects["block"][span.last], atol=1e-7)
    others = [i for i in range(tokens.n_prompt) if i != span.last]
    assert bool(fast[others].isnan().all())


# The last four run in whole passes; of BERT and Zamba not all layers have an MLP of their own.
PATHS = {
    "gpt2": ("mlp", "attn"), "llama": ("mlp", "attn"),
    "rwkv": ("mlp", "attn"), "gemma3n_text": ("mlp", "attn"),
    "bert": ("attn",), "zamba2": ("attn",),
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "severed"),
    [(family, path) for family in PATHS if is_present(family) for path in PATHS[family]],
)
def test_severed_paths_with_noise_drawn_anew(make_model, family, severed):
    """As published: the second pass draws on, and holds the outputs of all layers."""
    lm = make_model(family, dtype=torch.float64)
    fact = fl.Fact("See {} is in", "Space Needle")
    kinds = ("block", severed, f"{severed}_severed")
    config = fl.tracing.TraceConfig(samples=3, kinds=kinds, seed=2, severed_noise="anew")
    trace = fl.causal_trace(lm, fact, config=config)
    tokens = lm.fact_continuation(fact)
    span = tokens.subject
    generator = torch.Generator("cpu").manual_seed(config.seed)
    shape = (config.samples, span.stop - span.start, lm.embedding.weight.shape[1])
    first, second = (trace.noise_level * torch.randn(shape, generator=generator) for _ in range(2))
    assert not torch.equal(first, second)
    for position in (0, span.last, tokens.n_prompt - 1):  # also left of the subject
        with torch.no_grad():
            slow = slow_severed(
                lm.model,
                lm.embedding,
                trace_modules(lm),
                list(tokens.ids),
                span,
                first,
                severed,
                position,
                second,
            )
        fast = trace.effects[f"{severed}_severed"][position]
        assert float((fast - slow).abs().max()) < 1e-6
    same = config.model_copy(update={"severed_noise": "same"})
    others = fl.causal_trace(lm, fact, config=same)
    for kind in kinds[:2]:  # only severed paths draw anew
        assert torch.equal(trace.effects[kind], others.effects[kind])
    gap = (trace.effects[kinds[2]] - others.effects[kinds[2]]).abs().max()
    assert float(gap) > 1e-5, "the test would be empty"
    lm.memory_gib = 1e-4
    parts = fl.causal_trace(lm, fact, config=config)
    for kind in kinds:
        assert torch.allclose(parts.effects[kind], trace.effects[kind], atol=1e-7)


@pytest.mark.parametrize("convention", ["code", "paper"])
@pytest.mark.parametrize("window", [1, 2, 3])
def test_windows_cover_the_layers_they_should(make_model, window, convention):
    config = fl.tracing.TraceConfig(kinds=("mlp",), window=window, window_convention=convention)
    covered = {c.layer: (c.first, c.stop) for c in cells_of(make_model("llama").layers, config)}
    expected = {
        (1, "code"): {0: (0, 1), 1: (1, 2), 2: (2, 3)},
        (2, "code"): {0: (0, 1), 1: (0, 2), 2: (1, 3)},
        (2, "paper"): {0: (0, 2), 1: (1, 3), 2: (2, 3)},
        (3, "code"): {0: (0, 2), 1: (0, 3), 2: (1, 3)},
    }
    assert covered == expected.get((window, convention), expected.get((window, "code")))


def test_chosen_cells_are_those_of_the_whole_trace(make_model):
    lm = make_model("llama", dtype=torch.float64)
    fact = fl.Fact("See {} is in", "Space Needle")
    whole = fl.causal_trace(lm, fact, config=fl.tracing.TraceConfig(samples=2, window=3))
    config = fl.tracing.TraceConfig(samples=2, window=3, positions=(2, 5, 2), layers=(2, 0))
    some = fl.causal_trace(lm, fact, config=config)
    for kind, effects in some.effects.items():
        asked = ~effects.isnan()
        assert asked.nonzero().tolist() == [[2, 0], [2, 2], [5, 0], [5, 2]]
        assert torch.allclose(effects[asked], whole.effects[kind][asked], atol=1e-7)


@pytest.mark.parametrize("rule", ["product", "per_token"])
def test_the_whole_answer_against_full_forwards(make_model, rule):
    lm = make_model("llama", dtype=torch.float64)
    fact = fl.Fact("See {} is in", "Space Needle", target_true="Seattle is nice")
    config = fl.tracing.TraceConfig(samples=2, answer=rule, kinds=("block",))
    trace = fl.causal_trace(lm, fact, config=config)
    scored = lm.score([fact.prompt], ["Seattle is nice"])[0]
    assert len(scored.token_ids) > 1
    expected = scored.prob if rule == "product" else scored.length_normalised_prob
    assert trace.clean_prob == pytest.approx(expected, rel=1e-5)

    tokens = lm.fact_continuation(fact)
    span = tokens.subject
    ids = torch.tensor([[*tokens.ids, *scored.token_ids]] * 3)
    noise = gaussian(lm, config, span.stop - span.start, trace.noise_level)

    def probs(restore: bool) -> torch.Tensor:
        def corrupt(embedded: torch.Tensor) -> torch.Tensor:
            return torch.cat([embedded[:1], put_noise(embedded[1:], noise, span, replace=False)])

        def put_back(state: torch.Tensor) -> torch.Tensor:
            state = state.clone()
            state[1:, span.last] = state[0, span.last]
            return state

        sites = {fl.hooks.Site(0, fl.hooks.Stream.EMBED): corrupt}
        if restore:
            sites[fl.hooks.Site(1, fl.hooks.Stream.BLOCK)] = put_back
        with torch.no_grad(), fl.hooks.intervene(lm, sites):
            logprobs = lm.model(ids).logits.float().log_softmax(-1)[1:, tokens.n_prompt - 1 : -1]
        each = logprobs.gather(2, ids[1:, tokens.n_prompt :, None])[..., 0]
        return (each.sum(1) if rule == "product" else each.mean(1)).exp().mean()

    assert trace.corrupted_prob == pytest.approx(float(probs(False)), rel=1e-5)
    effect = float(probs(True) - probs(False))
    assert float(trace.effects["block"][span.last, 1]) == pytest.approx(effect, abs=1e-7)


def test_a_whole_answer_has_to_be_known(make_model):
    lm = make_model("gpt2")
    with pytest.raises(fl.FactlabError, match="none was given"):
        fl.causal_trace(lm, "Rome is in", "Rome", config=fl.tracing.TraceConfig(answer="product"))


@pytest.mark.parametrize("other", ["Needle", "the Space Needle tower"])
def test_substitution_copies_states_between_sentences(make_model, other):
    lm = make_model("llama", dtype=torch.float64)
    fact = fl.Fact("See {} is in", "Space Needle")
    config = fl.tracing.TraceConfig(
        corruption=fl.tracing.Substitution(subjects=(other,)), kinds=("block",)
    )
    trace = fl.causal_trace(lm, fact, config=config)
    assert trace.noise_level is None
    tokens = lm.fact_continuation(fact)
    span = tokens.subject
    others = lm.fact_continuation(fl.Fact("See {} is in", other))
    other_span = others.subject
    assert others.n_prompt != tokens.n_prompt
    with torch.no_grad():
        sites = [fl.hooks.Site(layer, fl.hooks.Stream.BLOCK) for layer in range(lm.n_layers)]
        with fl.hooks.record(lm, sites) as clean:
            logits = lm.model(torch.tensor([tokens.ids])).logits[0, -1]
        answer = int(logits.argmax())
        ids = torch.tensor([others.ids])
        corrupted = float(lm.model(ids).logits[0, -1].softmax(-1)[answer])
        assert trace.corrupted_prob == pytest.approx(corrupted, abs=1e-7)
        shared = min(span.stop - span.start, other_span.stop - other_span.start)
        for back in range(1, tokens.n_prompt - span.stop + shared + 1):
            for layer in range(lm.n_layers):
                site = fl.hooks.Site(layer, fl.hooks.Stream.BLOCK)

                def put(state, site=site, back=back):
                    state = state.clone()
                    state[:, -back] = clean[site][:, -back]
                    return state

                with fl.hooks.intervene(lm, {site: put}):
                    prob = float(lm.model(ids).logits[0, -1].softmax(-1)[answer])
                found = float(trace.effects["block"][tokens.n_prompt - back, layer])
                assert found == pytest.approx(prob - corrupted, abs=1e-7)


def test_several_substitutes_are_averaged(make_model):
    lm = make_model("gpt2", dtype=torch.float64)
    fact = fl.Fact("See {} is in", "Space Needle")

    def trace(*subjects: str) -> fl.CausalTrace:
        config = fl.tracing.TraceConfig(
            corruption=fl.tracing.Substitution(subjects=subjects), window=2
        )
        return fl.causal_trace(lm, fact, config=config)

    one, two, both = trace("Rome"), trace("the big tower"), trace("Rome", "the big tower")
    for kind, effects in both.effects.items():
        # A token that only one of the substitutes has a partner for is averaged over that one.
        mean = torch.stack([one.effects[kind], two.effects[kind]]).nanmean(0)
        assert torch.allclose(effects, mean, atol=1e-7)


@pytest.mark.parametrize("kind", ["block", "mlp", "attn"])
def test_the_gradient_is_the_derivative_of_restoring_a_little(make_model, kind):
    """With noise so small that P is linear in it, estimate and exact trace are the same."""
    lm = make_model("llama", dtype=torch.float64)
    fact = fl.Fact("See {} is in", "Space Needle")
    config = fl.tracing.TraceConfig(
        samples=3, window=1, kinds=(kind,), corruption=fl.tracing.GaussianNoise(level=1e-4)
    )
    exact = fl.causal_trace(lm, fact, config=config).effects[kind]
    estimate = fl.causal_trace(
        lm, fact, config=config.model_copy(update={"method": "gradient"})
    ).effects[kind]
    # Answers come as float32 probabilities, so differences of them are good to about 1e-8.
    assert float(exact.abs().max()) > 1e-6
    assert float((exact - estimate).abs().max()) < 0.05 * float(exact.abs().max())


def test_the_gradient_of_a_window_is_the_sum_over_its_layers(make_model):
    lm = make_model("llama", dtype=torch.float64)
    fact = fl.Fact("See {} is in", "Space Needle")

    def estimate(window: int) -> torch.Tensor:
        config = fl.tracing.TraceConfig(samples=2, kinds=("mlp",), method="gradient", window=window)
        return fl.causal_trace(lm, fact, config=config).effects["mlp"]

    single, windows = estimate(1), estimate(3)
    expected = torch.stack([single[:, :2].sum(1), single.sum(1), single[:, 1:].sum(1)], 1)
    assert torch.allclose(windows, expected, atol=1e-7)


@pytest.mark.parametrize("method", ["exact", "gradient"])
@pytest.mark.parametrize("memory_gib", [1e-9, 1e-3, 4.0])
def test_memory_changes_nothing(make_model, method, memory_gib):
    lm = make_model("llama", dtype=torch.float64)
    fact = fl.Fact("{} is in", "Space Needle")
    config = fl.tracing.TraceConfig(samples=5, window=3, method=method)
    whole = fl.causal_trace(lm, fact, config=config)
    lm.memory_gib = memory_gib
    parts = fl.causal_trace(lm, fact, config=config)
    assert parts.corrupted_prob == pytest.approx(whole.corrupted_prob, rel=1e-6)
    for kind in whole.effects:
        assert torch.allclose(whole.effects[kind], parts.effects[kind], atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_restoring_every_state_gives_the_clean_run(make_model, family):
    lm = make_model(family, dtype=torch.float64)
    tokens = lm.fact_continuation(fl.Fact("See {} is in", "Space Needle"))
    span = tokens.subject
    ids = torch.tensor([tokens.ids])
    sites = [fl.hooks.Site(layer, fl.hooks.Stream.BLOCK) for layer in range(lm.n_layers)]
    with fl.hooks.record(lm, sites) as states:
        clean = lm.model(ids).logits
    noise = gaussian(lm, fl.tracing.TraceConfig(samples=1), span.stop - span.start, 1.0)
    corrupt = {
        fl.hooks.Site(0, fl.hooks.Stream.EMBED): lambda e: put_noise(e, noise, span, replace=False)
    }
    with fl.hooks.intervene(lm, corrupt):
        assert not torch.allclose(lm.model(ids).logits, clean, atol=1e-3)

    for site, state in states.items():  # every position of any one layer
        with fl.hooks.intervene(lm, corrupt | {site: lambda _, state=state: state}):
            assert torch.equal(lm.model(ids).logits, clean), site


def test_restoring_the_last_state_of_all_gives_the_total_effect(make_model):
    lm = make_model("llama", dtype=torch.float64)
    trace = fl.causal_trace(
        lm, fl.Fact("{} is in", "Rome"), config=fl.tracing.TraceConfig(samples=2)
    )
    assert float(trace.effects["block"][-1, -1]) == pytest.approx(trace.total_effect, abs=1e-7)


def test_the_given_answer_is_followed(make_model):
    lm = make_model("gpt2")
    fact = fl.Fact("{} is in", "Space Needle")
    trace = fl.causal_trace(
        lm, fact, answer="Seattle is nice", config=fl.tracing.TraceConfig(samples=2)
    )
    first = lm.score([fact.prompt], ["Seattle is nice"])[0]
    assert trace.clean_prob == pytest.approx(torch.tensor(first.logprobs[0]).exp().item(), rel=1e-4)


def test_noise_level_comes_from_subject_embeddings(make_model):
    lm = make_model("gpt2")
    facts = [fl.Fact("{} is", "Rome"), fl.Fact("the {} is", "Space Needle")]
    ids = []
    for fact in facts:
        tokens = lm.fact_continuation(fact)
        span = tokens.subject
        ids += tokens.ids[span.start : span.stop]
    expected = lm.embedding.weight.detach()[ids].std().item()
    assert embedding_sigma(lm, facts) == pytest.approx(expected)
    small = fl.tracing.TraceConfig(samples=1, kinds=("block",))
    trace = fl.causal_trace(lm, facts[0], config=small, sigma_facts=facts)
    assert trace.noise_level == pytest.approx(3 * expected, rel=1e-5)
    fixed = small.model_copy(update={"corruption": fl.tracing.GaussianNoise(level=0.7)})
    assert fl.causal_trace(lm, facts[0], config=fixed).noise_level == 0.7


@pytest.mark.slow
def test_the_bundled_model_in_float32(bundled):
    fact = fl.Fact("{} is located in the city of", "The Eiffel Tower")
    some = {"positions": (0, 3, 6, 9), "layers": (0, 14, 29)}
    config = fl.tracing.TraceConfig(samples=4, **some)
    compare(bundled, fact, config, 1e-5, **some)


@pytest.mark.slow
def test_the_bundled_model_in_float64():
    lm = fl.load(device="cpu", dtype="float64")
    fact = fl.Fact("{} is located in the city of", "The Eiffel Tower")
    some = {"positions": (2, 6), "layers": (0, 14)}
    config = fl.tracing.TraceConfig(samples=2, **some)
    compare(lm, fact, config, 1e-6, **some)
