"""Sweeps of layers and tokens, and the tokens that ROME looks up."""

import csv
import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from tiny_records import LIKELIHOODS, ROME, background, make_record, make_records, make_zsre

import factlab as fl
from factlab.editing.closed_form.lookup import mean_keys, prompt_rows, target_rows
from factlab.editing.configs import LOOKUP_TOKENS
from factlab.errors import EditError, InvalidRequestError, StorageError
from factlab.estimate import Estimate
from factlab.evaluation.running.run import evaluate
from factlab.evaluation.running.saved_run import load_run
from factlab.evaluation.scoring.resampling import score_estimate
from factlab.evaluation.scoring.scores import SCORE, score_row, summarise
from factlab.evaluation.sweeping import grid as grid_module
from factlab.evaluation.sweeping.groups import GROUP_OF
from factlab.evaluation.sweeping.result import Cell, Sweep
from factlab.evaluation.sweeping.sweep import sweep
from factlab.tracing.groups import GROUPS


@pytest.fixture
def lm(make_model):
    return make_model("gpt2")


@pytest.fixture(autouse=True)
def moments(monkeypatch):
    """Statistics of noise: what is tested does not depend on them."""
    monkeypatch.setattr(
        "factlab.editing.background.second_moments",
        lambda lm, layers, *_, **__: {i: background(lm).moments[i] for i in layers},
    )


# -- which token ------------------------------------------------------------------------------


@pytest.mark.parametrize("add_bos", [False, True])
@pytest.mark.parametrize(
    ("template", "subject", "words"),
    [
        # first, last, first after last, end
        ("In {} people speak many", "the Space Needle", (" the", " Needle", " people", " many")),
        ("In {} is", "Paris", (" Paris", " Paris", " is", " is")),
        ("See {}", "the Space Needle", (" the", " Needle", " Needle", " Needle")),
        ("{}, a tower", "The Eiffel Tower", ("The", " Tower", ",", " tower")),
        ("Rome and {} and Rome in", "Rome", (" Rome", " Rome", " and", " in")),
    ],
)
def test_where_lookup_tokens_land(make_model, template, subject, words, add_bos):
    lm = make_model("gpt2", add_bos=add_bos)
    fact = fl.Fact(template, subject)
    for token, word in zip(LOOKUP_TOKENS, words, strict=True):
        for context in ("", "A museum, a river. ", "Rome and Rome. "):
            for row in (
                *prompt_rows(lm, fact, [context], token),
                *target_rows(lm, fact, [context], "Antarctica and Rome", token),
            ):
                text = lm.tokenizer.decode(row.ids[: row.lookup + 1])
                assert text.endswith(word)
                prompt = lm.tokenizer.decode(row.ids[: row.n_prompt]).removeprefix("<s>")
                assert prompt == context + fact.prompt


@pytest.mark.parametrize("token", LOOKUP_TOKENS)
def test_an_edit_at_a_token_acts_there(make_model, token):
    """The key is that token's: the edited projection gives the value there."""
    lm = make_model("gpt2")
    fact = fl.Fact("In {} people speak", "the Space Needle", "Rome")
    config = ROME.model_copy(
        update={"lookup": token, "contexts": fl.editing.ContextConfig(groups=())}
    )
    edit = fl.rome(lm, fact, config, background(lm))
    assert edit.config["lookup"] == token
    (row,) = prompt_rows(lm, fact, [""], token)
    outputs = []
    for applied in (False, True):
        undo = edit.apply_(lm) if applied else lambda: None
        found = mean_keys(lm, [fact], [""], 0, torch.ones(1).double(), token)
        undo()
        outputs.append(found.outputs[0])
    moved = (outputs[1] - outputs[0]).norm()
    assert float(moved) == pytest.approx(edit.diagnostics["delta_norm"][-1], rel=1e-3)
    assert row.lookup == {"first": 2, "last": 5, "first_after_last": 6, "end": 7}[token]


# -- sweeps -----------------------------------------------------------------------------------


