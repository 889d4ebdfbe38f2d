"""Second moments, corpora and their cache."""

import errno
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import started
from transformers import AutoConfig, AutoModelForCausalLM

import factlab as fl
from factlab import storage
from factlab.errors import StatisticsError, StorageError, WrongModelError
from factlab.hooks import Site, Stream, record
from factlab.models.texts import room_behind
from factlab.models.tiny import tiny_tokenizer
from factlab.stats import store
from factlab.stats.collect import collect_second_moments
from factlab.stats.corpus import (
    Corpus,
    corpus_from_files,
    corpus_from_model,
    corpus_from_texts,
)
from factlab.stats.moments import MomentAccumulator
from model_families import HABITS

ROWS = ((5, 6, 7, 8), (9, 10), (11, 12, 13), (14,), (15, 16, 17, 18, 19))
SMALL = fl.stats.StatsConfig(tokens_per_dim=3, row_length=16)


@settings(max_examples=50)
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


def test_sums_stay_where_the_keys_are(monkeypatch):
    # autocast, which gram() switches off, does not know this device
    monkeypatch.setattr("factlab.stats.moments.gram", lambda rows: rows.T @ rows)
    sums = MomentAccumulator(3, "meta")
    for _ in range(2):  # a product that left its device would raise here
        sums.add(torch.ones(5, 3, device="meta"))
    assert sums.n_tokens == 10
    assert MomentAccumulator(3, "mps")._sum.device.type == "cpu"  # which has no float64


@pytest.mark.parametrize("memory_gib", [1e-9, 1e-4, 1.0])
@pytest.mark.parametrize("family", HABITS)
def test_collected_from_every_token_of_every_row(make_model, family, memory_gib):
    lm = make_model(family, dtype=torch.float64)
    lm.memory_gib = memory_gib
    moments = collect_second_moments(lm, [0, 2], Corpus(ROWS, "x"))
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
    again = fl.stats.SecondMoment.load(tmp_path / "c.safetensors")
    assert torch.equal(moment.matrix, again.matrix)
    assert (again.layer, again.n_tokens, again.source) == (1, 15, "rows")
    assert again.fingerprint == lm.fingerprint


def test_the_cache_is_used_and_keyed_by_everything(make_model, tmp_path):
    lm = make_model("gpt2")
    steps = []

    def progress(label, done, total):
        steps.append(label)

    first = fl.stats.second_moments(lm, [1], SMALL, progress=progress)[1]
    assert "sampling text from the model" in steps
    assert first.n_tokens >= 3 * lm.d_mlp
    steps.clear()
    again = fl.stats.second_moments(lm, [1], SMALL, progress=progress)[1]
    assert not steps
    assert torch.equal(first.matrix, again.matrix)
    for other in (
        fl.stats.second_moments(make_model("gpt2", seed=1), [1], SMALL),
        fl.stats.second_moments(lm, [2], SMALL),
        fl.stats.second_moments(lm, [1], SMALL.model_copy(update={"seed": 1})),
        fl.stats.second_moments(lm, [1], SMALL.model_copy(update={"tokens_per_dim": 4})),
        fl.stats.second_moments(lm, [1], corpus=Corpus(ROWS, "rows")),
    ):
        (moment,) = other.values()
        assert not torch.equal(moment.matrix, first.matrix)
    recomputed = fl.stats.second_moments(lm, [1], SMALL, recompute=True)[1]
    assert torch.equal(first.matrix, recomputed.matrix)


def test_a_damaged_cache_names_the_file_and_the_way_out(make_model, tmp_path):
    lm = make_model("gpt2")
    fl.stats.second_moments(lm, [1], SMALL)
    (path,) = (tmp_path / "cache" / "second-moments").iterdir()
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(StorageError, match=r"stats --recompute") as caught:
        fl.stats.second_moments(lm, [1], SMALL)
    assert path.name in str(caught.value)
    fl.stats.second_moments(lm, [1], SMALL, recompute=True)
    fl.stats.second_moments(lm, [1], SMALL)
    (path,) = (tmp_path / "cache" / "corpora").iterdir()
    path.write_bytes(b"")
    with pytest.raises(StorageError, match=path.name):
        fl.stats.second_moments(lm, [1], SMALL)


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


# -- statistics that are damaged, of another model, or too few ---------------------------------


def resaved(path, matrix=None, **metadata):
    """The same file with something else in it, and no digest, as files of earlier versions."""
    tensors, before = storage.read_tensors(path)
    said = {k: v for k, v in (before | metadata).items() if k != "digest" and v is not None}
    storage.write_tensors(
        path, {"second_moment": tensors["second_moment"] if matrix is None else matrix}, said
    )


