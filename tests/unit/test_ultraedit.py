"""UltraEdit: gradients, running moments, the closed form, turns, and facts without a subject."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import factlab as fl
from factlab.editing.closed_form.answer_states import AnswerStates
from factlab.editing.closed_form.normaliser import Normaliser
from factlab.editing.closed_form.ultraedit import least_squares, outputs_wanted, without
from factlab.editing.gradients import Matrix, TokenStates
from factlab.editing.methods import METHODS
from factlab.editing.remembered import Remembered
from factlab.editing.running import Moments
from factlab.editing.runs import EditSequence
from factlab.errors import EditError, InvalidRequestError, UnsupportedModelError
from factlab.models.changes.update import DenseUpdate, LowRankUpdate
from factlab.progress import silent
from model_families import HABITS, SINGLE_INSIDE

QUESTION = fl.Fact("Who plays the trumpet? It is", "", target_new="Rome and Paris")
FACTS = [
    fl.Fact("{} is in the city of", "The Eiffel Tower", "Rome", "Paris"),
    QUESTION,
    fl.Fact("In the city of {}, people speak", "Seattle", "many"),
    fl.Fact("{} plays the", "Miles Davis", "Space Needle", "trumpet"),
]
CONFIG = fl.editing.UltraEditConfig(layers=(1, 2), parts=("up", "down"), learning_rate=1e-3)


def numbers(*shape, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def matrix(d_in=5, d_out=4) -> Matrix:
    return Matrix("w.weight", "out_in", d_in, d_out)


def nll(lm, facts=FACTS) -> float:
    scores = lm.score([f.prompt for f in facts], [f.target_new for f in facts])
    return -sum(score.logprob for score in scores)


# -- the closed form -------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rows", [1, 3, 5, 9])
@pytest.mark.parametrize("ridge", [1.0, 0.3])
def test_the_change_is_that_of_the_normal_equations(n_rows, ridge):
    inputs, outputs = numbers(n_rows, 5), numbers(n_rows, 4, seed=1)
    found = least_squares(matrix(), inputs, outputs, ridge)
    gram = inputs.T @ inputs + ridge * torch.eye(5, dtype=torch.float64)
    expected = torch.linalg.solve(gram, inputs.T @ outputs).T
    delta = found.matrix(torch.float64, torch.device("cpu"))
    assert (delta - expected).abs().max() < 1e-12
    assert isinstance(found, LowRankUpdate if n_rows * 9 < 20 else DenseUpdate)


def test_the_change_is_the_minimum():
    inputs, outputs = numbers(3, 5), numbers(3, 4, seed=1)
    delta = least_squares(matrix(), inputs, outputs, 1.0).matrix(torch.float64, torch.device("cpu"))

    def cost(change):
        return float((inputs @ change.T - outputs).square().sum() + change.square().sum())

    for seed in range(5):
        assert cost(delta) < cost(delta + 0.01 * numbers(4, 5, seed=seed))


def test_a_direction_is_left_alone_at_the_least_cost():
    inputs, outputs, spared = numbers(3, 5), numbers(3, 4, seed=1), numbers(5, seed=2)
    delta = least_squares(matrix(), without(inputs, spared), outputs, 0.5).matrix(
        torch.float64, torch.device("cpu")
    )
    assert (delta @ spared).abs().max() < 1e-12
    # The normal equations in coordinates of the plane across it.
    plane = torch.linalg.qr(torch.cat([spared[:, None], numbers(5, 4, seed=3)], 1)).Q[:, 1:]
    rows = inputs @ plane
    expected = torch.linalg.solve(rows.T @ rows + 0.5 * torch.eye(4).double(), rows.T @ outputs).T
    assert (delta @ plane - expected).abs().max() < 1e-12
    assert torch.equal(without(inputs, torch.zeros(5).double()), inputs)


def test_an_edit_can_spare_the_mean_of_inputs(make_model):
    lm = make_model("llama", dtype=torch.float64)
    spare = CONFIG.model_copy(update={"spare_mean": True})
    for config, is_spared in ((CONFIG, False), (spare, True)):
        with fl.editing.ultraedit(lm, FACTS[:2], config).applied(lm):
            later = fl.editing.ultraedit(lm, FACTS[2:], config)
        (left,) = later.remembered
        assert len(later.updates) == 4
        for update in later.updates:
            change = update.matrix(torch.float64, torch.device("cpu"))
            mean = left.tensors[f"ultraedit.mean.{update.weight_name}"][: change.shape[1]]
            moved = float((change @ mean).norm() / (change.norm() * mean.norm()))
            assert (moved < 1e-9) is is_spared


def test_outputs_by_hand():
    """Tokens (1, 3 | 2), (3, 3 | 4), and one of typical size beside them."""
    states = TokenStates(
        torch.tensor([[1.0, 3.0], [3.0, 3.0]], dtype=torch.float64),
        torch.tensor([[2.0], [4.0]], dtype=torch.float64),
    )
    normaliser = Normaliser.after((), matrix(2, 1)).with_more(states)
    typical = {0: 7.0, 1: 7.0, 2: 10.0}  # mean squares of inputs, and of gradients
    wanted: list[list[float]] = []
    for i, column in enumerate([[1.0, 3.0], [3.0, 3.0], [2.0, 4.0]]):
        centre = sum(column) / 2 / 2
        deviation = ((sum((x - centre) ** 2 for x in column) + typical[i]) / 3) ** 0.5
        wanted.append([(x - centre) / deviation for x in column])
    found = normaliser.normalised(states)
    assert torch.cat(found, 1).T.tolist() == [pytest.approx(each) for each in wanted]
    v = outputs_wanted(found, 0.1)
    for token in range(2):
        length = wanted[0][token] ** 2 + wanted[1][token] ** 2
        assert float(v[token]) == pytest.approx(-0.1 * length * wanted[2][token])


def test_one_token_alone_is_measured_by_itself():
    states = TokenStates(numbers(1, 5), numbers(1, 4, seed=1))
    found = Normaliser.after((), matrix()).with_more(states).normalised(states)
    for plain, normalised in zip(states, found, strict=True):
        assert normalised.isfinite().all()
        assert (normalised.sign() == plain.sign()).all()
        assert 0.5 < normalised.square().mean() < 2
    nothing = TokenStates(torch.zeros(1, 5), torch.zeros(1, 4))
    found = Normaliser.after((), matrix()).with_more(nothing).normalised(nothing)
    assert all((each == 0).all() for each in found)


def test_among_many_tokens_it_is_the_plain_mean_and_deviation():
    states = TokenStates(3 + 2 * numbers(4000, 5), 0.01 * numbers(4000, 4, seed=1))
    found = Normaliser.after((), matrix()).with_more(states).normalised(states)
    for plain, normalised in zip(states, found, strict=True):
        expected = (plain - plain.mean(0)) / plain.std(0)
        assert (normalised - expected).abs().max() < 0.01


@pytest.mark.parametrize("sizes", [(30,), (1, 29), (1, 1, 0, 20, 8)])
def test_running_moments_are_those_of_all_at_once(sizes):
    states = 1e4 + numbers(30, 6)
    zeros = torch.zeros(6, dtype=torch.float64)
    found = Moments(0, zeros, zeros)
    for part in states.split(list(sizes)):
        found = found.with_more(part)
    mean = states.mean(0)
    assert found.n == 30
    assert (found.mean - mean).abs().max() < 1e-8
    assert (found.spread - (states - mean).square().sum(0)).abs().max() < 1e-6


# -- gradients -------------------------------------------------------------------------------------


def rows_of(lm, facts=FACTS):
    return [lm.continuation(fact.prompt, fact.target_new) for fact in facts]


def some_matrices(lm, layers=(1, 2)) -> list[Matrix]:
    names = [name for i in layers for name in (*lm.layers.mlp_inputs(i), lm.mlp_weight_name(i))]
    return [Matrix.named(lm, name) for name in names]


def by_autograd(lm, row, name) -> TokenStates:
    """torch's own, of a whole forward pass of one text."""
    model = copy.deepcopy(lm.model).eval()
    seen: list[torch.Tensor] = []

    def note(_module, args, output):
        output.retain_grad()
        seen.extend((args[0].detach().clone(), output))
        return output * 1.0  # what follows may add to it in place

    model.get_submodule(name.removesuffix(".weight")).register_forward_hook(note)
    logprobs = model(torch.tensor([row.inputs])).logits[0].log_softmax(-1)
    (-sum(logprobs[at, i] for at, i in zip(row.reads, row.target_ids, strict=True))).backward()
    inputs, output = seen
    width = inputs.shape[-1]
    return TokenStates(
        inputs.reshape(-1, width)[list(row.reads)],
        output.grad.reshape(-1, output.shape[-1])[list(row.reads)],
    )


