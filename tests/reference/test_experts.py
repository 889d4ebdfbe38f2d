"""Edits of mixtures of experts against slow, obviously right versions, in float64."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn

import factlab as fl
from factlab.editing.closed_form.lookup import keys_and_outputs, prompt_rows
from factlab.editing.configs import ContextConfig, ValueConfig
from factlab.editing.contexts import context_weights
from factlab.errors import UnsupportedModelError
from factlab.models.changes.carried import carrying, row_changes
from factlab.models.tiny import tiny_model
from factlab.stats.collect import collect_second_moments
from factlab.stats.corpus import Corpus, corpus_from_texts
from factlab.tokens import pad

FAMILIES = ["mixtral", "qwen2_moe", "gpt_oss", "llama4_text", "deepseek_v3"]
FACT = fl.Fact("Is {} in the city of", "the Space Needle", "Rome and Paris", "Seattle")
FACTS = [FACT, fl.Fact("{} is", "Rome", "Paris"), fl.Fact("We saw {} in", "the Louvre", "Oslo")]
TEXTS = [
    "The tower is in the city of Paris, and the river runs to the sea.",
    "We saw the Louvre in winter; nobody knows why it was closed that day.",
    "Rome was not built in a day. Is the Space Needle in Seattle or in Rome?",
]
CONTEXTS = ContextConfig(groups=((3, 4),))


@pytest.fixture(scope="module", params=FAMILIES)
def lm(request):
    return tiny_model(request.param, dtype=torch.float64)


def mixed(lm) -> int:
    return next(i for i in range(lm.n_layers) if lm.layers.mixture(i) is not None)


def noise(lm, layer: int) -> fl.stats.ExpertMoments:
    """Blocks of full rank, of a different scale for each expert."""
    mixture, generator = lm.layers.mixture(layer), torch.Generator().manual_seed(7)
    n, d = mixture.n_experts, mixture.d_expert
    keys = torch.randn(n, 4 * d, d, generator=generator, dtype=torch.float64)
    blocks = (
        keys.mT @ keys / (4 * d) * torch.linspace(0.5, 2, n, dtype=torch.float64)[:, None, None]
    )
    return fl.stats.ExpertMoments(
        blocks, torch.full((n,), 4 * d), layer, 4 * d, "noise", lm.fingerprint
    )


@cache
def background(lm, layer: int) -> fl.editing.Background:
    """Kept, so that contexts are sampled once."""
    return fl.editing.Background.of([noise(lm, layer)])


def rome_config(layer: int, **more) -> fl.editing.RomeConfig:
    return fl.editing.RomeConfig(
        layer=layer, value=ValueConfig(steps=2), contexts=CONTEXTS, **more
    )  # fmt: skip


def slow_keys(lm, ids: list[int], layer: int) -> Tensor:
    """Stacked keys of all tokens: a loop over tokens and experts, with formulas written out."""
    mixture = lm.layers.mixture(layer)
    experts = lm.layer(layer).get_submodule(mixture.path)
    seen: list = []
    handle = experts.register_forward_pre_hook(
        lambda _m, args, kwargs: seen.append([*args, *kwargs.values()]), with_kwargs=True
    )
    lm.model(torch.tensor([ids]))
    handle.remove()
    inputs, *routing = seen[0]
    stacked = torch.zeros(len(ids), mixture.n_experts, mixture.d_expert, dtype=torch.float64)
    for token in range(len(ids)):
        if lm.family == "llama4_text":
            for e in range(mixture.n_experts):
                gate, up = (inputs[e * len(ids) + token] @ experts.gate_up_proj[e]).chunk(2)
                stacked[token, e] = nn.functional.silu(gate) * up
            continue
        for e, weight in zip(routing[0][token].tolist(), routing[1][token], strict=True):
            if lm.family == "gpt_oss":
                both = inputs[token] @ experts.gate_up_proj[e] + experts.gate_up_proj_bias[e]
                gate = both[::2].clamp(max=experts.limit)
                up = both[1::2].clamp(-experts.limit, experts.limit)
                key = (up + 1) * gate * torch.sigmoid(gate * experts.alpha)
            else:
                gate, up = (experts.gate_up_proj[e] @ inputs[token]).chunk(2)
                key = nn.functional.silu(gate) * up
            stacked[token, e] = weight * key
    return stacked.flatten(1).detach()


def lookups(lm, layer: int):
    contexts = background(lm, layer).contexts(lm, CONTEXTS)
    rows = prompt_rows(lm, FACT, contexts)
    return rows, context_weights(CONTEXTS, len(contexts)), keys_and_outputs(lm, rows, layer)


def test_stacked_keys_are_those_of_a_loop_over_experts(lm):
    for layer in range(lm.n_layers):
        if lm.layers.mixture(layer) is None:
            continue
        rows, _, found = lookups(lm, layer)
        assert found.keys.shape == (len(rows), lm.layers.d_mlp(layer))
        for row, key, output in zip(rows, found.keys, found.outputs, strict=True):
            slow = slow_keys(lm, list(row.ids), layer)[row.lookup]
            assert torch.allclose(key, slow, atol=1e-12)
            assert output.shape == (lm.d_model,)


@pytest.mark.parametrize("experts", ["active", "top"])
def test_the_output_at_the_key_moves_by_delta_and_back_to_the_bit(lm, experts):
    layer = mixed(lm)
    rows, weights, before = lookups(lm, layer)
    edit = fl.rome(lm, FACT, rome_config(layer, experts=experts), background(lm, layer))
    weight = lm.model.get_parameter(lm.layers.memory_name(layer))
    original = weight.detach().clone()
    with edit.applied(lm):
        after = keys_and_outputs(lm, rows, layer)
        (update,) = edit.updates
        changed = (weight != original).flatten(1).any(1).nonzero().flatten().tolist()
        assert changed == update.numbers
    assert torch.equal(weight, original)
    assert torch.equal(before.keys, after.keys)
    moved = weights @ (after.outputs - before.outputs)
    delta = edit.updates[0].left[:, 0]
    assert float(moved.norm()) == pytest.approx(edit.diagnostics["delta_norm"][-1], abs=1e-9)
    assert float(moved.norm()) > 0.1
    assert float(moved @ delta / moved.norm() / delta.norm()) == pytest.approx(1, abs=1e-9)
    told = edit.diagnostics["experts"]
    assert sum(each["share"] for each in told) == pytest.approx(1, abs=1e-9)
    assert (len(update.numbers) == 1) == (experts == "top" or len(told) == 1)
    if lm.family == "gpt_oss":
        assert sum(each["weight"] for each in told) == pytest.approx(1, abs=1e-9)


def test_the_change_is_the_smallest_in_the_metric_of_the_blocks(lm):
    layer = mixed(lm)
    mixture, moment = lm.layers.mixture(layer), noise(lm, layer)
    _, weights, found = lookups(lm, layer)
    key = weights @ found.keys
    edit = fl.rome(lm, FACT, rome_config(layer), background(lm, layer))
    (update,) = edit.updates
    stacked = torch.zeros(mixture.n_experts, lm.d_model, mixture.d_expert, dtype=torch.float64)
    for expert in update.numbers:
        left, right = update.of(expert)
        stacked[expert] = left @ right

    def cost(blocks):
        return float(torch.einsum("eoi,eij,eoj->", blocks, moment.blocks, blocks))

    def moves(blocks):
        return torch.einsum("eoi,ei->o", blocks, key.view(mixture.n_experts, -1))

    # The stacked problem as one: C⁻¹ κ by a dense inverse of the block-diagonal matrix.
    dense = torch.block_diag(*moment.blocks)
    direction = torch.linalg.solve(dense, key)
    expected = torch.outer(moves(stacked), direction / (direction @ key))
    flat = stacked.transpose(0, 1).flatten(1)
    assert torch.allclose(flat, expected, atol=1e-9)
    # The share of each is κ_eᵀ C_e⁻¹ κ_e / s.
    shares = (key * direction).view(mixture.n_experts, -1).sum(1) / (key @ direction)
    for told in edit.diagnostics["experts"]:
        assert told["share"] == pytest.approx(float(shares[told["expert"]]), abs=1e-9)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        rival = torch.randn(stacked.shape, generator=generator, dtype=torch.float64)
        excess = torch.einsum("o,ei->eoi", moves(rival), key.view(mixture.n_experts, -1))
        rival -= excess / (key @ key)
        assert torch.allclose(moves(stacked + 0.1 * rival), moves(stacked), atol=1e-9)
        assert cost(stacked + 0.1 * rival) > cost(stacked)


def test_statistics_are_one_sum_whatever_the_chunks(lm):
    layer = mixed(lm)
    mixture = lm.layers.mixture(layer)
    corpus = corpus_from_texts(lm, TEXTS, "three texts", 100, 16)
    keys = torch.cat([slow_keys(lm, list(row), layer) for row in corpus.rows])
    blocks = keys.view(len(keys), mixture.n_experts, -1)
    expected = torch.einsum("tei,tej->eij", blocks, blocks) / len(keys)
    counts = blocks.any(-1).sum(0)
    for gib in (1e-9, 1):
        lm.memory_gib = gib
        moment = collect_second_moments(lm, [layer], corpus)[layer]
        # Llama 4's router has its sigmoid in single precision.
        atol = 1e-6 if lm.family == "llama4_text" else 1e-13
        assert torch.allclose(moment.blocks, expected, atol=atol)
        assert moment.counts.tolist() == counts.tolist()
        assert moment.n_tokens == len(keys) == corpus.n_tokens
    lm.memory_gib = None


def test_many_facts_are_written_as_in_one_dense_memory(lm):
    """MEMIT and EMMET with stacked keys against their formulas with C as one matrix."""
    layer = mixed(lm)
    dense = torch.block_diag(*noise(lm, layer).blocks)
    contexts = background(lm, layer).contexts(lm, CONTEXTS)
    weights = context_weights(CONTEXTS, len(contexts))
    keys = torch.stack(
        [
            weights @ keys_and_outputs(lm, prompt_rows(lm, fact, contexts), layer).keys
            for fact in FACTS
        ]
    )
    shared = {"layers": (layer,), "value": ValueConfig(steps=3), "contexts": CONTEXTS}
    memit = fl.memit(
        lm, FACTS, fl.editing.MemitConfig(**shared, second_moment_weight=2), background(lm, layer)
    )
    emmet = fl.editing.emmet(
        lm, FACTS, fl.editing.EmmetConfig(**shared, damping=0), background(lm, layer)
    )
    first = torch.linalg.solve(2 * dense + keys.T @ keys, keys.T).T
    solved = torch.linalg.solve(dense, keys.T).T
    second = torch.linalg.solve(solved @ keys.T, solved)
    for edit, duals in ((memit, first), (emmet, second)):
        (update,) = edit.updates
        flat = torch.zeros_like(duals).view(len(FACTS), -1, update.shape[1])
        for expert in update.numbers:
            flat[:, expert] = update.of(expert).right
        assert torch.allclose(flat.flatten(1), duals, atol=1e-9)
    rows = prompt_rows(lm, FACTS[1], contexts)
    before = keys_and_outputs(lm, rows, layer).outputs
    with emmet.applied(lm):
        moved = weights @ (keys_and_outputs(lm, rows, layer).outputs - before)
    assert torch.allclose(moved, emmet.updates[0].left[:, 1], atol=1e-9)


def test_a_batch_is_each_fact_alone(lm):
    layer = mixed(lm)
    config, known = rome_config(layer), background(lm, layer)
    together = fl.editing.rome_each(lm, FACTS, config, known)
    for edit, fact in zip(together, FACTS, strict=True):
        alone = fl.rome(lm, fact, config, known).updates[0]
        assert edit.updates[0].numbers == alone.numbers
        assert torch.allclose(edit.updates[0].right, alone.right, atol=1e-8)


def test_rows_carry_what_the_weights_would_be(lm):
    layer = mixed(lm)
    edits = fl.editing.rome_each(lm, FACTS, rome_config(layer), background(lm, layer))
    prompts = [fact.prompt for fact in FACTS]
    whose = [0, 2, 1]
    expected = []
    for prompt, number in zip(prompts, whose, strict=True):
        with edits[number].applied(lm):
            ids = lm.tokenizer(prompt)["input_ids"]
            expected.append(lm.model(torch.tensor([ids])).logits[0, -1].detach())
    batch = pad([tuple(lm.tokenizer(p)["input_ids"]) for p in prompts], lm.device)
    changes = row_changes(lm, [edit.updates for edit in edits])
    with torch.no_grad(), lm.frozen(), carrying(lm, changes, whose):
        states = lm.run(lm.frame(batch))
    ends = [len(lm.tokenizer(p)["input_ids"]) - 1 for p in prompts]
    for row, (end, logits) in enumerate(zip(ends, expected, strict=True)):
        assert torch.allclose(lm.readout(states[row, end][None])[0], logits, atol=1e-9)


def test_several_layers_are_written_from_below(lm):
    layers = [i for i in range(lm.n_layers) if lm.layers.is_memory(i)][:2]
    known = fl.editing.Background.of(
        [
            moment
            for layer in layers
            for moment in (
                [noise(lm, layer)]
                if lm.layers.mixture(layer)
                else collect_second_moments(lm, [layer], wide_corpus(lm)).values()
            )
        ]
    )
    config = fl.editing.EmmetConfig(
        layers=tuple(layers), value=ValueConfig(steps=3), contexts=CONTEXTS
    )
    edit = fl.editing.emmet(lm, FACTS[:2], config, known)
    names = [lm.layers.memory_name(layer) for layer in layers]
    assert [update.weight_name for update in edit.updates] == names
    before = lm.live_fingerprint
    with edit.applied(lm):
        assert lm.live_fingerprint != before
    assert lm.live_fingerprint == before


def wide_corpus(lm) -> Corpus:
    words = [f"{TEXTS[i % 3]} {i * 37 % 101} or {i}" for i in range(60)]
    return corpus_from_texts(lm, words, "words", 1500, 16)


def test_texts_that_are_routed_otherwise_get_a_part_of_delta(lm):
    """How much the output moves elsewhere is κ'ᵀ C⁻¹ κ / s of δ, and 0 without shared experts."""
    layer = mixed(lm)
    mixture, moment = lm.layers.mixture(layer), noise(lm, layer)
    _, weights, found = lookups(lm, layer)
    key = weights @ found.keys
    direction = moment.solve(key[None])[0]
    edit = fl.rome(lm, FACT, rome_config(layer), background(lm, layer))
    active = set(edit.updates[0].numbers)
    others = [row for fact in FACTS[1:] for row in prompt_rows(lm, fact, ["", *TEXTS])]
    before = keys_and_outputs(lm, others, layer)
    with edit.applied(lm):
        moved = keys_and_outputs(lm, others, layer).outputs - before.outputs
    delta = edit.updates[0].left[:, 0] * (edit.updates[0].right.flatten() @ torch.cat(
        [key.view(mixture.n_experts, -1)[expert] for expert in edit.updates[0].numbers]
    ))  # fmt: skip
    parts = before.keys @ direction / (key @ direction)
    assert torch.allclose(moved, torch.outer(parts, delta), atol=1e-9)
    for part, other in zip(parts, before.keys, strict=True):
        sent = set(other.view(mixture.n_experts, -1).any(-1).nonzero().flatten().tolist())
        if not sent & active:
            assert float(part) == 0


