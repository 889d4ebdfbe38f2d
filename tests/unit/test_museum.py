"""What earlier versions saved is read by this one; see tests/museum/make.py."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

import factlab as fl
from factlab.errors import StorageError
from factlab.evaluation.reporting.formats import to_markdown

MUSEUM = Path(__file__).parent.parent / "museum"
ROOMS = sorted(path for path in MUSEUM.iterdir() if (path / "expected.json").is_file())
PROMPT = "The Eiffel Tower is located in the city of"
FACTS = (
    fl.Fact("{} is located in the city of", "The Eiffel Tower", "Rome", "Paris"),
    fl.Fact("{} is in downtown", "The Space Needle", "Paris", "Seattle"),
)


@pytest.fixture(params=ROOMS, ids=lambda path: path.name)
def room(request) -> Path:
    return request.param


@pytest.fixture
def expected(room):
    return json.loads((room / "expected.json").read_text(encoding="utf-8"))


def logprobs(lm) -> list[float]:
    return lm.next_token_probs([PROMPT])[0].log()[:40].tolist()


def model(room: Path, family: str) -> fl.LanguageModel:
    """With the weights of the day."""
    lm = fl.models.tiny_model(family)
    with torch.no_grad():
        for name, weight in load_file(room / "models" / f"{family}.safetensors").items():
            lm.model.get_parameter(name).copy_(weight)
    return lm


def change(update) -> torch.Tensor:
    return update.matrix(torch.float64, torch.device("cpu"))


def test_the_museum_has_the_first_version():
    assert "0.1.0" in [path.name for path in ROOMS]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("method", ["rome", "memit", "fine-tuned", "kn"])
def test_an_edit_does_what_it_did(room, expected, family, method, tmp_path):
    lm = model(room, family)
    edit = fl.Edit.load(room / "edits" / family / method)
    assert logprobs(lm) == pytest.approx(expected["logprobs"][f"{family}/unedited"], abs=1e-4)
    # The fingerprints of 0.1 hold whatever a release of transformers has in its configs.
    force = edit.versions["transformers"] != transformers.__version__
    with edit.applied(lm, force=force):
        assert logprobs(lm) == pytest.approx(expected["logprobs"][f"{family}/{method}"], abs=1e-4)
    edit.save(tmp_path / "again")
    again = fl.Edit.load(tmp_path / "again")
    assert again.facts == edit.facts
    for old, new in zip(edit.updates, again.updates, strict=True):
        assert torch.equal(change(old), change(new))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_adapter_is_the_edit_it_was_made_of(room, family):
    edit = fl.Edit.load(room / "edits" / family / "rome")
    adapter = fl.Edit.from_peft(room / "adapters" / family, model(room, family))
    for exported, update in zip(adapter.updates, edit.updates, strict=True):
        assert exported.weight_name == update.weight_name
        torch.testing.assert_close(change(exported), change(update))


def test_traces_and_attributions(room, expected):
    trace = fl.CausalTrace.load(room / "trace.json")
    position, layer, effect = expected["trace_peak"]
    assert trace.peak("mlp") == (position, layer, pytest.approx(effect, abs=1e-6))
    neurons = fl.neurons.NeuronAttribution.load(room / "neurons.json")
    assert neurons.strongest == pytest.approx(expected["strongest_neuron"], abs=1e-6)


def test_an_average(room, expected):
    average = fl.AverageTrace.load(room / "average")
    assert average.n_missing == 0
    assert average.total_effect.mean == pytest.approx(expected["average_total_effect"], abs=1e-6)


def test_runs(room, expected):
    run = fl.evaluation.load_run(room / "run")
    read = [row.model_dump(mode="json") for row in run.rows]
    for row, old in zip(read, expected["rows"], strict=True):
        assert {key: row[key] for key in old} == old
    unfinished = fl.evaluation.load_run(room / "unfinished-run")
    assert (len(unfinished.rows), unfinished.n_missing) == (2, 2)
    assert "rome" in to_markdown(fl.report([run, unfinished]))


def test_a_run_goes_on(room, tmp_path):
    """Where transformers' configs are those of the day: their entries are in its fingerprint."""
    run = shutil.copytree(room / "unfinished-run", tmp_path / "run")
    if fl.evaluation.load_run(run).versions["transformers"] != transformers.__version__:
        pytest.skip("it was begun under another transformers")
    done = fl.evaluate(
        model(room, "gpt2"), fl.load_records(room / "records.json"), "ft", run,
        fl.editing.FineTuneConfig(layer=1, steps=3, learning_rate=0.01),
        measure=fl.evaluation.MeasureConfig(n_generated=0), resume=True,
    )  # fmt: skip
    assert done.n_missing == 0
    assert not done.failed
    other = fl.models.tiny_model("gpt2", seed=1)
    with pytest.raises(StorageError, match=r"its model\.fingerprint"):
        fl.evaluate(
            other, fl.load_records(room / "records.json"), "ft", run,
            fl.editing.FineTuneConfig(layer=1, steps=3, learning_rate=0.01),
            measure=fl.evaluation.MeasureConfig(n_generated=0), resume=True,
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["mend", "ke"])
def test_a_trained_editor_edits(room, kind):
    editor = fl.editing.load_editor(room / kind)
    if editor.versions["transformers"] != transformers.__version__:
        pytest.skip("it was trained under another transformers")
    lm = model(room, "llama")
    before = logprobs(lm)
    [edit] = editor.edits(lm, FACTS[:1])
    with edit.applied(lm):
        assert logprobs(lm) != before


@pytest.mark.parametrize("kind", ["mend", "ke"])
def test_trained_editors(room, kind):
    editor = fl.editing.load_editor(room / kind)
    assert editor.kind == kind
    seen = [editor.has_seen(fl.Fact("{} is in", f"Place {i}", "Rome")) for i in range(24)]
    assert 0 < sum(seen) < 24  # the others were kept for tests


def test_second_moments(room):
    moment = fl.stats.SecondMoment.load(room / "second-moment.safetensors")
    assert (moment.layer, moment.n_tokens) == (0, 4 * 56)
    key = torch.ones(1, len(moment.matrix), dtype=torch.float64)
    torch.testing.assert_close(moment.solve(key) @ moment.matrix, key)


def test_facts_and_records(room):
    assert tuple(fl.load_facts(room / "facts.csv")) == FACTS
    records = fl.load_records(room / "records.json")
    assert [record.fact.subject for record in records] == [f"Place {i}" for i in range(4)]