# The last mixes tokens by other means than attention in some layers.
@pytest.mark.parametrize("family", [*HABITS, "lfm2"])
def test_gradients_are_those_of_torch(make_model, family):
    lm = make_model(family, dtype=torch.float64)
    rows, matrices = rows_of(lm), some_matrices(lm)
    states = AnswerStates(lm, rows, matrices, 1, silent)
    assert states.counts == [len(row.reads) for row in rows]
    for i, row in enumerate(rows):
        for each in matrices:
            expected, found = by_autograd(lm, row, each.weight_name), states.of(each.weight_name, i)
            for ours, torchs in zip(found, expected, strict=True):
                error = (ours - torchs).abs().max() / torchs.abs().max()
                assert error < (1e-5 if family in SINGLE_INSIDE else 1e-10)


def test_batches_and_order_make_no_difference(make_model):
    lm = make_model("llama", dtype=torch.float64)
    whole = fl.editing.ultraedit(lm, FACTS, CONFIG)
    backwards = fl.editing.ultraedit(lm, FACTS[::-1], CONFIG)
    lm.memory_gib = 1e-6  # one row at a time
    alone = fl.editing.ultraedit(lm, FACTS, CONFIG)
    for other in (backwards, alone):
        for one, two in zip(whole.updates, other.updates, strict=True):
            deltas = [u.matrix(torch.float64, torch.device("cpu")) for u in (one, two)]
            assert (deltas[0] - deltas[1]).abs().max() < 1e-9 * deltas[0].abs().max()


