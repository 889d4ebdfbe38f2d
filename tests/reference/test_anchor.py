"""Values of one length in a sequence (NAS), and facts whose value explodes."""

from dataclasses import replace

import pytest
import torch

import factlab as fl
from factlab.editing.closed_form import layerwise, rome
from factlab.editing.closed_form.anchor import anchored
from factlab.editing.closed_form.lookup import keys_and_outputs, prompt_rows
from factlab.editing.configs import ContextConfig, ValueConfig
from factlab.editing.methods import METHODS
from factlab.errors import InvalidRequestError

FACTS = [
    fl.Fact("{} is", "Rome", "Paris"),
    fl.Fact("In {}, people speak", "New York", "Dutch"),
    fl.Fact("{} was made by", "the Space Needle", "Apple"),
    fl.Fact("We saw {} in", "Seattle", "Oslo"),
]
SHARED = {
    "value": ValueConfig(steps=3, clamp_factor=2.0),
    "contexts": ContextConfig(groups=((1, 4),)),
    "norm_anchor": "first",
}
MEMIT = fl.editing.MemitConfig(layers=(0, 1), second_moment_weight=0.05, **SHARED)
ROME = fl.editing.RomeConfig(layer=1, **SHARED)


@pytest.fixture
def lm(make_model):
    return make_model("llama", dtype=torch.float64)


@pytest.fixture
def background(lm):
    keys = torch.randn(
        4 * lm.d_mlp, lm.d_mlp, generator=torch.Generator().manual_seed(7), dtype=torch.float64
    )
    matrix = keys.T @ keys / len(keys)
    return fl.editing.Background.of(
        [fl.stats.SecondMoment(matrix, i, len(keys), "noise", lm.fingerprint) for i in range(3)]
    )


def initial_values(lm, facts, layer: int = 1) -> torch.Tensor:
    rows = [row for fact in facts for row in prompt_rows(lm, fact, [""])]
    return keys_and_outputs(lm, rows, layer).outputs


def test_values_have_the_length_of_the_anchor(lm):
    deltas = torch.randn(4, lm.d_model, generator=torch.Generator().manual_seed(1)).double()
    initial = initial_values(lm, FACTS)
    found = anchored(lm, FACTS, deltas, 1, "first")
    mean = (initial + deltas).norm(dim=1).mean()
    assert found.notes["norm_anchor"] == pytest.approx(float(mean))
    assert (initial + found.deltas).norm(dim=1) == pytest.approx(mean.expand(4))
    # The direction of v* stays.
    values, scaled = initial + deltas, initial + found.deltas
    assert torch.cosine_similarity(values, scaled) == pytest.approx(torch.ones(4))
    assert torch.equal(anchored(lm, FACTS, deltas, 1, None).deltas, deltas)


def exploding(values_of, place: int):
    def explode(*args):
        values = values_of(*args)
        values[place] = replace(values[place], delta=values[place].delta * 1000)
        return values

    return explode


def test_a_value_that_explodes_is_skipped_and_named(lm, background, monkeypatch):
    config = MEMIT.model_copy(update={"norm_anchor": float(initial_values(lm, FACTS).norm())})
    good = fl.memit(lm, FACTS, config, background)
    assert good.diagnostics["skipped"] == []
    monkeypatch.setattr(layerwise, "values_of", exploding(layerwise.values_of, 2))
    edit = fl.memit(lm, FACTS, config, background)
    assert edit.diagnostics["skipped"] == [2]
    assert edit.skipped == (FACTS[2],)
    assert "not written, its value exploded: the Space Needle was made by" in repr(edit)
    both = fl.editing.combine([good, edit])
    assert both.skipped == (FACTS[2],)
    assert both.diagnostics["skipped"] == [6]
    assert edit.diagnostics["value_ratios"][2] > 2
    without_anchor = fl.memit(
        lm, FACTS, config.model_copy(update={"norm_anchor": None}), background
    )
    assert max(u.norm for u in without_anchor.updates) > 50 * max(u.norm for u in edit.updates)
    before = lm.score([FACTS[2].prompt], ["Apple"])[0].logprob
    with edit.applied(lm):
        skipped = lm.score([FACTS[2].prompt], ["Apple"])[0].logprob
    with good.applied(lm):
        written = lm.score([FACTS[2].prompt], ["Apple"])[0].logprob
    assert abs(skipped - before) < 0.5 * abs(written - before)


