"""The cache of values: what shares them, what does not, and that nothing is ever lost by it."""

import logging
import os
import sqlite3
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import factlab as fl
from factlab.editing.closed_form import values as looked_up
from factlab.editing.configs import ContextConfig, ValueConfig
from factlab.editing.requests import ValueRequest
from factlab.editing.values.cache import ValueCache
from factlab.editing.values.recipe import Asked, ValuePlan, ValueRecipe
from factlab.editing.values.stored import StoredValue
from factlab.errors import FactlabError, InvalidRequestError, StorageError

FACTS = [
    fl.Fact("{} is", "Rome", "Paris", "Berlin"),
    fl.Fact("In {}, people speak", "New York", "Dutch"),
    fl.Fact("See {} in", "the Space Needle", "Oslo", "Seattle"),
]
ALIKE = {"value": ValueConfig(steps=3), "contexts": ContextConfig(groups=((2, 4),))}
ROME = fl.editing.RomeConfig(layer=1, **ALIKE)
MEMIT = fl.editing.MemitConfig(layers=(0, 1), **ALIKE)


@pytest.fixture(autouse=True)
def _kept(no_kept_values, monkeypatch) -> None:
    monkeypatch.delenv("FACTLAB_VALUES_MIB")


@pytest.fixture
def lm(make_model):
    return make_model("gpt2")


@pytest.fixture
def optimised(monkeypatch) -> list[int]:
    """How many requests each call of the optimisation was given."""
    counts: list[int] = []
    optimise = looked_up.optimise_values

    def counted(lm, requests, *args):
        counts.append(len(requests))
        return optimise(lm, requests, *args)

    monkeypatch.setattr(looked_up, "optimise_values", counted)
    return counts


def background(lm: fl.LanguageModel, **more: object) -> fl.editing.Background:
    """A new one, as for every call of a method."""
    generator = torch.Generator().manual_seed(7)
    keys = torch.randn(4 * lm.d_mlp, lm.d_mlp, generator=generator, dtype=torch.float64)
    moment = keys.T @ keys / len(keys)
    made = fl.editing.Background.of(
        [fl.stats.SecondMoment(moment, i, len(keys), "noise", lm.fingerprint) for i in range(2)]
    )
    for name, value in more.items():
        setattr(made, name, value)
    return made


def memit(lm: fl.LanguageModel, facts=FACTS, config=MEMIT, **more: object) -> fl.Edit:
    return fl.memit(lm, facts, config, background(lm, **more))


def cache_file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "values-1.sqlite3"


# -- what shares values ----------------------------------------------------------------------------


def test_four_methods_that_share_values_cost_one_optimisation(lm, optimised):
    known = background(lm)
    for name, config in (
        ("memit", MEMIT),
        ("memit", MEMIT.model_copy(update={"second_moment_weight": 7.0})),
        ("alphaedit", fl.editing.AlphaEditConfig(layers=(1,), **ALIKE)),
        ("emmet", fl.editing.EmmetConfig(
            layers=(1,), **ALIKE | {"value": ValueConfig(steps=3, clamp_factor=0.75)})),
    ):  # fmt: skip
        fl.edit_together(lm, FACTS, name, config, known)
    assert optimised == [3]


def test_an_edit_is_the_same_with_the_value_that_was_kept(lm, optimised):
    for edit in (memit, lambda lm: fl.rome(lm, FACTS[0], ROME, background(lm))):
        assert edit(lm) == edit(lm)
    assert optimised == [3, 1]


def test_ways_to_write_many_facts_share_values(lm, optimised):
    fl.edit_each(lm, FACTS, "rome", ROME, background(lm))
    run = fl.edit_sequence(lm, FACTS, "rome", ROME, background(lm))
    again = fl.edit_sequence(lm, FACTS, "rome", ROME, background(lm, values=None))
    # On an edited model all is optimised; the first fact's value is that of the unedited one.
    assert optimised == [3, 1, 1, 1, 1, 1]
    for one, other in zip(run.edits, again.edits, strict=True):
        assert torch.allclose(one.updates[0].left, other.updates[0].left, atol=1e-4)


