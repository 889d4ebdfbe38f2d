"""A fact is edited the same way alone, among others, in a sequence and in an evaluation.

With nothing chosen, toy models have no preset and know no fact, so the layer of each fact is that
of its own trace, and facts of one list go to different layers.
"""

import pytest
import torch
from tiny_records import LIKELIHOODS, make_record

import factlab as fl
from factlab.editing.methods import METHODS

FACTS = [
    fl.Fact("See {} is in", "Rome", "Antarctica", "Seattle"),
    fl.Fact("{} is in the city of", "Miles Davis", "Paris", "Rome"),
    fl.Fact("Where is {}? In", "The Eiffel Tower", "a tower", "Paris"),
    fl.Fact("{} plays the", "Seattle", "trumpet", "Rome"),
    fl.Fact("People of {} speak", "the Space Needle", "Paris", "Rome"),
]
VALUE = fl.editing.ValueConfig(steps=2)
CONTEXTS = fl.editing.ContextConfig(groups=((2, 3),))
TUNING = fl.editing.FineTuneConfig(steps=2, learning_rate=0.01)
# Settings that say nothing of where to edit, so that this is settled for each fact; and some that do.
OPEN = {
    "rome": fl.editing.RomeConfig(value=VALUE, contexts=CONTEXTS),
    "memit": fl.editing.MemitConfig(value=VALUE, contexts=CONTEXTS),
    "emmet": fl.editing.EmmetConfig(value=VALUE, contexts=CONTEXTS),
    "alphaedit": fl.editing.AlphaEditConfig(value=VALUE, contexts=CONTEXTS),
    "kn": fl.editing.KnConfig(),
    "ft": TUNING,
    "ft+l": TUNING,
    "attn": TUNING,
    "ultraedit": fl.editing.UltraEditConfig(),
    "in-context": fl.editing.InContextConfig(),
}
CHOSEN = {
    name: config.model_copy(
        update={"layer": 1} if hasattr(config, "layer") else {"layers": (0, 1)} if hasattr(config, "layers") else {}
    )
    for name, config in OPEN.items()
}  # fmt: skip
SETTLED = {"rome", "memit", "emmet", "alphaedit"}  # by traces of the fact


def background(lm) -> fl.editing.Background:
    generator = torch.Generator().manual_seed(7)
    keys = torch.randn(8 * lm.d_mlp, lm.d_mlp, generator=generator, dtype=torch.float64)
    keys = keys * torch.linspace(0.01, 1, lm.d_mlp, dtype=torch.float64)  # some directions are free
    moment = keys.T @ keys / len(keys)
    return fl.editing.Background.of(
        [fl.stats.SecondMoment(moment, i, len(keys), "noise", lm.fingerprint) for i in range(3)]
    )


def deltas(edit: fl.Edit) -> dict[str, torch.Tensor]:
    total: dict[str, torch.Tensor] = {}
    for update in edit.updates:
        matrix = update.matrix(torch.float64, torch.device("cpu"))
        total[update.weight_name] = total.get(update.weight_name, 0) + matrix
    return total


def assert_same(one: fl.Edit, other: fl.Edit) -> None:
    assert one.config == other.config
    assert one.facts == other.facts
    ours, theirs = deltas(one), deltas(other)
    assert ours.keys() == theirs.keys()
    for name, delta in ours.items():
        scale = float(delta.abs().max())
        assert float((delta - theirs[name]).abs().max()) <= 1e-6 * scale, name


@pytest.mark.parametrize("asked", ["nothing", "open", "chosen"])
@pytest.mark.parametrize("method", OPEN)
def test_a_batch_is_its_members(make_model, method, asked):
    lm = make_model("llama", dtype=torch.float64)
    config = {"nothing": None, "open": OPEN[method], "chosen": CHOSEN[method]}[asked]
    facts, chosen = FACTS[: 2 if asked == "nothing" else 4], METHODS[method]
    together = chosen.each(lm, facts, config, background(lm))
    alone = [chosen.each(lm, [fact], config, background(lm))[0] for fact in facts]
    for pair in zip(together, alone, strict=True):
        assert_same(*pair)
    if method in SETTLED and asked == "open":
        assert len({str(edit.config) for edit in alone}) > 1, "the test would be empty"


def test_every_method_is_held_to_it():
    assert OPEN.keys() == METHODS.keys()


@pytest.mark.parametrize("method", OPEN)
def test_the_first_of_a_sequence_is_the_fact_alone(make_model, method):
    """Later ones are computed on the edited model; their settings are those of the fact alone."""
    lm = make_model("llama", dtype=torch.float64)
    run = fl.edit_sequence(lm, FACTS[:2], method, OPEN[method], background(lm))
    alone = [
        METHODS[method].each(lm, [fact], OPEN[method], background(lm))[0] for fact in FACTS[:2]
    ]
    assert_same(run.edits[0], alone[0])
    settings = [[edit.config for edit in edits] for edits in (run.edits, alone)]
    assert settings[0] == settings[1]


@pytest.mark.parametrize("method", OPEN)
def test_the_whole_of_an_evaluation_is_its_records(make_model, method, tmp_path):
    lm = make_model("llama", dtype=torch.float64)
    records = [make_record(i) for i in range(2)]

    def rows(some, name):
        run = fl.evaluate(
            lm, some, method, tmp_path / name, OPEN[method], measure=LIKELIHOODS,
            background=background(lm), cache=tmp_path / "cache",
        )  # fmt: skip
        return [row.model_dump()["after"] for row in run.rows]

    whole = rows(records, "whole")
    alone = [rows([record], str(i))[0] for i, record in enumerate(records)]
    assert_near(whole, alone)


def assert_near(one: object, other: object) -> None:
    """Equal but for rounding of the numbers in them."""
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert_near(value, other[name])
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_near(*pair)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-6, abs=1e-9)
    else:
        assert one == other