@pytest.mark.parametrize(
    ("matrix", "metadata", "message"),
    [
        (None, {"layer": None}, "does not say its 'layer'"),
        (None, {"layer": "x"}, "is damaged"),
        (None, {"layer": "-1"}, "is damaged"),
        (None, {"n_tokens": "0"}, "is damaged"),
        (None, {"fingerprint": None}, "does not say its 'fingerprint'"),
        (torch.eye(56), {}, "square matrix of finite float64"),
        (torch.eye(56).long(), {}, "square matrix of finite float64"),
        (torch.eye(56).to(torch.float8_e4m3fn), {}, "square matrix of finite float64"),
        (torch.ones(3, 4).double(), {}, "square matrix of finite float64"),
        (torch.ones(3).double(), {}, "square matrix of finite float64"),
        (torch.full((56, 56), torch.nan).double(), {}, "square matrix of finite float64"),
    ],
)
def test_a_damaged_file_of_statistics(make_model, tmp_path, matrix, metadata, message):
    path = tmp_path / "c.safetensors"
    fl.stats.second_moments(make_model("gpt2"), [1], SMALL)[1].save(path)
    resaved(path, matrix, **metadata)
    with pytest.raises(StorageError, match=message):
        fl.stats.SecondMoment.load(path)


def test_a_file_of_an_earlier_version_is_read(make_model, tmp_path):
    path = tmp_path / "c.safetensors"
    moment = fl.stats.second_moments(make_model("gpt2"), [1], SMALL)[1]
    moment.save(path)
    assert "digest" in storage.read_tensors(path)[1]
    resaved(path)
    assert torch.equal(fl.stats.SecondMoment.load(path).matrix, moment.matrix)


def test_numbers_that_were_altered_are_noticed(make_model, tmp_path):
    lm = make_model("gpt2")
    fl.stats.second_moments(lm, [1], SMALL)
    for kind, name in (("second-moments", "second_moment"), ("corpora", "ids")):
        (path,) = (tmp_path / "cache" / kind).iterdir()
        whole = path.read_bytes()
        tensors, metadata = storage.read_tensors(path)
        tensors[name][2, 3] += 1
        storage.write_tensors(path, tensors, metadata)
        with pytest.raises(StorageError, match=r"not those that were written.*--recompute"):
            fl.stats.second_moments(lm, [1], SMALL)
        path.write_bytes(whole)
    fl.stats.second_moments(lm, [1], SMALL)


@pytest.mark.parametrize(
    "change",
    [
        lambda ids: {"x": ids},
        lambda ids: {"ids": ids + 10**6},
        lambda ids: {"ids": ids - 10},
        lambda ids: {"ids": ids[0].clone()},
        lambda ids: {"ids": ids.float()},
        lambda ids: {"ids": ids[:1].clone()},
        lambda ids: {"ids": ids[:, 1:].clone()},
    ],
)
def test_a_damaged_sample(make_model, tmp_path, change):
    lm = make_model("gpt2")
    first = fl.stats.second_moments(lm, [1], SMALL)[1]
    (path,) = (tmp_path / "cache" / "corpora").iterdir()
    storage.write_tensors(path, change(storage.read_tensors(path)[0]["ids"]))
    with pytest.raises(
        StorageError, match=r"cached sample .* is damaged.*stats --recompute"
    ) as caught:
        fl.stats.second_moments(lm, [1], SMALL)
    assert path.name in str(caught.value)
    again = fl.stats.second_moments(lm, [1], SMALL, recompute=True)[1]
    assert torch.equal(again.matrix, first.matrix)
    fl.stats.second_moments(lm, [1], SMALL)  # the damaged file has been replaced


def test_statistics_of_another_shape_are_refused(make_model, fact):
    lm = make_model("gpt2")
    for matrix, layer in ((torch.eye(3).double(), 1), (torch.eye(56).double(), 7)):
        given = fl.editing.Background.of(
            [fl.stats.SecondMoment(matrix, layer, 500, "x", lm.fingerprint)]
        )
        with pytest.raises(WrongModelError, match="has 3 layers with keys of 56 dimensions"):
            given.second_moments(lm, [layer], SMALL)
    with pytest.raises(StatisticsError, match="kept in float64"):
        fl.stats.SecondMoment(torch.eye(56), 1, 500, "x", lm.fingerprint)


def method(name, layer=1):
    return {
        "rome": lambda lm, fact, given: fl.rome(
            lm, fact, fl.editing.RomeConfig(layer=layer, value=QUICK), given
        ),
        "memit": lambda lm, fact, given: fl.memit(
            lm, [fact], fl.editing.MemitConfig(layers=(layer,), value=QUICK), given
        ),
        "emmet": lambda lm, fact, given: fl.editing.emmet(
            lm, [fact], fl.editing.EmmetConfig(layers=(layer,), value=QUICK), given
        ),
        "alphaedit": lambda lm, fact, given: fl.editing.alphaedit(
            lm, [fact], fl.editing.AlphaEditConfig(layers=(layer,), value=QUICK), given
        ),
    }[name]


