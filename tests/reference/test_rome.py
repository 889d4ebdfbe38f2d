"""ROME against slow, obviously right versions, on every family in float64."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import factlab as fl
from factlab.editing.closed_form.lookup import keys_and_outputs, prompt_rows
from factlab.editing.closed_form.rank_one import rank_one_factors
from factlab.editing.closed_form.value import OptimisedValue, optimise_values
from factlab.editing.configs import ContextConfig, ValueConfig
from factlab.editing.contexts import context_weights
from factlab.editing.methods import METHODS
from factlab.editing.requests import ValueRequest
from factlab.errors import (
    EditError,
    InvalidRequestError,
    StatisticsError,
    TokenizationError,
    WrongModelError,
)
from factlab.hooks import Site, Stream
from factlab.models.changes.update import DenseUpdate
from model_families import FAMILIES, HABITS, SINGLE_INSIDE

FACT = fl.Fact("Is {} in the city of", "the Space Needle", "Rome and Paris", "Seattle")
CONTEXTS = ["", "Where is it? ", "A museum, a tower. "]


def some_moment(lm, layer: int = 1) -> fl.stats.SecondMoment:
    generator = torch.Generator().manual_seed(7)
    keys = torch.randn(4 * lm.d_mlp, lm.d_mlp, generator=generator, dtype=torch.float64)
    return fl.stats.SecondMoment(
        keys.T @ keys / len(keys), layer, len(keys), "noise", lm.fingerprint
    )


def background(moment: fl.stats.SecondMoment) -> fl.editing.Background:
    return fl.editing.Background.of([moment])


def optimise_value(lm, fact, target, contexts, site, config) -> OptimisedValue:
    return optimise_values(lm, [ValueRequest(fact, target)], contexts, site, config)[0]


def slow_losses(lm, contexts, site, config: ValueConfig) -> tuple[list[float], Tensor]:
    """Equation 4 row by row with full forward passes, all logits, and a plain torch hook."""
    path = f"{lm.layers.anatomy.layers}.{site.layer}"
    if site.stream is Stream.MLP:
        path += f".{lm.layers.anatomy.parts[site.layer].mlp.output}"
    module = lm.model.get_submodule(path)
    delta = torch.zeros(lm.d_model, dtype=torch.float64, requires_grad=True)
    place = 0

    def add(_module, _args, out):
        state = out[0] if isinstance(out, tuple) else out
        moved = state.clone()
        (moved if moved.ndim == 2 else moved[0])[place] += delta
        return (moved, *out[1:]) if isinstance(out, tuple) else moved

    def logprobs(ids: list[int], position: int, edited: bool) -> Tensor:
        nonlocal place
        place = position
        handle = module.register_forward_hook(add) if edited else None
        try:
            return lm.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        finally:
            if handle:
                handle.remove()

    rows = prompt_rows(lm, FACT, contexts)
    target = [*lm.tokenizer(" " + FACT.target_new, add_special_tokens=False)["input_ids"]]
    essence = [prompt_rows(lm, fl.Fact(p, FACT.subject), [""])[0] for p in config.essence]
    reads = [-1 if config.kl_position == "essence_end" else row.lookup for row in essence]
    unedited = [
        logprobs(list(row.ids), row.lookup, edited=False)[read].detach()
        for row, read in zip(essence, reads, strict=True)
    ]
    own = logprobs(list(rows[0].ids), rows[0].lookup, edited=False)[-1].detach().exp()
    shares = [float(torch.minimum(own, each.exp()).sum()) for each in unedited]
    weights = [1.0] if len(essence) == 1 else [1 - share for share in shares]
    captured: list[Tensor] = []
    handle = module.register_forward_hook(
        lambda *a: captured.append((a[2][0] if isinstance(a[2], tuple) else a[2]).clone())
    )
    lm.model(torch.tensor([rows[0].ids]))
    handle.remove()
    initial = captured[0].reshape(-1, lm.d_model)[rows[0].lookup].norm().item()

    optimiser = torch.optim.Adam([delta], lr=config.learning_rate)
    last = torch.zeros_like(delta)
    losses = []
    for step in range(config.steps):
        nlls = []
        for row in rows:
            lp = logprobs([*row.ids, *target], row.lookup, edited=True)
            n = len(row.ids)
            nlls.append(-sum(lp[n - 1 + i, t] for i, t in enumerate(target)) / len(target))
        kl = torch.zeros((), dtype=torch.float64)
        for row, read, reference, weight in zip(essence, reads, unedited, weights, strict=True):
            edited = logprobs(list(row.ids), row.lookup, edited=True)[read]
            kl = kl + weight * (edited.exp() * (edited - reference)).sum() / len(essence)
        decay = config.weight_decay * delta.norm() / initial**2
        loss: Tensor = sum(nlls) / len(nlls) + config.kl_factor * kl + decay
        losses.append(loss.item())
        if loss < config.stop_loss or step == config.steps - 1:
            break
        optimiser.zero_grad()
        loss.backward()
        if config.step_rule == "adam":
            optimiser.step()
        with torch.no_grad():
            if config.step_rule == "polyak":
                slope = delta.grad.norm()
                length = min(loss.item() / slope.item(), config.largest_step * initial)
                last = config.momentum * last - length * delta.grad / slope
                delta += last
            if delta.norm() > config.clamp_factor * initial:
                delta *= config.clamp_factor * initial / delta.norm()
    lm.model.zero_grad(set_to_none=True)
    return losses, delta.detach()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("stream", "rule", "kl_position"),
    [
        (Stream.MLP, "adam", "essence_end"),
        (Stream.MLP, "polyak", "subject_end"),
        (Stream.BLOCK, "polyak", "essence_end"),
    ],
)
def test_the_value_is_optimised_as_by_full_forward_passes(
    make_model, family, stream, rule, kl_position
):
    lm = make_model(family, dtype=torch.float64, add_bos=family in ("llama", "opt"))
    config = ValueConfig(
        steps=5, learning_rate=0.1, clamp_factor=0.4, kl_factor=0.5, kl_position=kl_position,
        step_rule=rule, weight_decay=0.5, stop_nll=0,
    )  # fmt: skip
    # Layer 0, so that layers with a sliding window do not hide the subject from the target.
    site = Site(0, stream)
    fast = optimise_value(lm, FACT, FACT.target_new, CONTEXTS, site, config)
    losses, delta = slow_losses(lm, CONTEXTS, site, config)
    assert abs(losses[-1] - losses[0]) > 1e-3, "the test would be empty"
    tolerance = 1e-3 if family in SINGLE_INSIDE else 1e-6
    assert [step["loss"] for step in fast.history] == pytest.approx(losses, abs=tolerance)
    assert torch.allclose(fast.delta, delta, atol=10 * tolerance)
    assert fast.history[-1]["delta_norm"] <= 0.4 * fast.initial_norm * (1 + 1e-9)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("kl_position", ["essence_end", "subject_end"])
def test_several_prompts_hold_what_is_known(make_model, family, kl_position):
    """Each counts by how little it asks for what the fact does; the fact's own not at all."""
    lm = make_model(family, dtype=torch.float64)
    config = ValueConfig(
        steps=5, kl_factor=2, clamp_factor=2, stop_nll=0, kl_position=kl_position,
        essence=("{} is a", "We know that {} was born in", FACT.template),
    )  # fmt: skip
    site = Site(0, Stream.BLOCK)
    fast = optimise_value(lm, FACT, FACT.target_new, CONTEXTS, site, config)
    losses, delta = slow_losses(lm, CONTEXTS, site, config)
    assert [step["loss"] for step in fast.history] == pytest.approx(losses, abs=1e-6)
    assert torch.allclose(fast.delta, delta, atol=1e-5)
    alone = optimise_value(
        lm,
        FACT,
        FACT.target_new,
        CONTEXTS,
        site,
        config.model_copy(update={"essence": ("{} is a",)}),
    )
    assert not torch.allclose(fast.delta, alone.delta, atol=1e-3)


