"""Choosing the next token, and the random numbers it is chosen by."""

import pytest
import torch

import factlab as fl
from factlab.errors import InvalidRequestError
from factlab.models.generation import Sampling, _choose, _uniform, eos_ids, generate_ids


def test_streams_of_other_seeds_are_other_numbers():
    """Also where a seed and a stream add up to the same: records have thousands of streams."""
    drawn = {
        tuple(_uniform(seed, stream, 4).tolist())
        for seed in range(3)
        for stream in (0, 1, 1_000_003, 2_000_006, 1_000_003 * 1000, 2**70)
    }
    assert len(drawn) == 3 * 6
    assert _uniform(5, 7, 9)[:4].equal(_uniform(5, 7, 4))


def shares(sampling: Sampling) -> list[float]:
    """How often each of four tokens is chosen."""
    logits = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()[[2, 0, 3, 1]]
    draws = (torch.arange(1000) + 0.5) / 1000
    chosen = _choose(logits.expand(1000, -1), sampling, draws)
    return (torch.bincount(chosen, minlength=4) / 1000).tolist()


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0, 1, 0, 0]),
        (Sampling(top_k=0), [0.15, 0.5, 0.1, 0.25]),
        (Sampling(top_k=2), [0, 2 / 3, 0, 1 / 3]),
        (Sampling(top_k=0, top_p=0.7), [0, 2 / 3, 0, 1 / 3]),
        (Sampling(top_k=0, top_p=0.76), [0.15 / 0.9, 0.5 / 0.9, 0, 0.25 / 0.9]),
        (Sampling(top_k=0, top_p=0.01), [0, 1, 0, 0]),
        (Sampling(top_k=3, top_p=0.5), [0, 1, 0, 0]),
        (Sampling(top_k=0, temperature=0.5), [0.065, 0.725, 0.029, 0.181]),
        (Sampling(top_k=0, temperature=1e-4), [0, 1, 0, 0]),
    ],
)
def test_tokens_are_chosen_as_often_as_they_should(sampling, expected):
    assert shares(sampling) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"top_k": -1}, "top_k=-1 must not be negative"),
        ({"temperature": 0.0}, "temperature=0.0 must be more than 0. .* use top_k=1"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_p": 0.0}, "top_p=0.0 must be more than 0"),
        ({"top_p": 1.5}, "top_p=1.5"),
    ],
)
def test_numbers_out_of_range(make_model, values, message):
    with pytest.raises(InvalidRequestError, match=message):
        make_model("gpt2").generate("Rome is", 1, **values)


def test_a_temperature_asks_for_sampling(make_model):
    lm = make_model("llama")
    greedy = lm.generate("Rome is", 12)
    assert lm.generate("Rome is", 12, top_k=1, temperature=2.0) == greedy
    assert lm.generate("Rome is", 12, temperature=1.5) != greedy
    assert lm.generate("Rome is", 12, top_p=0.99) != greedy
    assert lm.generate("Rome is", 12, top_p=1e-6) == greedy


def test_special_tokens_outside_of_the_vocabulary_are_not_there(fact):
    """GPT2Config's own BOS and EOS, 50256, lie outside of a vocabulary of 400."""
    tiny = fl.models.tiny_model("gpt2")
    tiny.model.config.bos_token_id = tiny.model.config.eos_token_id = 50256
    tiny.model.generation_config.eos_token_id = 50256
    tiny.tokenizer.bos_token = tiny.tokenizer.eos_token = None
    tiny.tokenizer.cls_token = "<s>"  # noqa: S105 - no password
    lm = fl.LanguageModel(tiny.model, tiny.tokenizer)
    assert eos_ids(lm) == set()
    assert len(generate_ids(lm, [[5, 6]], 3, 0, 0, may_end=False)[0]) == 3
    small = fl.stats.StatsConfig(tokens_per_dim=2)
    known = fl.editing.Background.of(fl.stats.second_moments(lm, [1], small))
    assert fl.rome(lm, fact, fl.editing.RomeConfig(layer=1), known).updates[0].norm > 0
