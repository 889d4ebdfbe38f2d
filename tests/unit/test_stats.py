"""Second moments, corpora and their cache."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import factlab as fl
from conftest import HABITS
from factlab.errors import StatisticsError, StorageError
from factlab.hooks import Site, Stream, record
from factlab.stats.collect import collect_second_moments
from factlab.stats.corpus import Corpus, corpus_from_files, corpus_from_model
from factlab.stats.moments import MomentAccumulator

ROWS = ((5, 6, 7, 8), (9, 10), (11, 12, 13), (14,), (15, 16, 17, 18, 19))
SMALL = fl.StatsConfig(tokens_per_dim=3, row_length=16)


@settings(deadline=None, max_examples=50)
@given(cuts=st.lists(st.integers(1, 39), unique=True), seed=st.integers(0, 99))
def test_any_chunking_gives_the_one_shot_moment(cuts, seed):
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        moment = MomentAccumulator(5)
        for chunk in torch.tensor_split(keys.to(dtype), sorted(cuts)):
            moment.add(chunk)
        exact = keys.to(dtype).double()
        assert moment.n_tokens == 40
        assert torch.allclose(moment.mean(), exact.T @ exact / 40, atol=tolerance)


def test_no_keys_no_moment():
    with pytest.raises(StatisticsError, match="No keys"):
        MomentAccumulator(3).mean()


@pytest.mark.parametrize("batch_tokens", [1, 6, 100])
@pytest.mark.parametrize("family", HABITS)
def test_collected_from_every_token_of_every_row(make_model, family, batch_tokens):
    lm = make_model(family, dtype=torch.float64)
    moments = collect_second_moments(lm, [0, 2], Corpus(ROWS, "x"), batch_tokens=batch_tokens)
    for layer, moment in moments.items():
        keys = []
        for row in ROWS:
            site = Site(layer, Stream.MLP_HIDDEN)
            with torch.no_grad(), record(lm, [site]) as states:
                lm.model(torch.tensor([row]))
            keys.append(states[site][0])
        expected = torch.cat(keys).T @ torch.cat(keys) / sum(map(len, ROWS))
        assert torch.allclose(moment.matrix, expected, atol=1e-7 if family == "gptj" else 1e-11)
        assert moment.n_tokens == sum(map(len, ROWS))


def test_layers_above_the_highest_are_not_run(make_model):
    lm = make_model("gpt2")
    ran = []
    handle = lm.layer(2).register_forward_hook(lambda *_: ran.append(1))
    collect_second_moments(lm, [0, 1], Corpus(ROWS, "x"))
    handle.remove()
    assert not ran


def test_the_file_round_trips(make_model, tmp_path):
    lm = make_model("gpt2")
    moment = collect_second_moments(lm, [1], Corpus(ROWS, "rows"))[1]
    moment.save(tmp_path / "c.safetensors")
    again = fl.SecondMoment.load(tmp_path / "c.safetensors")
    assert torch.equal(moment.matrix, again.matrix)
    assert (again.layer, again.n_tokens, again.source) == (1, 15, "rows")
    assert again.fingerprint == lm.fingerprint


def test_the_cache_is_used_and_keyed_by_everything(make_model, tmp_path):
    lm = make_model("gpt2")
    steps = []

    def progress(label, done, total):
        steps.append(label)

    first = fl.second_moments(lm, [1], SMALL, progress=progress)[1]
    assert "sampling text from the model" in steps
    assert first.n_tokens >= 3 * lm.d_mlp
    steps.clear()
    again = fl.second_moments(lm, [1], SMALL, progress=progress)[1]
    assert not steps
    assert torch.equal(first.matrix, again.matrix)
    for other in (
        fl.second_moments(make_model("gpt2", seed=1), [1], SMALL),
        fl.second_moments(lm, [2], SMALL),
        fl.second_moments(lm, [1], SMALL.model_copy(update={"seed": 1})),
        fl.second_moments(lm, [1], SMALL.model_copy(update={"tokens_per_dim": 4})),
        fl.second_moments(lm, [1], corpus=Corpus(ROWS, "rows")),
    ):
        (moment,) = other.values()
        assert not torch.equal(moment.matrix, first.matrix)
    recomputed = fl.second_moments(lm, [1], SMALL, recompute=True)[1]
    assert torch.equal(first.matrix, recomputed.matrix)


def test_a_damaged_cache_names_the_file_and_the_way_out(make_model, tmp_path):
    lm = make_model("gpt2")
    fl.second_moments(lm, [1], SMALL)
    (path,) = (tmp_path / "cache" / "second-moments").iterdir()
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(StorageError, match=r"stats --recompute") as caught:
        fl.second_moments(lm, [1], SMALL)
    assert path.name in str(caught.value)
    fl.second_moments(lm, [1], SMALL, recompute=True)
    fl.second_moments(lm, [1], SMALL)
    (path,) = (tmp_path / "cache" / "corpora").iterdir()
    path.write_bytes(b"")
    with pytest.raises(StorageError, match=path.name):
        fl.second_moments(lm, [1], SMALL)


def test_text_files_become_rows(make_model, tmp_path):
    lm = make_model("gpt2", add_bos=True)
    (tmp_path / "a.txt").write_text("Rome is a city.\n" * 500)
    (tmp_path / "b.md").write_text("Paris too.\n")
    (tmp_path / "c.png").write_bytes(b"\xff")
    corpus = corpus_from_files(lm, tmp_path, 300, 32)
    assert sum(len(row) - 1 for row in corpus.rows) == 300
    assert max(map(len, corpus.rows)) == 32
    assert {row[0] for row in corpus.rows} == {lm.tokenizer.bos_token_id}
    assert "Rome is a city." in lm.tokenizer.decode(corpus.rows[0])
    assert max(map(len, corpus_from_files(lm, tmp_path, 900, 9999).rows)) == lm.context_length
    assert corpus.digest != corpus_from_files(lm, tmp_path, 299, 32).digest
    with pytest.raises(StorageError, match="no text file"):
        corpus_from_files(lm, tmp_path / "none.txt", 10, 5)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(StorageError, match="not UTF-8"):
        corpus_from_files(lm, tmp_path / "latin.txt", 10, 5)
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(StatisticsError, match="holds no text"):
        corpus_from_files(lm, tmp_path / "empty.txt", 10, 5)


def test_the_models_own_text(make_model):
    lm = make_model("llama")
    corpus = corpus_from_model(lm, 100, 16, seed=2)
    assert {len(row) for row in corpus.rows} == {16}
    assert corpus.n_tokens == 112
    assert {row[0] for row in corpus.rows} == {lm.tokenizer.bos_token_id}
    assert corpus.rows == corpus_from_model(lm, 100, 16, seed=2, use_cache=False).rows
    assert corpus.rows != corpus_from_model(lm, 100, 16, seed=3).rows
