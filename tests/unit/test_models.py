"""Every family against plain transformers calls, in float64."""

from copy import deepcopy

import pytest
import torch

from factlab.errors import InvalidRequestError, TokenizationError, UnsupportedModelError
from factlab.hooks import Site, Stream, intervene, record
from factlab.models.engines.shell import Shell
from factlab.models.generation import generate_ids
from factlab.models.language_model import LanguageModel
from factlab.tokens import pad
from model_families import FAMILIES, HABITS, SINGLE_INSIDE

PROMPTS = ["The Eiffel Tower is located in", "Rome", "Miles Davis plays the trumpet in Seattle"]


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-10) -> bool:
    return a.shape == b.shape and float((a - b).abs().max()) < tolerance


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_hooks_see_the_models_own_hidden_states(make_model, family):
    lm = make_model(family, dtype=torch.float64, add_bos=True)
    ids = torch.tensor([lm.encode(PROMPTS[0]).ids])
    blocks = [Site(layer, Stream.BLOCK) for layer in range(lm.n_layers)]
    with record(lm, blocks) as states:
        plain = lm.model(ids)
    hidden = deepcopy(lm.model)(ids, output_hidden_states=True).hidden_states
    for layer in range(lm.n_layers - 1):
        assert torch.equal(states[blocks[layer]], hidden[layer + 1])
    assert close(lm.readout(states[blocks[-1]][0]), plain.logits[0])


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_shapes_of_every_stream(make_model, family):
    lm = make_model(family)
    sites = [Site(1 if stream != Stream.EMBED else 0, stream) for stream in Stream]
    batch = pad([[5, 6, 7], [8, 9, 10]])
    with record(lm, sites) as states:
        lm.run(lm.frame(batch))
    for site in sites:
        width = lm.d_mlp if site.stream is Stream.MLP_HIDDEN else lm.d_model
        assert states[site].shape == (2, 3, width), site


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_mlp_output_is_the_projection_of_the_key(make_model, family):
    lm = make_model(family, dtype=torch.float64)
    key_site, out_site = Site(1, Stream.MLP_HIDDEN), Site(1, Stream.MLP)
    with record(lm, [key_site, out_site]) as states:
        lm.run(lm.frame(pad([[5, 6, 7]])))
    weight = lm.mlp_weight(1) if lm.mlp_layout == "out_in" else lm.mlp_weight(1).T
    bias = getattr(lm.module(out_site), "bias", None)
    expected = states[key_site] @ weight.T + (0 if bias is None else bias)
    assert close(states[out_site], expected)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_an_empty_intervention_is_the_identity(make_model, family):
    lm = make_model(family, dtype=torch.float64)
    ids = torch.tensor([[5, 6, 7, 8]])
    everywhere = {Site(1, stream): (lambda state: state) for stream in Stream if stream != "embed"}
    with intervene(lm, everywhere):
        touched = lm.model(ids).logits
    assert torch.equal(touched, lm.model(ids).logits)


@torch.no_grad()
def test_hooks_do_not_outlive_an_error(make_model):
    lm = make_model("gpt2")

    def fail(state):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), intervene(lm, {Site(1, Stream.MLP): fail}):
        lm.model(torch.tensor([[5]]))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_replay_from_any_layer_and_token_is_the_full_forward(make_model, family):
    lm = make_model(family, dtype=torch.float64)
    ids = list(range(5, 15))
    batch = pad([ids])
    expected = lm.model(torch.tensor([ids])).logits[0]
    sites = [Site(layer, Stream.BLOCK) for layer in range(lm.n_layers)]
    cache = lm.recording(len(ids))
    with record(lm, sites) as states:
        lm.run(lm.frame(batch, cache))
    for token in (0, 1, 4, 9):
        frame = lm.frame(batch, cache.prefix(token), token, rows=3)
        for first in range(lm.n_layers):
            entry = (
                frame.entry if first == 0 else states[sites[first - 1]][:, token:].repeat(3, 1, 1)
            )
            out = lm.run(frame, entry, first=first)
            for row in out:
                tolerance = 1e-4 if family in SINGLE_INSIDE else 1e-10
                assert close(lm.readout(row), expected[token:], tolerance)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_left_right_and_no_padding_agree(make_model, family):
    lm = make_model(family, dtype=torch.float64)
    rows = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]
    stops = [4, 1, 2]
    tolerance = 1e-4 if family in SINGLE_INSIDE else 1e-10
    cache = lm.recording(7)
    right = lm.run(lm.frame(pad(rows), cache))
    left = lm.run(lm.frame(pad(rows, align=stops), cache.prefix(stops), max(stops)))
    for i, row in enumerate(rows):
        alone = lm.model(torch.tensor([row])).logits[0]
        assert close(lm.readout(right[i, : len(row)]), alone, tolerance)
        assert close(lm.readout(left[i, : len(row) - stops[i]]), alone[stops[i] :], tolerance)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_scores_equal_plain_log_softmax(make_model, family):
    lm = make_model(family, dtype=torch.float64, add_bos=True)
    targets = ["Paris, France", "trumpet", "a museum"]
    scores = lm.score(PROMPTS, targets)
    for prompt, target, score in zip(PROMPTS, targets, scores, strict=True):
        ids = lm.encode(f"{prompt} {target}").ids
        logprobs = lm.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        n = len(score.logprobs)
        expected = [float(logprobs[i - 1, ids[i]]) for i in range(len(ids) - n, len(ids))]
        assert score.logprobs == pytest.approx(expected, abs=1e-5)
        assert score.token_ids == ids[-n:]
        assert score.prob == pytest.approx(torch.tensor(expected).exp().prod().item(), rel=1e-4)


