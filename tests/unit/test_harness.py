"""General abilities by lm_eval: what it says of a live model is what factlab says by hand."""

import importlib
import json
import math
import random
import sys
import types

import numpy as np
import pytest
import torch
from tiny_records import ROME, background

import factlab as fl
from factlab.errors import (
    InvalidRequestError,
    MemoryLimitError,
    MissingPackageError,
    StorageError,
    WrongModelError,
)
from factlab.estimate import Estimate
from factlab.evaluation import HarnessResult, HarnessScore, HarnessStage, harness
from factlab.evaluation.harnessing.package import random_state_kept
from factlab.evaluation.harnessing.scores import read_scores
from factlab.tokens import special_around

SUBJECTS = ("The Eiffel Tower", "The Colosseum", "The Space Needle", "A museum", "Miles Davis")
CHOICES = ["Paris", "Rome", "Seattle", "Antarctica"]
QUESTIONS = [
    {"prompt": f"{subject} is {where} the city of", "choices": CHOICES, "label": i % len(CHOICES)}
    for where in ("in", "located in")
    for i, subject in enumerate(SUBJECTS)
]
# Enough of an edit to change an answer.
STRONG = ROME.model_copy(update={"layer": 1, "value": fl.editing.ValueConfig(steps=20)})
TEXTS = ["The Eiffel Tower is in Paris.", "Miles Davis plays the trumpet, and people speak there."]


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A folder of tasks of our own: questions, whole texts, and a group of both kinds of one."""
    pytest.importorskip("lm_eval", reason="lm_eval is not installed: pip install '.[harness]'")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = tmp_path / "tasks"
    folder.mkdir()

    def write(name: str, rows: list[dict[str, object]], **more: object) -> None:
        data = folder / f"{name}.jsonl"
        data.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(tmp_path / "d")},
            "test_split": "test",
            **more,
        }
        (folder / f"{name}.yaml").write_text(json.dumps(task), encoding="utf-8")

    asking = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
        "metric_list": [{"metric": name} for name in ("acc", "acc_norm")],
    }
    write("local_cities", QUESTIONS, **asking)
    write("local_more", QUESTIONS[:3], **asking)
    write(
        "local_texts",
        [{"text": text} for text in TEXTS],
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{text}}",
        metric_list=[{"metric": "word_perplexity"}],
    )
    return folder


@pytest.fixture
def edit_of(fact):
    return lambda lm: fl.rome(lm, fact, STRONG, background(lm))


def right(lm: fl.LanguageModel) -> list[float]:
    """For each question whether the right choice is the most probable one."""
    pairs = [(row["prompt"], choice) for row in QUESTIONS for choice in CHOICES]
    scores = lm.score(*map(list, zip(*pairs, strict=True)))
    tables = np.array([score.logprob for score in scores]).reshape(len(QUESTIONS), len(CHOICES))
    labels = [row["label"] for row in QUESTIONS]
    return [float(best == label) for best, label in zip(tables.argmax(1), labels, strict=True)]


def score_of(stage: HarnessStage, task: str, metric: str = "acc") -> HarnessScore:
    (score,) = (one for one in stage.scores if (one.task, one.metric) == (task, metric))
    return score


# -- with lm_eval --------------------------------------------------------------------------------

real = pytest.mark.filterwarnings("ignore")  # what other packages deprecate


@real
@pytest.mark.parametrize("add_bos", [False, True])
def test_it_says_what_factlab_says(make_model, tasks, edit_of, add_bos):
    lm = make_model("llama", add_bos=add_bos)
    edit = edit_of(lm)
    before = right(lm)
    with edit.applied(lm):
        after = right(lm)
    assert before != after, "the edit does something to these questions"
    lm.model.train()
    found = harness(lm, "local_cities", edit, include_path=tasks, batch_size=3)
    assert lm.model.training
    lm.model.eval()
    assert lm.tokenizer.pad_token is None
    assert right(lm) == before
    assert [(stage.n_edits, stage.n_facts) for stage in found.stages] == [(0, 0), (1, 1)]
    for stage, expected in zip(found.stages, (before, after), strict=True):
        score = score_of(stage, "local_cities")
        assert score.values == tuple(expected)
        assert score.value == pytest.approx(sum(expected) / len(expected))
        assert score.n == len(QUESTIONS)
        assert score.higher_is_better is True
        share = score.value
        assert score.stderr == pytest.approx(math.sqrt(share * (1 - share) / (len(QUESTIONS) - 1)))
    change = Estimate.of_paired_shares(before, after)
    row = next(row for row in found.rows() if row["edits"] and row["metric"] == "acc")
    assert row["change"] == change.mean
    assert (row["low"], row["high"]) == change.interval


@real
def test_whole_texts_and_groups(make_model, tasks):
    lm = make_model("llama")
    group = {
        "group": "local_all",
        "task": ["local_cities", "local_more"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
    }
    (tasks / "all.yaml").write_text(json.dumps(group), encoding="utf-8")
    (stage,) = harness(lm, ["local_texts"], include_path=tasks).stages
    scores = lm.score(["<s>"] * len(TEXTS), TEXTS, joint="none")
    n_words = sum(len(text.split()) for text in TEXTS)
    perplexity = score_of(stage, "local_texts", "word_perplexity")
    expected = math.exp(-sum(score.logprob for score in scores) / n_words)
    assert perplexity.value == pytest.approx(expected, rel=1e-4)
    assert perplexity.values is None and perplexity.higher_is_better is False
    (stage,) = harness(lm, ["local_all"], include_path=tasks, limit=2).stages
    parts = [score_of(stage, name).values for name in ("local_cities", "local_more")]
    whole = score_of(stage, "local_all")
    assert whole.values == parts[0] + parts[1]
    assert whole.n == len(whole.values) == 4


@real
def test_a_sequence_is_measured_on_its_way(make_model, tasks, fact):
    lm = make_model("llama")
    facts = [fact, fl.Fact("{} is in the city of", "The Colosseum", "Seattle")]
    run = fl.edit_sequence(lm, facts, "rome", ROME, background(lm))
    found = harness(lm, "local_cities", run.edits, every=1, include_path=tasks)
    assert [stage.n_edits for stage in found.stages] == [0, 1, 2]
    with run.edits[0].applied(lm):
        assert score_of(found.stages[1], "local_cities").values == tuple(right(lm))
        with run.edits[1].applied(lm):
            assert score_of(found.stages[2], "local_cities").values == tuple(right(lm))
    with pytest.raises(WrongModelError, match="already carried other edits"):
        harness(lm, "local_cities", run.edits[1:], include_path=tasks)
    with pytest.raises(WrongModelError, match="was made for"):
        harness(make_model("llama", seed=1), "local_cities", run.edits, include_path=tasks)


@real
@pytest.mark.parametrize("kind", ["peft", "checkpoint"])
def test_what_is_exported_gives_the_same(make_model, tasks, edit_of, tmp_path, kind):
    import lm_eval
    from lm_eval.tasks import TaskManager

    lm = make_model("llama", add_bos=kind == "checkpoint")
    edit = edit_of(lm)
    if kind == "peft":
        pytest.importorskip("peft")
        lm.model.save_pretrained(tmp_path / "base")
        lm.tokenizer.save_pretrained(tmp_path / "base")
        edit.to_peft(tmp_path / "adapter")
        arguments = f"pretrained={tmp_path / 'base'},peft={tmp_path / 'adapter'}"
    else:
        edit.merge_into(lm, tmp_path / "merged")
        arguments = f"pretrained={tmp_path / 'merged'}"
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    told = lm_eval.simple_evaluate(
        "hf",
        model_args=arguments,
        tasks=["local_cities", "local_texts"],
        device="cpu",
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
    )
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    found = harness(lm, ["local_cities", "local_texts"], edit, include_path=tasks)
    for one, other in zip(read_scores(told), found.stages[-1].scores, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-4)
        assert one.values == other.values
    assert found.stages[0] != found.stages[1]


@real
def test_names_that_lm_eval_lacks(make_model, tasks):
    lm = make_model("llama")
    with pytest.raises(InvalidRequestError, match=r"knows no task 'local_citees'.*'local_cities'"):
        harness(lm, "local_citees", include_path=tasks)
    with pytest.raises(InvalidRequestError, match="is not a folder"):
        harness(lm, "local_cities", include_path=tasks / "none")
    with pytest.raises(InvalidRequestError, match=r"no setting 'num_shots'.*'num_fewshot'"):
        harness(lm, "local_cities", include_path=tasks, num_shots=2)
    with pytest.raises(InvalidRequestError, match="'use_cache' cannot be set here: an edited"):
        harness(lm, "local_cities", include_path=tasks, use_cache="answers")


# -- without it ----------------------------------------------------------------------------------


class Reader:
    """Stands in for lm_eval's own wrapper of a model."""

    def __init__(self, **given: object) -> None:
        self.given = given