def test_only_what_is_new_is_optimised(lm, optimised):
    memit(lm, FACTS[:2])
    some = memit(lm)
    assert optimised == [2, 1]
    whole = memit(lm, values=None)
    for one, other in zip(some.updates, whole.updates, strict=True):
        assert torch.allclose(one.matrix(torch.float32, lm.device),
                              other.matrix(torch.float32, lm.device), atol=1e-4)  # fmt: skip


CHANGES = {
    "layer": {"layers": (0,)},
    "steps": {"value": ValueConfig(steps=4)},
    "kl": {"value": ValueConfig(steps=3, kl_factor=1.0)},
    "texts": {"contexts": ContextConfig(groups=((2, 4),), seed=1)},
    "erasing": {"erase": True},
}


@pytest.mark.parametrize("name", CHANGES)
def test_other_settings_are_other_values(lm, optimised, name):
    memit(lm)
    memit(lm, config=MEMIT.model_copy(update=CHANGES[name]))
    assert optimised == [3, 3]


def test_other_facts_and_models_are_other_values(lm, make_model, optimised):
    memit(lm, FACTS[:1])
    fact = FACTS[0]
    memit(lm, [fl.Fact(fact.template, fact.subject, "Madrid", "Berlin")])
    memit(lm, [fl.Fact(fact.template, "Bern", "Paris", "Berlin")])
    memit(lm, [fl.Fact("{} was", fact.subject, "Paris", "Berlin")])
    memit(lm, [fl.Fact(fact.template, fact.subject, "Paris", joint="none")])
    for other in (make_model("gpt2", seed=2), make_model("gpt2", dtype=torch.float64)):
        memit(other, FACTS[:1])
    assert optimised == [1] * 7
    # What is true, and how much the bare prompt counts in a key, changes no value.
    memit(lm, [fl.Fact(fact.template, fact.subject, "Paris", "Oslo")])
    contexts = MEMIT.contexts.model_copy(update={"bare_weight": None})
    memit(lm, FACTS[:1], MEMIT.model_copy(update={"contexts": contexts}))
    assert optimised == [1] * 7


def test_changed_weights_are_another_model(lm, optimised):
    memit(lm)
    edit = memit(lm, values=None)
    with edit.applied(lm):  # as a user's own change of weights would be, but undone at the end
        memit(lm)
    weight = lm.layers.weight(lm.layers.memory_name(1)).data
    before = weight[0, 0].item()
    weight[0, 0] = before + 1
    memit(lm)
    weight[0, 0] = before
    memit(lm)
    assert optimised == [3, 3, 3, 3]


@pytest.mark.parametrize("tight_first", [True, False])
def test_a_bound_counts_where_it_was_reached(lm, optimised, tight_first):
    bounds = [0.2, 50.0, 40.0] if tight_first else [50.0, 0.2, 40.0]
    for bound in bounds:
        value = ValueConfig(steps=3, clamp_factor=bound)
        edit = memit(lm, FACTS[:1], MEMIT.model_copy(update={"value": value}))
        longest = max(edit.diagnostics["delta_norm"]) / edit.diagnostics["initial_norm"]
        assert (longest == pytest.approx(0.2)) == (bound == 0.2)
    assert optimised == [1, 1]


def test_facts_that_have_no_value_are_tried_again(lm, optimised):
    endless = fl.Fact("{} is", "Rome", "Berlin " * 300)
    for _ in range(2):
        attempts = fl.editing.method_named("rome").attempts(
            lm, [FACTS[0], endless], ROME, background(lm)
        )
        assert isinstance(attempts[0], fl.Edit)
        assert isinstance(attempts[1], FactlabError)
    assert optimised == [2, 1]


def test_values_keep_their_precision(make_model, optimised):
    lm = make_model("gpt2", dtype=torch.float64)
    plan, requests = ValuePlan.of(ROME), [ValueRequest(f, f.target_new) for f in FACTS]
    first, again = (
        looked_up.values_of(lm, requests, plan, [""], ValueCache.default()) for _ in range(2)
    )
    assert optimised == [3]
    for one, other in zip(first, again, strict=True):
        assert one.delta.dtype == other.delta.dtype == torch.float64
        assert torch.equal(one.delta, other.delta)
        assert [*one.history] == [*other.history]
        assert one.to_json() == other.to_json()


