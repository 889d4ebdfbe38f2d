"""KN: values of knowledge neurons, rewritten."""

import pytest
import torch

import factlab as fl
from factlab.errors import EditError, InvalidRequestError, UnsupportedModelError
from model_families import FAMILIES

FACTS = [
    fl.Fact("{} is in the city of", "The Space Needle", "Rome", "Seattle"),
    fl.Fact("{} is a mountain in", "Vinson Massif", "Paris", "Antarctica"),
    fl.Fact("{} plays the", "Miles Davis", "tower"),
]
THREE = fl.neurons.NeuronConfig(steps=3, tolerance=None)
QUICK = fl.editing.KnConfig(attribution=THREE, max_neurons=4)


def chosen(edit, fact=0) -> list[tuple[int, int]]:
    return [(layer, index) for layer, index, _ in edit.diagnostics["facts"][fact]["neurons"]]


def deltas(edit) -> dict[str, torch.Tensor]:
    return {u.weight_name: u.matrix(torch.float64, torch.device("cpu")) for u in edit.updates}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_equation_on_every_family(make_model, family):
    lm = make_model(family)
    config = QUICK.model_copy(update={"lambda_unit": "embedding"})
    edit = fl.editing.kn(lm, FACTS[:1], config)
    rows = lm.model.get_output_embeddings().weight.detach().double()
    old, new = (
        rows[list(lm.score([FACTS[0].prompt], [target])[0].token_ids)].mean(0)
        for target in ("Seattle", "Rome")
    )
    expected = {}
    for layer, index in chosen(edit):
        name = lm.mlp_weight_name(layer)
        expected.setdefault(name, torch.zeros(lm.d_model, lm.d_mlp).double())[:, index] = (
            8 * new - old
        )
    found = deltas(edit)
    assert found.keys() == expected.keys()
    for name, delta in found.items():
        assert torch.allclose(delta, expected[name], atol=1e-5)
    for update in edit.updates:
        layer = int(
            update.weight_name.split(".h.")[-1]
            .split("layers.")[-1]
            .split("blocks.")[-1]
            .split(".")[0]
        )
        assert update.rank == sum(at == layer for at, _ in chosen(edit))


def test_lengths_of_values(make_model):
    """By default λ counts lengths of the neuron's own value."""
    lm = make_model("gpt2", dtype=torch.float64)
    config = QUICK.model_copy(update={"lambda_old": 0.0, "lambda_new": 3.0})
    edit = fl.editing.kn(lm, FACTS[:1], config)
    for layer, index in chosen(edit):
        value = lm.mlp_weight(layer).detach()[index]  # Conv1D: a neuron is a row
        added = deltas(edit)[lm.mlp_weight_name(layer)][:, index]
        assert added.norm() == pytest.approx(3 * float(value.norm()), rel=1e-9)


def test_which_embedding(make_model):
    lm = make_model("gptj", dtype=torch.float64)  # its two embeddings differ
    assert not torch.equal(lm.embedding.weight, lm.model.get_output_embeddings().weight)
    common = {"lambda_unit": "embedding", "lambda_old": 0.0, "lambda_new": 1.0}
    (new,) = lm.score([FACTS[0].prompt], ["Rome"])
    for embedding, weight in (
        ("output", lm.model.get_output_embeddings().weight),
        ("input", lm.embedding.weight),
    ):
        for pooling, pooled in (
            ("mean", weight[list(new.token_ids)].mean(0)),
            ("sum", weight[list(new.token_ids)].sum(0)),
        ):
            update = {**common, "embedding": embedding, "pooling": pooling}
            edit = fl.editing.kn(lm, FACTS[:1], QUICK.model_copy(update=update))
            layer, index = chosen(edit)[0]
            added = deltas(edit)[lm.mlp_weight_name(layer)][:, index]
            assert torch.allclose(added, pooled, atol=1e-12)


def test_the_published_variant(make_model):
    """−2 of the token that is said, +1 of each token of the new answer."""
    lm = make_model("gpt2", dtype=torch.float64)
    three = THREE.model_copy(update={"rule": "closed"})
    config = fl.editing.KnConfig.published().model_copy(update={"attribution": three})
    edit = fl.editing.kn(lm, FACTS[:1], config)
    wte = lm.embedding.weight.detach()
    said = int(lm.next_token_probs([FACTS[0].prompt])[0].argmax())
    new = lm.score([FACTS[0].prompt], ["Rome"])[0].token_ids
    layer, index = chosen(edit)[0]
    added = deltas(edit)[lm.mlp_weight_name(layer)][:, index]
    assert torch.allclose(added, wte[list(new)].sum(0) - 2 * wte[said], atol=1e-12)
    assert edit.config["attribution"]["rule"] == "closed"
    assert edit.diagnostics["facts"][0]["attributed"] == "Seattle"


def test_the_new_answer_gains(make_model):
    """The values are only read where the neurons fire; a value in the direction of the answer."""
    lm = make_model("gpt2", dtype=torch.float64)
    ten = fl.neurons.NeuronConfig(tolerance=None)
    config = QUICK.model_copy(update={"attribution": ten})
    for fact, edit in zip(FACTS, fl.editing.kn_each(lm, FACTS, config), strict=True):
        before = lm.score([fact.prompt], [fact.target_new])[0].prob
        with edit.applied(lm):
            assert lm.score([fact.prompt], [fact.target_new])[0].prob != before


def test_each_is_every_fact_alone(make_model):
    lm = make_model("llama", dtype=torch.float64)
    for fact, edit in zip(FACTS, fl.editing.kn_each(lm, FACTS, QUICK), strict=True):
        alone = fl.editing.kn(lm, [fact], QUICK)
        assert chosen(edit) == chosen(alone)
        for one, other in zip(edit.updates, alone.updates, strict=True):
            assert torch.allclose(one.left, other.left, atol=1e-12)
            assert torch.equal(one.right, other.right)