MANY = [
    FACT,
    fl.Fact("{} is", "Rome", "Paris"),
    fl.Fact("In {}, which lies far to the north, people speak", "New York", "Dutch"),
    fl.Fact("We saw {} in", "the Space Needle", "Oslo"),
]


@pytest.mark.parametrize("family", HABITS)
@pytest.mark.parametrize("rule", ["adam", "polyak"])
def test_a_batch_is_each_fact_alone(make_model, family, rule):
    lm = make_model(family, dtype=torch.float64, add_bos=family in ("llama", "opt"))
    requests = [ValueRequest(fact, fact.target_new) for fact in MANY]
    requests.append(ValueRequest(FACT, "Rome", erase=True))
    config = ValueConfig(
        steps=6, learning_rate=0.2, step_rule=rule, clamp_factor=2, stop_loss=0,
        essence=("{} is a", "{} was born in") if rule == "adam" else ("{} is a",),
    )  # fmt: skip
    site = Site(0, Stream.MLP)
    # A stop that some facts reach and others do not.
    free = optimise_values(lm, requests, CONTEXTS, site, config.model_copy(update={"stop_nll": 0}))
    ends = sorted(value.history[3]["nll"] for value in free)
    config = config.model_copy(update={"stop_nll": (ends[1] + ends[2]) / 2})
    together = optimise_values(lm, requests, CONTEXTS, site, config)
    alone = [optimise_values(lm, [request], CONTEXTS, site, config)[0] for request in requests]
    lm.memory_gib = 1e-9
    # Bloom's positional bias is in single precision.
    tolerance = 1e-2 if family in SINGLE_INSIDE else 1e-8
    assert len({len(value.history) for value in together}) > 1
    for others in (
        alone,
        optimise_values(lm, requests, CONTEXTS, site, config),
    ):
        for one, other in zip(together, others, strict=True):
            assert len(one.history) == len(other.history)
            assert torch.allclose(one.delta, other.delta, atol=tolerance)
            assert one.target_prob == pytest.approx(other.target_prob, abs=tolerance)