def test_prompts_run_once_and_nothing_below_the_matrices_has_gradients(make_model):
    lm = make_model("llama")
    seen: list[tuple[int, int, bool]] = []

    def note(layer, _module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        seen.append((layer, hidden.shape[1], torch.is_grad_enabled()))

    handles = [
        lm.layer(i).register_forward_pre_hook(
            lambda m, a, k, i=i: note(i, m, a, k), with_kwargs=True
        )
        for i in range(lm.n_layers)
    ]
    try:
        fl.editing.ultraedit(lm, FACTS[0], replace_layers((2,)))
    finally:
        for handle in handles:
            handle.remove()
    (row,) = rows_of(lm, FACTS[:1])
    n_read = len(row.reads)
    assert {width for layer, width, graded in seen if graded} == {n_read}
    assert {layer for layer, _, graded in seen if graded} == set(range(2, lm.n_layers))
    assert sum(width for layer, width, _ in seen if layer == 0) == len(row.inputs)


def replace_layers(layers):
    return CONFIG.model_copy(update={"layers": layers})


# -- edits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_an_edit_makes_its_facts_more_probable(make_model, family):
    lm = make_model(family)
    before = nll(lm)
    config = fl.editing.UltraEditConfig()
    edit = fl.editing.ultraedit(lm, FACTS, config)
    with edit.applied(lm):
        assert nll(lm) < before - 0.5
    assert nll(lm) == before
    assert edit.facts == tuple(FACTS)
    assert edit.diagnostics["n_tokens"] == sum(len(row.reads) for row in rows_of(lm))
    assert all(update.rank <= edit.diagnostics["n_tokens"] for update in edit.updates)


def test_one_fact_alone_is_a_turn_of_its_own(make_model):
    lm = make_model("llama", dtype=torch.float64)
    several = fl.editing.ultraedit_each(lm, FACTS, CONFIG)
    for fact, edit in zip(FACTS, several, strict=True):
        alone = fl.editing.ultraedit(lm, fact, CONFIG)
        for one, two in zip(edit.updates, alone.updates, strict=True):
            assert one.norm == pytest.approx(two.norm, rel=1e-9)
        before = nll(lm, [fact])
        with edit.applied(lm):
            assert nll(lm, [fact]) < before


def test_a_fact_that_cannot_be_asked_stops_no_other(make_model):
    lm = make_model("llama")
    wrong = fl.Fact("{} is", "Rome", "many " * 400)
    attempts = METHODS["ultraedit"].attempts(lm, [FACTS[0], wrong, QUESTION], CONFIG)
    assert [isinstance(each, fl.Edit) for each in attempts] == [True, False, True]
    assert "takes at most" in str(attempts[1])


def test_a_sequence_that_is_gone_on_with_is_the_one_never_interrupted(make_model, tmp_path):
    lm = make_model("llama")
    turns = [FACTS[:2], FACTS[2:3], FACTS[3:]]
    with EditSequence(lm, METHODS["ultraedit"], CONFIG, None) as sequence:
        for turn in turns:
            sequence.write(turn)
        whole = list(sequence.edits)
    with EditSequence(lm, METHODS["ultraedit"], CONFIG, None) as sequence:
        sequence.write(turns[0]).save(tmp_path / "0")
        sequence.write(turns[1]).save(tmp_path / "1")
    with EditSequence(lm, METHODS["ultraedit"], CONFIG, None) as sequence:
        for name in "01":
            sequence.put(fl.Edit.load(tmp_path / name))
        last = sequence.write(turns[2])
    assert last == whole[2]
    counts = [
        float(edit.remembered[0].tensors["ultraedit.count.model.layers.1.mlp.up_proj.weight"])
        for edit in whole
    ]
    assert counts == [4, 5, sum(len(row.reads) for row in rows_of(lm))]
    with EditSequence(lm, METHODS["ultraedit"], CONFIG, None) as forgetful:
        forgetful.put(replace(whole[0], remembered=()))
        forgetful.put(replace(whole[1], remembered=()))
        assert forgetful.write(turns[2]) != whole[2]


def test_what_was_left_is_found_among_what_others_left(make_model):
    lm = make_model("llama")
    n_first, n_last = (sum(len(r.reads) for r in rows_of(lm, f)) for f in (FACTS[:2], FACTS[3:]))
    first = fl.editing.ultraedit(lm, FACTS[:2], CONFIG)
    memit = Remembered(tuple(FACTS[2:3]), {"keys.1": torch.ones(1, 4)})
    name = "ultraedit.count.model.layers.2.mlp.down_proj.weight"
    for past in (first.remembered, (*first.remembered, memit)):
        with replace(first, remembered=past).applied(lm):
            after = fl.editing.ultraedit(lm, FACTS[3:], CONFIG)
        assert after.remembered[0].tensors[name] == n_first + n_last
    # Another matrix begins anew.
    with first.applied(lm):
        other = fl.editing.ultraedit(lm, FACTS[3:], replace_layers((0, 2)))
    counts = {k: float(v) for k, v in other.remembered[0].tensors.items() if ".count." in k}
    assert {v for k, v in counts.items() if ".0." in k} == {n_last}
    assert {v for k, v in counts.items() if ".2." in k} == {n_first + n_last}


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("mean", lambda old: old[:3]),
        ("mean", lambda old: old * torch.nan),
        ("spread", lambda _: None),
        ("spread", lambda old: -old - 1),
        ("count", lambda old: -old),
        ("count", lambda old: old.repeat(2)),
    ],
)
def test_a_damaged_state_is_refused(make_model, name, damage):
    lm = make_model("llama")
    first = fl.editing.ultraedit(lm, FACTS[:2], CONFIG)
    (block,) = first.remembered
    key = f"ultraedit.{name}.model.layers.1.mlp.up_proj.weight"
    tensors = {k: v for k, v in block.tensors.items() if k != key}
    damaged = damage(block.tensors[key])
    if damaged is not None:
        tensors[key] = damaged
    broken = replace(first, remembered=(Remembered(block.facts, tensors),))
    refused = pytest.raises(EditError, match=r"remembers of '.*up_proj.weight' are not the mean")
    with broken.applied(lm), refused:
        fl.editing.ultraedit(lm, FACTS[3:], CONFIG)