def test_together_is_the_sum(make_model):
    lm = make_model("llama", dtype=torch.float64)
    together = fl.editing.kn(lm, FACTS, QUICK)
    total: dict[str, torch.Tensor] = {}
    for edit in fl.editing.kn_each(lm, FACTS, QUICK):
        for name, delta in deltas(edit).items():
            total[name] = total.get(name, 0) + delta
    found = deltas(together)
    assert found.keys() == total.keys()
    assert all(torch.allclose(found[name], total[name], atol=1e-12) for name in found)
    every = {place for i in range(3) for place in chosen(together, i)}
    assert together.diagnostics["n_neurons"] == len(every) == sum(u.rank for u in together.updates)


def test_undoing_is_exact(make_model, tmp_path):
    lm = make_model("opt")
    before = {n: p.detach().clone() for n, p in lm.model.named_parameters()}
    edit = fl.editing.kn(lm, FACTS, QUICK)
    undo = edit.apply_(lm)
    assert any(not torch.equal(p, before[n]) for n, p in lm.model.named_parameters())
    undo()
    assert all(torch.equal(p, before[n]) for n, p in lm.model.named_parameters())
    edit.save(tmp_path / "edit")
    again = fl.Edit.load(tmp_path / "edit")
    assert again.diagnostics == edit.diagnostics
    assert [u.digest for u in again.updates] == [u.digest for u in edit.updates]


def test_paraphrases_refine(make_model):
    lm = make_model("gpt2", dtype=torch.float64)
    others = ["{} stands in", "You find The Space Needle in"]
    config = fl.editing.KnConfig(attribution=THREE, share=0.5)
    edit = fl.editing.kn(lm, FACTS[:1], config, paraphrases=[others])
    (told,) = edit.diagnostics["facts"]
    assert told["n_prompts"] == 3
    prompts = [FACTS[0].prompt, "The Space Needle stands in", others[1]]
    by_prompt = fl.neurons.attribute_neurons_each(lm, prompts, ["Seattle"] * 3, THREE)
    expected = fl.neurons.shared_neurons(by_prompt, share=0.5)
    assert chosen(edit) == [(n.layer, n.index) for n in expected]
    plain = fl.editing.kn(lm, FACTS[:1], config, paraphrases=[[]])
    assert plain.diagnostics == fl.editing.kn(lm, FACTS[:1], config).diagnostics
    unknown = fl.editing.kn(
        lm, FACTS[2:], config.model_copy(update={"share": 0.1}), paraphrases=[["{} likes"]]
    )
    assert unknown.diagnostics["facts"][0]["n_prompts"] == 2


def test_one_text_is_no_list_of_paraphrases(make_model, fact):
    with pytest.raises(InvalidRequestError, match="one list for each fact"):
        fl.editing.kn(make_model("gpt2"), fact, paraphrases=["{}'s home is"])


def test_erasing_only_takes_out(make_model):
    lm = make_model("gpt2", dtype=torch.float64)
    told = fl.Fact(FACTS[0].template, FACTS[0].subject, target_true="Seattle")
    config = QUICK.model_copy(update={"erase": True, "lambda_unit": "embedding"})
    edit = fl.editing.kn(lm, [told], config)
    layer, index = chosen(edit)[0]
    ids = lm.score([told.prompt], ["Seattle"])[0].token_ids
    added = deltas(edit)[lm.mlp_weight_name(layer)][:, index]
    assert torch.allclose(added, -lm.embedding.weight[list(ids)].mean(0), atol=1e-12)


def test_the_method_is_known(make_model):
    lm = make_model("gpt2")
    for run in (
        fl.edit_each(lm, FACTS[:2], "kn", QUICK),
        fl.edit_together(lm, FACTS[:2], "kn", QUICK),
        fl.edit_sequence(lm, FACTS[:2], "kn", QUICK),
    ):
        assert all(edit.method == "kn" for edit in run.edits)


def test_what_cannot_be_done(make_model, monkeypatch):
    lm = make_model("gpt2")
    with pytest.raises(InvalidRequestError, match="nothing to write"):
        fl.editing.kn(lm, [fl.Fact("{} is in", "Rome")], QUICK)
    with pytest.raises(InvalidRequestError, match="list of facts is empty"):
        fl.editing.kn_each(lm, [], QUICK)
    with pytest.raises(InvalidRequestError, match="1 fact but 2 lists of paraphrases"):
        fl.editing.kn(lm, FACTS[:1], QUICK, paraphrases=[[], []])
    with pytest.raises(InvalidRequestError, match="prompt is empty"):
        fl.editing.kn(lm, FACTS[:1], QUICK, paraphrases=[[" "]])
    with pytest.raises(EditError, match="Lower the share"):
        config = fl.editing.KnConfig(attribution=THREE, threshold=0.999, share=1.0)
        fl.editing.kn(lm, FACTS[:1], config, paraphrases=[["{} reads", "A museum, {} and"]])
    narrow = torch.nn.Linear(7, 5, device="meta")
    monkeypatch.setattr(lm.model, "get_output_embeddings", lambda: narrow)
    with pytest.raises(UnsupportedModelError, match="output embedding"):
        fl.editing.kn(lm, FACTS[:1], QUICK)


@pytest.mark.parametrize(
    "wrong",
    [{"threshold": 1.0}, {"threshold": -0.1}, {"share": 0}, {"max_neurons": 0}, {"lambda_": 1}],
)
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(InvalidRequestError):
        fl.editing.KnConfig(**wrong)