# -- on and off --------------------------------------------------------------------------------


def test_it_can_be_switched_off(lm, optimised, monkeypatch, tmp_path):
    memit(lm, values=None)
    monkeypatch.setenv("FACTLAB_VALUES_MIB", "0")
    memit(lm)
    assert optimised == [3, 3]
    assert not cache_file(tmp_path).exists()


@pytest.mark.parametrize("said", ["much", "-1", "inf", "nan"])
def test_a_bound_that_is_none(monkeypatch, said):
    monkeypatch.setenv("FACTLAB_VALUES_MIB", said)
    with pytest.raises(InvalidRequestError, match=f"FACTLAB_VALUES_MIB is '{said}'"):
        fl.editing.Background()


# -- the file ----------------------------------------------------------------------------------

PLAN = ValuePlan.of(MEMIT.model_copy(update={"value": ValueConfig(steps=3, clamp_factor=0.75)}))
RECIPE = ValueRecipe({"name": "m", "fingerprint": "f", "tokenizer": "t"}, PLAN, ("",))
ASKED = [Asked("{} is", str(number), "x") for number in range(600)]
STEP = {"loss": 1.5, "delta_norm": 0.0}


def a_value(number: int, size: int = 100) -> StoredValue:
    return StoredValue(bytes([number % 256]) * 4 * size, "float32", 0.75, 1.0, [STEP])


def test_eviction_keeps_the_bound(tmp_path):
    cache = ValueCache(tmp_path / "values", 0.25)
    for number in range(400):
        cache.keep(RECIPE, [(ASKED[number], a_value(number))])
        cache.find(RECIPE, ASKED[:1])  # the first is used all the time
        assert (tmp_path / "values").stat().st_size <= 2**18
    found = cache.find(RECIPE, ASKED[:400])
    assert found[0] == a_value(0)
    assert found[399] == a_value(399)
    there = [value is not None for value in found[1:]]
    assert 50 < sum(there) < 380
    assert there == sorted(there), "those that were not used for longest are gone"
    # A smaller bound makes the file smaller, down to nothing.
    ValueCache(tmp_path / "values", 0.1).keep(RECIPE, [(ASKED[500], a_value(1))])
    assert (tmp_path / "values").stat().st_size <= 0.1 * 2**20
    tiny = ValueCache(tmp_path / "values", 1e-6)
    tiny.keep(RECIPE, [(ASKED[501], a_value(1, 50_000))])
    assert tiny.find(RECIPE, ASKED) == [None] * 600


_FILLING = """
    import sys
    from pathlib import Path
    from factlab.editing.values.cache import ValueCache
    from factlab.editing.values.recipe import Asked, ValuePlan, ValueRecipe
    from factlab.editing.values.stored import StoredValue
    path, start, plan = sys.argv[1:]
    cache, plan = ValueCache(Path(path)), ValuePlan.model_validate_json(plan)
    recipe = ValueRecipe({"name": "m", "fingerprint": "f", "tokenizer": "t"}, plan, ("",))
    print("ready", flush=True)
    sys.stdin.readline()
    for i in range(int(start), 300, 2):
        asked = Asked("{} is", str(i), "x")
        step = {"loss": 1.5, "delta_norm": 0.0}
        value = StoredValue(bytes([i % 256]) * 400, "float32", 0.75, 1.0, [step])
        cache.keep(recipe, [(asked, value)])
        cache.find(recipe, [asked])
"""


def test_processes_share_it(tmp_path):
    path = tmp_path / "values"
    fill = [sys.executable, "-c", textwrap.dedent(_FILLING), str(path)]
    others = [
        subprocess.Popen(
            [*fill, str(start), PLAN.model_dump_json()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for start in range(2)
    ]  # fmt: skip
    for other in others:
        assert other.stdout.readline() == "ready\n"
    for other in others:  # at once
        other.stdin.write("go\n")
        other.stdin.flush()
    for other in others:
        other.communicate()
    assert [other.returncode for other in others] == [0, 0]
    assert ValueCache(path).find(RECIPE, ASKED[:300]) == [a_value(i) for i in range(300)]


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE value SET numbers = zeroblob(length(numbers))",
        "UPDATE value SET header = '{}'",
        "UPDATE value SET header = 7, numbers = 'text'",
        "UPDATE value SET sha256 = 'none'",
        "UPDATE value SET key = key || '!'",
    ],
)
def test_a_damaged_entry_is_optimised_again(lm, optimised, tmp_path, damage):
    first = memit(lm)
    with sqlite3.connect(cache_file(tmp_path)) as database:
        database.execute(damage)
    assert memit(lm) == first == memit(lm)
    assert optimised == [3, 3]