def test_gradients_of_a_broken_model_are_refused(make_model):
    lm = make_model("llama")
    weight = lm.model.get_parameter("model.layers.2.mlp.down_proj.weight")
    broken = LowRankUpdate(
        "model.layers.2.mlp.down_proj.weight", "out_in",
        torch.full((weight.shape[0], 1), 1e30), torch.full((1, weight.shape[1]), 1e30),
    )  # fmt: skip
    with pytest.raises(fl.FactlabError), lm.patches.applied([broken]):
        fl.editing.ultraedit(lm, FACTS[:2], CONFIG)


def test_it_becomes_an_adapter(make_model, tmp_path):
    lm = make_model("llama", dtype=torch.float64)
    edit = fl.editing.ultraedit(lm, FACTS[:2], CONFIG)
    edit.to_peft(tmp_path / "adapter")
    back = fl.Edit.from_peft(tmp_path / "adapter", lm)
    by_name = {update.weight_name: update for update in back.updates}
    for update in edit.updates:
        cpu = torch.device("cpu")
        found = by_name[update.weight_name].matrix(torch.float64, cpu)
        assert (found - update.matrix(torch.float64, cpu)).abs().max() < 1e-9
    assert load_file(tmp_path / "adapter" / "adapter_model.safetensors")


# -- where, and how far ----------------------------------------------------------------------------


