"""Averages of traces: groups, intervals, and runs that are killed, resumed and shared out."""

import json
from pathlib import Path

import pytest
import torch
from processes import finished, killed_as_it_writes, started

import factlab as fl
from factlab.config import RETIRED
from factlab.errors import InvalidRequestError, StorageError
from factlab.estimate import Estimate
from factlab.facts import TokenSpan
from factlab.journal import Shard, merge
from factlab.tracing.groups import GROUPS, LAST, LAST_SUBJECT, group_positions

FACTS = [
    fl.Fact("See {} is in", "Space Needle"),
    fl.Fact("{} is", "Rome"),
    fl.Fact("In the land of {}", "Paris town"),
    fl.Fact("{} lies to the east of", "The tall tower"),
]
CONFIG = fl.tracing.TraceConfig(samples=2, window=2)


@pytest.fixture
def lm(make_model):
    return make_model("gpt2", seed=1)


@pytest.mark.parametrize(
    ("span", "n_tokens", "groups"),
    [
        ((1, 5), 9, [[1], [2, 3], [4], [5], [6, 7], [8]]),
        ((0, 1), 4, [[0], [], [0], [1], [2], [3]]),
        ((0, 2), 3, [[0], [], [1], [], [], [2]]),
        ((2, 4), 4, [[2], [], [3], [], [], [3]]),
    ],
)
def test_groups_of_tokens(span, n_tokens, groups):
    assert [list(g) for g in group_positions(TokenSpan(*span), n_tokens)] == groups


def test_the_average_is_that_of_single_traces(lm):
    average = fl.average_trace(lm, FACTS, CONFIG)
    traces = [fl.causal_trace(lm, fact, config=CONFIG, sigma_facts=FACTS) for fact in FACTS]
    assert average.n_facts == 4
    assert average.config.corruption.level == pytest.approx(traces[0].noise_level)
    clean = [t.clean_prob for t in traces]
    assert average.clean_prob.mean == pytest.approx(sum(clean) / 4, rel=1e-5)
    effect = Estimate.of([t.total_effect for t in traces])
    assert average.total_effect.mean == pytest.approx(effect.mean, rel=1e-4)
    for kind in CONFIG.kinds:
        rows = torch.stack([t.effects[kind][t.subject_span.last] for t in traces])
        assert torch.allclose(average.effects[kind][LAST_SUBJECT], rows.mean(0), atol=1e-6)
        widths = 3.182446 * rows.std(0) / 2  # t with three degrees of freedom
        assert torch.allclose(average.half_widths[kind][LAST_SUBJECT], widths, atol=1e-6)
        middles = [
            t.effects[kind][t.subject_span.start + 1 : t.subject_span.last].mean(0)
            for t in traces
            if t.subject_span.last > t.subject_span.start + 1
        ]
        middle = torch.stack(middles).mean(0)
        assert torch.allclose(average.effects[kind][1], middle, atol=1e-6)
    assert average.group_counts[LAST] == 4
    layer, peak = average.peak("block", LAST)
    assert peak.mean == float(average.effects["block"][LAST, layer])


def test_wrong_answers_are_left_out_and_counted(make_model):
    lm = make_model("gpt2", seed=7)
    right = [
        fl.Fact("{} was", subject, target_true=lm.top_tokens(f"{subject} was", 1)[0][0])
        for subject in ("Rome", "The Kremlin", "Paris")
    ]
    wrong = fl.Fact("{} was", "Rome", target_true="Zanzibar")
    assert fl.tracing.knows(lm, [wrong, *right, FACTS[0]]) == [False, True, True, True, True]
    average = fl.average_trace(lm, [wrong, *right], CONFIG, limit=2)
    assert (average.n_facts, average.n_wrong) == (2, 1)
    with pytest.raises(InvalidRequestError, match="Of 1 fact the model knows none"):
        fl.average_trace(lm, [wrong], CONFIG)
    with pytest.raises(InvalidRequestError, match="empty"):
        fl.average_trace(lm, [], CONFIG)


def test_a_resumed_run_is_the_whole_run(lm, tmp_path):
    whole = fl.average_trace(lm, FACTS, CONFIG, tmp_path / "whole")
    half = tmp_path / "half"

    def stop(label, done, total):
        if label == "tracing facts" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fl.average_trace(lm, FACTS, CONFIG, half, progress=stop)
    partial = fl.AverageTrace.load(half)
    assert (partial.n_facts, partial.n_missing) == (2, 2)
    with pytest.raises(StorageError, match=r"not empty\. Resume it"):
        fl.average_trace(lm, FACTS, CONFIG, half)
    lm.memory_gib = 1e-4  # may be changed on the way
    resumed = fl.average_trace(lm, FACTS, CONFIG, half, resume=True)
    again = fl.average_trace(lm, FACTS, CONFIG, half, resume=True)  # nothing left to do
    for found in (resumed, again, fl.AverageTrace.load(half)):
        assert found.n_missing == 0
        for kind in CONFIG.kinds:
            assert torch.allclose(
                found.effects[kind], whole.effects[kind], atol=1e-6, equal_nan=True
            )