QUICK = fl.editing.ValueConfig(steps=2)
METHODS = ("rome", "memit", "emmet", "alphaedit")


@pytest.mark.parametrize("name", METHODS)
def test_fewer_tokens_than_dimensions_are_refused_by_every_closed_form(make_model, fact, name):
    lm = make_model("llama")
    rows = tuple(tuple(range(i, i + 5)) for i in range(5, 60, 5))
    for n in (1, 11):  # 5 and 55 tokens for 56 dimensions
        given = fl.editing.Background.of(
            fl.stats.second_moments(lm, [1], corpus=Corpus(rows[:n], "few"))
        )
        with pytest.raises(
            StatisticsError, match=rf"singular: {5 * n} tokens of few cannot fill 56"
        ):
            method(name)(lm, fact, given)


def test_tokens_that_are_all_alike_are_refused_by_alphaedit(make_model, fact):
    lm = make_model("llama")
    alike = Corpus(((5, 6, 7, 8),) * 40, "one row")
    given = fl.editing.Background.of(fl.stats.second_moments(lm, [1], corpus=alike))
    with pytest.raises(StatisticsError, match="too few or too alike"):
        method("alphaedit")(lm, fact, given)


@pytest.mark.parametrize("name", METHODS)
def test_few_tokens_are_warned_of_once(make_model, fact, name, caplog):
    lm = make_model("llama")
    for per_dim, warned in ((1, True), (3, False)):
        caplog.clear()
        few = fl.stats.StatsConfig(tokens_per_dim=per_dim, row_length=16)
        given = fl.editing.Background.of(fl.stats.second_moments(lm, [1], few))
        for _ in range(2):
            method(name)(lm, fact, given)
        said = [r.getMessage() for r in caplog.records if "for each of its 56" in r.getMessage()]
        assert len(said) == warned


def test_a_model_with_a_short_context(fact):
    config = AutoConfig.for_model("gpt2", vocab_size=400, n_embd=24, n_layer=3, n_head=4,
                                  n_positions=32, bos_token_id=0, eos_token_id=1)  # fmt: skip
    with torch.random.fork_rng([]):
        model = AutoModelForCausalLM.from_config(config).eval()
    lm = fl.LanguageModel(model, tiny_tokenizer())
    corpus = corpus_from_model(lm, 100, 128, seed=0)
    assert {len(row) for row in corpus.rows} == {32}
    assert corpus.n_tokens >= 100
    short = fl.Fact("{} is", "A b", "R")
    assert fl.rome(lm, short, fl.editing.RomeConfig(layer=1, value=QUICK)).method == "rome"
    long = fl.Fact("{}" + " is" * 10, "A b")
    n_prompt = len(lm.encode(long.prompt))
    assert n_prompt < 32 < n_prompt + 4 * 8
    assert room_behind(lm, [long.prompt, "A b"], 32) == 32 - n_prompt
    assert room_behind(lm, [long.prompt], 3) == 3
    assert fl.editing.said_before(lm, long, max_words=8).target_new
    with pytest.raises(StatisticsError, match="no room for words"):
        corpus_from_texts(
            fl.models.tiny_model("gpt2", add_bos=True), ["Rome is a city"], "text", 10, 1
        )


def test_contexts_are_those_of_the_model(make_model):
    """One background for two models: each gets what it writes itself."""
    shared, config = fl.editing.Background(), fl.editing.ContextConfig()
    one, other = make_model("gpt2"), make_model("gpt2", seed=1)
    first = shared.contexts(one, config)
    assert (
        shared.contexts(other, config) == fl.editing.Background().contexts(other, config) != first
    )
    assert shared.contexts(one, config) == first


# -- several processes ------------------------------------------------------------------------------


def noting_moments(cache: Path) -> None:
    """Ask for second moments, and leave a line whenever they are collected."""
    os.environ["FACTLAB_CACHE"] = str(cache)
    collect = store.collect_second_moments

    def noted(*args):
        with (cache.parent / "collected").open("a") as file:
            file.write("once\n")
        return collect(*args)

    store.collect_second_moments = noted
    fl.stats.second_moments(fl.models.tiny_model("gpt2"), [1], SMALL)


def test_processes_that_need_the_same_collect_it_once(tmp_path):
    several = [started(noting_moments, tmp_path / "cache") for _ in range(3)]
    for process in several:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "collected").read_text() == "once\n"


def test_a_cache_in_which_nothing_can_be_locked_is_read(make_model, monkeypatch):
    lm = make_model("gpt2")
    kept = fl.stats.second_moments(lm, [1], SMALL)

    def refused(self, *_args, **_kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(store.FileLock, "acquire", refused)
    again = fl.stats.second_moments(lm, [1], SMALL)
    assert torch.equal(again[1].matrix, kept[1].matrix)