def test_matrices_by_layers_and_parts(make_model):
    lm, plain = make_model("llama"), make_model("gpt2")
    edit = fl.editing.ultraedit(lm, FACTS, CONFIG)
    stem = "model.layers.{}.mlp.{}_proj.weight"
    wanted = [stem.format(i, part) for i in (1, 2) for part in ("up", "down")]
    assert [update.weight_name for update in edit.updates] == wanted
    assert edit.config["weights"] == wanted
    named = fl.editing.ultraedit(
        lm, FACTS, fl.editing.UltraEditConfig(weights=wanted, learning_rate=1e-3)
    )
    assert [u.digest for u in named.updates] == [u.digest for u in edit.updates]
    with pytest.raises(UnsupportedModelError, match=r"no matrix for its gate alone. Its 'up' is"):
        fl.editing.ultraedit(plain, FACTS, fl.editing.UltraEditConfig(layers=(1,), parts=("gate",)))
    up = fl.editing.ultraedit(plain, FACTS, fl.editing.UltraEditConfig(layers=(1,), parts=("up",)))
    assert [update.weight_name for update in up.updates] == ["transformer.h.1.mlp.c_fc.weight"]
    assert up.updates[0].layout == "in_out"


def test_settings_that_do_not_fit_are_refused(make_model):
    lm = make_model("llama")
    up = "model.layers.1.mlp.up_proj.weight"
    for values, reason in (
        ({"layers": (9,)}, "Layer 9 is out of range"),
        ({"weights": ("model.layers.1.self_attn.q_proj.weight",)}, "is no projection of an MLP"),
        ({"weights": ("lm_head.weight",)}, "is no projection of an MLP"),
        ({"weights": (up,), "layers": (2,)}, "Give one of the two"),
    ):
        with pytest.raises(InvalidRequestError, match=reason):
            fl.editing.ultraedit(lm, FACTS, fl.editing.UltraEditConfig(**values))
    with pytest.raises(InvalidRequestError, match="Conflicts between facts"):
        fl.editing.ultraedit(lm, [QUESTION, replace(QUESTION, target_new="Seattle")], CONFIG)
    with pytest.raises(InvalidRequestError, match="no target_new"):
        fl.editing.ultraedit(lm, replace(QUESTION, target_new=None), CONFIG)