def test_erasing_lowers_the_probability(make_model):
    lm = make_model("gpt2", dtype=torch.float64, seed=8)  # it says something that can be written
    said = fl.editing.said_before(lm, FACT).target_new
    config = ValueConfig(steps=10, stop_nll=0, clamp_factor=8, stop_loss=0, kl_factor=0)
    request = ValueRequest(FACT, said, erase=True)
    (value,) = optimise_values(lm, [request], [""], Site(0, Stream.MLP), config)
    assert value.target_prob < value.target_prob_before
    assert value.history[-1]["nll"] < value.history[0]["nll"]


def test_it_stops_early(make_model):
    lm = make_model("gpt2")
    fast = optimise_value(lm, FACT, "Rome", [""], Site(1, Stream.MLP), ValueConfig(stop_loss=1e3))
    assert len(fast.history) == 1
    assert fast.target_prob == fast.target_prob_before
    assert float(fast.delta.norm()) == 0


@pytest.mark.parametrize(
    ("family", "square"), [(f, False) for f in FAMILIES] + [(f, True) for f in HABITS]
)
def test_the_new_weight_maps_the_key_to_the_value(make_model, family, square):
    """W' k* == v* through the model's own modules, whatever the layout."""
    lm = make_model(family, dtype=torch.float64, square=square)
    config = fl.editing.RomeConfig(
        layer=0,
        value=ValueConfig(steps=4),
        contexts=ContextConfig(groups=((2, 4),)),
    )
    edit = fl.rome(lm, FACT, config, background(some_moment(lm, layer=0)))
    rows = prompt_rows(lm, FACT, fl.editing.Background().contexts(lm, config.contexts))
    before = keys_and_outputs(lm, rows, 0)
    with edit.applied(lm):
        after = keys_and_outputs(lm, rows, 0)
    assert torch.equal(before.keys, after.keys)
    weights = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    key_change = weights @ (after.outputs - before.outputs)
    contexts = fl.editing.Background().contexts(lm, config.contexts)
    site = Site(0, Stream.MLP)
    delta = optimise_value(lm, FACT, FACT.target_new, contexts, site, config.value).delta
    assert torch.allclose(key_change, delta, atol=1e-9)
    assert float(delta.norm()) > 0.1
    (update,) = edit.updates
    assert update.rank == 1
    dense = update.patched(lm.mlp_weight(0)) - lm.mlp_weight(0).detach()
    assert torch.linalg.matrix_rank(dense, rtol=1e-9) == 1
    if lm.mlp_layout == "in_out":
        dense = dense.T
    assert torch.allclose(dense @ (weights @ before.keys), key_change, atol=1e-9)
    assert update.norm == pytest.approx(float(dense.norm()))