class Manager:
    """Stands in for its index of tasks."""

    all_tasks, all_subtasks = ("cities",), ("cities",)

    def __init__(self, **_given: object) -> None:
        pass

    def match_tasks(self, names: list[str]) -> list[str]:
        return [name for name in names if name in self.all_tasks]


@pytest.fixture
def stand_in(monkeypatch):
    """A package of the same shape; what its one task says is the norm of the model's weights."""
    calls: list[tuple[Reader, dict[str, object]]] = []

    def simple_evaluate(model, tasks=(), task_manager=None, log_samples=True, limit=None, **more):
        calls.append((model, {"tasks": tasks, "limit": limit}))
        if limit == 0:
            raise MemoryError
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        total = sum(
            float(p.detach().double().norm()) for p in model.given["pretrained"].parameters()
        )
        return {
            "results": {
                "cities": {"alias": "cities", "norm,none": total, "norm_stderr,none": "N/A"}
            },
            "n-samples": {"cities": {"original": 9, "effective": 1}},
            "higher_is_better": {},
            "samples": {"cities": [{"filter": "none", "norm": total}]},
        }

    modules = {
        "lm_eval": {"simple_evaluate": simple_evaluate},
        "lm_eval.models.huggingface": {"HFLM": Reader},
        "lm_eval.tasks": {"TaskManager": Manager},
    }
    for name, holds in modules.items():
        module = types.ModuleType(name)
        vars(module).update(holds)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("factlab.evaluation.harnessing.run.version", lambda _name: "0")
    return calls