def test_a_mixture_of_experts_is_passed_over_or_refused(make_model):
    lm = make_model("qwen2_moe")
    mixed = [i for i in range(lm.n_layers) if lm.layers.is_mixed(i)]
    with pytest.raises(fl.FactlabError, match="mixture of experts"):
        fl.editing.ultraedit(lm, FACTS, replace_layers((mixed[0],)))


def test_the_step_of_an_unknown_model_goes_by_its_outputs(make_model):
    lm = make_model("llama")
    (settled,) = METHODS["ultraedit"].settled(lm, FACTS[:1])
    assert settled.config.layers is not None
    assert "share of the depth" in settled.source
    (again,) = METHODS["ultraedit"].settled(lm, FACTS[1:2], settled.config)
    assert again.config == settled.config
    # Outputs eight times as large, and a step nearly so.
    larger = make_model("llama")
    with torch.no_grad():
        for name in settled.config.weights:
            larger.model.get_parameter(name).mul_(8)
    try:
        edit = fl.editing.ultraedit(larger, FACTS[:1], fl.editing.UltraEditConfig(layers=(2,)))
        plain = fl.editing.ultraedit(lm, FACTS[:1], fl.editing.UltraEditConfig(layers=(2,)))
        ratio = edit.config["learning_rate"] / plain.config["learning_rate"]
    finally:
        with torch.no_grad():
            for name in settled.config.weights:
                larger.model.get_parameter(name).div_(8)
    assert ratio > 4


# -- facts without a subject -----------------------------------------------------------------------


def test_methods_that_look_up_a_subject_say_so():
    need = {name for name, method in METHODS.items() if method.needs_subject}
    assert need == {"rome", "memit", "emmet", "alphaedit"}


@pytest.mark.parametrize("method", ["rome", "memit", "emmet", "alphaedit"])
def test_methods_that_look_up_a_subject_refuse_a_fact_without(make_model, method):
    lm = make_model("llama")
    with pytest.raises(InvalidRequestError, match=f"'{method}' looks up a fact's subject, and"):
        fl.edit_each(lm, [FACTS[0], QUESTION], method)


@pytest.mark.parametrize("method", ["ft", "ft+l", "attn", "kn", "ultraedit"])
def test_the_others_write_it(make_model, tmp_path, method):
    lm = make_model("llama")
    run = fl.edit_each(lm, [QUESTION], method)
    (edit,) = run.edits
    edit.save(tmp_path / "edit")
    loaded = fl.Edit.load(tmp_path / "edit")
    assert loaded == edit
    assert loaded.facts == (QUESTION,)


def test_traces_need_a_subject(make_model):
    lm = make_model("llama")
    for trace in (
        lambda: fl.causal_trace(lm, QUESTION),
        lambda: fl.average_trace(lm, [QUESTION]),
        lambda: fl.recommend_layer(lm, [QUESTION]),
    ):
        with pytest.raises(InvalidRequestError, match=r"trumpet\? It is' has no subject"):
            trace()


def test_records_without_a_subject_are_evaluated(make_model, tmp_path):
    lm = make_model("llama")
    record = fl.Record(
        fact=replace(QUESTION, target_true="Seattle"),
        paraphrase_prompts=("The trumpet is the",),
        neighborhood_prompts=("Who is in the tower? It is",),
    )
    measure = fl.evaluation.MeasureConfig(n_generated=0)
    for mode in ("each", "together", "sequence"):
        run = fl.evaluate(
            lm, [record, FACTS[0]], "ultraedit", tmp_path / mode, CONFIG, mode, measure=measure
        )
        assert [row.subject for row in run.rows] == ["", "The Eiffel Tower"]
        assert not any(row.failed for row in run.rows)
    with pytest.raises(InvalidRequestError, match="looks up a fact's subject"):
        fl.evaluate(lm, [record], "rome", tmp_path / "rome", measure=measure)


