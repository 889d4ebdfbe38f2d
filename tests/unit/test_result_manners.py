"""Every result is a value, says in a few lines what it is, and shows itself in a notebook."""

import copy
import sys
from html import escape

import pytest
from test_training import CONFIG, NETWORKS, records
from tiny_records import LIKELIHOODS, ROME, background, make_records

import factlab as fl
from factlab.editing.trained.examples import examples_of_records
from factlab.results import Drawn, Result, Tabular

PROMPT, SUBJECT = "See the Space Needle is in", "Space Needle"
FACTS = [fl.Fact("{} is in the", subject, "Seattle", "Rome") for subject in ("Paris", "Rome")]
FEW = fl.tracing.TraceConfig(samples=2, window=2)
NAMES = (
    "trace", "average", "comparison", "layers", "attribution", "neurons", "edit", "edited fact", "edit run",
    "run", "report", "grid", "sweep", "study", "diff", "editor", "training", "moment",
)  # fmt: skip


def made(name, make_model, folder):
    """A result, and the same once more: from the disk where it can be saved."""
    lm = make_model("llama" if name in ("editor", "training") else "gpt2")
    at_hand = background(lm)
    match name:
        case "trace":
            trace = fl.causal_trace(lm, PROMPT, SUBJECT, config=FEW)
            trace.save(folder / "t")
            return trace, fl.CausalTrace.load(folder / "t")
        case "average":
            facts = [fl.Fact("{} is in the city of", "Space Needle")]
            average = fl.average_trace(lm, facts, FEW, folder / "run")
            return average, fl.AverageTrace.load(folder / "run")
        case "comparison":
            average = fl.average_trace(lm, [fl.Fact("{} is in the city of", "Paris")], FEW)
            return tuple(fl.tracing.compare_averages({"Paris": average}) for _ in "ab")
        case "layers":
            choice = fl.recommend_layer(lm, FACTS[:1] and [fl.Fact("{} is in", "Big Ben")])
            return choice, copy.copy(choice)
        case "attribution":
            found = fl.attribute_neurons(lm, PROMPT)
            found.save(folder / "n")
            return found, fl.neurons.NeuronAttribution.load(folder / "n")
        case "neurons":
            request = fl.neurons.NeuronRequest(prompt=PROMPT, target="Rome")
            return tuple(fl.neurons.find_neurons(lm, request) for _ in range(2))
        case "edit":
            edit = fl.rome(lm, FACTS[0], ROME, at_hand)
            edit.save(folder / "e")
            return edit, fl.Edit.load(folder / "e")
        case "edited fact":
            return tuple(fl.editing.edit_fact(lm, FACTS[0], "rome", ROME, at_hand) for _ in "ab")
        case "edit run":
            return tuple(fl.edit_each(lm, FACTS, "rome", ROME, at_hand) for _ in "ab")
        case "run" | "report":
            done = fl.evaluate(
                lm, make_records(2), "rome", folder / "r", ROME, measure=LIKELIHOODS,
                background=at_hand,
            )  # fmt: skip
            again = fl.evaluation.load_run(folder / "r")
            return (done, again) if name == "run" else (fl.report([done]), fl.report([again]))
        case "grid":
            cells = [fl.evaluation.GridCell("a", "rome", ROME)]
            return tuple(
                fl.evaluation.evaluate_grid(
                    lm, make_records(2), folder / "g", cells, measure=LIKELIHOODS,
                    background=at_hand,
                )
                for _ in "ab"
            )  # fmt: skip
        case "sweep":
            swept = fl.sweep(lm, make_records(1), folder / "s", [0], ["last"], ROME)
            return swept, fl.evaluation.Sweep.load(folder / "s")
        case "study":
            config = fl.evaluation.LayersConfig(
                method={"name": "memit", "settings": {"value": {"steps": 1}}},
                counts=[1], tops=[0], n_facts=1,
            )  # fmt: skip
            study = fl.evaluation.study_layers(lm, make_records(1), folder / "s", config)
            study.save(folder / "saved")
            return study, fl.evaluation.Study.load(folder / "saved" / "layers.json")
        case "diff":
            other = make_model("gpt2", seed=3)
            return tuple(fl.editing.compare(lm, other, ["Rome"]) for _ in "ab")
        case "editor" | "training":
            config = CONFIG.model_copy(update={"max_steps": 1})
            data = examples_of_records(lm, records())
            first = fl.editing.train_editor(lm, data, folder / "e", NETWORKS["mend"], config)
            if name == "editor":
                return first.editor, fl.editing.load_editor(folder / "e")
            again = fl.editing.train_editor(
                lm, data, folder / "e", NETWORKS["mend"], config, resume=True
            )
            return first, again
        case "moment":
            moment = at_hand.moments[0]
            moment.save(folder / "m")
            return moment, fl.stats.SecondMoment.load(folder / "m")