@pytest.mark.parametrize("family", ["qwen2_moe", "deepseek_v3", "llama4_text", "ernie4_5_moe"])
def test_the_shared_expert_is_a_plain_memory(family):
    """Its key is the input of its last matrix, times its gate where it has one (Qwen)."""
    lm = tiny_model(family, dtype=torch.float64)
    layer = mixed(lm)
    name = lm.layers.shared_name(layer)
    config = rome_config(
        layer, experts="shared", stats=fl.stats.StatsConfig(tokens_per_dim=4, row_length=16)
    )
    known = fl.editing.Background()
    rows, weights, before = lookups(lm, layer)
    edit = fl.rome(lm, FACT, config, known)
    (update,) = edit.updates
    assert update.weight_name == name
    assert update.rank == 1
    assert known.shared[layer].part == "shared"
    assert not known.moments
    with edit.applied(lm):
        after = keys_and_outputs(lm, rows, layer)
    assert torch.equal(before.keys, after.keys)
    moved = weights @ (after.outputs - before.outputs)
    assert float(moved.norm()) == pytest.approx(edit.diagnostics["delta_norm"][-1], abs=1e-9)
    # The statistics are of gated keys: of one text, by hand.
    corpus = corpus_from_texts(lm, TEXTS[:1], "one text", 100, 64)
    moment = collect_second_moments(lm, [layer], corpus, shared=True)[layer]
    seen: list[Tensor] = []
    matrix = lm.model.get_submodule(name.removesuffix(".weight"))
    block = lm.layer(layer).get_submodule(lm.layers.anatomy.parts[layer].mlp.whole)
    handles = [
        matrix.register_forward_pre_hook(lambda _m, args: seen.append(args[0].detach())),
        block.register_forward_pre_hook(lambda _m, args: seen.append(args[0].detach())),
    ]
    lm.model(torch.tensor([corpus.rows[0]]))
    for handle in handles:
        handle.remove()
    inputs, keys = (each.reshape(len(corpus.rows[0]), -1) for each in seen)
    if family == "qwen2_moe":
        keys = keys * torch.sigmoid(block.shared_expert_gate(inputs)).detach()
    assert torch.allclose(moment.matrix, keys.T @ keys / len(keys), atol=1e-10)


def test_mixtures_without_a_shared_expert_say_so():
    lm = tiny_model("mixtral")
    with pytest.raises(UnsupportedModelError, match="no expert that every token goes through"):
        fl.rome(lm, FACT, rome_config(0, experts="shared"))
