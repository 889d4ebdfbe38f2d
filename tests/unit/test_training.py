"""Trained editors: what they learn from, training that can be killed, and what they refuse."""

import json
import math
from dataclasses import replace

import pytest
import torch
import transformers

import factlab as fl
from factlab.data.records import Record
from factlab.editing.trained import training
from factlab.editing.trained.configs import KeConfig, MendConfig, TrainConfig, TrainedEditConfig
from factlab.editing.trained.curve import plot_curve
from factlab.editing.trained.editor import new_network
from factlab.editing.trained.examples import examples_of_records, examples_of_text
from factlab.editing.trained.gradients import last_matrices
from factlab.editing.trained.losses import losses, observe
from factlab.editing.trained.mend import Mend
from factlab.editing.trained.sampling import picked
from factlab.editing.trained.states import States
from factlab.editing.trained.store import load_editor
from factlab.editing.trained.training import train_editor
from factlab.journal import Journal
from factlab.models.tiny import tiny_tokenizer
from factlab.stats.corpus import Corpus
from factlab.storage import read_tensors, write_tensors

NETWORKS = {
    "mend": MendConfig(n_blocks=2, rank=4),
    "ke": KeConfig(n_blocks=2, hidden=4, condition=4),
}
CONFIG = TrainConfig(
    max_steps=5, validate_every=2, learning_rate=1e-3, examples_per_step=3, n_validation=3,
)  # fmt: skip


def records(n=24, benchmark="counterfact"):
    """Records of as many subjects."""
    zsre = benchmark == "zsre"
    return [
        Record(
            case_id=i,
            benchmark=benchmark,
            relation_id="P36",
            fact=fl.Fact("{} is in", f"Place {i}", "Rome and Paris" if i % 2 else "Rome", "Seattle"),
            paraphrase_prompts=(f"Where is Place {i}? In", f"Place {i} is a city in"),
            neighborhood_prompts=("The Space Needle is in", "Miles Davis plays", "Who is")[: 2 + i % 2],
            neighborhood_answers=("downtown Seattle", "the trumpet", "it")[: 2 + i % 2] if zsre else (),
        )
        for i in range(n)
    ]  # fmt: skip


@pytest.fixture
def lm(make_model):
    return make_model("llama")


@pytest.fixture
def data(lm):
    return examples_of_records(lm, records())


@pytest.fixture
def editor(lm, data, tmp_path):
    config = CONFIG.model_copy(update={"max_steps": 1})
    return train_editor(lm, data, tmp_path / "editor", NETWORKS["mend"], config).editor


# -- what is learned from ---------------------------------------------------------------------


def test_examples_of_records(lm, data):
    assert data.kind == "counterfact"
    assert len(data.train) + len(data.validation) + data.n_test == 24
    assert len(data.subjects) == len(data.train) + len(data.validation)
    for example in data.train:
        assert len(example.rephrased) == 2
        assert example.edit not in example.rephrased  # which counts at every step
        assert example.ordinary == ()
        assert example.edit.ids[-len(example.edit.target_ids) :] == example.edit.target_ids
        for reading in example.unrelated:  # at the end, where the answer begins
            assert reading.reads == (len(reading.inputs) - 1,)
    again = examples_of_records(lm, records())
    assert again == data
    assert again.examples_hash == data.examples_hash
    assert examples_of_records(lm, records(), seed=1).digest != data.digest


def test_examples_of_questions_are_read_along_their_answers(lm):
    found = examples_of_records(lm, records(benchmark="zsre"))
    assert found.kind == "zsre"
    for reading in found.train[0].unrelated:
        assert not reading.target_ids
        assert reading.reads[-1] == len(reading.inputs) - 1
    assert len(found.train[0].unrelated[0].reads) > 1


def passages(n=40, n_tokens=30):
    """Rows of as many different tokens."""
    rows = tuple(
        tuple(20 + (i * 7 + j * j) % 300 for j in range(n_tokens + i % 3)) for i in range(n)
    )
    return Corpus(rows, "numbers")


