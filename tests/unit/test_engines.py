"""Models of every kind, each by the engine that it gets, against its own forward pass in float64."""

import pytest
import torch

import factlab as fl
from factlab.hooks import Site, Stream, intervene, record
from factlab.models.abilities import TITLES
from factlab.models.changes.carried import carrying, row_changes
from factlab.models.changes.expert_update import ExpertUpdate
from factlab.models.generation import generate_ids
from factlab.tokens import pad
from model_families import MakeModel, is_present

REPLAY, STATES, WHOLE = "replay", "replay over whole texts", "whole passes"

# The engine, and what mixes tokens. Models of one kind are enough; the benchmark has all of them.
KINDS = {
    "mixtral": (REPLAY, "attention"),
    "gpt_oss": (REPLAY, "attention"),
    "deepseek_v3": (REPLAY, "attention"),
    "llama4_text": (REPLAY, "attention"),
    "qwen2_vl": (REPLAY, "attention"),
    "gemma4_text": (REPLAY, "attention"),
    "qwen3_5_text": (STATES, "linear attention or attention"),
    "jamba": (STATES, "state space or attention"),
    "lfm2": (STATES, "convolution or attention"),
    "recurrent_gemma": (STATES, "recurrence or attention"),
    "mamba": (STATES, "state space"),
    "zamba2": (STATES, "state space"),
    "openai-gpt": (STATES, "attention"),
    "bart": (STATES, "attention"),  # counts places by column, so padding would move its tokens
    "mllama": (STATES, "attention"),
    "rwkv": (WHOLE, "recurrence"),
    "gemma3n_text": (WHOLE, "attention"),
    "bert": (WHOLE, "attention"),
}
PRESENT = [family for family in KINDS if is_present(family)]
# These compute in float32 in places, whatever their weights are.
ROUNDED = (
    "llama4_text",
    "deepseek_v3",
    "jamba",
    "mamba",
    "zamba2",
    "qwen3_5_text",
    "recurrent_gemma",
)
ROWS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]


@pytest.fixture(params=PRESENT)
def lm(request, make_model: MakeModel):
    return make_model(request.param, dtype=torch.float64)


def tolerance(lm) -> float:
    return 1e-5 if lm.family in ROUNDED else 1e-9


def close(lm, a, b) -> bool:
    return a.shape == b.shape and float((a - b).abs().max()) < tolerance(lm)


def logits_of(lm, ids):
    return lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def test_which_engine_and_which_mixer(lm):
    engine, mixer = KINDS[lm.family]
    assert lm.engine.name == lm.abilities.engine == engine
    if lm.family != "jamba":  # which of the two comes first is up to its config
        assert lm.layers.mixer == mixer
    assert list(lm.abilities.rungs) == list(TITLES)
    assert lm.abilities.rungs["ask"].can
    assert lm.abilities.rungs["trace"].can
    assert all(rung.can or rung.why for rung in lm.abilities.rungs.values())


@torch.no_grad()
def test_rows_that_are_padded_on_the_right_are_read_as_alone(lm):
    hidden = lm.run(lm.frame(pad(ROWS)))
    for row, state in zip(ROWS, hidden, strict=True):
        assert close(lm, lm.readout(state[: len(row)]), logits_of(lm, row))


@torch.no_grad()
def test_rows_go_on_behind_what_is_kept_of_them(lm):
    """From tokens in the middle, rows of different lengths lined up at their first new one."""
    stops = [4, 1, 2]
    kept = lm.recording(7)
    lm.run(lm.frame(pad(ROWS), kept))
    frame = lm.frame(pad(ROWS, align=stops), kept.prefix(stops), max(stops))
    right = lm.run(frame)
    for row, stop, state in zip(ROWS, stops, right, strict=True):
        logits = lm.readout(state[: len(row) - stop])
        assert close(lm, logits, logits_of(lm, row)[stop:])


@torch.no_grad()
def test_layers_can_be_run_in_parts(lm):
    if not lm.engine.n_layers:
        pytest.skip("no state of ours can be put in between its layers")
    row, middle = ROWS[0], lm.n_layers // 2
    below = lm.run(lm.frame(pad([row])), stop=middle)
    above = lm.run(lm.frame(pad([row])), below, first=middle)
    assert close(lm, lm.readout(above[0]), logits_of(lm, row))


def test_greedy_generation_is_repeated_argmax(lm):
    new = generate_ids(lm, ROWS[:2], 4, 1, 0, may_end=False)
    eos = lm.tokenizer.eos_token_id
    for row, added in zip(ROWS[:2], new, strict=True):
        ids = list(row)
        for _ in range(4):
            with torch.no_grad():
                logits = logits_of(lm, ids)[-1]
            logits[eos] = -torch.inf
            ids.append(int(logits.argmax()))
        assert added == ids[len(row) :]