def test_the_change_is_the_smallest_in_the_metric_of_c():
    """Against the solution of the constrained problem by a dense KKT system, and random rivals."""
    generator = torch.Generator().manual_seed(0)
    n, m = 6, 4
    keys = torch.randn(50, n, generator=generator, dtype=torch.float64)
    second = keys.T @ keys / 50
    weight = torch.randn(m, n, generator=generator, dtype=torch.float64)
    key = torch.randn(n, generator=generator, dtype=torch.float64)
    value = torch.randn(m, generator=generator, dtype=torch.float64)
    moment = fl.stats.SecondMoment(second, 0, 50, "noise", "")
    left, right = rank_one_factors(key, value, weight @ key, moment.solve(key[None])[0])
    change = left @ right
    assert torch.allclose((weight + change) @ key, value, atol=1e-12)

    # Row by row: minimise d C dᵀ subject to d·k = r. KKT: [2C k; kᵀ 0] [d; λ] = [0; r].
    kkt = torch.zeros(n + 1, n + 1, dtype=torch.float64)
    kkt[:n, :n], kkt[:n, n], kkt[n, :n] = 2 * second, key, key
    rhs = torch.zeros(n + 1, m, dtype=torch.float64)
    rhs[n] = value - weight @ key
    assert torch.allclose(change, torch.linalg.solve(kkt, rhs)[:n].T, atol=1e-10)

    def cost(d):
        return float((d @ second @ d.T).trace())

    for _ in range(50):
        rival = torch.randn(m, n, generator=generator, dtype=torch.float64)
        rival -= torch.outer(rival @ key, key) / (key @ key)
        assert cost(change + 0.1 * rival) > cost(change)


MORE = [
    FACT,
    fl.Fact("{} stands in", "The old mill", "Oslo", "Bergen"),
    fl.Fact("The language of {} is", "Ana", "Greek", "Dutch"),
]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("n_facts", [1, 3])
def test_several_facts_are_stored_one_after_the_other(make_model, legacy, n_facts):
    lm = make_model("gpt2", dtype=torch.float64)
    moment = some_moment(lm)
    config = fl.editing.RomeConfig(layer=1, value=ValueConfig(steps=4), legacy=legacy,
                                   contexts=ContextConfig(groups=((2, 4),)))  # fmt: skip
    given, facts = background(moment), MORE[:n_facts]
    together = METHODS["rome"].together(lm, facts, config, given)
    alone = fl.editing.rome_each(lm, facts, config, given)
    contexts = given.contexts(lm, config.contexts)
    weighting = config.contexts.model_copy(update={"bare_weight": None} if legacy else {})
    weights = context_weights(weighting, len(contexts))
    memory = first = lm.mlp_weight(1).detach().T  # GPT-2 keeps (in, out)
    for fact, edit in zip(facts, alone, strict=True):
        keys = keys_and_outputs(lm, prompt_rows(lm, fact, contexts), 1).keys
        mean, bare = weights @ keys, keys[0]
        key = bare if legacy else mean
        change = edit.updates[0].left @ edit.updates[0].right  # of the memory as it was
        value = (first + change) @ key
        direction = torch.linalg.solve(moment.matrix, mean)
        memory = memory + torch.outer(value - memory @ key, direction) / (direction @ key)
    (update,) = together.updates
    assert torch.allclose(update.left @ update.right, memory - first, atol=1e-9)
    assert together.facts == tuple(facts)
    if n_facts == 1:
        assert torch.equal(update.left, alone[0].updates[0].left)
        assert together.diagnostics == alone[0].diagnostics
    else:
        assert (memory - first - change).norm() > 1e-3
        for told, edit in zip(together.diagnostics["facts"], alone, strict=True):
            assert edit.diagnostics.items() >= told.items()


def test_more_facts_than_dimensions_make_one_dense_change(make_model):
    lm = make_model("llama", dtype=torch.float64)
    config = fl.editing.RomeConfig(
        layer=1, value=ValueConfig(steps=1), contexts=ContextConfig(groups=())
    )
    facts = [fl.Fact("{} stands in", f"Tower {n}", "Oslo") for n in range(lm.d_model + 1)]
    edit = METHODS["rome"].together(lm, facts, config, background(some_moment(lm)))
    assert isinstance(edit.updates[0], DenseUpdate)
    rows = prompt_rows(lm, facts[-1], [""])
    before = keys_and_outputs(lm, rows, 1).outputs[0]
    with edit.applied(lm):
        moved = keys_and_outputs(lm, rows, 1).outputs[0] - before
    delta = edit.diagnostics["facts"][-1]["delta_norm"][-1]
    assert float(moved.norm()) == pytest.approx(delta, rel=1e-6)  # the last one holds exactly