@pytest.fixture(params=NAMES)
def pair(request, make_model, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "factlab.editing.background.second_moments",
        lambda lm, layers, *_, **__: {i: background(lm).moments[i] for i in layers},
    )
    return made(request.param, make_model, tmp_path)


class Pandas:
    """What stands in for pandas."""

    DataFrame = staticmethod(lambda rows: ("frame", rows))


def test_it_has_manners(pair, tmp_path, monkeypatch):
    one, other = pair
    # A value.
    assert (one == other) is True
    assert (one != other) is False
    assert hash(one) == hash(other)
    assert one != "another thing"
    # Words.
    lines = repr(one).splitlines()
    assert 0 < len(lines) < 12
    assert len(repr(one)) < 1000
    assert type(one).__name__ in lines[0]
    assert "tensor(" not in repr(one)
    # A notebook.
    assert isinstance(one, Result)
    html = one._repr_html_()
    assert html.startswith("<") and "<script" not in html
    # A table.
    monkeypatch.setitem(sys.modules, "pandas", Pandas)
    if isinstance(one, Tabular):
        rows = one.rows()
        assert len({tuple(row) for row in rows}) == 1  # the same keys everywhere
        assert one.to_pandas() == ("frame", rows)
    # A picture.
    if isinstance(one, Drawn):
        figure = one.plot(tmp_path / "picture.png")
        assert (tmp_path / "picture.png").read_bytes() != b""
        assert figure._repr_png_()[:4] == one._repr_png_()[:4] == b"\x89PNG"


def test_a_run_has_a_table_of_records_and_scores(make_model, tmp_path, monkeypatch):
    lm = make_model("gpt2")
    run = fl.evaluate(
        lm, make_records(2), "rome", tmp_path / "r", ROME, measure=LIKELIHOODS,
        background=background(lm),
    )  # fmt: skip
    rows = run.table()
    assert [row["case_id"] for row in rows] == [0, 1]
    means = fl.report([run]).tables[0].rows[1].summary.metrics
    for name in ("rewrite_success", "paraphrase_success", "neighborhood_magnitude"):
        values = [row[name] for row in rows]
        assert sum(values) / 2 == pytest.approx(means[name].estimate.mean)
        assert all(isinstance(row[f"{name}_before"], float) for row in rows)
    assert rows[0]["entropy_bits"] is None  # no texts were written
    monkeypatch.setitem(sys.modules, "pandas", Pandas)
    assert run.to_pandas() == ("frame", rows)


def test_what_is_no_picture_shows_its_rows(make_model):
    lm = make_model("gpt2")
    run = fl.edit_each(lm, FACTS, "rome", ROME, background(lm))
    html = run._repr_html_()
    assert html.count("<tr>") == 3
    assert "<th>said_before</th>" in html
    edit = run.edits[0]
    assert "<td>transformer.h.0.mlp.c_proj.weight</td>" in edit._repr_html_()


def test_signs_of_a_model_are_no_markup(make_model):
    lm = make_model("gpt2")
    fact = fl.Fact("{} is <b>in</b>", "Rome", "Paris")
    html = fl.edit_each(lm, fact, "rome", ROME, background(lm))._repr_html_()
    assert "<b>" not in html
    assert "&lt;b&gt;" in html


def test_an_edit_says_what_it_changes(make_model, fact):
    lm = make_model("gpt2")
    edit = fl.rome(lm, fact, ROME, background(lm))
    drawn = edit._repr_html_()
    assert "<caption>Facts</caption>" in drawn
    for said in (fact.prompt, "Paris", "Rome", *edit.rows()[0]):
        assert f">{said}</t" in drawn
    assert f"Edit by rome of {lm.name}" in drawn
    assert f"layer {ROME.layer} (" in drawn
    assert f"<td>{edit.diagnostics['target_prob']:.4g}</td>" in drawn
    assert f"<td>{edit.updates[0].norm:.4g}</td>" in drawn


def test_before_and_after_are_side_by_side(make_model, fact):
    lm = make_model("gpt2")
    edited = fl.editing.edit_fact(lm, fact, "rome", ROME, background(lm))
    drawn = edited._repr_html_()
    for (was, _), (now, _) in zip(edited.before, edited.after, strict=True):
        assert f"<td>{escape(was)}</td>" in drawn
        assert f"<td>{escape(now)}</td>" in drawn
    assert f"<td>{edited.shares[0][1]:.4g}</td>" in drawn