@torch.no_grad()
def test_an_empty_intervention_is_the_identity(lm):
    sites = [
        Site(i, s) for i in range(lm.n_layers) for s in (Stream.BLOCK, Stream.MLP, Stream.ATTN)
    ]
    sites = [site for site in sites if lm.layers.has(site)]
    assert sites
    expected = logits_of(lm, ROWS[0])
    with intervene(lm, dict.fromkeys(sites, torch.clone)):
        assert torch.equal(logits_of(lm, ROWS[0]), expected)


@torch.no_grad()
def test_hooks_are_shown_the_tokens_that_were_asked_for(lm):
    """Also where an engine runs others again, or in another order."""
    sites = [Site(i, Stream.BLOCK) for i in range(lm.n_layers)]
    sites = [site for site in sites if lm.layers.has(site)]
    kept = lm.recording(7)
    with record(lm, sites) as whole:
        lm.run(lm.frame(pad(ROWS), kept))
    whole = dict(whole)
    stops = [4, 1, 2]
    with record(lm, sites) as right:
        lm.run(lm.frame(pad(ROWS, align=stops), kept.prefix(stops), max(stops)))
    for site in sites:
        for i, (row, stop) in enumerate(zip(ROWS, stops, strict=True)):
            n = len(row) - stop
            columns = right[site].shape[1]
            expected, found = whole[site][i, stop : len(row)], right[site][i, :n]
            if lm.engine.n_layers:
                assert columns == pad(ROWS, align=stops).width - max(stops)
            assert close(lm, found, expected), site


def test_what_the_layers_add_is_what_they_change(lm):
    """Restoring every state of a corrupted run gives the clean answer; restoring one does not."""
    fact = fl.Fact("See {} is in", "Space Needle")
    config = fl.tracing.TraceConfig(samples=2, kinds=("block",))
    trace = fl.causal_trace(lm, fact, config=config)
    last = trace.effects["block"][len(trace.tokens) - 1]
    layers = [i for i in range(lm.n_layers) if lm.layers.has(Site(i, Stream.BLOCK))]
    # The last token's state above the last layer is all that the answer is read from.
    assert float(last[layers[-1]]) == pytest.approx(trace.total_effect, abs=1e-6)
    assert abs(float(trace.effects["block"][trace.subject_span.last, layers[0]])) > 1e-9
    assert trace.engine == lm.engine.name
    assert trace.part_names == lm.layers.part_names


def test_a_model_in_training_mode_is_left_as_it_was():
    """RWKV scales weights in place when its mode changes."""
    model, tokenizer = fl.models.tiny.tiny_parts("rwkv")
    model.train()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    lm = fl.LanguageModel(model, tokenizer)
    lm.top_tokens("Rome is in")
    assert model.training
    assert all(torch.equal(before[n], weight) for n, weight in model.named_parameters())


def test_rows_of_experts_have_as_many_owners(make_model):
    lm = make_model("mixtral")
    factors = torch.ones(24, 1), torch.ones(1, 1, lm.layers.mixture(1).d_expert)
    update = ExpertUpdate(lm.layers.memory_name(1), "out_in", torch.tensor([0]), *factors)
    changes = row_changes(lm, [[update], []])
    frame = lm.frame(pad([[5, 6, 7, 8]] * 3))
    with carrying(lm, changes, [0, 1, 0]):
        lm.run(frame)
    with (
        carrying(lm, changes, [0, 1, 0, 1, 0, 1]),
        pytest.raises(
            fl.errors.InvalidRequestError, match="has 3 rows, and owners are given for 6"
        ),
    ):
        lm.run(frame)


@pytest.mark.parametrize("family", [*filter(is_present, ("mamba", "gemma3n_text", "mllama"))])
def test_what_needs_more_than_a_model_can_do_says_so(make_model, family):
    lm, fact = make_model(family), fl.Fact("{} is in", "Rome", "Paris")
    whole = {
        "neurons": lambda: fl.attribute_neurons(lm, "Rome is in", "Paris"),
        "kn": lambda: fl.editing.kn(lm, fact),
    }
    if family != "mllama":  # most of whose layers can be edited
        whole["rome"] = lambda: fl.rome(lm, fact)
        whole["fine-tuning"] = lambda: fl.editing.fine_tune(lm, [fact], "ft")
    for what, run in whole.items():
        with pytest.raises(fl.errors.UnsupportedModelError, match=r"What can be done with it: ask"):
            run()
            pytest.fail(what)


def test_what_a_model_cannot_do_is_said(make_model):
    lm = make_model("mamba")
    with pytest.raises(fl.errors.UnsupportedModelError, match="no MLP of its own in all layers"):
        lm.abilities.need("closed_form")
    config = fl.tracing.TraceConfig(samples=1, kinds=("mlp",))
    with pytest.raises(fl.errors.UnsupportedModelError, match="no layer of which 'mlp'"):
        fl.causal_trace(lm, fl.Fact("See {} is in", "Rome"), config=config)
    trace = fl.causal_trace(lm, fl.Fact("See {} is in", "Rome"))
    assert list(trace.effects) == ["block", "attn"]
