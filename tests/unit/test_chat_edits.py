"""Edits with the fact in the chat template as well: which texts, which values, which refusals."""

import json

import pytest
import torch
from chat_templates import DATED, GEMMA, SHORT

import factlab as fl
from factlab.editing.closed_form import values as looked_up
from factlab.editing.closed_form.lookup import mean_keys, prompt_rows, target_rows
from factlab.editing.configs import ContextConfig, ValueConfig
from factlab.editing.contexts import context_weights
from factlab.editing.values.recipe import ValuePlan
from factlab.errors import FactlabError, InvalidRequestError, TokenizationError

FACTS = [
    fl.Fact("{} is", "Rome", "Paris", "Berlin"),
    fl.Fact("In {}, people speak", "New York", "Dutch"),
    fl.Fact("Where is {}?", "the Space Needle", "Rome and Paris", "Seattle"),
]
VALUE = ValueConfig(steps=3, stop_nll=0, stop_loss=0)
CHAT = ContextConfig(groups=((2, 4),), chat="both")
PLAIN = ContextConfig(groups=((2, 4),))
KINDS = {
    "rome": fl.editing.RomeConfig(layer=1, value=VALUE, contexts=CHAT),
    "memit": fl.editing.MemitConfig(layers=(0, 1), value=VALUE, contexts=CHAT),
    "emmet": fl.editing.EmmetConfig(
        layers=(1,), value=VALUE, contexts=ContextConfig(groups=((2, 4),), chat="fitting")
    ),
    "alphaedit": fl.editing.AlphaEditConfig(layers=(0, 1), value=VALUE, contexts=CHAT),
    "ft": fl.editing.FineTuneConfig(layer=1, steps=3, learning_rate=1e-3, chat="both"),
    "ft+l": fl.editing.FineTuneConfig(layer=1, steps=3, epsilon=1e-3, chat="begun"),
    "attn": fl.editing.FineTuneConfig(layer=1, steps=3, epsilon=1e-3, chat="asked"),
}


@pytest.fixture
def lm(make_model):
    made = make_model("llama", dtype=torch.float64, add_bos=True)
    made.tokenizer.chat_template = SHORT
    return made


def background(lm, **more: object) -> fl.editing.Background:
    generator = torch.Generator().manual_seed(7)
    keys = torch.randn(4 * lm.d_mlp, lm.d_mlp, generator=generator, dtype=torch.float64)
    moment = keys.T @ keys / len(keys)
    made = fl.editing.Background.of(
        [fl.stats.SecondMoment(moment, i, len(keys), "noise", lm.fingerprint) for i in range(2)]
    )
    for name, value in more.items():
        setattr(made, name, value)
    return made


def without_chat(config):
    if isinstance(config, fl.editing.FineTuneConfig):
        return config.model_copy(update={"chat": None})
    return config.model_copy(update={"contexts": PLAIN})


# -- which texts -----------------------------------------------------------------------------------


def test_contexts_are_those_of_before_and_then_the_forms(lm):
    plain, every = (background(lm).contexts(lm, each) for each in (PLAIN, CHAT))
    forms = lm.chat_forms()
    assert every == [*plain, forms.asked, forms.begun]
    for kind in ("asked", "begun"):
        alone = background(lm).contexts(lm, ContextConfig(groups=(), chat=kind))
        assert alone == ["", getattr(forms, kind)]
    (_, fitting) = background(lm).contexts(lm, ContextConfig(groups=(), chat="fitting"))
    for fact, form in ((FACTS[0], forms.begun), (FACTS[2], forms.asked)):
        assert target_rows(lm, fact, [fitting], "Oslo") == target_rows(lm, fact, [form], "Oslo")


def test_a_switch_stands_for_the_form_that_fits():
    assert ContextConfig(chat=True) == ContextConfig(chat="fitting")
    assert ContextConfig(chat=False) == ContextConfig()
    with pytest.raises(InvalidRequestError, match=r"Setting 'chat' of ContextConfig cannot be 'x'"):
        ContextConfig(chat="x")


def test_contexts_follow_the_template_that_is_set(lm):
    known = background(lm)
    first = known.contexts(lm, CHAT)
    lm.tokenizer.chat_template = DATED
    other = known.contexts(lm, CHAT)
    assert other[:-2] == first[:-2]
    assert other[-2:] == [lm.chat_forms().asked, lm.chat_forms().begun] != first[-2:]


