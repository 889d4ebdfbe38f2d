"""Many facts: each alone, together, in sequence."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import factlab as fl
from factlab.editing import methods
from factlab.editing.configs import ValueConfig
from factlab.editing.methods import METHODS
from factlab.editing.runs import EditSequence
from factlab.errors import EditError, InvalidRequestError, StorageError, TokenizationError
from factlab.models.answering import answers
from factlab.stats.corpus import corpus_from_texts

FACTS = [
    fl.Fact("{} is", "Rome", "Paris", "Berlin"),
    fl.Fact("In {}, people speak", "New York", "Dutch"),
    fl.Fact("See {} in", "the Space Needle", "Oslo", "Seattle"),
]
CONFIG = fl.editing.RomeConfig(
    layer=0, value=ValueConfig(steps=4), contexts=fl.editing.ContextConfig(groups=((2, 4),))
)


@pytest.fixture
def lm(make_model):
    return make_model("gpt2")


@pytest.fixture
def background(lm):
    generator = torch.Generator().manual_seed(7)
    keys = torch.randn(4 * lm.d_mlp, lm.d_mlp, generator=generator, dtype=torch.float64)
    moment = keys.T @ keys / len(keys)
    return fl.editing.Background.of(
        [fl.stats.SecondMoment(moment, i, len(keys), "noise", lm.fingerprint) for i in range(2)]
    )


def digests(edit: fl.Edit) -> list[str]:
    return [update.digest for update in edit.updates]


def test_each_stands_alone(lm, background):
    run = fl.edit_each(lm, FACTS, "rome", CONFIG, background)
    assert run.mode == "each"
    assert len(run.edits) == 3
    for fact, edit, answer in zip(FACTS, run.edits, run.right_after, strict=True):
        assert edit.base.on_top_of == ()
        alone = fl.rome(lm, fact, CONFIG, background)
        assert torch.allclose(alone.updates[0].left, edit.updates[0].left, atol=1e-3)
        with edit.applied(lm):
            score = lm.score([fact.prompt], [fact.target_new])[0]
        assert answer.new_prob == pytest.approx(score.length_normalised_prob, rel=1e-4)
    assert run.at_end == run.right_after
    assert repr(run).startswith("EditRun(each, rome: 3 facts in 3 edits; ")
    assert len(repr(run)) < 120
    with pytest.raises(InvalidRequestError, match="each for the unedited model"):
        run.combined()


def test_a_sequence_stacks(lm, background):
    run = fl.edit_sequence(lm, FACTS, "rome", CONFIG, background)
    first, second, third = run.edits
    assert first.base.on_top_of == ()
    assert list(second.base.on_top_of) == digests(first)
    assert list(third.base.on_top_of) == digests(second)  # which names the first
    # The second was computed on the model with the first.
    with first.applied(lm):
        again = fl.rome(lm, FACTS[1], CONFIG, background)
    assert torch.allclose(again.updates[0].left, second.updates[0].left, atol=1e-4)
    with first.applied(lm), second.applied(lm):
        middle = lm.score([FACTS[1].prompt], ["Dutch"])[0].length_normalised_prob
    assert run.right_after[1].new_prob == pytest.approx(middle, rel=1e-4)
    with run.combined().applied(lm):
        ends = lm.score([f.prompt for f in FACTS], [f.target_new for f in FACTS])
    for answer, end in zip(run.at_end, ends, strict=True):
        assert answer.new_prob == pytest.approx(end.length_normalised_prob, rel=1e-4)


def test_a_later_edit_may_replace_an_earlier_one(lm, background):
    other = fl.Fact("{} is", "Rome", "Oslo")
    run = fl.edit_sequence(lm, [FACTS[0], other], "rome", CONFIG, background)
    assert len(run.edits) == 2


def test_edits_each_for_itself_are_saved_all_or_none(lm, background, tmp_path):
    run = fl.edit_each(lm, FACTS, "rome", CONFIG, background)
    assert [folder.name for folder in run.save(tmp_path / "edits")] == ["1", "2", "3"]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "edits").rglob("*")}
    for overwrite in (False, True):
        with pytest.raises(StorageError, match="not empty"):
            run.save(tmp_path / "edits", overwrite)
    (tmp_path / "other" / "3").mkdir(parents=True)
    with pytest.raises(StorageError, match="not empty"):
        run.save(tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["3"]
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "edits").rglob("*")}


def test_statistics_are_those_that_are_asked_for(lm):
    """One background, two settings: the second is not answered with what the first collected."""
    few, more = (fl.stats.StatsConfig(tokens_per_dim=n, seed=n) for n in (4, 8))
    shared = fl.editing.Background()
    for config in (few, more, few):
        alone = fl.editing.Background().second_moments(lm, [1], config)[1]
        found = shared.second_moments(lm, [1], config)[1]
        assert isinstance(alone, fl.stats.SecondMoment)
        assert isinstance(found, fl.stats.SecondMoment)
        assert found.n_tokens == alone.n_tokens
        assert torch.equal(found.matrix, alone.matrix)
    given = fl.editing.Background.of([alone])
    assert given.second_moments(lm, [1], more)[1] is alone, "what somebody gave serves"


def test_edits_after_one_that_left_no_keys_do_not_depend_on_each_other(lm, background):
    config = fl.editing.AlphaEditConfig(layers=(1,), contexts=CONFIG.contexts)
    config = config.model_copy(update={"value": ValueConfig(steps=2)})
    anchored = CONFIG.model_copy(update={"norm_anchor": "first"})
    with fl.rome(lm, FACTS[0], anchored, background).applied(lm):
        alphaedit = METHODS["alphaedit"]
        one, other = alphaedit.each(lm, FACTS[1:], config, fl.editing.Background())
        late, early = alphaedit.each(lm, FACTS[:0:-1], config, fl.editing.Background())
    for a, b in ((one, early), (other, late)):
        assert a.facts == b.facts
        assert a.updates[0].norm == pytest.approx(b.updates[0].norm, rel=1e-5)


ONE_BY_ONE = replace(METHODS["rome"], name="single", compute_together=None)


def test_batches_of_a_sequence(lm, background):
    config = fl.editing.MemitConfig(
        layers=(0,), value=ValueConfig(steps=2), contexts=CONFIG.contexts
    )
    run = fl.edit_sequence(lm, FACTS, "memit", config, background, turn=2)
    assert [len(edit.facts) for edit in run.edits] == [2, 1]
    assert len(run.right_after) == len(run.at_end) == 3
    with pytest.raises(InvalidRequestError, match="cannot write 2 facts"):
        fl.edit_sequence(lm, FACTS, ONE_BY_ONE, CONFIG, background, turn=2)


REMEMBERING = {
    "memit": fl.editing.MemitConfig(second_moment_weight=0.05),
    "emmet": fl.editing.EmmetConfig(second_moment_weight=0.05),
    "alphaedit": fl.editing.AlphaEditConfig(null_share=1.0),
}


@pytest.mark.parametrize("method", [*REMEMBERING])
def test_a_sequence_protects_what_it_wrote(lm, background, method):
    config = REMEMBERING[method].model_copy(
        update={"layers": (0,), "value": ValueConfig(steps=3), "contexts": CONFIG.contexts}
    )
    compute, forgetful = METHODS[method].each, config.model_copy(update={"remember": False})
    (first,) = compute(lm, FACTS[:1], config, background)
    (old,) = first.remembered[0].tensors["keys.0"].double()
    (alone,) = compute(lm, FACTS[1:2], config, background)
    with replace(first, updates=_nothing(first)).applied(lm):
        (protected,) = compute(lm, FACTS[1:2], config, background)
        (forgetting,) = compute(lm, FACTS[1:2], forgetful, background)
        # Who writes the same fact anew must not be kept from it.
        (anew,) = compute(lm, FACTS[:1], config, background)
    assert _touched(protected, old) < 0.5 * _touched(alone, old)
    assert _touched(forgetting, old) == pytest.approx(_touched(alone, old), rel=1e-5)
    assert torch.allclose(anew.updates[0].left, first.updates[0].left, rtol=1e-4)


def _nothing(edit: fl.Edit):
    """Updates of the same weights that change nothing: what is left is what is remembered."""
    return tuple(replace(each, left=0 * each.left) for each in edit.updates)


def _touched(edit: fl.Edit, key: torch.Tensor) -> float:
    """How far an edit moves the output of a key."""
    change = edit.updates[0].matrix(torch.float64, torch.device("cpu"))
    return float((change @ key).norm())


def test_what_is_remembered_is_saved(lm, background, tmp_path):
    config = REMEMBERING["memit"].model_copy(
        update={"layers": (0, 1), "value": ValueConfig(steps=2), "contexts": CONFIG.contexts}
    )
    run = fl.edit_sequence(lm, FACTS, "memit", config, background, turn=2)
    run.combined().save(tmp_path / "all")
    loaded = fl.Edit.load(tmp_path / "all")
    assert loaded == run.combined()
    assert [block.facts for block in loaded.remembered] == [tuple(FACTS[:2]), (FACTS[2],)]
    new = [fl.Fact("{} speaks", "New York", "Dutch")]
    with loaded.applied(lm):
        one = fl.memit(lm, new, config, background)
    with run.edits[0].applied(lm), run.edits[1].applied(lm):
        other = fl.memit(lm, new, config, background)
    for a, b in zip(one.updates, other.updates, strict=True):
        assert torch.allclose(a.right, b.right, atol=1e-6)


def test_edits_that_leave_nothing_stand_among_those_that_do(lm, background):
    settings = {"layers": (0,), "value": ValueConfig(steps=2), "contexts": CONFIG.contexts}
    memit = fl.memit(lm, FACTS[:1], fl.editing.MemitConfig(**settings), background)
    with memit.applied(lm):
        rome = fl.rome(lm, FACTS[1], CONFIG, background)
    both = fl.editing.combine([memit, rome])
    assert [(block.facts, [*block.tensors]) for block in both.remembered] == [
        ((FACTS[0],), ["keys.0"]),
        ((FACTS[1],), []),
    ]
    assert fl.editing.combine([rome]).remembered == ()


def test_one_fact_methods_do_not_write_many_at_once(lm):
    with pytest.raises(InvalidRequestError, match="'single' writes one fact at a time"):
        fl.edit_together(lm, FACTS, ONE_BY_ONE)
    with pytest.raises(InvalidRequestError, match="'single' cannot write 2 facts at a time"):
        fl.edit_sequence(lm, FACTS, ONE_BY_ONE, turn=2)


def test_wrong_requests(lm):
    with pytest.raises(InvalidRequestError, match="Did you mean 'memit'"):
        fl.edit_each(lm, FACTS, "memti")
    with pytest.raises(InvalidRequestError, match="takes a MemitConfig, not a RomeConfig"):
        fl.edit_together(lm, FACTS, "memit", CONFIG)
    with pytest.raises(InvalidRequestError, match="list of facts is empty"):
        fl.edit_each(lm, [], "rome")


def test_a_package_adds_a_method(lm, monkeypatch):
    added = methods.Method("mine", "Does nothing.", fl.editing.RomeConfig, lambda *_: [])

    class Point:
        name = "mine"

        def load(self):
            return added

    monkeypatch.setattr(methods, "entry_points", lambda group: [Point()])
    assert methods.method_named("mine") is added
    with pytest.raises(InvalidRequestError, match="mine"):
        methods.method_named("nobody")


def test_what_it_said_before_is_asked_without_edits(lm, background):
    before = fl.editing.said_before(lm, FACTS[0])
    edit = fl.rome(lm, FACTS[0], CONFIG.model_copy(update={"layer": 1}), background)
    with edit.applied(lm):
        assert fl.editing.said_before(lm, FACTS[0]) == before
        live = lm.live_fingerprint
        assert live != lm.fingerprint
    assert lm.live_fingerprint == lm.fingerprint


def test_memory_that_runs_out_says_how_much_less_to_allow(lm, background, monkeypatch):
    def no_memory(*_args, **_kwargs):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("factlab.editing.closed_form.value.ValueBatch", no_memory)
    lm.memory_gib = 3
    with pytest.raises(fl.errors.MemoryLimitError, match=r"lm\.memory_gib = 1\.5 in Python"):
        fl.rome(lm, FACTS[0], CONFIG, background)


def test_statistics_that_were_collected_serve_any_layer(lm):
    quick = CONFIG.model_copy(
        update={"stats": fl.stats.StatsConfig(tokens_per_dim=4, row_length=16)}
    )
    shared = fl.editing.Background()
    for layer in (0, 1):
        edit = fl.rome(lm, FACTS[0], quick.model_copy(update={"layer": layer}), shared)
        assert edit.config["layer"] == layer


def test_an_edit_that_nothing_depends_on_is_refused(lm, background):
    last = fl.editing.Background.of([background.moments[1]])
    last.moments[2] = fl.stats.SecondMoment(last.moments[1].matrix, 2, 224, "noise", lm.fingerprint)
    with pytest.raises(EditError, match="Edit an earlier layer"):
        fl.memit(lm, FACTS, fl.editing.MemitConfig(layers=(1, 2), contexts=CONFIG.contexts), last)


def test_clamps_by_precedence(lm, background):
    quick = {"layers": (0,), "contexts": CONFIG.contexts}
    for value, clamp in ((ValueConfig(steps=2), 0.75), (ValueConfig(steps=2, clamp_factor=3), 3)):
        edit = fl.memit(lm, FACTS[:1], fl.editing.MemitConfig(value=value, **quick), background)
        assert edit.config["value"]["clamp_factor"] == clamp
    edit = fl.editing.emmet(
        lm, FACTS[:1], fl.editing.EmmetConfig(value=ValueConfig(steps=2), **quick), background
    )
    assert edit.config["value"]["clamp_factor"] == 4


def test_equal_keys_need_damping(lm, background):
    facts = [fl.Fact("{} is in", "Miles", "Rome"), fl.Fact("{} plays the", "Miles", "piano")]
    config = fl.editing.EmmetConfig(
        layers=(0,),
        value=ValueConfig(steps=2),
        contexts=fl.editing.ContextConfig(groups=()),
        damping=0,
    )
    with pytest.raises(EditError, match="damping above 0"):
        fl.editing.emmet(lm, facts, config, background)
    fl.editing.emmet(lm, facts, config.model_copy(update={"damping": 0.1}), background)


def test_nothing_is_computed_for_requests_that_cannot_end_well(lm, monkeypatch):
    monkeypatch.setattr("factlab.editing.closed_form.values.optimise_values", None)
    endless = fl.Fact("{} is", "Rome", "Paris", "Berlin " * 300)
    for run in (fl.edit_each, fl.edit_sequence):
        with pytest.raises(InvalidRequestError, match="Shorten it"):
            run(lm, [FACTS[0], endless], "rome", CONFIG)
        with pytest.raises(InvalidRequestError, match="no target_new"):
            run(lm, [FACTS[0], fl.Fact("{} is", "Oslo")], "rome", CONFIG)


def test_sequences_in_inference_mode(lm, background):
    with torch.inference_mode():
        run = fl.edit_sequence(lm, FACTS[:2], "rome", CONFIG, background)
    assert len(run.edits) == 2


def test_a_sequence_drops_no_fact(lm):
    with EditSequence(lm, ONE_BY_ONE, CONFIG, None) as sequence:
        with pytest.raises(InvalidRequestError, match="'single' writes one fact at a time, not 2"):
            sequence.write(FACTS[:2])
        with pytest.raises(InvalidRequestError, match="no facts to write"):
            sequence.write([])
        assert not sequence.edits


@pytest.mark.parametrize(
    ("said", "target", "says_new"),
    [
        ("Russian", "Russia", False),
        ("1969", "196", False),
        ("Rome", "Rome", True),
        ("Rome, where", " Rome", True),
    ],
)
def test_a_longer_word_is_another_word(lm, monkeypatch, said, target, says_new):
    asked = []

    def generate(prompts, max_new_tokens, return_full_text):
        assert not return_full_text
        asked.append(max_new_tokens)
        return [f" {said}" for _ in prompts]

    monkeypatch.setattr(lm, "generate_batch", generate)
    fact = fl.Fact("{} lives in", "She", target)
    assert answers(lm, [fact])[0].says_new == says_new
    n_target = len(lm.score([fact.prompt], [target])[0].token_ids)
    assert asked == [n_target + 1], "one more, to see where the last word ends"


@pytest.mark.parametrize("spaces", [1, 2, 3])
def test_spaces_at_the_end_of_a_template_change_no_answer(lm, spaces):
    plain = fl.Fact("{} is located in the city of", "The Eiffel Tower", "Rome")
    spaced = fl.Fact(plain.template + " " * spaces, plain.subject, plain.target_new)
    assert answers(lm, [spaced]) == answers(lm, [plain])
    said = [fl.editing.said_before(lm, fact).target_new for fact in (plain, spaced)]
    assert said[0] == said[1] != "The"


def test_a_continuation_without_a_space_is_whole(lm, monkeypatch):
    monkeypatch.setattr(
        "factlab.models.generation.decode_continuation", lambda _lm, _row, _new: "北京"
    )
    fact = fl.Fact("{}的首都是 ", "中国", "北京")
    (answer,) = answers(lm, [fact])
    assert answer.said == "北京"
    assert answer.says_new
    assert fl.editing.said_before(lm, fact).target_new == "北京"


def test_a_prompt_that_fills_the_context_is_still_answered(lm):
    n_target = len(lm.score(["a a"], ["a"])[0].token_ids)
    template = "{}" + " a" * (256 - n_target - len(lm.encode("Rome")))
    fact = fl.Fact(template, "Rome", "a")
    assert len(lm.encode(fact.prompt)) + n_target == 256
    assert answers(lm, [fact])


def test_without_a_start_token_contexts_can_be_left_out(fact):
    def model(token_id):
        tiny = fl.models.tiny_model("llama")
        tiny.tokenizer.bos_token = tiny.tokenizer.eos_token = None
        for config in (tiny.model.config, tiny.model.generation_config):
            config.bos_token_id = config.eos_token_id = token_id
        return fl.LanguageModel(tiny.model, tiny.tokenizer)

    def statistics(lm):
        text = "The Space Needle is in downtown Seattle, and the Colosseum is in Rome. " * 9
        corpus = corpus_from_texts(lm, [text] * 4, "my text", 900, 64)
        return fl.editing.Background.of(fl.stats.second_moments(lm, [1], corpus=corpus))

    lm, plain = model(0), fl.editing.RomeConfig(layer=1)
    assert fl.rome(lm, fact, plain, statistics(lm)).updates, "the model's config has a BOS"
    lm = model(None)
    known = statistics(lm)
    none = fl.editing.RomeConfig(layer=1, contexts=fl.editing.ContextConfig(groups=()))
    assert fl.rome(lm, fact, none, known).updates
    with pytest.raises(TokenizationError, match=r"text corpus .* ContextConfig\(groups=\(\)\)"):
        fl.rome(lm, fact, plain, known)


def test_a_damaged_memory_is_noticed(lm, background, tmp_path):
    config = REMEMBERING["memit"].model_copy(
        update={"layers": (0,), "value": ValueConfig(steps=2), "contexts": CONFIG.contexts}
    )
    fl.memit(lm, FACTS[:2], config, background).save(tmp_path / "edit")
    path, good = tmp_path / "edit" / "edit.safetensors", {}
    good |= load_file(path)
    for other in (good["remembered.0.keys.0"] + 1, good["remembered.0.keys.0"][:1].clone()):
        save_file(good | {"remembered.0.keys.0": other}, path)
        with pytest.raises(StorageError, match="damaged: what it remembers of its facts"):
            fl.Edit.load(tmp_path / "edit")
    save_file({n: t for n, t in good.items() if "keys" not in n}, path)
    with pytest.raises(StorageError, match=r"tensor 'remembered.0.keys.0' is missing"):
        fl.Edit.load(tmp_path / "edit")
    save_file(good, path)
    document = json.loads((tmp_path / "edit" / "edit.json").read_text())
    document["remembered"][0]["n_facts"] = 1
    (tmp_path / "edit" / "edit.json").write_text(json.dumps(document))
    with pytest.raises(StorageError, match="remembers 1 fact and writes 2"):
        fl.Edit.load(tmp_path / "edit")
