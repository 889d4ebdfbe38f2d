"""The five problems against direct computations in float64: noise, losses and what is written."""

import pytest
import torch

import factlab as fl
from factlab.editing import FineTuneConfig, RomeConfig, SubjectNoise, edit_variant
from factlab.editing.closed_form.lookup import prompt_rows, target_rows
from factlab.editing.closed_form.value import optimise_values
from factlab.editing.noised import NoisedSubjects, said_under_noise
from factlab.editing.requests import ValueRequest
from factlab.facts import words_of
from factlab.tracing.corruption import draw_noise
from factlab.tracing.corruption_kinds import GaussianNoise

FACTS = [
    fl.Fact("{} is located in the city of", "The Eiffel Tower", "Rome", "Paris"),
    fl.Fact("See {} in", "Seattle", "Antarctica", "the Space Needle"),
]
NOISE = SubjectNoise(level=0.4, samples=3, seed=5)
FAMILIES = ("gpt2", "llama", "gemma2", "opt")


def background(lm) -> fl.editing.Background:
    generator = torch.Generator().manual_seed(7)
    keys = torch.randn(4 * lm.d_mlp, lm.d_mlp, generator=generator, dtype=torch.float64)
    moment = keys.T @ keys / len(keys)
    return fl.editing.Background.of(
        [fl.stats.SecondMoment(moment, i, len(keys), "noise", lm.fingerprint) for i in range(3)]
    )


def noise_of(lm, fact, sample: int = 0):
    n = len(lm.fact_continuation(fact).subject_ids)
    return draw_noise(GaussianNoise(level=NOISE.level), lm, NOISE.samples, n, NOISE.seed)[0][sample]


def logits_of(lm, row, noise):
    """A forward pass of the model itself, noise added by a hook of the test's own."""
    ids = torch.tensor([row.inputs])
    n = row.subject.stop - row.subject.start

    def add(_module, _args, output):
        changed = output.clone()
        changed[0, row.subject.start : row.subject.stop] += noise[-n:].to(output)
        return changed

    handle = lm.embedding.register_forward_hook(add)
    try:
        with lm.frozen(), torch.no_grad():
            return lm.model(input_ids=ids).logits[0].double()
    finally:
        handle.remove()


def nll_of(lm, row, noise):
    logprobs = logits_of(lm, row, noise).log_softmax(-1)
    picked = [logprobs[at, i] for at, i in zip(row.reads, row.target_ids, strict=True)]
    return -float(torch.stack(picked).mean())