def test_edits_go_on_one_by_one_and_come_off(make_model, fact, stand_in):
    lm = make_model("gpt2", add_bos=True)
    edits = fl.edit_sequence(lm, [fact] * 3, "rome", ROME, background(lm)).edits
    told: list[tuple[int, int]] = []
    found = harness(
        lm, "cities", edits, every=2, limit=5, progress=lambda _label, *at: told.append(at)
    )
    assert [stage.n_edits for stage in found.stages] == [0, 2, 3]
    assert len({stage.scores[0].value for stage in found.stages}) == 3
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert all(call == {"tasks": ["cities"], "limit": 5} for _, call in stand_in)
    given = stand_in[0][0].given
    assert given["add_bos_token"] is True
    assert given["tokenizer"] is not lm.tokenizer
    assert given["pretrained"] is lm.model
    assert found.settings == {
        "tasks": ["cities"],
        "include_path": None,
        "batch_size": 1,
        "limit": 5,
    }
    assert [s.n_edits for s in harness(lm, ["cities"]).stages] == [0]
    with pytest.raises(MemoryLimitError, match="smaller batch_size"):
        harness(lm, "cities", edits, limit=0)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"tasks": []}, "The list of tasks is empty"),
        ({"tasks": "cities", "every": 0}, "every=0"),
        ({"tasks": "cities", "batch_size": 0}, "batch_size=0"),
        ({"tasks": "cities", "batch_size": "large"}, "batch_size='large'.*'auto'"),
        ({"tasks": "cities", "edits": ["a"]}, r"edits\[0\] is a str, not a Edit"),
        ({"tasks": "cities", "model": "hf"}, "'model' cannot be set here"),
        ({"tasks": "city"}, "knows no task 'city'.*'cities'"),
    ],
)
def test_what_cannot_be_measured_is_refused(make_model, stand_in, given, sentence):
    with pytest.raises(InvalidRequestError, match=sentence):
        harness(make_model("gpt2"), **given)
    assert not stand_in


def test_a_tokenizer_that_closes_texts_is_refused(make_model, stand_in):
    from tokenizers import processors

    lm = make_model("gpt2")
    assert special_around(lm.tokenizer) == (0, 0)
    assert special_around(make_model("gpt2", add_bos=True).tokenizer) == (1, 0)
    lm.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    assert special_around(lm.tokenizer) == (1, 1)
    with pytest.raises(InvalidRequestError, match="closes every text"):
        harness(lm, "cities")


def test_random_states_are_put_back():
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with random_state_kept():
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
    assert states == (
        random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    )  # fmt: skip