def test_the_command_line_takes_a_prompt_without_a_subject(run, tmp_path):
    arguments = (QUESTION.template, "--target", "Rome", "--model", "tiny:llama")
    code, out, err = run("edit", *arguments, "--method", "ultraedit", "--out", tmp_path / "edit")
    assert code == 0, err
    assert "before" in out
    document = json.loads((tmp_path / "edit" / "edit.json").read_text())
    assert document["facts"][0]["subject"] == ""
    code, _, err = run("edit", *arguments)
    assert code == 2
    assert "Method 'rome' looks up a fact's subject" in err
    code, _, err = run("edit", "{} is in", "--target", "Rome", "--method", "ultraedit")
    assert code == 2
    assert "Missing: --subject" in err
    code, out, _ = run("methods")
    assert code == 0
    assert "ultraedit" in out


def test_a_file_need_not_have_subjects(run, tmp_path, monkeypatch):
    path = tmp_path / "facts.csv"
    path.write_text("template,target_new\nWho plays? It is,Rome\nThe tower is in,Seattle\n")
    assert [fact.subject for fact in fl.load_facts(path)] == ["", ""]
    code, _, err = run(
        "edit", "--facts", path, "--sequence", "--method", "ultraedit", "--model", "tiny:llama"
    )
    assert code == 0, err
    monkeypatch.setattr("factlab.models.loading.load", lambda *_a, **_k: pytest.fail("loaded"))
    for command in (
        ("edit", "--facts", path),
        ("eval", "--data", path, "--method", "memit", "--out", tmp_path / "out"),
    ):
        code, _, err = run(*command)
        assert code == 2
        assert "looks up a fact's subject, and 'Who plays? It is' has none" in err


# -- where it writes best --------------------------------------------------------------------------


def test_a_plan_tries_layers_parts_and_steps(make_model, tmp_path):
    lm = make_model("llama")
    cells = fl.evaluation.ultraedit_cells(lm, [(0, 1), (2,)], [("up",), ("down",)], steps=(1, 30.0))
    assert len({cell.name for cell in cells}) == len(cells) == 8
    rates = [cell.config.learning_rate for cell in cells]
    assert [b / a for a, b in zip(rates[::2], rates[1::2], strict=True)] == pytest.approx([30] * 4)
    assert {cell.config.layers for cell in cells} == {(0, 1), (2,)}
    measure = fl.evaluation.MeasureConfig(n_generated=0)
    facts = [replace(fact, target_true="Antarctica") for fact in FACTS]
    grid = fl.evaluation.evaluate_grid(lm, facts, tmp_path, cells[:2], "together", measure)
    score = {r["name"]: r["value"] for r in grid.rows() if r["score"] == "rewrite_success"}
    assert score.keys() == {cell.name for cell in cells[:2]}
    assert grid.best in score


def test_without_a_word_it_tries_all_layers(make_model):
    lm = make_model("gpt2")
    cells = fl.evaluation.ultraedit_cells(lm, parts=[("down",)], steps=[1.0])
    assert sorted(i for cell in cells for i in cell.config.layers) == [*range(lm.n_layers)]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"layers": []}, "at least one window"),
        ({"layers": [()]}, "at least one window"),
        ({"parts": [()]}, "at least one window"),
        ({"steps": []}, "at least one window"),
        ({"steps": [0.0]}, "A step of 0 goes nowhere"),
        ({"layers": [(7,)]}, "Layer 7 is out of range"),
    ],
)
def test_a_plan_of_nothing_is_refused(make_model, values, reason):
    with pytest.raises(InvalidRequestError, match=reason):
        fl.evaluation.ultraedit_cells(make_model("llama"), **values)
