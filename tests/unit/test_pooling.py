"""Averages that count every fact once or every token once, and their intervals."""

import json
import math

import numpy as np
import pytest
import torch

import factlab as fl
from factlab.errors import InvalidRequestError, StorageError
from factlab.estimate import Estimate
from factlab.tracing.groups import GROUPS, group_positions, pooling_named

FACTS = [
    fl.Fact("See {} is in the very", "Space Needle"),
    fl.Fact("{} is", "Rome"),
    fl.Fact("In the land of {}", "Paris town by the river"),
    fl.Fact("{} lies to the east of", "The tall tower"),
]
CONFIG = fl.tracing.TraceConfig(samples=1, window=2, kinds=("block", "mlp"))
T_95 = {2: 12.706205, 3: 4.302653, 4: 3.182446}  # by number of facts


@pytest.fixture(scope="module")
def traces():
    lm = fl.models.tiny_model("gpt2", seed=1)
    return lm, [fl.causal_trace(lm, fact, config=CONFIG, sigma_facts=FACTS) for fact in FACTS]


def test_every_token_counts_once(traces, tmp_path):
    """The notebook's way, done by hand: rows of all facts together, then one mean."""
    lm, single = traces
    average = fl.average_trace(lm, FACTS, CONFIG, tmp_path / "run", pooling="tokens")
    assert average.pooling == "tokens"
    places = [group_positions(t.subject_span, len(t.tokens)) for t in single]
    for group, name in enumerate(GROUPS):
        has = [i for i, p in enumerate(places) if len(p[group])]
        counts = torch.tensor([float(len(places[i][group])) for i in has])
        assert (average.group_counts[group], average.token_counts[group]) == (
            len(has), int(counts.sum())
        ), name  # fmt: skip
        for kind in CONFIG.kinds:
            rows = [single[i].effects[kind][list(places[i][group])] for i in has]
            mean = torch.cat(rows).mean(0)
            assert torch.allclose(average.effects[kind][group], mean, atol=1e-6)
            off = torch.stack([row.sum(0) for row in rows]) - counts[:, None] * mean
            n = len(has)
            width = T_95[n] * (n / (n - 1) * off.square().sum(0)).sqrt() / counts.sum()
            assert torch.allclose(average.half_widths[kind][group], width, atol=1e-6)
    assert max(average.token_counts) > len(FACTS), "the test would be empty"


def test_the_notebook_takes_the_mean_of_all_facts_away(traces):
    """It subtracts the mean corrupted probability over facts, not that over the tokens."""
    lm, single = traces
    average = fl.average_trace(lm, FACTS, CONFIG, pooling="tokens")
    places = [group_positions(t.subject_span, len(t.tokens)) for t in single]
    middle = GROUPS.index("middle subject tokens")
    rows = [
        t.effects["block"][list(p[middle])] + t.corrupted_prob
        for t, p in zip(single, places, strict=True)
    ]
    published = torch.cat(rows).mean(0) - sum(t.corrupted_prob for t in single) / len(single)
    of_tokens = [t.corrupted_prob for t, p in zip(single, places, strict=True) for _ in p[middle]]
    shift = sum(of_tokens) / len(of_tokens) - average.corrupted_prob.mean
    assert torch.allclose(published, average.effects["block"][middle] + shift, atol=1e-6)


def test_a_saved_run_is_read_either_way(traces, tmp_path):
    lm, _ = traces
    by_facts = fl.average_trace(lm, FACTS, CONFIG, tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    by_tokens = fl.AverageTrace.load(tmp_path / "run", pooling="tokens")
    assert by_tokens == fl.average_trace(lm, FACTS, CONFIG, pooling="tokens")
    assert by_tokens != by_facts == fl.AverageTrace.load(tmp_path / "run")
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before
    several = [GROUPS.index(name) for name in ("middle subject tokens", "further tokens")]
    for kind in CONFIG.kinds:
        same = [i for i in range(len(GROUPS)) if i not in several]
        gap = (by_tokens.effects[kind] - by_facts.effects[kind]).abs().amax(1)
        assert float(gap[same].max()) < 1e-7
        assert float(gap[several].min()) > 1e-7
    assert "pooling" not in by_facts.to_json()
    said = json.loads(json.dumps(by_tokens.to_json()))
    assert said["pooling"] == "tokens"
    assert said["token_counts"]["last token"] == len(FACTS)


def test_which_it_is_is_said(traces):
    lm, _ = traces
    for pooling, words in (("facts", "every fact counts once"), ("tokens", "every token counts")):
        average = fl.average_trace(lm, FACTS[:2], CONFIG, pooling=pooling)
        drawn = " ".join(text.get_text() for text in average.plot().texts)
        assert words in " ".join(drawn.split())
        assert (words in repr(average)) == (pooling == "tokens")


def test_another_pooling_is_refused(tmp_path):
    with pytest.raises(InvalidRequestError, match=r"no pooling 'token'\. Did you mean 'tokens'"):
        pooling_named("token")
    with pytest.raises(StorageError):
        fl.AverageTrace.load(tmp_path, pooling="tokens")


def test_clusters_of_one_size_are_their_means():
    values = [0.1, 0.5, 0.2, 0.9]
    found = Estimate.of_clusters([3 * value for value in values], [3] * 4)
    assert found[:2] == pytest.approx(Estimate.of(values)[:2])
    assert math.isnan(Estimate.of_clusters([1.0], [2]).half_width)
    assert math.isnan(Estimate.of_clusters([], []).mean)


def test_an_interval_of_clusters_is_that_of_resampled_clusters():
    """Against a bootstrap over clusters, whose values are alike."""
    random = np.random.default_rng(0)
    counts = random.integers(1, 8, 200)
    values = [random.normal(random.normal(), 0.3, n) for n in counts]
    sums = np.array([v.sum() for v in values])
    found = Estimate.of_clusters(sums.tolist(), counts.tolist())
    assert found.mean == pytest.approx(np.concatenate(values).mean())
    picks = random.integers(0, 200, (4000, 200))
    means = sums[picks].sum(1) / counts[picks].sum(1)
    assert found.half_width == pytest.approx(1.97 * means.std(), rel=0.05)
    alone = 1.97 * np.concatenate(values).std() / math.sqrt(counts.sum())
    assert found.half_width > 1.5 * alone, "values of a cluster would be taken as independent"
