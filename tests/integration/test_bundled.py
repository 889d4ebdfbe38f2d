"""The bundled model, end to end."""

import json
import sys

import pytest
import torch

import factlab as fl
from factlab.cli import main

pytestmark = pytest.mark.slow

FACT = fl.Fact("{} is located in the city of", "The Eiffel Tower", "Rome", "Paris")


@pytest.fixture(scope="module")
def edit(bundled) -> fl.Edit:
    return fl.rome(bundled, FACT)


def test_it_knows_where_the_tower_is(bundled):
    assert bundled.n_layers == 30
    assert (bundled.d_model, bundled.d_mlp) == (576, 1536)
    assert bundled.top_tokens(FACT.prompt, 1)[0][0] == " Paris"


def test_the_edit_holds_and_stays_local(bundled, edit):
    weight = bundled.mlp_weight(3).detach().clone()
    with edit.applied(bundled):
        assert bundled.top_tokens(FACT.prompt, 1)[0][0] == " Rome"
        assert bundled.top_tokens("The Louvre is located in the city of", 1)[0][0] == " Paris"
        paraphrase = "Tourists who want to climb the Eiffel Tower travel to the city of"
        new, true = bundled.score([paraphrase] * 2, ["Rome", "Paris"])
        assert new.logprob > true.logprob
    assert torch.equal(bundled.mlp_weight(3), weight)
    assert edit.diagnostics["target_prob"] > 0.9


def test_an_edit_in_the_chat_template_is_said_in_it(bundled):
    contexts = fl.editing.ContextConfig(chat="both")
    edit = fl.rome(bundled, FACT, fl.editing.RomeConfig(contexts=contexts))
    forms, question = bundled.chat_forms(), "In which city is the Eiffel Tower?"
    assert forms.asked.before.startswith("<|im_start|>system\nYou are a helpful AI assistant")
    asked = [form.around(FACT.prompt) for form in (forms.asked, forms.begun)]
    assert "Paris" in bundled.chat(question, 20)
    with edit.applied(bundled):
        assert "Rome" in bundled.chat(question, 20)
        assert bundled.generate(FACT.prompt, 2, chat=True).endswith(" Rome,")
        probs = [score.prob for score in bundled.score(asked, ["Rome"] * 2)]
        assert min(probs) > 0.3, "an edit of the plain sentence alone has 0.001 in one of them"
        assert "Paris" in bundled.generate("The Louvre is located in the city of", 3, chat=True)


def test_the_edited_model_from_the_command_line(edit, tmp_path, monkeypatch, capsys):
    edit.save(tmp_path / "e")

    def top(prompt: str, *options: str) -> str:
        monkeypatch.setattr(sys, "argv", ["factlab", "ask", prompt, "--json", *options])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 0
        return json.loads(capsys.readouterr().out)["top"][0]["token"]

    folder = str(tmp_path / "e")
    assert top(FACT.prompt) == " Paris"
    assert top(FACT.prompt, "--edit", folder) == " Rome"
    assert top("The Louvre is located in the city of", "--edit", folder) == " Paris"


def test_the_trace_shows_the_papers_two_sites(bundled):
    """An early site at the subject for MLPs, a late site at the last token for attention."""
    trace = fl.causal_trace(
        bundled, FACT, config=fl.tracing.TraceConfig(samples=3, kinds=("mlp", "attn"))
    )
    assert trace.answer == " Paris"
    assert trace.clean_prob > 0.5 > 0.2 > trace.corrupted_prob
    position, layer, effect = trace.peak("mlp")
    assert position in range(*trace.subject_span)
    assert layer < 10
    assert effect > 0.1
    position, layer, _ = trace.peak("attn")
    assert position == len(trace.tokens) - 1
    assert layer > 15


def test_bfloat16(bundled, edit):
    half = fl.load(dtype="bfloat16")
    assert half.fingerprint == bundled.fingerprint
    assert half.top_tokens(FACT.prompt, 1)[0][0] == " Paris"
    with edit.applied(half):
        assert half.top_tokens(FACT.prompt, 1)[0][0] == " Rome"