def test_examples_of_text(lm):
    corpus = passages(80)
    corpus = replace(corpus, rows=(*corpus.rows, corpus.rows[0], (21, 22, 23)))
    found = examples_of_text(lm, corpus, validation_share=0.3)
    assert found.kind == "text"
    assert not found.subjects
    assert len(found.train) + len(found.validation) == 80
    assert sum(found.skipped.values()) == 2
    for example in (*found.train, *found.validation):
        prompt = example.edit.prompt_ids
        assert 4 <= len(prompt) <= 32
        assert 1 <= len(example.edit.target_ids) <= 10
        (other,) = example.rephrased
        assert other.target_ids == example.edit.target_ids
        if len(prompt) >= 12:  # less of its beginning
            assert other.prompt_ids == prompt[-len(other.prompt_ids) :] != prompt
        else:  # behind other text
            assert other.prompt_ids[-len(prompt) :] == prompt != other.prompt_ids
        assert len({reading.inputs for reading in example.unrelated}) == 6
        assert all(prompt != reading.inputs[: len(prompt)] for reading in example.unrelated)
    shares = [
        {r.inputs for e in share for r in e.unrelated} for share in (found.train, found.validation)
    ]
    assert not shares[0] & shares[1]
    assert examples_of_text(lm, corpus, validation_share=0.3) == found
    assert examples_of_text(lm, corpus, 1, validation_share=0.3) != found
    with pytest.raises(fl.FactlabError, match="Too little text to train on"):
        examples_of_text(lm, passages(5))


def test_lengths_are_mixed(make_model):
    """From short facts to whole passages; what must stay is read at early places too."""
    lm = make_model("llama", add_bos=True)
    start = lm.encode("The").ids[:1]
    corpus = passages(150)
    found = examples_of_text(lm, replace(corpus, rows=tuple((*start, *r) for r in corpus.rows)))
    edits = [example.edit for example in found.train]
    prompts = [edit.prompt_ids for edit in edits]
    assert all(prompt[:1] == start and start[0] not in prompt[1:] for prompt in prompts)
    lengths = [len(prompt) - 1 for prompt in prompts]
    assert min(lengths) == 4
    assert max(lengths) > 25
    assert 0.3 < sum(length < 11 for length in lengths) / len(lengths) < 0.7
    assert {len(edit.target_ids) for edit in edits} == set(range(1, 11))
    reads = {read for example in found.train for text in example.unrelated for read in text.reads}
    assert reads >= set(range(30))


def test_ordinary_text_stays_beside_neighbours(lm):
    found = examples_of_records(lm, records(), validation_share=0.3, ordinary=passages(60))
    for share in (found.train, found.validation):
        assert all(len(example.ordinary) == 6 for example in share)
    learned, validated = (
        {text.inputs for example in share for text in example.ordinary}
        for share in (found.train, found.validation)
    )
    assert not learned & validated
    same = examples_of_records(lm, records(), validation_share=0.3, ordinary=passages(60))
    assert same.examples_hash == found.examples_hash
    without = examples_of_records(lm, records(), validation_share=0.3)
    assert without.examples_hash != found.examples_hash
    (one, *_) = picked(found.train, 0, per_step=1, n_unrelated=2, seed=0, n_ordinary=8)
    assert len(one.ordinary) == 8
    (one, *_) = picked(without.train, 0, per_step=1, n_unrelated=2, seed=0, n_ordinary=8)
    assert one.ordinary == ()


def test_what_cannot_be_used_is_counted_or_refused(lm):
    bare = [replace(record, neighborhood_prompts=()) for record in records(4)]
    mixed = [
        *records(),
        *(replace(r, fact=replace(r.fact, subject=f"Bare {r.case_id}")) for r in bare),
    ]
    found = examples_of_records(lm, mixed)
    assert sum(found.skipped.values()) <= 4
    with pytest.raises(fl.FactlabError, match="too few to split"):
        examples_of_records(lm, records(2))
    with pytest.raises(fl.FactlabError, match="no unrelated prompts"):
        examples_of_records(lm, [replace(r, neighborhood_prompts=()) for r in records()])
    with pytest.raises(fl.FactlabError, match="records of one benchmark"):
        examples_of_records(lm, [*records(), *records(benchmark="zsre")])


