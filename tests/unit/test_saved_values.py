"""Values that are computed beforehand, by several shards, and the edits that are solved with them."""

import json
import shutil
from itertools import chain
from pathlib import Path

import pytest
import torch
from processes import finished, killed_as_it_writes, started

import factlab as fl
from factlab.editing.closed_form import values as looked_up
from factlab.editing.configs import ContextConfig, ValueConfig
from factlab.errors import (
    EditError,
    FactlabError,
    InvalidRequestError,
    StorageError,
    WrongModelError,
)
from factlab.journal import Shard, merge

TINY = ["--model", "tiny:gpt2"]
FACTS = [fl.Fact("{} is", f"Town {letter}", "Paris", "Berlin") for letter in "ABCDEFG"]
ALIKE = {"value": ValueConfig(steps=3), "contexts": ContextConfig(groups=((2, 4),))}
MEMIT = fl.editing.MemitConfig(layers=(0, 1), **ALIKE)


@pytest.fixture
def lm(make_model):
    return make_model("gpt2")


@pytest.fixture
def moments(lm):
    generator = torch.Generator().manual_seed(7)
    keys = torch.randn(4 * lm.d_mlp, lm.d_mlp, generator=generator, dtype=torch.float64)
    moment = keys.T @ keys / len(keys)
    return [fl.stats.SecondMoment(moment, i, len(keys), "noise", lm.fingerprint) for i in range(2)]


def start(lm, out, facts=FACTS, config=MEMIT, **more):
    return fl.editing.compute_values(lm, facts, out, "memit", config, **more)


def with_values(moments, folder):
    background = fl.editing.Background.of(moments)
    background.values = fl.editing.load_values(folder)
    return background


def assert_close(one: fl.Edit, other: fl.Edit) -> None:
    assert one.facts == other.facts
    for a, b in zip(one.updates, other.updates, strict=True):
        first, second = (each.matrix(torch.float64, torch.device("cpu")) for each in (a, b))
        assert torch.allclose(first, second, rtol=0, atol=1e-4 * float(first.abs().max()))


@pytest.fixture
def no_optimisation(monkeypatch):
    """Whatever optimises a value fails."""

    def fail(_lm, requests, *_args):
        assert not requests, "a value is optimised"
        return []

    def stop() -> None:
        monkeypatch.setattr(looked_up, "optimise_values", fail)

    return stop


# -- the same edit ---------------------------------------------------------------------------------


def test_an_edit_with_values_is_the_edit_without(lm, moments, tmp_path, no_optimisation):
    plain = fl.memit(lm, FACTS, MEMIT, fl.editing.Background.of(moments))
    saved = start(lm, tmp_path / "v")
    assert (saved.n_facts, saved.missing, saved.failed) == (7, (), {})
    assert repr(saved) == "SavedValues(7 of 7 facts; layer 1 of tiny-gpt2)"
    no_optimisation()
    background = with_values(moments, tmp_path / "v")
    edit = fl.memit(lm, FACTS, MEMIT, background)
    assert edit == plain
    assert edit.diagnostics == plain.diagnostics
    # Some of the facts, another lambda, another method with the same site and bound.
    fl.memit(lm, FACTS[2:4], MEMIT.model_copy(update={"second_moment_weight": 3.0}), background)
    run = fl.edit_each(
        lm, FACTS, "alphaedit", fl.editing.AlphaEditConfig(layers=(1,), **ALIKE), background
    )
    assert len(run.edits) == 7


@pytest.mark.parametrize("n_shards", [2, 3])
def test_shards_are_the_whole(lm, moments, tmp_path, n_shards):
    start(lm, tmp_path / "whole")
    missing = 7
    for number in range(n_shards, 0, -1):
        part = start(lm, tmp_path / "v", shard=Shard(number, n_shards))
        start(lm, tmp_path / f"own-{number}", shard=Shard(number, n_shards))
        missing -= len([*chain(*Shard(number, n_shards).blocks(range(7), 32, 32))])
        assert len(part.missing) == missing
    assert missing == 0
    folders = [tmp_path / f"own-{number + 1}" for number in range(n_shards)]
    merge(folders, tmp_path / "merged")
    edits = [
        fl.memit(lm, FACTS, MEMIT, with_values(moments, tmp_path / name))
        for name in ("whole", "v", "merged")
    ]
    assert_close(edits[0], edits[1])
    assert_close(edits[0], edits[2])


