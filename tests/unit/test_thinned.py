"""Prompts with words left out behind contexts: which words, their rows, and what is optimised."""

import json

import pytest
import torch

import factlab as fl
from factlab.editing.closed_form.lookup import prompt_rows, target_rows
from factlab.editing.closed_form.value import optimise_values
from factlab.editing.configs import ContextConfig, ValueConfig
from factlab.editing.contexts import thinned
from factlab.editing.requests import ValueRequest
from factlab.errors import InvalidRequestError, StorageError
from factlab.hooks import Site, Stream, intervene
from factlab.wrapping import Thinned, context_of_json, context_to_json

FACT = fl.Fact("The official language of {} is said to be", "Togo", "Polish", "French")


def test_the_subject_and_the_last_word_stay_and_the_others_keep_their_order():
    prompts = {Thinned("", 0.5, seed).of(FACT).template for seed in range(200)}
    assert len(prompts) > 50
    whole = FACT.template.split(" ")
    for prompt in prompts:
        words = prompt.split(" ")
        assert "{}" in words
        assert words[-1] == "be"
        rest = iter(whole)
        assert all(word in rest for word in words), "a part of the prompt, in its order"


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_so_many_words_are_left_out(share):
    n_open = len(FACT.template.split(" ")) - 2
    kept = [len(Thinned("", share, seed).of(FACT).template.split(" ")) - 2 for seed in range(500)]
    assert sum(kept) / len(kept) == pytest.approx((1 - share) * n_open, abs=0.25)


@pytest.mark.parametrize(
    "template", ["{}", "{} is", "In {},", "{}is", "x {}'s capital is", "首都は{}です"]
)
def test_short_templates_stay_facts(template):
    for seed in range(20):
        fact = Thinned("", 0.9, seed).of(fl.Fact(template, "Togo", "Rome"))
        assert fact.subject == "Togo"
        assert fact.template.split(" ")[-1] == template.split(" ")[-1]


def test_which_words_follows_from_seed_and_prompt_alone():
    other = fl.Fact(FACT.template, "Chad", "Polish")
    for seed in range(5):
        thin = Thinned("", 0.5, seed)
        assert thin.of(FACT) == thin.of(FACT)
        assert thin.of(FACT).template == thin.of(other).template


def test_the_bare_prompt_stays_whole():
    config = ContextConfig(left_out=0.5, seed=3)
    assert thinned(["", "One. ", "Two. "], config) == [
        "", Thinned("One. ", 0.5, 3), Thinned("Two. ", 0.5, 4),
    ]  # fmt: skip
    assert thinned(["", "One. "], ContextConfig(left_out=0.0)) == ["", "One. "]
    with pytest.raises(InvalidRequestError, match="left_out"):
        ContextConfig(left_out=1.0)


def test_a_row_is_the_thinner_fact_behind_the_text(make_model):
    lm = make_model("llama")
    for seed in range(4):
        context = Thinned("One fine day. ", 0.5, seed)
        fact = context.of(FACT)
        assert prompt_rows(lm, FACT, [context]) == prompt_rows(lm, fact, ["One fine day. "])
        (row,) = target_rows(lm, FACT, [context], "Polish")
        (same,) = target_rows(lm, fact, ["One fine day. "], "Polish")
        assert row == same
        assert lm.tokenizer.decode(row.ids).endswith(f"{fact.prompt} Polish")
        assert lm.tokenizer.decode(row.ids[: row.lookup + 1]).endswith("Togo")


def test_the_loss_is_that_of_the_thinner_prompts(make_model):
    """−log P of the target, and the value that brings it down, against whole passes in float64."""
    lm = make_model("llama", dtype=torch.float64)
    contexts = ["", *(Thinned("One fine day. ", 0.5, seed) for seed in range(2))]
    request, site = ValueRequest(FACT, "Polish"), Site(0, Stream.MLP)
    config = ValueConfig(steps=3, stop_loss=0.0, stop_nll=0.0)
    (value,) = optimise_values(lm, [request], contexts, site, config)

    def nll(delta):
        found = []
        for row in target_rows(lm, FACT, contexts, "Polish"):

            def add(state, at=row.lookup):
                moved = state.clone()
                moved[:, at] += delta
                return moved

            with torch.no_grad(), intervene(lm, {site: add}):
                logits = lm.model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
            start = len(row.ids) - len(row.target_ids)
            picked = [logits[start - 1 + i, t] for i, t in enumerate(row.target_ids)]
            found.append(-float(torch.stack(picked).mean()))
        return sum(found) / len(found)

    assert value.history[0]["nll"] == pytest.approx(nll(torch.zeros(lm.d_model)), abs=1e-9)
    assert value.history[-1]["nll"] == pytest.approx(nll(value.delta), abs=1e-9)
    assert value.history[-1]["nll"] < value.history[0]["nll"]


def test_contexts_are_written_and_read():
    context = Thinned("One. ", 0.5, 2)
    written = json.loads(json.dumps(context_to_json(context)))
    assert context_of_json(written, "'run.json'") == context
    for damaged in ({"before": "One. ", "left_out": "a", "seed": 2}, {"before": "One. "}):
        with pytest.raises(StorageError, match=r"'run\.json' is damaged"):
            context_of_json(damaged, "'run.json'")