def test_every_example_comes_once_before_any_comes_again(data):
    drawing = {"per_step": len(data.train), "n_unrelated": 5, "seed": 0}
    for step in (0, 1):
        edits = [example.edit for example in picked(data.train, step, **drawing)]
        assert len(set(edits)) == len(data.train)
    assert picked(data.train, 1, **drawing) == picked(data.train, 1, **drawing)
    assert picked(data.train, 0, **drawing) != picked(data.train, 1, **drawing)
    assert all(len(example.unrelated) == 5 for example in picked(data.train, 0, **drawing))


# -- the loss ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mend", "ke"])
def test_losses_are_those_of_a_model_with_the_edit(make_model, kind, tmp_path):
    lm = make_model("gpt2", dtype=torch.float64)
    found = examples_of_records(
        lm, records(benchmark="zsre"), validation_share=0.3, ordinary=passages(60)
    )
    network = NETWORKS[kind]
    if kind == "mend":
        network = network.model_copy(update={"step_size": 1e-2})
    editor = train_editor(
        lm, found, tmp_path / "editor", network, CONFIG.model_copy(update={"max_steps": 1})
    ).editor
    editor.network.double()
    some = picked(found.train, 0, per_step=4, n_unrelated=2, seed=0, n_ordinary=2)
    states = States(lm, lm.n_layers - 2)
    with torch.no_grad(), lm.frozen():
        together = losses(lm, editor.network, states, some)
        alone = [losses(lm, editor.network, states, [example]) for example in some]
    assert torch.allclose(together.edit_nll, torch.cat([one.edit_nll for one in alone]))
    assert torch.allclose(together.loc_kl, torch.cat([one.loc_kl for one in alone]))
    by_edit = {
        tuple(lm.tokenizer(r.fact.prompt)["input_ids"]): r.fact for r in records(benchmark="zsre")
    }
    force = TrainedEditConfig(allow_seen_subjects=True)
    for i, example in enumerate(some):
        fact = by_edit[example.edit.prompt_ids]
        (edit,) = editor.edits(lm, [fact], force)

        def logprobs(reading):
            with torch.no_grad():
                return (
                    lm.model(torch.tensor([reading.inputs]))
                    .logits[0, list(reading.reads)]
                    .log_softmax(-1)
                )

        kept, asked = (*example.unrelated, *example.ordinary), (example.edit, *example.rephrased)
        before = [logprobs(reading) for reading in kept]
        with edit.applied(lm):
            after = [logprobs(reading) for reading in kept]
            found_there = [logprobs(reading) for reading in asked]
        # Of each text the mean over what is read, and then the mean over texts.
        kl = torch.stack(
            [(b.exp() * (b - a)).sum(-1).mean() for b, a in zip(before, after, strict=True)]
        )
        same = [
            (b.argmax(-1) == a.argmax(-1)).double().mean()
            for b, a in zip(before, after, strict=True)
        ]
        wanted = [torch.tensor(reading.target_ids)[:, None] for reading in asked]
        nll = [-there.gather(1, ids).mean() for there, ids in zip(found_there, wanted, strict=True)]
        said = [
            bool((t.argmax(-1) == ids[:, 0]).all())
            for t, ids in zip(found_there, wanted, strict=True)
        ]
        assert torch.isclose(together.loc_kl[i], kl.mean(), atol=1e-9)
        assert torch.isclose(together.ordinary_kl[i], kl[2:].mean(), atol=1e-9)
        assert torch.isclose(together.edit_nll[i], torch.stack(nll).mean(), atol=1e-7)
        assert together.stays[i] == pytest.approx(float(torch.stack(same).mean()))
        assert [bool(together.says_prompt[i]), bool(together.says[i])] == said
        assert kl.min() > 1e-9


# -- training ---------------------------------------------------------------------------------


class Killed(BaseException):
    """Nothing is written on the way out."""