def test_shards_are_the_whole_run(lm, tmp_path):
    whole = fl.average_trace(lm, FACTS, CONFIG).to_json()
    for k in (2, 1, 3):
        fl.average_trace(lm, FACTS, CONFIG, tmp_path / "shared", shard=fl.Shard(k, 3))
        fl.average_trace(lm, FACTS, CONFIG, tmp_path / str(k), shard=fl.Shard(k, 3))
    assert fl.AverageTrace.load(tmp_path / "shared").to_json() == whole
    merge([tmp_path / k for k in "321"], tmp_path / "merged")
    assert fl.AverageTrace.load(tmp_path / "merged").to_json() == whole
    with pytest.raises(InvalidRequestError, match="out of range"):
        fl.average_trace(lm, FACTS, CONFIG, tmp_path / "x", shard=fl.Shard(4, 3))
    with pytest.raises(InvalidRequestError, match="needs a folder"):
        fl.average_trace(lm, FACTS, CONFIG, shard=fl.Shard(1, 3))


def test_another_run_is_refused_and_said_why(lm, make_model, tmp_path):
    fl.average_trace(lm, FACTS, CONFIG, tmp_path / "run")

    def resume(lm=lm, facts=FACTS, config=CONFIG):
        fl.average_trace(lm, facts, config, tmp_path / "run", resume=True)

    with pytest.raises(StorageError, match=r"its config\.samples is 2, not 3"):
        resume(config=CONFIG.model_copy(update={"samples": 3}))
    with pytest.raises(StorageError, match=r"its model\.fingerprint"):
        resume(make_model("gpt2", seed=2))
    with pytest.raises(StorageError, match="its facts"):
        resume(facts=[*FACTS[:3], fl.Fact("{} was", "Rome")])


def test_facts_that_cannot_be_traced_are_named_and_counted(lm):
    long = fl.Fact("{} is " + "a town " * 200, "Rome")
    average = fl.average_trace(lm, [FACTS[0], long, *FACTS[1:]], CONFIG)
    assert average.n_facts == 4
    assert [*average.unusable] == [1]
    assert "Shorten it" in average.unusable[1]
    without = fl.average_trace(lm, FACTS, CONFIG)
    assert average.clean_prob == without.clean_prob
    with pytest.raises(InvalidRequestError, match="None of the facts can be traced"):
        fl.average_trace(lm, [long], CONFIG)


def test_a_config_that_does_not_fit_one_fact_leaves_the_others(lm, tmp_path):
    n_tokens = [len(lm.encode(fact.prompt)) for fact in FACTS[:2]]
    assert n_tokens[1] < n_tokens[0]
    config = CONFIG.model_copy(update={"positions": (n_tokens[1],)})
    average = fl.average_trace(lm, FACTS[:2], config, tmp_path / "run")
    assert [*average.unusable] == [1]
    assert "out of range" in average.unusable[1]
    assert (average.n_facts, average.n_missing) == (1, 0)