def test_cells_are_evaluations(lm, tmp_path):
    records = make_records(3)
    found = sweep(lm, records, tmp_path / "sweep", [1, 0, 1], ["end", "last"], ROME)
    assert found.layers == (0, 1)
    assert found.tokens == ("last", "end")
    assert list(found.scores) == [(0, "last"), (0, "end"), (1, "last"), (1, "end")]
    assert (found.n_records, found.impossible) == (3, {})
    for (layer, token), scores in found.scores.items():
        run = evaluate(
            lm, records, "rome", tmp_path / f"{layer}-{token}",
            ROME.model_copy(update={"layer": layer, "lookup": token}),
            measure=LIKELIHOODS, background=background(lm),
        )  # fmt: skip
        wanted = summarise([score_row(row, "after") for row in run.rows], "counterfact")
        before = summarise([score_row(row, "before") for row in run.rows], "counterfact")
        for name in found.columns:
            for mine, theirs in (
                (scores[name], wanted.metrics[name].estimate),
                (found.unedited[name], before.metrics[name].estimate),
            ):
                assert mine.mean == pytest.approx(theirs.mean, nan_ok=True)
                assert mine.interval == pytest.approx(theirs.interval, nan_ok=True)
        swept = load_run(tmp_path / "sweep" / f"layer-{layer:02d}-{token}")
        assert swept.rows[0].after == run.rows[0].after
    best = max(scores[SCORE].mean for scores in found.scores.values())
    assert found.scores[found.best()][SCORE].mean == best


def test_a_sweep_goes_on_where_it_was_stopped(lm, tmp_path, monkeypatch):
    records = make_records(2)
    whole = sweep(lm, records, tmp_path / "whole", [0, 1], ["first", "last"], ROME)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 6

    part = sweep(lm, records, tmp_path / "part", [0, 1], ["first", "last"], ROME, should_stop=stop)
    measured = [cell for cell, scores in part.scores.items() if not math.isnan(scores[SCORE].mean)]
    assert 0 < len(measured) < 4
    assert len(part.scores) == 4
    evaluated = []
    real = grid_module.evaluate

    def counted(*args, **kwargs):
        evaluated.append(args[3].name)
        return real(*args, **kwargs)

    monkeypatch.setattr(grid_module, "evaluate", counted)
    again = sweep(lm, records, tmp_path / "part", [0, 1], ["first", "last"], ROME)
    assert again.to_json() == whole.to_json() == Sweep.load(tmp_path / "part").to_json()
    assert evaluated == ["layer-00-first", "layer-00-last", "layer-01-first", "layer-01-last"]
    assert again == whole == Sweep.load(tmp_path / "part")
    assert again != part
    assert hash(again) == hash(whole)
    assert len(repr(again)) < 200
    with pytest.raises(StorageError, match="not the first ones of the 3"):
        sweep(lm, make_records(3)[::-1], tmp_path / "part", [0], ["last"], ROME)
    more = sweep(lm, make_records(3), tmp_path / "part", [0], ["last"], ROME)
    assert more.n_records == 3


def test_where_nothing_can_be_written_is_a_gap(lm, tmp_path):
    """Nothing that follows depends on what the last layer does left of the last token."""
    records = [make_record(0), make_record(3)]
    found = sweep(lm, records, tmp_path / "sweep", [0, 2], ["last", "end"], ROME)
    assert list(found.impossible) == [(2, "last")]
    assert "Edit an earlier layer" in found.impossible[2, "last"]
    assert math.isnan(found.scores[2, "last"][SCORE].mean)
    assert not math.isnan(found.scores[2, "end"]["rewrite_success"].mean)
    assert found.best() != (2, "last")
    files = found.save(tmp_path / "out")
    assert all(file.stat().st_size for file in files)
    document = json.loads(files[0].read_text(), parse_constant=pytest.fail)
    assert document["impossible"][0]["layer"] == 2
    assert not any(document["cells"][2]["score"].values())
    with pytest.raises(EditError, match="Nothing could be evaluated"):
        sweep(lm, records, tmp_path / "nothing", [2], ["first", "last"], ROME)


def test_files(lm, tmp_path):
    found = sweep(lm, make_records(2), tmp_path, [0, 1], ["last", "end"], ROME)
    names = [file.name for file in found.save(tmp_path)]
    assert names == ["sweep.json", "sweep.csv", "sweep.png"]
    document = json.loads((tmp_path / "sweep.json").read_text(), parse_constant=pytest.fail)
    assert document["n_records"] == 2
    assert document["model_name"] == "tiny-gpt2"
    cell = document["cells"][3]
    assert (cell["layer"], cell["token"]) == (1, "end")
    assert cell["rewrite_success"]["mean"] == found.scores[1, "end"]["rewrite_success"].mean
    table = list(csv.DictReader((tmp_path / "sweep.csv").read_text().splitlines()))
    assert [(row["layer"], row["token"]) for row in table] == [
        ("0", "last"), ("0", "end"), ("1", "last"), ("1", "end"),
    ]  # fmt: skip
    mean = found.scores[0, "end"]["neighborhood_success"].mean
    assert table[1]["neighborhood_success"] == f"{mean:.4f}"
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_beside_a_trace(lm, make_model, tmp_path):
    config = fl.tracing.TraceConfig(kinds=("mlp",), samples=2, window=1)
    facts = [fl.Fact("See {} is in", "Space Needle"), fl.Fact("{} is", "Rome")]
    trace = fl.average_trace(lm, facts, config, tmp_path / "trace")
    found = sweep(lm, make_records(2), tmp_path, [0], ["first", "last"], ROME, trace=trace)
    found.save(tmp_path)
    line = found.trace_line("last")
    assert line == trace.effects["mlp"][GROUPS.index("last subject token")].tolist()
    assert {GROUP_OF[token] for token in LOOKUP_TOKENS} <= set(GROUPS)
    assert Sweep.load(tmp_path).trace.n_facts == 2
    blocks = fl.average_trace(lm, facts, config.model_copy(update={"kinds": ("block",)}))
    assert dataclasses.replace(found, trace=blocks).trace_line("last") == []
    with pytest.raises(InvalidRequestError, match=r"The trace is of tiny-gpt2 .* Trace this model"):
        sweep(make_model("gpt2", seed=3), make_records(1), tmp_path / "x", [0], trace=trace)