def test_contradicting_facts_are_not_written_together(make_model):
    lm = make_model("llama")
    other = replace(FACT, target_new="Oslo")
    with pytest.raises(InvalidRequestError, match="Conflicts between facts"):
        METHODS["rome"].together(lm, [FACT, other])


def test_legacy_uses_the_bare_key_where_the_original_code_does(make_model):
    lm = make_model("gpt2", dtype=torch.float64)
    shared = {
        "layer": 1,
        "value": ValueConfig(steps=3),
        "contexts": ContextConfig(groups=((3, 4),)),
    }
    moment = some_moment(lm)
    edit = fl.rome(lm, FACT, fl.editing.RomeConfig(**shared, legacy=True), background(moment))
    rows = prompt_rows(
        lm, FACT, fl.editing.Background().contexts(lm, ContextConfig(groups=((3, 4),)))
    )
    found = keys_and_outputs(lm, rows, 1)
    (update,) = edit.updates
    expected = moment.solve(found.keys.mean(0)[None])[0]
    assert torch.allclose(update.right[0], expected / expected.norm(), atol=1e-10)
    moved = update.left @ update.right @ found.keys[0]
    contexts = fl.editing.Background().contexts(lm, ContextConfig(groups=((3, 4),)))
    delta = optimise_value(
        lm, FACT, FACT.target_new, contexts, Site(1, Stream.MLP), shared["value"]
    ).delta
    assert torch.allclose(moved, delta, atol=1e-9)
    assert (
        edit.updates[0].digest
        != fl.rome(lm, FACT, fl.editing.RomeConfig(**shared), background(moment)).updates[0].digest
    )


def test_weights_of_the_mean_key():
    assert context_weights(ContextConfig(), 5).tolist() == [0.5, 0.125, 0.125, 0.125, 0.125]
    assert context_weights(ContextConfig(bare_weight=None), 4).tolist() == [0.25] * 4
    assert context_weights(ContextConfig(), 1).tolist() == [1.0]