def test_the_target_follows_the_wrapping_and_the_subject_is_looked_up_in_it(lm):
    rows = target_rows(lm, FACTS[0], ["", *background(lm).contexts(lm, CHAT)[-2:]], "Paris")
    texts = [lm.tokenizer.decode(row.ids) for row in rows]
    assert texts == [
        "<s>Rome is Paris",
        "<s>[user]\nRome is</s>[assistant]\nParis",
        "<s>[user]\nTell me a fact.</s>[assistant]\nRome is Paris",
    ]
    ends = [lm.tokenizer.decode(row.ids[: row.lookup + 1]) for row in rows]
    assert ends == ["<s>Rome", "<s>[user]\nRome", "<s>[user]\nTell me a fact.</s>[assistant]\nRome"]
    assert [lm.tokenizer.decode(row.target_ids).strip() for row in rows] == ["Paris"] * 3


def test_a_key_is_the_mean_over_forms_too(lm):
    contexts = background(lm).contexts(lm, CHAT)
    weights = context_weights(CHAT, len(contexts))
    assert weights.tolist() == [0.5, *[0.125] * 4]
    found = mean_keys(lm, FACTS, contexts, 1, weights).keys
    for fact, key in zip(FACTS, found, strict=True):
        keys = []
        for row in prompt_rows(lm, fact, contexts):
            kept = []
            module = lm.model.get_submodule(lm.mlp_weight_name(1).removesuffix(".weight"))
            hook = module.register_forward_pre_hook(lambda _, args, kept=kept: kept.append(args[0]))
            with torch.no_grad():
                lm.model(torch.tensor([row.ids]))
            hook.remove()
            keys.append(kept[0][0, row.lookup])
        torch.testing.assert_close(key, weights @ torch.stack(keys), atol=1e-9, rtol=0)


# -- edits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_a_batch_is_each_fact_alone_and_chat_makes_a_difference(lm, name):
    method, known = fl.editing.method_named(name), background(lm)
    every = method.each(lm, FACTS, KINDS[name], known)
    plain = method.each(lm, FACTS, without_chat(KINDS[name]), known)
    for fact, edit, other in zip(FACTS, every, plain, strict=True):
        (alone,) = method.each(lm, [fact], KINDS[name], known)
        for one, two, third in zip(edit.updates, alone.updates, other.updates, strict=True):
            matrices = [x.matrix(torch.float64, lm.device) for x in (one, two, third)]
            torch.testing.assert_close(matrices[0], matrices[1], atol=1e-8, rtol=1e-5)
            assert not torch.allclose(matrices[0], matrices[2], atol=1e-6)


def test_fine_tuning_takes_the_mean_over_forms(lm):
    forms = lm.chat_forms()
    config = KINDS["ft"]
    edits = fl.editing.fine_tune_each(lm, FACTS, "ft", config)
    together = fl.editing.fine_tune(lm, FACTS, "ft", config)
    firsts = []
    for fact, edit in zip(FACTS, edits, strict=True):
        prompts = [fact.prompt, forms.asked.around(fact.prompt), forms.begun.around(fact.prompt)]
        scores = lm.score(prompts, [fact.target_new] * 3)
        firsts.append(sum(score.mean_nll for score in scores) / 3)
        assert edit.diagnostics["loss"][0] == pytest.approx(firsts[-1], abs=1e-9)
        assert edit.diagnostics["loss"][-1] < edit.diagnostics["loss"][0]
    assert together.diagnostics["loss"][0] == pytest.approx(sum(firsts) / 3, abs=1e-9)


def test_a_fact_that_is_done_leaves_with_all_of_its_forms(lm):
    free = fl.editing.FineTuneConfig(layer=1, steps=6, learning_rate=3e-3, stop_nll=0, chat="both")
    known = [edit.diagnostics["loss"] for edit in fl.editing.fine_tune_each(lm, FACTS, "ft", free)]
    ends = sorted(losses[3] for losses in known)
    config = free.model_copy(update={"stop_nll": (ends[0] + ends[1]) / 2})
    edits = fl.editing.fine_tune_each(lm, FACTS, "ft", config)
    assert len({len(edit.diagnostics["loss"]) for edit in edits}) > 1
    for fact, edit in zip(FACTS, edits, strict=True):
        alone = fl.editing.fine_tune(lm, fact, "ft", config)
        assert edit.diagnostics["loss"] == pytest.approx(alone.diagnostics["loss"], abs=1e-9)
        torch.testing.assert_close(edit.updates[0].delta, alone.updates[0].delta, atol=1e-6, rtol=0)