def killed(*_):
    raise Killed


def without_speed(history):
    return {
        step: {name: value for name, value in found.items() if name != "examples_per_s"}
        for step, found in history.items()
    }


@pytest.mark.parametrize("kind", ["mend", "ke"])
def test_a_killed_training_goes_on_to_the_same_weights(lm, data, tmp_path, kind):
    whole = train_editor(lm, data, tmp_path / "whole", NETWORKS[kind], CONFIG)
    assert whole.finished
    assert list(whole.history) == [0, 2, 4, 5]

    def killing(at):
        def progress(label, done, total):
            if label.startswith("training") and done == at:
                raise Killed

        return progress

    for at in (0, 3):  # the checkpoint is of step 0, and of step 2
        with pytest.raises(Killed):
            train_editor(
                lm,
                data,
                tmp_path / "killed",
                NETWORKS[kind],
                CONFIG,
                resume=True,
                progress=killing(at),
            )
    answers = iter([False, True])
    stopped = train_editor(
        lm, data, tmp_path / "killed", NETWORKS[kind], CONFIG, resume=True,
        should_stop=lambda: next(answers),
    )  # fmt: skip
    assert not stopped.finished
    resumed = train_editor(lm, data, tmp_path / "killed", NETWORKS[kind], CONFIG, resume=True)
    assert without_speed(resumed.history) == without_speed(whole.history)
    one, other = whole.editor, resumed.editor
    assert one.digest == other.digest
    assert one.training == other.training
    for (name, a), b in zip(
        one.network.state_dict().items(), other.network.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    bytes_of = [
        (tmp_path / run / "checkpoint.safetensors").read_bytes() for run in ("whole", "killed")
    ]
    assert bytes_of[0] == bytes_of[1]
    # It is done, and stays done; more steps may be asked for.
    assert (
        train_editor(
            lm, data, tmp_path / "whole", NETWORKS[kind], CONFIG, resume=True
        ).editor.digest
        == one.digest
    )
    longer = CONFIG.model_copy(update={"max_steps": 6})
    assert (
        list(
            train_editor(lm, data, tmp_path / "whole", NETWORKS[kind], longer, resume=True).history
        )[-1]
        == 6
    )


def test_it_learns(lm, data, tmp_path):
    config = CONFIG.model_copy(
        update={"max_steps": 12, "validate_every": 12, "step_learning_rate": 1e-2}
    )
    run = train_editor(lm, data, tmp_path / "editor", NETWORKS["mend"], config)
    first, *_, last = run.history.values()
    assert last["loss"] < first["loss"]
    assert run.editor.training["step"] > 0
    plot_curve(run.history, run.editor.name, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("at_first", "scale"), [(3.4, "log"), (0.0, "symlog")])
def test_a_curve_shows_its_end_as_well_as_its_beginning(tmp_path, at_first, scale, monkeypatch):
    history = {0: {"train_loss": None, "loss": 3.7, "edit_nll": 3.4, "loc_kl": at_first}}
    history |= {
        step: {"train_loss": 0.4, "loss": 4 / step, "edit_nll": 1.0, "loc_kl": 0.05}
        for step in (50, 100)
    }
    figures = []
    monkeypatch.setattr(
        "factlab.editing.trained.curve.save_picture",
        lambda figure, _: figures.append(figure),
    )
    plot_curve(history, "MEND", tmp_path / "curve.png")
    loss, edit, kept, _ = figures[0].axes
    assert (loss.get_yscale(), edit.get_yscale(), kept.get_yscale()) == ("log", "log", scale)
    colours = {line.get_color() for panel in (loss, edit, kept) for line in panel.lines}
    assert len(colours) == 2  # what it learns from, and what it never saw
    history[50] |= {"score": 0.8, "says_prompt": 0.9, "says": 0.8, "stays": 0.7}
    history[100] |= {"score": 0.7, "says_prompt": 1.0, "says": 0.5, "stays": 0.8}
    plot_curve(history, "MEND", tmp_path / "curve.png")
    shares = figures[1].axes[3]
    assert [list(line.get_ydata()) for line in shares.lines] == [
        [0.9, 1],
        [0.8, 0.5],
        [0.7, 0.8],
    ]
    assert figures[1].get_suptitle() == "MEND: best at step 50"


def test_it_stops_early(lm, data, tmp_path):
    config = CONFIG.model_copy(
        update={"max_steps": 12, "validate_every": 1, "patience": 2, "learning_rate": 1e-30}
    )
    run = train_editor(lm, data, tmp_path / "editor", NETWORKS["ke"], config)
    assert run.finished
    assert "no better validation since step" in run.reason
    assert max(run.history) < 12
    best = min(run.history, key=lambda step: run.history[step]["loss"])
    assert run.editor.training["step"] == best


def test_the_editor_that_does_most_is_kept(lm, data, tmp_path, monkeypatch):
    """What is said and what stays decides, the loss only between equals."""
    found = {
        0: (0.0, 0.0, 1.0, 3.0), 1: (0.9, 0.9, 0.9, 2.0), 2: (1.0, 0.1, 1.0, 1.0),
        3: (0.9, 0.9, 0.9, 1.9), 4: (0.9, 0.9, 0.9, 2.5),
    }  # fmt: skip
    measured = training.Losses.measured.fget
    steps = iter(found)

    def as_found(self):
        says_prompt, says, stays, nll = found[next(steps)]
        values = {"says_prompt": says_prompt, "says": says, "stays": stays, "edit_nll": nll}
        return measured(self) | {n: torch.full_like(self.edit_nll, v) for n, v in values.items()}

    monkeypatch.setattr(training.Losses, "measured", property(as_found))
    config = CONFIG.model_copy(update={"max_steps": 4, "validate_every": 1})
    run = train_editor(lm, data, tmp_path / "editor", NETWORKS["ke"], config)
    assert run.editor.training["step"] == 3
    assert run.editor.training["validation"]["score"] == pytest.approx(0.9)
    assert run.history[2]["score"] == pytest.approx(0.25)
    assert json.loads((tmp_path / "editor" / "run.json").read_text())


def test_divergence_keeps_the_best_editor(lm, data, tmp_path):
    config = CONFIG.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(fl.FactlabError, match=r"diverged at step \d.*of step 0.*below 1e\+30"):
        train_editor(lm, data, tmp_path / "editor", NETWORKS["mend"], config)
    kept = load_editor(tmp_path / "editor")
    assert kept.training["step"] == 0
    assert math.isfinite(kept.training["validation"]["loss"])


def test_mixed_precision_is_near(lm, data, tmp_path):
    mixed = CONFIG.model_copy(update={"mixed_precision": True})
    losses_of = [
        train_editor(lm, data, tmp_path / name, NETWORKS["mend"], config).history[5]["loss"]
        for name, config in (("full", CONFIG), ("mixed", mixed))
    ]
    assert losses_of[0] == pytest.approx(losses_of[1], rel=0.05)


@pytest.mark.parametrize("kind", ["mend", "ke"])
def test_memory_changes_a_training_by_rounding(make_model, tmp_path, monkeypatch, kind):
    lm = make_model("llama", dtype=torch.float64)
    # In double precision too, which an editor is not when it is read again.
    monkeypatch.setattr(training, "new_network", lambda *args: new_network(*args).double())
    monkeypatch.setattr(training, "load_editor", killed)
    data = examples_of_records(lm, records())

    def trained(gib):
        lm.memory_gib = gib
        with pytest.raises(Killed):
            train_editor(lm, data, tmp_path / str(gib), NETWORKS[kind], CONFIG)
        history = Journal.load(tmp_path / str(gib)).records
        return [found[name] for found in history.values() for name in ("edit_nll", "loc_kl")]

    whole = trained(1.0)
    # One example at a time, whose states are made anew; two, whose states are kept.
    for gib in (1e-9, 1e-2):
        assert trained(gib) == pytest.approx(whole, rel=1e-7)


def test_a_step_is_the_same_in_parts(make_model):
    """What an editor takes note of does not depend on how many examples run together."""
    lm = make_model("llama", dtype=torch.float64)
    data = examples_of_records(lm, records())
    some = picked(data.train, 0, per_step=4, n_unrelated=2, seed=0)
    states, matrices = States(lm, lm.n_layers - 2), last_matrices(lm, 2)
    whole, parts = (Mend(matrices, NETWORKS["mend"]) for _ in range(2))
    with lm.frozen():
        observe(lm, whole, states, some)
        for example in some:
            observe(lm, parts, states, [example])
    for (name, one), other in zip(whole.named_buffers(), parts.buffers(), strict=True):
        assert torch.allclose(one, other, rtol=1e-9), name


def test_a_folder_belongs_to_one_training(lm, data, tmp_path):
    folder = tmp_path / "editor"
    train_editor(lm, data, folder, NETWORKS["mend"], CONFIG)
    with pytest.raises(fl.FactlabError, match=r"is not empty\. Resume it"):
        train_editor(lm, data, folder, NETWORKS["mend"], CONFIG)
    others = examples_of_records(lm, records(20))
    for asked in (
        (data, NETWORKS["ke"], CONFIG),
        (others, NETWORKS["mend"], CONFIG),
        (data, NETWORKS["mend"], CONFIG.model_copy(update={"seed": 1})),
    ):
        with pytest.raises(fl.FactlabError, match="belongs to another run"):
            train_editor(lm, asked[0], folder, asked[1], asked[2], resume=True)
    checkpoint = folder / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(fl.FactlabError, match=r"checkpoint .* is damaged"):
        train_editor(lm, data, folder, NETWORKS["mend"], CONFIG, resume=True)
    tuned = fl.editing.FineTuneConfig(layer=1, steps=2)
    edit = fl.editing.fine_tune(lm, [fl.Fact("{} is in", "Rome", "Paris")], "ft", tuned)
    with edit.applied(lm), pytest.raises(fl.FactlabError, match="carries edits"):
        train_editor(lm, data, tmp_path / "other", NETWORKS["mend"], CONFIG)


# -- the editor -------------------------------------------------------------------------------


def test_it_refuses_what_it_was_trained_on(lm, data, editor):
    split = {record.fact.subject: record for record in records()}
    seen = [record for record in split.values() if editor.has_seen(record.fact)]
    assert len(seen) == len(data.train) + len(data.validation)
    assert len(editor.held_out(records())) == data.n_test
    assert len(editor.held_out(records(), offset=1, limit=2)) == 2
    shouted = replace(seen[0].fact, subject=seen[0].fact.subject.upper())
    for fact in (seen[0].fact, shouted):
        with pytest.raises(fl.FactlabError, match=r"MEND-CF was trained on '(?i:place)"):
            editor.edits(lm, [fact])
    (edit,) = editor.edits(lm, [seen[0].fact], TrainedEditConfig(allow_seen_subjects=True))
    assert edit.diagnostics["editor"]["seen_subject"]
    with pytest.raises(fl.FactlabError, match="None are left of"):
        editor.held_out(seen)


def test_edits_in_a_batch_are_those_made_one_by_one(lm, editor):
    facts = [record.fact for record in editor.held_out(records())]
    method = editor.method()
    assert method.name == "mend-cf"
    together = method.each(lm, facts, None, None, lambda *_: None)
    lm.memory_gib = 1e-9
    for fact, edit in zip(facts, together, strict=True):
        (alone,) = editor.edits(lm, [fact])
        assert edit.facts == (fact,)
        for one, other in zip(edit.updates, alone.updates, strict=True):
            assert one.rank == other.rank
            assert torch.allclose(one.left @ one.right, other.left @ other.right, atol=1e-7)
    first = together[0].updates[0]
    assert first.rank <= len(lm.encode(facts[0].prompt).ids) + 5
    joint = editor.edit_together(lm, facts)
    delta = sum(edit.updates[0].left @ edit.updates[0].right for edit in together)
    assert torch.allclose(joint.updates[0].left @ joint.updates[0].right, delta, atol=1e-6)
    twice = editor.edits(lm, facts[:1], TrainedEditConfig(scale=2.0))[0].updates[0]
    assert torch.allclose(twice.left, 2 * first.left)


def test_an_editor_works_as_a_method(lm, editor, tmp_path):
    fact = editor.held_out(records())[0].fact
    run = fl.edit_each(lm, [fact], editor.method())
    assert run.edits[0].method == "mend-cf"
    run.edits[0].save(tmp_path / "edit")
    loaded = fl.Edit.load(tmp_path / "edit")
    assert loaded.updates[0].digest == run.edits[0].updates[0].digest
    config = TrainedEditConfig.model_validate(loaded.config)
    assert config.editor == editor.digest
    with pytest.raises(fl.FactlabError, match="begun with another editor"):
        editor.edits(lm, [fact], TrainedEditConfig(editor="0" * 64))
    sequence = fl.edit_sequence(lm, [fact, fact], editor.method())
    assert sequence.edits[1].base.on_top_of


def test_it_is_bound_to_its_model(make_model, editor):
    fact = editor.held_out(records())[0].fact
    with pytest.raises(fl.FactlabError, match="was trained for tiny-llama"):
        editor.edits(make_model("llama", seed=1), [fact])
    with pytest.raises(fl.FactlabError, match="tiny-gpt2 has others there"):
        editor.edits(make_model("gpt2"), [fact])
    with pytest.raises(fl.FactlabError, match="has others there"):
        editor.edits(make_model("llama", square=True), [fact])


def test_evaluation_is_refused_as_a_whole(lm, data, editor, tmp_path):
    unseen = editor.held_out(records())
    seen = [record for record in records() if editor.has_seen(record.fact)]
    plain = {"measure": fl.evaluation.MeasureConfig(n_generated=0)}
    for mode in ("each", "sequence"):
        with pytest.raises(fl.FactlabError, match="was trained on"):
            fl.evaluate(
                lm, [*unseen[:2], seen[0]], editor.method(), tmp_path / mode, mode=mode, **plain
            )
        assert not (tmp_path / mode).exists()
    fl.evaluate(lm, unseen[:2], editor.method(), tmp_path / "run", **plain)
    network = NETWORKS["mend"].model_copy(update={"seed": 1})
    other = train_editor(lm, data, tmp_path / "other", network, CONFIG).editor
    with pytest.raises(fl.FactlabError, match="editor"):
        fl.evaluate(lm, unseen[:2], other.method(), tmp_path / "run", resume=True, **plain)


@pytest.mark.parametrize("kind", ["mend", "ke"])
def test_embeddings_may_be_narrower_than_the_residual_stream(tmp_path, kind):
    config = transformers.OPTConfig(
        vocab_size=len(tiny_tokenizer()), hidden_size=24, word_embed_proj_dim=16, ffn_dim=56,
        num_hidden_layers=3, num_attention_heads=3, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    lm = fl.LanguageModel(transformers.OPTForCausalLM(config).eval(), tiny_tokenizer())
    assert lm.embedding.weight.shape[1] == 16
    data = examples_of_records(lm, records())
    train_editor(lm, data, tmp_path, NETWORKS[kind], CONFIG.model_copy(update={"max_steps": 2}))
    editor = load_editor(tmp_path)
    (edit,) = editor.edits(lm, [editor.held_out(records())[0].fact])
    assert edit.updates[0].norm > 0


@pytest.mark.parametrize("kind", ["mend", "ke"])
def test_damage_is_found(lm, data, tmp_path, kind):
    folder = tmp_path / "editor"
    train_editor(lm, data, folder, NETWORKS[kind], CONFIG)
    load_editor(folder)
    more = CONFIG.model_copy(update={"max_steps": 6})
    checkpoint = folder / "checkpoint.safetensors"
    whole = checkpoint.read_bytes()
    tensors, metadata = read_tensors(checkpoint)
    some = next(name for name in tensors if name.startswith("adam.exp_avg."))
    for broken, where in (
        (tensors | {some: tensors[some][:1]}, metadata),
        (tensors | {some: tensors[some] * math.nan}, metadata),
        ({name: t for name, t in tensors.items() if name != some}, metadata),
        (tensors, {"where": metadata["where"].replace('"step": 5', '"step": "5"')}),
        (tensors | {some: tensors[some] + 1}, metadata),
        (tensors, metadata | {"where": metadata["where"].replace('"step": 5', '"step": 4')}),
    ):
        write_tensors(checkpoint, broken, where)
        with pytest.raises(fl.FactlabError, match="is damaged"):
            train_editor(lm, data, folder, NETWORKS[kind], more, resume=True)
    checkpoint.write_bytes(whole)
    train_editor(lm, data, folder, NETWORKS[kind], more, resume=True)
    (weights,) = folder.glob("weights-*.safetensors")
    for path, change in (
        (weights, lambda raw: raw[:-50]),
        (weights, lambda raw: raw[:-4] + b"\0\0\x80\x3f"),
        (folder / "subjects.json", lambda raw: raw.replace(b"a", b"b")),
        (folder / "editor.json", lambda raw: raw.replace(b'"config"', b'"cfg"', 1)),
    ):
        raw = path.read_bytes()
        path.write_bytes(change(raw))
        with pytest.raises(fl.FactlabError, match="is damaged"):
            load_editor(folder)
        path.write_bytes(raw)
    load_editor(folder)
    (folder / "editor.json").write_text('{"schema_version": 99}')
    with pytest.raises(fl.FactlabError, match="schema version is 99"):
        load_editor(folder)
    with pytest.raises(fl.FactlabError, match="is not a trained editor"):
        load_editor(tmp_path)


def saying(folder, **change) -> None:
    document = json.loads((folder / "editor.json").read_text())
    (folder / "editor.json").write_text(json.dumps(document | change))


def test_sizes_are_compared_before_they_are_believed(editor, tmp_path):
    folder = tmp_path / "editor"
    document = json.loads((folder / "editor.json").read_text())
    for size in (60_000, 10**9, 10**30, -1):
        matrices = [list(matrix) for matrix in document["matrices"]]
        matrices[0][2] = size
        saying(folder, matrices=matrices)
        with pytest.raises(fl.FactlabError, match="is damaged"):
            load_editor(folder)
    saying(folder, matrices=document["matrices"])
    load_editor(folder)


def test_weights_lie_in_the_folder_and_are_bound_by_their_name(editor, tmp_path):
    folder = tmp_path / "editor"
    name = json.loads((folder / "editor.json").read_text())["weights"]
    for other in (f"../{name}", "weights-.safetensors", name.replace("weights-", "weights-0"), "w"):
        (folder / other).write_bytes((folder / name).read_bytes())
        saying(folder, weights=other)
        with pytest.raises(fl.FactlabError, match="is damaged: weights"):
            load_editor(folder)


def test_editors_of_newer_versions_are_named(editor, tmp_path):
    folder = tmp_path / "editor"
    saying(folder, author="x")
    with pytest.raises(fl.FactlabError, match=r"newer factlab .*'author'"):
        load_editor(folder)
    document = json.loads((folder / "editor.json").read_text())
    del document["author"]
    (folder / "editor.json").write_text(json.dumps(document))
    saying(folder, config=document["config"] | {"depth": 3})
    with pytest.raises(fl.FactlabError, match=r"newer factlab .*'depth'"):
        load_editor(folder)


def test_an_edit_of_seen_and_unseen_subjects_says_so(lm, data, editor):
    seen = [record.fact for record in records() if editor.has_seen(record.fact)][:1]
    unseen = [record.fact for record in editor.held_out(records())[:1]]
    allowed = TrainedEditConfig(allow_seen_subjects=True)
    told = editor.edit_together(lm, unseen + seen, allowed).diagnostics["editor"]
    assert told["seen_subject"]
    assert told["seen_subjects"] == [False, True]
    alone = editor.edit_together(lm, unseen, allowed).diagnostics["editor"]
    assert not alone["seen_subject"]