def test_score_forms(make_model):
    from math import exp, log

    from factlab.models.scoring import ContinuationScore

    score = ContinuationScore((1, 2), (log(0.5), log(0.02)))
    assert score.prob == pytest.approx(0.01)
    assert score.length_normalised_prob == pytest.approx(0.1)
    assert score.mean_nll == pytest.approx(-log(0.1))
    assert exp(score.logprob) == pytest.approx(0.01)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_greedy_generation_is_repeated_argmax(make_model, family):
    lm = make_model(family, dtype=torch.float64)
    rows = [[5, 6, 7, 8, 9], [10, 11]]
    new = generate_ids(lm, rows, 6, 1, 0, may_end=False)
    eos = lm.tokenizer.eos_token_id
    for row, added in zip(rows, new, strict=True):
        ids = list(row)
        for _ in range(6):
            logits = lm.model(torch.tensor([ids])).logits[0, -1]
            logits[eos] = -torch.inf
            ids.append(int(logits.argmax()))
        assert added == ids[len(row) :]


def test_sampling_depends_on_the_seed_and_not_on_the_batch(make_model):
    lm = make_model("llama")
    together = generate_ids(lm, [[5, 6, 7], [8]], 8, 0, 3)
    alone = generate_ids(lm, [[5, 6, 7]], 8, 0, 3)
    assert together[0] == alone[0]
    assert together == generate_ids(lm, [[5, 6, 7], [8]], 8, 0, 3)
    assert together != generate_ids(lm, [[5, 6, 7], [8]], 8, 0, 4)


@torch.no_grad()
def test_samples_follow_the_distribution(make_model):
    lm = make_model("gpt2")
    probs = lm.model(torch.tensor([[5, 6]])).logits[0, -1].softmax(-1)
    drawn = generate_ids(lm, [[5, 6]] * 3000, 1, 0, 0, may_end=False)
    counts = torch.bincount(torch.tensor([row[0] for row in drawn]), minlength=len(probs))
    assert float((counts / 3000 - probs).abs().max()) < 0.03
    few = generate_ids(lm, [[5, 6]] * 200, 1, 2, 0, may_end=False)
    assert {row[0] for row in few} == set(probs.topk(2).indices.tolist())


def test_generation_stops_at_eos(make_model):
    lm = make_model("gpt2")
    prompts = [[5, 6, i] for i in range(7, 47)]
    texts = generate_ids(lm, prompts, 3, 1, 0, may_end=False)
    prompt, text = next(
        each for each in zip(prompts, texts, strict=True) if each[1][0] != each[1][1]
    )
    lm.model.generation_config.eos_token_id = text[1]
    assert generate_ids(lm, [prompt], 3, 1, 0)[0] == text[:1]


def test_generated_text_begins_with_the_prompt(make_model):
    lm = make_model("llama", add_bos=True)
    texts = lm.generate_batch(["Rome is", "The Space Needle"], 5, top_k=3, seed=1)
    assert texts[0].startswith("Rome is")
    assert texts[1].startswith("The Space Needle")
    assert lm.generate("Rome is", 0) == "Rome is"
    alone = lm.generate_batch(["Rome is"], 5, top_k=3, seed=1, return_full_text=False)
    assert texts[0] == "Rome is" + alone[0]
    for spaces in (" ", "   "):  # the prompt as it was given, then what follows the words of it
        (spaced,) = lm.generate_batch(["Rome is" + spaces], 5, top_k=3, seed=1)
        assert spaced == "Rome is" + spaces + alone[0].removeprefix(" ")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", HABITS)