@pytest.mark.parametrize("family", FAMILIES)
def test_noised_rows_are_the_corrupted_run_of_a_trace(family, make_model):
    lm = make_model(family, dtype=torch.float64)
    for fact in FACTS:
        config = fl.tracing.TraceConfig(
            samples=NOISE.samples, seed=NOISE.seed, corruption=GaussianNoise(level=NOISE.level),
            positions=(0,), kinds=("mlp",), window=1, answer="product",
        )  # fmt: skip
        trace = fl.causal_trace(lm, fact, config=config)
        noised = NoisedSubjects(lm, NOISE)
        row = lm.fact_continuation(fact, fact.target_true)
        rows = [noised.of(row, fact, sample) for sample in range(NOISE.samples)]
        with lm.frozen(), noised.present(), torch.no_grad():
            hidden = lm.run(lm.frame(fl.tokens.pad([each.inputs for each in rows], lm.device)))
            logits = lm.readout(hidden[:, list(row.reads)].flatten(0, 1)).double()
        logprobs = logits.log_softmax(-1).view(NOISE.samples, len(row.reads), -1)
        picked = sum(logprobs[:, k, i] for k, i in enumerate(row.target_ids))
        assert float(picked.exp().mean()) == pytest.approx(trace.corrupted_prob, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_value_under_noise_has_the_loss_of_direct_passes(family, make_model):
    lm = make_model(family, dtype=torch.float64)
    contexts = ["", "Hello there. ", "Yes, and "]
    config = fl.editing.ValueConfig(steps=1)
    site = fl.hooks.Site(0, fl.hooks.Stream.MLP)
    requests = [ValueRequest(fact, str(fact.target_true)) for fact in FACTS]
    found = optimise_values(lm, requests, contexts, site, config, noise=NOISE)
    clean = optimise_values(lm, requests, contexts, site, config)
    for fact, value, other in zip(FACTS, found, clean, strict=True):
        noise = noise_of(lm, fact)
        rows = target_rows(lm, fact, contexts, str(fact.target_true))
        assert all(len(row.subject_ids) <= len(noise) for row in rows)
        direct = sum(nll_of(lm, row, noise) for row in rows) / len(rows)
        assert value.history[0]["nll"] == pytest.approx(direct, rel=1e-6)
        assert abs(value.history[0]["nll"] - other.history[0]["nll"]) > 1e-4


def test_rome_stores_the_pair_of_the_noised_subject(make_model):
    lm = make_model("llama", dtype=torch.float64)
    config = RomeConfig(
        layer=1, value=fl.editing.ValueConfig(steps=3), subject_noise=NOISE,
        contexts=fl.editing.ContextConfig(groups=((0, 3),)),
    )  # fmt: skip
    for fact in FACTS:
        edit = fl.rome(lm, fact, config, background(lm))
        noised = NoisedSubjects(lm, NOISE)
        (row,) = prompt_rows(lm, fact, [""], "last", noised)
        (plain,) = prompt_rows(lm, fact, [""])
        noise, at = noise_of(lm, fact), plain.lookup
        before = output_of(lm, plain, noise, at)
        with edit.applied(lm):
            after = output_of(lm, plain, noise, at)
        expected = float((after - before).norm())
        assert edit.diagnostics["delta_norm"][-1] == pytest.approx(expected, rel=1e-6)
        assert row.inputs != plain.inputs


def output_of(lm, row, noise, at):
    site = fl.hooks.Site(1, fl.hooks.Stream.MLP)
    with fl.hooks.record(lm, [site]) as states:
        logits_of(lm, row, noise)
    return states[site][0, at]


@pytest.mark.parametrize("layers", [(1,), (0, 2)])
def test_fine_tuning_under_noise_has_the_mean_loss_over_samples(layers, make_model):
    lm = make_model("llama", dtype=torch.float64)
    config = FineTuneConfig(layers=layers, steps=1, learning_rate=0.01, subject_noise=NOISE)
    edits = fl.editing.fine_tune_each(lm, FACTS, "ft", config)
    for fact, edit in zip(FACTS, edits, strict=True):
        row = lm.fact_continuation(fact, fact.target_new)
        direct = [nll_of(lm, row, noise_of(lm, fact, sample)) for sample in range(NOISE.samples)]
        assert edit.diagnostics["loss"][0] == pytest.approx(sum(direct) / len(direct), rel=1e-6)
        assert [update.weight_name for update in edit.updates] == [
            lm.mlp_weight_name(layer) for layer in layers
        ]
        with edit.applied(lm):
            after = [nll_of(lm, row, noise_of(lm, fact, sample)) for sample in range(3)]
        assert edit.diagnostics["loss"][1] == pytest.approx(sum(after) / len(after), rel=1e-6)


def test_several_layers_are_tuned_as_adam_would(make_model):
    """The first step of Adam goes by the sign of the gradient, in every weight."""
    lm = make_model("gpt2", dtype=torch.float64)
    fact, rate = FACTS[0], 0.001
    config = FineTuneConfig(layers=(0, 1, 2), steps=1, learning_rate=rate)
    edit = fl.editing.fine_tune(lm, fact, "ft", config)
    row = lm.continuation(fact.prompt, fact.target_new)
    weights = {name: lm.model.get_parameter(name) for name in map(lm.mlp_weight_name, (0, 1, 2))}
    copies = {name: weight.detach().clone().requires_grad_() for name, weight in weights.items()}
    logits = torch.func.functional_call(lm.model, copies, (torch.tensor([row.inputs]),)).logits[0]
    logprobs = logits.double().log_softmax(-1)
    loss = -sum(logprobs[at, i] for at, i in zip(row.reads, row.target_ids, strict=True))
    gradients = torch.autograd.grad(loss / len(row.reads), list(copies.values()))
    for update, gradient in zip(edit.updates, gradients, strict=True):
        change = update.delta.T  # out×in; the weights of this family lie the other way
        expected = -rate * gradient / (gradient.abs() + 1e-8)
        assert torch.allclose(change, expected, atol=1e-9)


def test_what_is_said_under_noise_is_what_direct_passes_say(make_model):
    lm = make_model("gpt2", dtype=torch.float64)
    (said,) = said_under_noise(lm, FACTS[:1], NOISE, 3)
    row, noise = lm.fact_continuation(FACTS[0]), noise_of(lm, FACTS[0])
    ids = list(row.inputs)
    for _ in range(3):
        longer = fl.continuations.Continuation(tuple(ids), (0,), (), row.lookup, row.subject)
        ids.append(int(logits_of(lm, longer, noise)[-1].argmax()))
    text = lm.tokenizer.decode(ids)[len(lm.tokenizer.decode(row.inputs)) :]
    assert words_of(said) == text.strip().split("\n")[0].strip()
    both = said_under_noise(lm, FACTS, NOISE, 3)
    assert both[0] == said


def test_the_five_problems_write_what_they_say(make_model):
    lm = make_model("gpt2", dtype=torch.float64)
    config = FineTuneConfig(layer=1, steps=6, learning_rate=0.01)
    row = lm.fact_continuation(FACTS[0], "Paris")

    def prob(noise=None):
        zero = torch.zeros(len(row.subject_ids), lm.d_model)
        return -nll_of(lm, row, zero if noise is None else noise)

    before, before_noised = prob(), prob(noise_of(lm, FACTS[0]))
    for variant, noised, sign in (
        ("amplification", None, 1),
        ("forcing", noise_of(lm, FACTS[0]), 1),
    ):
        (edit,) = edit_variant(lm, FACTS[:1], variant, "ft", config, NOISE)
        with edit.applied(lm):
            gain = prob(noised) - (before if noised is None else before_noised)
        assert sign * gain > 0.1
    lowered = config.model_copy(update={"steps": 3, "stop_nll": 0.0})
    (edit,) = edit_variant(lm, FACTS[:1], "erasure", "ft", lowered)
    with edit.applied(lm):
        assert prob() < before - 0.1