def test_an_entry_under_another_name_is_not_taken(tmp_path):
    cache = ValueCache(tmp_path / "values")
    cache.keep(RECIPE, [(ASKED[0], a_value(0)), (ASKED[1], a_value(1))])
    with sqlite3.connect(tmp_path / "values") as database:
        names = [name for (name,) in database.execute("SELECT key FROM value ORDER BY key")]
        database.execute("UPDATE value SET key = 'x' WHERE key = ?", names[:1])
        database.execute("UPDATE value SET key = ? WHERE key = ?", names)
        database.execute("UPDATE value SET key = ? WHERE key = 'x'", names[1:])
    assert cache.find(RECIPE, ASKED[:2]) == [None, None]


def _no_database(path: Path) -> None:
    path.write_bytes(b"no database at all, but long enough to be read as one " * 20)


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _scrambled(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"\xff" * (len(whole) - 100))


def _other_tables(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE value (name TEXT)")


@pytest.mark.parametrize("damage", [_no_database, _torn, _scrambled, _other_tables])
def test_a_damaged_file_is_begun_anew(lm, optimised, tmp_path, caplog, damage):
    first, path = memit(lm), cache_file(tmp_path)
    damage(path)
    with caplog.at_level(logging.WARNING, "factlab"):
        assert memit(lm) == first
    (warning,) = caplog.messages
    assert "was damaged" in warning
    assert f"set aside as '{path}.damaged'" in warning
    assert memit(lm) == first
    assert optimised == [3, 3]


def test_an_empty_file_is_filled(lm, optimised, tmp_path, caplog):
    (tmp_path / "cache").mkdir()
    cache_file(tmp_path).touch()  # as another process leaves it for a moment
    assert memit(lm) == memit(lm)
    assert optimised == [3]
    assert not caplog.messages


def test_what_cannot_be_written_breaks_no_edit(lm, optimised, tmp_path, monkeypatch):
    first = memit(lm)
    # No room for anything new: what is there is found all the same.
    monkeypatch.setattr("factlab.editing.values.cache._put", _full)
    monkeypatch.setattr("factlab.editing.values.cache._touch", _full)
    assert memit(lm) == first
    memit(lm, config=MEMIT.model_copy(update={"layers": (0,)}))
    assert optimised == [3, 3]


def _full(database: sqlite3.Connection, **_rest: object) -> None:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    raise error


@pytest.mark.parametrize("where", ["a file", "a folder in its place"])
def test_a_place_that_is_none_breaks_no_edit(lm, optimised, tmp_path, where):
    place = tmp_path / "place"
    if where == "a file":
        place.write_text("in the way")
        cache = ValueCache(place / "inside" / "values")
    else:
        place.mkdir()
        cache = ValueCache(place)
    memit(lm, values=cache)
    memit(lm, values=cache)
    assert optimised == [3, 3]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(lm, optimised, tmp_path):
    first = memit(lm)
    for path, mode in ((cache_file(tmp_path), 0o444), (tmp_path / "cache", 0o555)):
        path.chmod(mode)
    try:
        assert memit(lm) == first
        memit(lm, config=MEMIT.model_copy(update={"layers": (0,)}))
    finally:
        (tmp_path / "cache").chmod(stat.S_IRWXU)
    assert optimised == [3, 3]


@pytest.mark.parametrize("numbers", [b"abc", b""])
def test_a_value_of_no_numbers(numbers):
    value = StoredValue(numbers, "float32", None, 1.0, [STEP])
    with pytest.raises(StorageError, match="damaged"):
        StoredValue.of_parts("key", value.header(), numbers, value.digest("key"))