def test_lm_eval_is_asked_for_in_one_sentence(make_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'factlab\[harness\]'\.$"):
        harness(make_model("gpt2"), "mmlu")


# -- results -------------------------------------------------------------------------------------


def stage(n_edits: int, *values: float) -> HarnessStage:
    mean = sum(values) / len(values)
    acc = HarnessScore(task="t", metric="acc", value=mean, stderr=0.1, n=len(values), values=values)
    perplexity = HarnessScore(task="t", metric="ppl", value=9.0 + n_edits, n=2)
    broken = HarnessScore(task="t", metric="ppl (x)", value=None if n_edits else 1.0, n=2)
    return HarnessStage(n_edits=n_edits, n_facts=2 * n_edits, scores=(acc, perplexity, broken))


@pytest.fixture
def result() -> HarnessResult:
    stages = (stage(0, 1, 1, 1, 0, 1, 1), stage(3, 1, 0, 1, 0, 0, 1))
    return HarnessResult("m", "abc", stages, {"limit": 6}, {"lm_eval": "0"})


def test_a_result_is_a_value_and_a_file(result, tmp_path):
    result.save(tmp_path / "h.json")
    again = HarnessResult.load(tmp_path / "h.json")
    assert again == result and hash(again) == hash(result)
    assert again != HarnessResult("m", "abc", result.stages[:1], {}, {})
    assert json.loads((tmp_path / "h.json").read_text())["rows"] == result.rows()
    (tmp_path / "h.json").write_text('{"format": "factlab trace 1"}')
    with pytest.raises(StorageError, match="is not a result of lm_eval"):
        HarnessResult.load(tmp_path / "h.json")


def test_rows_say_what_has_changed(result):
    rows = result.rows()
    assert len({tuple(row) for row in rows}) == 1
    assert [row["change"] for row in rows[:3]] == [None] * 3
    acc, perplexity, broken = rows[3:]
    assert (acc["edits"], acc["facts"], acc["n"]) == (3, 6, 6)
    assert acc["change"] == pytest.approx(-2 / 6)
    assert -1 <= acc["low"] < acc["change"] < 0 < acc["high"]
    assert acc["p_value"] == pytest.approx(0.5)  # two changes: both down, or both up, of four ways
    assert (perplexity["change"], perplexity["low"], perplexity["p_value"]) == (3.0, None, None)
    assert (broken["value"], broken["change"]) == (None, None)
    lines = repr(result).splitlines()
    assert lines[0] == "HarnessResult of m: 1 task, unedited and with 3 edits"
    assert lines[1].startswith("  t acc: 0.500 (standard error 0.100), changed by -0.333 (-")
    assert lines[3] == "  t ppl (x): no number"


def test_changes_of_answers_that_are_no_yes_or_no():
    before = HarnessScore(task="t", metric="f1", value=0.4, n=2, values=(0.3, 0.5))
    after = HarnessScore(task="t", metric="f1", value=0.5, n=2, values=(0.4, 0.6))
    assert after.change_from(before).mean == pytest.approx(0.1)
    assert after.change_from(before).half_width == pytest.approx(0)


def test_paired_shares():
    """By hand: of 10 cases 1 is gained and 4 are lost; p12 = 2/12, p21 = 5/12."""
    before = [1, 1, 1, 1, 0, 0, 0, 1, 0, 1]
    after = [0, 0, 0, 0, 1, 0, 0, 1, 0, 1]
    found = Estimate.of_paired_shares(before, after)
    half = 1.959963985 * math.sqrt((7 / 12 - (3 / 12) ** 2) / 12)
    assert found.mean == pytest.approx(-0.3)
    assert found.interval == pytest.approx((-0.25 - half, -0.25 + half))
    # Where nothing has changed the interval is no point.
    low, high = Estimate.of_paired_shares([1, 0, 1], [1, 0, 1]).interval
    assert low < 0 < high
    assert not Estimate.of_paired_shares([1], [0]).has_interval


def test_scores_are_read_with_their_filters():
    def sample(filtered: str, right: float) -> dict[str, object]:
        return {"filter": filtered, "exact_match": right, "f1": (1, 1)}

    found = {
        "results": {
            "gsm": {
                "alias": "gsm",
                "sample_len": 2,
                "exact_match,strict": 0.5,
                "exact_match_stderr,strict": 0.5,
                "exact_match,loose": np.float64(1.0),
                "exact_match_stderr,loose": 0.0,
                "f1,strict": 0.7,
                "f1_stderr,strict": "N/A",
                "ppl,strict": float("inf"),
            },
        },
        "samples": {"gsm": [sample(*one) for one in [("strict", 1), ("loose", 1), ("strict", 0), ("loose", 1)]]},
        "n-samples": {"gsm": {"original": 2, "effective": 2}},
        "higher_is_better": {"gsm": {"exact_match": True, "f1": None}},
    }  # fmt: skip
    strict, loose, f1, perplexity = read_scores(found)
    assert (strict.metric, strict.values, strict.stderr) == ("exact_match (strict)", (1, 0), 0.5)
    assert (loose.metric, loose.values, loose.value) == ("exact_match (loose)", (1, 1), 1.0)
    assert (f1.values, f1.stderr, f1.higher_is_better) == (None, None, None)
    assert perplexity.value is None


def test_the_extra_is_named_in_pyproject():
    """What the message says can be installed."""
    import tomllib
    from pathlib import Path

    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert "harness" in tomllib.loads(text)["project"]["optional-dependencies"]
    assert importlib.import_module("factlab.evaluation").harness is harness