def test_half_precision(make_model, family, dtype):
    exact = make_model(family).next_token_probs(PROMPTS)
    half = make_model(family, dtype=dtype).next_token_probs(PROMPTS)
    assert half.dtype == torch.float32
    assert float((half - exact).abs().max()) < 0.1


def test_training_mode_and_dropout_do_not_matter(make_model):
    lm = make_model("gpt2")
    quiet = lm.next_token_probs(PROMPTS)
    lm.model.train()
    for module in lm.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    assert torch.equal(lm.next_token_probs(PROMPTS), quiet)
    assert lm.model.training
    lm.model.eval()


def test_device_map(make_model, tmp_path):
    from factlab.models.loading import load

    lm = make_model("llama")
    lm.model.save_pretrained(tmp_path / "m")
    lm.tokenizer.save_pretrained(tmp_path / "m")
    spread = load(tmp_path / "m", device="auto")
    assert torch.allclose(spread.next_token_probs(PROMPTS), lm.next_token_probs(PROMPTS), atol=1e-6)


def test_too_long_a_text_is_refused(make_model):
    lm = make_model("gpt2")
    with pytest.raises(TokenizationError, match="takes at most 256"):
        lm.next_token_probs(["Rome " * 300])


def test_layer_out_of_range(make_model):
    with pytest.raises(InvalidRequestError, match="layers 0 to 2"):
        make_model("gpt2").layer(3)


@pytest.mark.parametrize("family", HABITS)
def test_an_unlisted_family_is_discovered(make_model, family, monkeypatch):
    from factlab.families import ARCHITECTURES

    known = make_model(family)
    monkeypatch.delitem(ARCHITECTURES, family)
    found = LanguageModel(known.model, known.tokenizer).layers
    assert found.anatomy.layers == known.layers.anatomy.layers
    for one, other in zip(found, known.layers, strict=True):
        assert (one.mixer.output, one.mlp.output) == (other.mixer.output, other.mlp.output)
        assert (one.mixer.projection, one.mlp.projection) == (other.mixer.output, other.mlp.output)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_that_does_not_say_the_same_twice_is_refused(make_model, dtype):

    lm = make_model("llama", dtype=dtype)
    base, original = lm.model.model, lm.model.model.norm.forward
    calls = []

    def forward(hidden):  # a tail whose result depends on how often it ran
        calls.append(1)
        return original(hidden) * len(calls)

    base.norm.forward = forward
    try:
        with pytest.raises(UnsupportedModelError, match="something else each time"):
            LanguageModel(lm.model, lm.tokenizer)
    finally:
        del base.norm.forward


def test_a_layer_that_cannot_be_run_by_itself_is_run_in_whole_passes(make_model, monkeypatch):
    """Some releases of transformers give a layer a mask that only their own loop understands."""

    lm = make_model("llama")

    def front(*_args):
        raise RuntimeError("The size of tensor a (6) must match\nthe size of tensor b (7)")

    expected = lm.next_token_probs(PROMPTS)
    monkeypatch.setattr(Shell, "front", front)
    again = LanguageModel(lm.model, lm.tokenizer)
    assert again.engine.name == again.abilities.engine == "whole passes"
    assert torch.allclose(again.next_token_probs(PROMPTS), expected, rtol=1e-5)


def test_wrapping_a_model_in_training_mode_changes_nothing(make_model):

    lm = make_model("biogpt")  # drops out of its embeddings when training
    expected = lm.next_token_probs(PROMPTS)
    lm.model.train()
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in lm.model.modules()]
    names = [sorted(vars(m)) for m in lm.model.modules()]
    again = LanguageModel(lm.model, lm.tokenizer)
    assert all(m.training for m in lm.model.modules())
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in lm.model.modules()]
    assert names == [sorted(vars(m)) for m in lm.model.modules()]
    assert torch.equal(again.next_token_probs(PROMPTS), expected)
    lm.model.eval()


def test_encoders_are_refused(make_model):
    from transformers import BertConfig, BertForMaskedLM

    tokenizer = make_model("gpt2").tokenizer
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 400}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = BertForMaskedLM(BertConfig(**sizes, intermediate_size=40, initializer_range=0.3))
    with pytest.raises(UnsupportedModelError, match="BertForMaskedLM is no decoder"):
        LanguageModel(encoder, tokenizer)


def test_fingerprint_is_the_checkpoint_not_its_dtype(make_model):
    exact, half = make_model("llama"), make_model("llama", dtype=torch.bfloat16)
    assert exact.fingerprint == half.fingerprint
    assert make_model("llama", seed=1).fingerprint != exact.fingerprint
    other = make_model("llama")
    other.model.config.rope_parameters = {"rope_type": "default", "rope_theta": 100.0}
    assert other.fingerprint != exact.fingerprint