def test_shards_without_a_case_are_empty_and_not_an_error(lm, tmp_path):
    average = fl.average_trace(lm, FACTS[:2], CONFIG, tmp_path / "run", shard=Shard(5, 5))
    assert (average.n_facts, average.n_missing) == (0, 2)
    average.save(tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["clean_prob"] == {"mean": None, "half_width": None}


def test_memory_is_no_part_of_what_a_run_is(lm, tmp_path):
    fl.average_trace(lm, FACTS, CONFIG, tmp_path / "run", shard=Shard(1, 2))
    before = (tmp_path / "run" / "run.json").read_bytes()
    lm.memory_gib = 1e-4
    fl.average_trace(lm, FACTS, CONFIG, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    assert not RETIRED.intersection(json.loads(before)["findings"]["config"])


def test_a_trace_of_the_last_subject_token_has_no_lines(lm, tmp_path):
    config = fl.tracing.TraceConfig(samples=2, kinds=("mlp_severed", "block"), positions=(2,))
    fl.average_trace(lm, FACTS[:2], config).save(tmp_path / "some")
    only = config.model_copy(update={"kinds": ("mlp_severed",)})
    fl.average_trace(lm, FACTS[:1], only).save(tmp_path / "severed")
    assert not (tmp_path / "severed" / "lines.png").exists()


def test_the_summary_is_strict_json_and_figures_are_drawn(lm, tmp_path):
    kinds = ("block", "mlp_severed", "attn_severed")
    severed = CONFIG.model_copy(update={"kinds": kinds, "positions": "last_subject"})
    for config, figures in ((CONFIG, {"heatmaps", "lines"}), (severed, {"severed"})):
        folder = tmp_path / config.kinds[1]
        fl.average_trace(lm, FACTS, config, folder).save(folder)
        document = json.loads((folder / "summary.json").read_text(), parse_constant=pytest.fail)
        assert set(document["effects"]) == set(config.kinds)
        assert list(document["groups"]) == list(GROUPS)
        assert {path.stem for path in folder.glob("*.png")} == figures
    assert document["effects"]["block"][3] == [None] * 3


def traced(folder: Path, options: dict) -> None:
    facts = [fl.Fact(f.template, f"{f.subject} {n}") for n in range(6) for f in FACTS]
    config = CONFIG.model_copy(update={"samples": 4})
    lm = fl.models.tiny_model("gpt2", seed=1)
    fl.average_trace(lm, facts, config, folder, **options).save(folder)


def left_by(folder: Path) -> dict[str, bytes]:
    names = ["summary.json", *(path.name for path in folder.glob("records-*"))]
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    finished(traced, folder, {})
    return left_by(folder)


def test_a_run_killed_three_times_is_the_whole_run(tmp_path, whole):
    """Byte for byte, and with nothing done twice."""
    folder = tmp_path / "killed"
    for _ in range(3):
        killed_as_it_writes(started(traced, folder, {"resume": True}), folder, 0.03)
        assert not (folder / "summary.json").exists(), "killed too late to test"
    finished(traced, folder, {"resume": True})
    assert left_by(folder) == whole


def test_processes_that_come_and_go_leave_the_whole_run(tmp_path, whole):
    folder, options = tmp_path / "shared", {"shard": fl.Shard.any()}
    first = started(traced, folder, options)
    killed_as_it_writes(first, folder)
    others = [started(traced, folder, options) for _ in range(3)]
    for process in others:
        process.join()
        assert process.exitcode == 0
    assert left_by(folder) == whole


def test_the_recommended_layer_is_the_peak_of_mlp_windows(lm):
    choice = fl.recommend_layer(lm, FACTS)
    config = fl.tracing.TraceConfig(kinds=("mlp",), window=1)
    average = fl.average_trace(lm, FACTS, config)
    assert torch.allclose(choice.effects, average.effects["mlp"][LAST_SUBJECT], atol=1e-6)
    assert choice.layer == int(choice.effects[:-1].argmax())
    assert choice.memit_layers[-1] == choice.layer
    assert choice.n_facts == 4
    unknown = fl.Fact("{} is in", "Rome", target_true="Zanzibar")
    with pytest.raises(InvalidRequestError, match="knows none"):
        fl.recommend_layer(lm, [unknown])


def test_the_last_layer_is_never_recommended(lm, fact, monkeypatch):
    """What is written there reaches no later word, however large its window's effect is."""
    from factlab.tracing import layers

    made = fl.average_trace(lm, FACTS, fl.tracing.TraceConfig(kinds=("mlp",), window=1))
    made.effects["mlp"][LAST_SUBJECT] = torch.arange(lm.n_layers).float()
    monkeypatch.setattr(layers, "average_trace", lambda *_args, **_kwargs: made)
    choice = fl.recommend_layer(lm, FACTS)
    assert choice.layer == choice.memit_layers[-1] == lm.n_layers - 2
    settings = fl.editing.RomeConfig(value=fl.editing.ValueConfig(steps=2))
    assert fl.rome(lm, fact, settings).config["layer"] == lm.n_layers - 2


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if not p.name.startswith(".")}


@pytest.mark.parametrize("limit", [3, None])
def test_a_run_goes_on_to_more_facts(lm, tmp_path, limit):
    whole, longer = tmp_path / "whole", tmp_path / "longer"
    fl.average_trace(lm, FACTS, CONFIG, whole, limit=limit)
    fl.average_trace(lm, FACTS, CONFIG, longer, limit=1)
    average = fl.average_trace(lm, FACTS, CONFIG, longer, limit=limit, resume=True)
    assert contents(longer) == contents(whole)
    assert (average.n_facts, average.n_missing) == (limit or 4, 0)
    assert average == fl.AverageTrace.load(whole)


def test_a_run_does_not_get_shorter(lm, tmp_path):
    average = fl.average_trace(lm, FACTS, CONFIG, tmp_path / "run", limit=3)
    before = contents(tmp_path / "run")
    assert fl.average_trace(lm, FACTS, CONFIG, tmp_path / "run", limit=1, resume=True) == average
    assert contents(tmp_path / "run") == before


def test_shards_go_on_to_more_facts(lm, tmp_path):
    whole = fl.average_trace(lm, FACTS, CONFIG)
    for limit in (2, None):
        for number in (1, 2):
            average = fl.average_trace(
                lm, FACTS, CONFIG, tmp_path / "run", limit=limit, shard=Shard(number, 2)
            )
    assert average == whole


def test_more_facts_of_another_run_are_refused(lm, tmp_path):
    fl.average_trace(lm, FACTS, CONFIG, tmp_path / "run", limit=1)
    other = CONFIG.model_copy(update={"samples": 3})
    with pytest.raises(StorageError, match=r"its config\.samples is 2, not 3"):
        fl.average_trace(lm, FACTS, other, tmp_path / "run", limit=2, resume=True)
    with pytest.raises(StorageError, match="not empty"):
        fl.average_trace(lm, FACTS, CONFIG, tmp_path / "run", limit=2)