def test_rome_has_values_of_its_own(lm, moments, tmp_path, no_optimisation):
    config = fl.editing.RomeConfig(layer=1, lookup="end", **ALIKE)
    plain = fl.edit_each(lm, FACTS[:2], "rome", config, fl.editing.Background.of(moments))
    fl.editing.compute_values(lm, FACTS[:2], tmp_path / "v", "rome", config)
    no_optimisation()
    background = with_values(moments, tmp_path / "v")
    run = fl.edit_each(lm, FACTS[:2], "rome", config, background)
    assert run.edits == plain.edits
    with pytest.raises(InvalidRequestError, match=r"what leaves an MLP, as ROME's, not a layer"):
        fl.memit(lm, FACTS[:2], MEMIT, background)
    with pytest.raises(InvalidRequestError, match=r"their lookup is end, not last"):
        fl.rome(lm, FACTS[0], config.model_copy(update={"lookup": "last"}), background)


def test_what_the_model_says_is_erased(lm, moments, tmp_path, no_optimisation):
    facts = [fl.Fact("{} is", "Town A", None, "Berlin"), fl.Fact("{} is", "Town B")]
    config = MEMIT.model_copy(update={"erase": True})
    plain = fl.memit(lm, facts, config, fl.editing.Background.of(moments))
    start(lm, tmp_path / "v", facts, config).check(facts, "memit", config)
    no_optimisation()
    assert fl.memit(lm, facts, config, with_values(moments, tmp_path / "v")) == plain


def test_a_fact_without_a_value_is_named(lm, moments, tmp_path):
    endless = fl.Fact("{} is", "Rome", "Berlin " * 300)
    saved = start(lm, tmp_path / "v", [*FACTS[:2], endless])
    assert saved.missing == ()
    assert [*saved.failed] == ["Rome is"]
    assert start(lm, tmp_path / "v", [*FACTS[:2], endless], resume=True).failed == saved.failed
    with pytest.raises(EditError, match=r"Shorten it"):
        saved.check([FACTS[0], endless], "memit", MEMIT)
    background = with_values(moments, tmp_path / "v")
    attempts = fl.editing.method_named("memit").attempts(lm, [endless, FACTS[1]], MEMIT, background)
    assert isinstance(attempts[0], FactlabError)
    assert isinstance(attempts[1], fl.Edit)


# -- runs that are stopped ---------------------------------------------------------------------------


def test_a_run_goes_on_where_it_stopped(lm, tmp_path):
    whole = start(lm, tmp_path / "whole", batch_size=2)
    first = start(lm, tmp_path / "v", batch_size=2, should_stop=lambda: True)
    assert first.missing == (2, 3, 4, 5, 6)
    with pytest.raises(StorageError, match=r"Resume it with --resume"):
        start(lm, tmp_path / "v", batch_size=2)
    assert start(lm, tmp_path / "v", batch_size=2, resume=True).values == whole.values


def seventy(out: Path, options: dict) -> None:
    facts = [fl.Fact("{} is", f"Town {i}", "Paris") for i in range(70)]
    start(fl.models.tiny_model("gpt2"), out, facts, batch_size=8, **options)


def test_a_run_that_is_killed(tmp_path):
    folder = tmp_path / "killed"
    records = folder / "records-1-of-1.jsonl"
    for _ in range(3):
        killed_as_it_writes(started(seventy, folder, {"resume": True}), folder)
    assert 0 < len(fl.editing.load_values(folder).missing) < 70
    finished(seventy, folder, {"resume": True})
    finished(seventy, tmp_path / "whole", {})
    assert records.read_bytes() == (tmp_path / "whole" / records.name).read_bytes()