def test_zsre(lm, tmp_path):
    found = sweep(lm, [make_zsre(0), make_zsre(1)], tmp_path, [0], ["last"], ROME)
    assert found.columns == ("score", "efficacy", "paraphrase", "specificity")
    found.save(tmp_path)


@pytest.mark.parametrize(
    ("layers", "tokens", "message"),
    [
        ([], ["last"], "at least one layer"),
        ([0], [], "one token"),
        ([3], ["last"], "layers 0 to 2"),
        ([-1], ["last"], "layers 0 to 2"),
    ],
)
def test_what_cannot_be_swept(lm, tmp_path, layers, tokens, message):
    with pytest.raises(InvalidRequestError, match=message):
        sweep(lm, make_records(1), tmp_path / "sweep", layers, tokens, ROME)
    assert not (tmp_path / "sweep").exists()


def test_a_folder_without_a_sweep(tmp_path):
    with pytest.raises(StorageError, match="holds no sweep"):
        Sweep.load(tmp_path)


# -- what is as good, and the figure --------------------------------------------------------------


def made(n: int) -> Sweep:
    """Of records that are all won at layer 1, and nearly all at layer 0."""
    columns = ("score", "rewrite_success", "paraphrase_success", "neighborhood_success")

    def scores(n_won: int) -> dict[str, Estimate]:
        values = [1.0] * n_won + [0.0] * (n - n_won)
        part = dict.fromkeys(columns[1:], Estimate.of_shares(values))
        return {SCORE: score_estimate(np.array([values] * 3).T), **part}

    cells: list[Cell] = [(0, "last"), (1, "last"), (2, "last")]
    won = zip(cells, (n - 1, n, 0), strict=True)
    by_cell = {cell: scores(count) for cell, count in won}
    return Sweep((0, 1, 2), ("last",), n, columns, by_cell, scores(1), "tiny")


def test_a_best_place_is_told_with_those_that_are_as_good():
    few, many = made(10), made(1000)
    assert few.best() == many.best() == (1, "last")
    assert few.as_good() == [(0, "last")]
    assert made(5000).as_good() == [(0, "last")]  # 4999 of 5000 may well be all
    assert (2, "last") not in few.as_good()


def test_a_figure_has_intervals_and_explains_itself(tmp_path):
    figure = made(10).plot(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    width, _ = figure.get_size_inches()
    assert width <= 9  # letters of 9 points can be read at 900 pixels
    drawn = [panel for panel in figure.axes if panel.collections]
    assert len(drawn) == 4
    for panel in drawn:
        whiskers = [part for bars in panel.collections for part in bars.get_segments()]
        assert all(0 <= part[:, 1].min() <= part[:, 1].max() <= 100 + 1e-9 for part in whiskers)
        assert any(part[1, 1] - part[0, 1] > 10 for part in whiskers)
    names = [text.get_text() for text in figure.axes[4].get_legend().get_texts()]
    assert names == ["last subject token", "unedited model"]
    assert any("95 % intervals" in text.get_text() for text in figure.axes[4].texts)


def test_a_table_of_a_sweep_has_intervals():
    lines = list(csv.DictReader(made(10).to_csv().splitlines()))
    assert [line["layer"] for line in lines] == ["0", "1", "2"]
    assert float(lines[1]["rewrite_success_low"]) == pytest.approx(0.7225, abs=1e-4)
    assert float(lines[1]["rewrite_success_high"]) == 1
    cell = made(10).to_json()["cells"][1]
    assert cell["score"]["high"] == 1