@pytest.mark.parametrize("method", ["memit", "rome"])
def test_a_fact_that_is_skipped_is_in_no_part_of_the_change(lm, background, monkeypatch, method):
    module, config = (layerwise, MEMIT) if method == "memit" else (rome, ROME)
    config = config.model_copy(update={"norm_anchor": 50.0})
    values = module.values_of
    alone = METHODS[method].together(lm, FACTS[:2], config, background)
    monkeypatch.setattr(module, "values_of", exploding(values, 2))
    edit = METHODS[method].together(lm, FACTS[:3], config, background)
    assert edit.skipped == (FACTS[2],)
    for one, other in zip(alone.updates, edit.updates, strict=True):
        torch.testing.assert_close(
            one.matrix(torch.float64, lm.device), other.matrix(torch.float64, lm.device)
        )
    assert [block.facts for block in edit.remembered] == [tuple(FACTS[:3])]
    keys = [t for block in edit.remembered for name, t in block.tensors.items() if "key" in name]
    assert len(keys) == (2 if method == "memit" else 0)
    assert all(key[:2].any(dim=1).all() and not key[2].any() for key in keys)


@pytest.mark.parametrize(("method", "config"), [("memit", MEMIT), ("rome", ROME)])
def test_the_first_edit_of_a_sequence_sets_the_anchor(lm, background, tmp_path, method, config):
    turn = 2 if method == "memit" else 1
    run = fl.edit_sequence(lm, FACTS, method, config, background, turn=turn)
    first, *later = run.edits
    mean = first.diagnostics["norm_anchor"]
    assert [edit.diagnostics["norm_anchor"] for edit in later] == [mean] * len(later)
    assert first.diagnostics["value_ratios"] != later[0].diagnostics["value_ratios"]
    first.save(tmp_path / "first")
    with fl.Edit.load(tmp_path / "first").applied(lm):
        again = fl.editing.METHODS[method].each(lm, FACTS[turn : turn + 1], config, background)[0]
    assert again.diagnostics["norm_anchor"] == mean
    alone = fl.editing.METHODS[method].each(lm, FACTS[turn : turn + 1], config, background)[0]
    assert alone.diagnostics["value_ratios"] == [1.0]


@pytest.mark.parametrize("mode", ["each", "together", "sequence"])
def test_a_report_names_them(lm, background, tmp_path, monkeypatch, mode):
    module, method = (rome, "rome") if mode == "each" else (layerwise, "memit")
    monkeypatch.setattr(module, "values_of", exploding(module.values_of, 1))
    config = (ROME if mode == "each" else MEMIT).model_copy(update={"norm_anchor": 50.0})
    measure = fl.evaluation.MeasureConfig(n_generated=0)
    run = fl.evaluate(
        lm, FACTS[:2], method, tmp_path / "run", config, mode, background=background,
        measure=measure, turn=2 if mode == "sequence" else 1,
    )  # fmt: skip
    assert [row.skipped for row in run.rows] == [False, True]
    assert run.rows[1].after is not None
    said = str(fl.report([run]).to_json())
    assert "1 of 2 facts were not written" in said
    assert "case 1" in said


def test_rome_skips_too(lm, background, monkeypatch):
    monkeypatch.setattr(rome, "values_of", exploding(rome.values_of, 0))
    config = ROME.model_copy(update={"norm_anchor": 1.0})
    edit = fl.rome(lm, FACTS[0], config, background)
    assert edit.diagnostics["skipped"] == [0]
    assert edit.updates[0].norm == 0


def test_an_anchor_is_a_length():
    for bad in (0, -1, "last"):
        with pytest.raises((InvalidRequestError, ValueError), match="norm_anchor"):
            fl.editing.MemitConfig(norm_anchor=bad)