def test_processes_share_values_out(tmp_path):
    """To the byte what one process leaves, though one of three is killed."""
    folder, options = tmp_path / "shared", {"shard": Shard.any()}
    three = [started(seventy, folder, options) for _ in range(3)]
    killed_as_it_writes(three[0], folder)
    for process in three[1:]:
        process.join()
        assert process.exitcode == 0
    finished(seventy, tmp_path / "whole", {})
    whole = tmp_path / "whole" / "records-1-of-1.jsonl"
    assert [path.name for path in folder.glob("records-*")] == [whole.name]
    assert (folder / whole.name).read_bytes() == whole.read_bytes()


# -- what does not fit -------------------------------------------------------------------------------

OTHERS = {
    "layer": ({"layers": (0,)}, "their layer is 1, not 0"),
    "steps": ({"value": ValueConfig(steps=4)}, r"their value\.steps is 3, not 4"),
    "clamp": ({"value": ValueConfig(steps=3, clamp_factor=2)}, r"clamp_factor is 0\.75, not 2"),
    "texts": ({"contexts": ContextConfig(groups=((2, 4),), seed=1)}, r"contexts\.seed is 0, not 1"),
    "erase": ({"erase": True}, "their erase is False, not True"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_settings_are_refused_with_and_without_a_model(lm, moments, tmp_path, name):
    saved = start(lm, tmp_path / "v", FACTS[:2])
    update, reason = OTHERS[name]
    config = MEMIT.model_copy(update=update)
    with pytest.raises(InvalidRequestError, match=reason):
        saved.check(FACTS[:2], "memit", config)
    with pytest.raises(InvalidRequestError, match=reason):
        fl.memit(lm, FACTS[:2], config, with_values(moments, tmp_path / "v"))


def test_what_is_left_open_fits(lm, tmp_path):
    saved = start(lm, tmp_path / "v", FACTS[:2])
    saved.check(FACTS[:2], "memit", fl.editing.MemitConfig(**ALIKE))
    saved.check(FACTS[:1], "alphaedit", fl.editing.AlphaEditConfig(**ALIKE))


def test_other_models_are_refused(lm, make_model, moments, tmp_path):
    saved = start(lm, tmp_path / "v", FACTS[:2])
    saved.check_model(lm)
    for other, reason in (
        (make_model("gpt2", seed=2), "of tiny-gpt2 .*, not of tiny-gpt2"),
        (make_model("gpt2", dtype=torch.float64), "in torch.float32, not in torch.float64"),
        (make_model("gpt2", add_bos=True), "another tokenizer"),
    ):
        with pytest.raises(WrongModelError, match=reason):
            saved.check_model(other)
    background = with_values(moments, tmp_path / "v")
    other = make_model("gpt2", dtype=torch.float64)
    with pytest.raises(WrongModelError, match=r"in torch\.float32"):
        fl.memit(other, FACTS[:2], MEMIT, background)
    edit = fl.memit(lm, FACTS[:1], MEMIT, background)
    with edit.applied(lm):
        for refused in (
            lambda: fl.memit(lm, FACTS[1:2], MEMIT, background),
            lambda: start(lm, tmp_path / "new"),
        ):
            with pytest.raises(WrongModelError, match=r"without edits"):
                refused()
    with pytest.raises(WrongModelError, match=r"without edits"):
        fl.edit_sequence(lm, FACTS[:2], "memit", MEMIT, background)


def test_missing_values_are_told(lm, tmp_path):
    saved = start(lm, tmp_path / "v", shard=Shard(3, 4))
    reason = "no value for 5 of 7 facts, first of all for 'Town A is' .* lacks 5 of the 7 .*"
    with pytest.raises(StorageError, match=f"{reason}--shard 1/4, 2/4, 4/4"):
        saved.check(FACTS, "memit", MEMIT)
    saved.check([FACTS[4], FACTS[5]], "memit", MEMIT)
    stopped = start(lm, tmp_path / "s", batch_size=3, should_stop=lambda: True)
    with pytest.raises(StorageError, match=r"4 of 7 .* --resume"):
        stopped.check(FACTS, "memit", MEMIT)
    whole = start(lm, tmp_path / "w", FACTS[:2])
    other = fl.Fact("{} is", "Town A", "Rome")
    with pytest.raises(StorageError, match=r"1 of 1 fact, .* target 'Rome'. All the facts"):
        whole.check([other], "memit", MEMIT)


def test_another_run_is_refused(lm, tmp_path):
    start(lm, tmp_path / "v")
    for options, reason in (
        ({"facts": FACTS[:3]}, "its facts is"),
        ({"config": MEMIT.model_copy(update={"layers": (0,)})}, r"its plan\.layer is 1, not 0"),
    ):
        with pytest.raises(StorageError, match=reason):
            start(lm, tmp_path / "v", resume=True, **options)


def test_what_has_no_values(lm, tmp_path):
    with pytest.raises(InvalidRequestError, match=r"'ft' optimises no values"):
        fl.editing.compute_values(lm, FACTS, tmp_path / "v", "ft")
    with pytest.raises(InvalidRequestError, match=r"nothing to write"):
        start(lm, tmp_path / "v", [fl.Fact("{} is", "Rome")])
    with pytest.raises(InvalidRequestError, match=r"batch_size=0"):
        start(lm, tmp_path / "v", batch_size=0)
    assert not (tmp_path / "v").exists()


def _delta(record):
    record["delta"] = "AAAA" + record["delta"][4:]


def _no_base64(record):
    record["delta"] = "?"


def _no_numbers(record):
    record["delta"] = 3


def _target(record):
    record["target"] = "Oslo"


def _history(record):
    record["value"]["initial_norm"] = "long"


def _nothing(record):
    for name in [name for name in record if name != "case"]:
        del record[name]


@pytest.mark.parametrize(
    "damage",
    [_delta, _no_base64, _no_numbers, _target, _history, _nothing],
    ids=lambda d: d.__name__,
)
def test_a_damaged_value_is_named(lm, tmp_path, damage):
    start(lm, tmp_path / "v", FACTS[:2])
    path = tmp_path / "v" / "records-1-of-1.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    damage(lines[1])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(
        StorageError, match=r'damaged value, that of case 1\. Delete the line with "case": 1'
    ):
        fl.editing.load_values(tmp_path / "v")
    path.write_text(json.dumps(lines[0]) + "\n")
    assert start(lm, tmp_path / "v", FACTS[:2], resume=True).missing == ()


def test_values_of_another_run_are_not_taken(lm, make_model, tmp_path):
    start(lm, tmp_path / "v", FACTS[:2])
    start(make_model("gpt2", seed=2), tmp_path / "w", FACTS[:2])
    name = "records-1-of-1.jsonl"
    shutil.copy(tmp_path / "w" / name, tmp_path / "v" / name)
    with pytest.raises(StorageError, match=r"damaged value, that of case 0"):
        fl.editing.load_values(tmp_path / "v")


def _no_plan(run):
    del run["request"]["plan"]


def _odd_plan(run):
    run["request"]["plan"]["layer"] = "top"


def _no_model(run):
    run["request"]["model"] = {"name": "m"}


def _no_texts(run):
    run["findings"]["contexts"] = []


def _no_count(run):
    del run["request"]["n_facts"]


@pytest.mark.parametrize(
    "damage", [_no_plan, _odd_plan, _no_model, _no_texts, _no_count], ids=lambda d: d.__name__
)
def test_a_damaged_run_is_refused(lm, tmp_path, damage):
    start(lm, tmp_path / "v", FACTS[:2])
    path = tmp_path / "v" / "run.json"
    run = json.loads(path.read_text())
    damage(run)
    path.write_text(json.dumps(run))
    with pytest.raises(StorageError, match=r"run\.json' is damaged"):
        fl.editing.load_values(tmp_path / "v")


def test_a_run_of_another_kind_is_refused(tmp_path):
    (tmp_path / "run.json").write_text('{"request": {"format": "factlab run 1"}, "findings": {}}')
    with pytest.raises(StorageError, match=r"is not of computed values"):
        fl.editing.load_values(tmp_path)


# -- the commands ------------------------------------------------------------------------------------

QUICK = (
    "[value]\nsteps = 2\n[contexts]\ngroups = []\n[stats]\ntokens_per_dim = 4\nrow_length = 16\n"
)


@pytest.fixture
def files(tmp_path):
    facts, settings = tmp_path / "facts.csv", tmp_path / "quick.toml"
    fl.data.save_facts(FACTS[:3], facts)
    settings.write_text(QUICK)
    return facts, ["--settings", settings, "--layer", "1", *TINY]


def test_from_end_to_end(run, files, tmp_path, no_optimisation):
    facts, more = files
    plain = run("edit", "--facts", facts, "--together", *more, "--out", tmp_path / "plain")
    assert plain[0] == 0, plain[2]
    for number, n_missing in ((1, 1), (2, 0)):
        shard = ["--shard", f"{number}/2", "--json"]
        code, out, err = run("values", facts, *more, "--out", tmp_path / "v", *shard)
        assert code == 0, err
        document = json.loads(out)
        assert (document["n_facts"], document["n_missing"]) == (3, n_missing)
        assert document["plan"]["layer"] == 1
    for number in (1, 2):
        own = tmp_path / f"own-{number}"
        assert run("values", facts, *more, "--out", own, "--shard", f"{number}/2")[0] == 0
    own = [tmp_path / f"own-{number}" for number in (1, 2)]
    code, out, err = run("merge", *own, "--out", tmp_path / "merged")
    assert code == 0, err
    assert "Values of 3 of 3 facts" in out
    no_optimisation()
    for name in ("v", "merged"):
        out = tmp_path / f"edit-{name}"
        code, _, err = run(
            "edit", "--facts", facts, *more, "--values", tmp_path / name, "--out", out
        )
        assert code == 0, err
        assert_close(fl.Edit.load(out), fl.Edit.load(tmp_path / "plain"))


def test_refusals(run, files, tmp_path):
    facts, more = files
    values = ["--values", tmp_path / "v"]
    assert run("values", facts, *more, "--out", tmp_path / "v", "--shard", "1/2")[0] == 0
    edit = ["edit", "--facts", facts, *more, *values]
    for command, reason in (
        (edit, "lacks 1 of the 3 that it is about: go on with 'factlab values'"),
        ([*edit, "--sequence"], "--values does not go with --sequence"),
        ([*edit, "--edit", tmp_path / "plain"], "--values does not go with --edit"),
        ([*edit, "--set", "value.steps=3"], "their value.steps is 2, not 3"),
        ([*edit, "--set", "contexts.seed=3"], "their contexts.seed is 0, not 3"),
        ([*edit, "--method", "rome", "--each"], "as those of MEMIT and its kind, not an MLP"),
        (["edit", "--facts", facts, "--method", "ft", *TINY, *values], "'ft' optimises no values"),
        (["values", facts, *more, "--out", tmp_path / "v"], "is not empty. Resume it"),
    ):
        if "--edit" in command and not (tmp_path / "plain").exists():
            assert run("edit", "--facts", facts, *more, "--out", tmp_path / "plain")[0] == 0
        code, _, err = run(*command)
        assert code == 2
        assert reason in " ".join(err.split()), err
        assert err.count("Error: ") == 1
    assert run("values", facts, *more, "--out", tmp_path / "v", "--shard", "2/2")[0] == 0
    code, _, err = run(*edit[:-4], "--model", "tiny:llama", *values)
    assert code == 2
    assert "not of tiny-llama" in err