def test_same_seed_same_bytes(make_model, tmp_path):
    lm = make_model("llama")
    config = fl.editing.RomeConfig(
        layer=1, value=ValueConfig(steps=3), contexts=ContextConfig(groups=((2, 4),))
    )
    for name in "ab":
        fl.rome(lm, FACT, config, background(some_moment(lm))).save(tmp_path / name)
    for file in ("edit.json", "edit.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_are_edited(make_model, dtype):
    lm = make_model("llama", dtype=dtype)
    config = fl.editing.RomeConfig(layer=1, contexts=ContextConfig(groups=((2, 4),)))
    edit = fl.rome(lm, FACT, config, background(some_moment(lm)))
    assert edit.updates[0].left.dtype == torch.float32
    assert edit.diagnostics["nll"][-1] < edit.diagnostics["nll"][0] - 0.1
    rows = prompt_rows(lm, FACT, fl.editing.Background().contexts(lm, config.contexts))
    before = keys_and_outputs(lm, rows, 1).outputs
    with edit.applied(lm):
        moved = (keys_and_outputs(lm, rows, 1).outputs - before).float()
    moved = (torch.tensor([0.5, 0.25, 0.25]) @ moved).norm()
    assert float(moved) == pytest.approx(edit.diagnostics["delta_norm"][-1], rel=0.05)


def test_a_model_without_a_preset_gets_a_layer_from_a_trace(make_model, caplog):
    lm = make_model("llama")
    config = fl.editing.RomeConfig(value=ValueConfig(steps=2), contexts=ContextConfig(groups=()),
                           stats=fl.stats.StatsConfig(tokens_per_dim=4, row_length=16))  # fmt: skip
    edit = fl.rome(lm, FACT, config)
    assert edit.diagnostics["layer_source"] == "causal trace of this fact"
    assert f"layer {edit.config['layer']} (several layers:" in caplog.text
    trace = fl.causal_trace(lm, FACT, config=fl.tracing.TraceConfig(window=1))
    at_subject = trace.effects["mlp"][trace.subject_span.last]
    assert len(set(at_subject.tolist())) == lm.n_layers
    assert edit.config["layer"] == int(at_subject.argmax())


def test_a_target_that_merges_with_the_subject_is_refused():
    lm = fl.models.tiny_model("gpt2")
    lm.tokenizer.add_tokens(["東京"])
    lm.model.resize_token_embeddings(len(lm.tokenizer))
    lm = fl.LanguageModel(lm.model, lm.tokenizer)
    merged = fl.Fact("我在{}", "東", "京")
    with pytest.raises(TokenizationError, match="end of the subject and the target merge"):
        fl.rome(lm, merged, fl.editing.RomeConfig(layer=1), background(some_moment(lm)))


def test_requests_that_make_no_sense(make_model):
    lm = make_model("gpt2")
    with pytest.raises(InvalidRequestError, match="no target_new"):
        fl.rome(lm, fl.Fact("{} is in", "Rome"))
    with pytest.raises(InvalidRequestError, match="Layer 9 is out of range"):
        fl.rome(lm, FACT, fl.editing.RomeConfig(layer=9))
    with pytest.raises(InvalidRequestError, match="statistics are of layer 0"):
        fl.rome(lm, FACT, fl.editing.RomeConfig(layer=1), background(some_moment(lm, layer=0)))
    with pytest.raises(WrongModelError, match="collected on a model with fingerprint"):
        fl.rome(
            lm,
            FACT,
            fl.editing.RomeConfig(layer=1),
            background(some_moment(make_model("gpt2", seed=3))),
        )
    flat = fl.stats.SecondMoment(
        torch.ones(56, 56, dtype=torch.float64), 1, 1, "one", lm.fingerprint
    )
    with pytest.raises(StatisticsError, match="layer 1 is singular: 1 tokens"):
        fl.rome(lm, FACT, fl.editing.RomeConfig(layer=1), background(flat))


def test_a_zero_key_is_refused():
    zero, value = torch.zeros(3), torch.ones(3)
    with pytest.raises(EditError, match="has no component"):
        rank_one_factors(zero, value, zero, value)


def _said_everywhere(lm, fact: fl.Fact, layer: int, delta: Tensor) -> bool:
    """By full forward passes with a plain hook: is every token of the target the most probable?"""
    target = [*lm.tokenizer(" " + fact.target_new, add_special_tokens=False)["input_ids"]]
    said = []
    for row in prompt_rows(lm, fact, CONTEXTS):

        def add(_module, _args, out, place=row.lookup):
            out = out.clone()
            out[0, place] += delta
            return out

        memory = lm.model.get_submodule(lm.layers.memory_name(layer).removesuffix(".weight"))
        handle = memory.register_forward_hook(add)
        ids = [*row.ids, *target]
        logits = lm.model(torch.tensor([ids])).logits[0, len(row.ids) - 1 : -1]
        handle.remove()
        said.append(logits.argmax(-1).tolist() == target)
    return all(said)


def test_one_step_after_the_target_is_said(make_model):
    lm = make_model("llama", dtype=torch.float64)
    site = Site(1, Stream.MLP)
    free = ValueConfig(
        steps=12, stop_nll=0, stop_loss=0, clamp_factor=500, kl_factor=0, largest_step=1.0
    )
    facts = [fl.Fact("We saw {}", "Rome", "the"), fl.Fact("People of {}", "New York", "people")]
    requests = [ValueRequest(fact, fact.target_new) for fact in facts]
    # To be said is no reason to stop taking it out.
    requests.append(ValueRequest(facts[0], lm.top_tokens("We saw Rome", 1)[0][0], erase=True))
    stopping = free.model_copy(update={"stop_when_said": True})
    *written, erased = optimise_values(lm, requests, CONTEXTS, site, stopping)
    assert len(erased.history) == free.steps
    assert len(written[0].history) != len(written[1].history)
    for fact, value in zip(facts, written, strict=True):
        # δ that is evaluated in step n is where a descent of n steps ends.
        deltas = [
            optimise_value(
                lm, fact, fact.target_new, CONTEXTS, site, free.model_copy(update={"steps": n})
            ).delta
            for n in range(1, len(value.history) + 1)
        ]
        said = [_said_everywhere(lm, fact, site.layer, delta) for delta in deltas]
        assert said.index(True) == len(said) - 2
        assert torch.allclose(value.delta, deltas[-1], atol=1e-9)


@pytest.mark.parametrize("prompts", [(), ("Rome is a",), ("{} and {} are",)])
def test_an_essence_prompt_has_one_place_for_the_subject(prompts):
    with pytest.raises((InvalidRequestError, ValueError), match=r"essence|\{\} once"):
        ValueConfig(essence=prompts)
    assert "essence" not in ValueConfig().model_dump(), "what was begun before goes on"
    assert len(ValueConfig(essence="several").essence) == 5
    assert ValueConfig(essence=["{} was"]).model_dump()["essence"] == ("{} was",)