def test_facts_without_a_subject_are_tuned_in_the_template(lm):
    fact = fl.Fact("Who wrote Hamlet? Answer:", "", "Marlowe")
    edit = fl.editing.fine_tune(lm, fact, "ft", KINDS["ft"])
    assert edit.diagnostics["loss"][-1] < edit.diagnostics["loss"][0]
    with pytest.raises(InvalidRequestError, match="looks up a fact's subject"):
        fl.rome(lm, fact, KINDS["rome"])


def test_a_sequence_and_one_edit_with_all(lm):
    known = background(lm)
    assert len(fl.edit_sequence(lm, FACTS, "rome", KINDS["rome"], known).edits) == 3
    for name in ("memit", "emmet", "alphaedit"):
        (edit,) = fl.edit_together(lm, FACTS, name, KINDS[name], known).edits
        assert edit.config["contexts"]["chat"] == KINDS[name].contexts.chat


def test_what_is_shown_of_one_fact(lm):
    made = fl.editing.edit_fact(lm, FACTS[0], "rome", KINDS["rome"], background(lm))
    asked = lm.chat_forms().begun.around(FACTS[0].prompt)
    assert made.before_in_chat == tuple(lm.top_tokens(asked, 3))
    with made.edit.applied(lm):
        assert made.after_in_chat == tuple(lm.top_tokens(asked, 3))
    assert "in the chat template" in repr(made)
    assert made.to_json()["after_in_chat"][0]["token"] == made.after_in_chat[0][0]
    plain = fl.editing.edit_fact(lm, FACTS[0], "rome", without_chat(KINDS["rome"]), background(lm))
    assert plain.before_in_chat == ()
    assert "in_chat" not in str(plain.to_json())


# -- values that are kept --------------------------------------------------------------------------


@pytest.fixture
def optimised(monkeypatch) -> list[int]:
    """How many requests each call of the optimisation was given."""
    monkeypatch.delenv("FACTLAB_VALUES_MIB")
    counts: list[int] = []
    optimise = looked_up.optimise_values

    def counted(lm, requests, *args):
        counts.append(len(requests))
        return optimise(lm, requests, *args)

    monkeypatch.setattr(looked_up, "optimise_values", counted)
    return counts


def test_values_are_of_the_texts_around_the_prompt(lm, optimised):
    for template, config in (
        (SHORT, KINDS["rome"]), (SHORT, KINDS["rome"]), (SHORT, without_chat(KINDS["rome"])),
        (DATED, KINDS["rome"]), (DATED, without_chat(KINDS["rome"])), (SHORT, KINDS["rome"]),
    ):  # fmt: skip
        lm.tokenizer.chat_template = template
        fl.editing.rome_each(lm, FACTS[:2], config, background(lm))
    assert optimised == [2, 2, 2]


def test_settings_without_chat_are_written_as_before():
    for config in (without_chat(one) for one in KINDS.values()):
        assert "chat" not in json.dumps(config.model_dump(mode="json"))
        assert type(config).model_validate(config.model_dump(mode="json")) == config
    plan = ValuePlan.of(without_chat(KINDS["rome"]))
    assert "chat" not in json.dumps(plan.model_dump(mode="json"))
    for config in KINDS.values():
        assert type(config).model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("chat", ["both", "fitting"])
def test_a_folder_of_values(lm, tmp_path, optimised, chat):
    config = KINDS["memit"].model_copy(
        update={"contexts": ContextConfig(groups=((2, 4),), chat=chat)}
    )
    fl.editing.compute_values(lm, FACTS, tmp_path / "v", "memit", config, background(lm))
    values = fl.editing.load_values(tmp_path / "v")
    fl.edit_together(lm, FACTS, "memit", config, background(lm, values=values))
    assert optimised == [3]
    with pytest.raises(InvalidRequestError, match=rf"contexts.chat is {chat}, not None"):
        values.check(FACTS, "memit", without_chat(config))
    plain = without_chat(config)
    fl.editing.compute_values(lm, FACTS, tmp_path / "w", "memit", plain, background(lm))
    with pytest.raises(InvalidRequestError, match=rf"contexts.chat is None, not {chat}"):
        fl.editing.load_values(tmp_path / "w").check(FACTS, "memit", config)


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_no_template_is_told_before_anything_is_computed(make_model, monkeypatch, name):
    lm = make_model("gpt2")
    monkeypatch.setattr("factlab.editing.background.second_moments", None)
    for facts in (FACTS[:1], FACTS):
        with pytest.raises(InvalidRequestError, match="tiny-gpt2 has no chat template"):
            fl.editing.method_named(name).each(lm, facts, KINDS[name])


@pytest.mark.parametrize("name", ["kn", "ultraedit"])
def test_methods_that_cannot(name):
    with pytest.raises(InvalidRequestError, match=f"--chat does not go with method '{name}'"):
        fl.editing.MethodRequest(name=name, chat=True).chosen()


@pytest.mark.parametrize("name", KINDS)
def test_methods_that_can(name):
    chosen = fl.editing.MethodRequest(name=name, chat=True).chosen()
    assert chosen.config.chat_contexts == "fitting"
    assert fl.editing.MethodRequest(name=name).chosen().config.chat_contexts is None


def test_settings_beside_the_switch_are_kept():
    of = fl.editing.MethodRequest
    some = of(chat=True, settings={"contexts": {"groups": [], "chat": "asked"}}).chosen()
    assert some.config.contexts == ContextConfig(groups=(), chat="asked")
    none = of(chat=True, settings={"contexts": {"chat": "none"}}).chosen()
    assert none.config.contexts == ContextConfig()


@pytest.mark.parametrize("name", ["rome", "memit", "ft"])
def test_a_fact_that_cannot_be_put_into_the_template_fails_alone(lm, name):
    asked = fl.Fact(lm.chat_prompt("Where is {}?"), "Rome", "Paris")
    room = lm.context_length - len(lm.encode("Rome is"))
    long = fl.Fact("{} is" + " in" * (room - 20), "Rome", "Paris")
    attempts = fl.editing.method_named(name).attempts(
        lm, [FACTS[0], asked, long], KINDS[name], background(lm)
    )
    assert isinstance(attempts[0], fl.Edit)
    assert isinstance(attempts[1], InvalidRequestError)
    assert "in a chat template already" in str(attempts[1])
    assert isinstance(attempts[2], FactlabError)
    assert isinstance(attempts[2], TokenizationError)
    assert "too long in the chat template" in str(attempts[2])


# -- on the command line ---------------------------------------------------------------------------

QUICK = (
    "[value]\nsteps = 2\n[contexts]\ngroups = []\n[stats]\ntokens_per_dim = 4\nrow_length = 16\n"
)


def test_edit_in_a_chat(run, lm, monkeypatch, tmp_path):
    monkeypatch.setattr("factlab.models.loading.load", lambda *_args, **_kwargs: lm)
    settings = tmp_path / "quick.toml"
    settings.write_text(QUICK)
    bare = ["edit", "{} is", "--subject", "Rome", "--target", "Paris", "--chat"]
    one = [*bare, "--layer", 1]
    code, out, err = run(*one, "--settings", settings, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["edit"]["config"]["contexts"]["chat"] == "fitting"
    assert len(document["before_in_chat"]) == len(document["after_in_chat"]) == 3
    code, out, err = run(*one, "--settings", settings)
    assert code == 0, err
    assert "The same in the chat template:" in out
    code, _, err = run(*bare, "--method", "kn")
    assert code == 2
    assert "--chat does not go with method 'kn'" in err
    code, out, err = run(*one, "--method", "ft", "--set", "steps=2", "--json")
    assert code == 0, err
    assert json.loads(out)["edit"]["config"]["chat"] == "fitting"
    lm.tokenizer.chat_template = None
    code, _, err = run(*one, "--settings", settings)
    assert code == 2
    assert "has no chat template" in err


def test_ask_beside_the_chat(run, lm, monkeypatch):
    monkeypatch.setattr("factlab.models.loading.load", lambda *_args, **_kwargs: lm)
    lm.tokenizer.chat_template = GEMMA
    prompt = "Rome is in the"
    code, out, err = run("ask", prompt, "--chat", "--generate", 4, "--top", 2, "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["answer"] == lm.chat(prompt, 4)
    begun = lm.chat_forms().begun.around(prompt)
    assert document["begun"]["text"] == lm.generate(begun, 4, return_full_text=False)
    assert document["raw"]["text"] == lm.generate(prompt, 4, return_full_text=False)
    assert [row["token"] for row in document["raw"]["top"]] == [
        token for token, _ in lm.top_tokens(prompt, 2)
    ]
    code, out, _ = run("ask", "Where is Rome?", "--chat", "--top", 2)
    assert code == 0
    assert "asked in the chat" in out
    assert "as plain text" in out
    assert "begun by the assistant" not in out
