"""Reports of runs that were written by hand."""

import csv
import io
import itertools
import json
import math
import sys
from types import ModuleType

import jaxtyping
import pytest

from factlab.errors import InvalidRequestError, MissingPackageError, StorageError
from factlab.estimate import Estimate
from factlab.evaluation.measuring.rows import Asked, Drift, Measurement, TargetScore
from factlab.evaluation.reporting.formats import (
    cells,
    estimate_cell,
    header,
    save_report,
    to_csv,
    to_json,
    to_markdown,
)
from factlab.evaluation.reporting.notes import notes
from factlab.evaluation.reporting.published_results import published_results
from factlab.evaluation.reporting.report import report as build_report
from factlab.evaluation.running.saved_run import load_run
from saved_rows import BROAD, GOOD, UNEDITED, make_row, measured, save_run


@pytest.fixture
def saved(tmp_path):
    """Write and read a run; its rows are good unless told else."""

    def saved(*won, name="run", **kwargs):
        rows = kwargs.pop("rows", None)
        method = kwargs.get("method", "rome")
        if rows is None:
            rows = [make_row(i, outcome, method) for i, outcome in enumerate(won or [GOOD] * 4)]
        return load_run(save_run(tmp_path / name, rows, **kwargs))

    return saved


def table_of(*runs, **kwargs):
    (table,) = build_report(list(runs), **kwargs).tables
    return table


# -- reading ----------------------------------------------------------------------------------


def test_a_run_as_it_was_written(saved):
    run = saved(n_cases=6, findings={"config": {"layer": 5}, "unusable": {"9": "too long"}})
    assert (run.n_cases, run.n_missing, run.n_unusable, run.n_edits) == (6, 2, 1, 1)
    assert run.config == {"layer": 5}
    assert [row.case_id for row in run.rows] == [0, 1, 2, 3]
    assert run.failed == ()
    assert saved(name="all", mode="together").n_edits == 4


def test_folders_that_are_no_evaluation(tmp_path):
    with pytest.raises(StorageError, match="holds no run"):
        load_run(tmp_path)
    with pytest.raises(StorageError, match="format is 'something else'"):
        load_run(save_run(tmp_path / "other", [], format="something else"))
    with pytest.raises(StorageError, match=r"run.json' is damaged: method: Field required"):
        folder = save_run(tmp_path / "no method", [])
        document = json.loads((folder / "run.json").read_text())
        del document["request"]["method"]
        (folder / "run.json").write_text(json.dumps(document))
        load_run(folder)
    with pytest.raises(StorageError, match="does not list its cases"):
        load_run(save_run(tmp_path / "no cases", [], findings={"cases": None}))
    folder = save_run(tmp_path / "damaged", [make_row(1, GOOD)])
    (records,) = folder.glob("*.jsonl")
    records.write_text(records.read_text().replace('"case_id": 1', '"case_id": "x"'))
    with pytest.raises(StorageError, match=r"Case 0 of .* is damaged: case_id"):
        load_run(folder)


# -- the table --------------------------------------------------------------------------------


def test_scores_in_the_layout_of_the_paper(saved):
    table = table_of(saved(GOOD, GOOD, BROAD, UNEDITED))
    assert header(table) == ["", "n", "S", "ES", "EM", "PS", "PM", "NS", "NM", "GE", "RS"]
    unedited, rome = ([row.label, *cells(table, row)[1:]] for row in table.rows)
    assert unedited[:2] == ["unedited", "4"]
    # none and all of four win, three of four win: Wilson's intervals
    assert unedited[2:5] == ["0.0 (0–59)", "0.0 (0–49)", "-40.0 ±0.0"]
    assert unedited[7:] == ["100.0 (51–100)", "40.0 ±0.0", "600.0 ±0.0", "25.0 ±0.0"]
    assert rome[3] == rome[5] == rome[7] == "75.0 (30–95)"
    assert rome[4] == "20.0 ±63.6"  # 0.4 three times, −0.4 once; s = 0.4, t = 3.182
    assert rome[2].startswith("75.0 (")
    assert rome[9:] == ["600.0 ±0.0", "25.0 ±0.0"]


def test_cells():
    assert estimate_cell(Estimate(0.6274, 0.0081), 100.0, 1) == "62.7 ±0.8"
    assert estimate_cell(Estimate.of_shares([1.0] * 100), 100.0, 1) == "100.0 (96.3–100.0)"
    assert estimate_cell(Estimate.of_shares([1.0] * 4), 100.0, 1) == "100.0 (51–100)"
    assert estimate_cell(Estimate.of_shares([1.0]), 100.0, 1) == "100.0"
    assert estimate_cell(Estimate(0.5, math.nan), 100.0, 1) == "50.0"
    assert estimate_cell(Estimate(-0.0001, 0.0), 100.0, 1) == "0.0 ±0.0"
    assert estimate_cell(Estimate(2.7e21, 3.9e21), 1.0, 2) == "2.7e+21 ±3.9e+21"
    assert estimate_cell(Estimate(math.nan, math.nan), 1.0, 1) == "—"


def test_the_two_forms_of_probability(saved):
    long = Asked(
        new=TargetScore(logprobs=(math.log(0.5),) * 2, top=(True, True)),
        true=TargetScore(logprobs=(math.log(0.4),), top=(False,)),
    )
    after = Measurement(rewrite=(long,), paraphrase=(), neighborhood=())
    run = saved(rows=[make_row(0, GOOD, after=after)])
    for form, success in (("mean", 1), ("product", 0)):
        row = table_of(run, form=form).rows[1]
        assert row.summary.metrics["rewrite_success"].estimate.mean == success
        assert row.summary.metrics["rewrite_exact"].estimate.mean == 1


def test_exact_matches_when_asked_for(saved):
    run = saved(GOOD, BROAD)
    table = table_of(run, exact=True)
    assert header(table)[-3:] == ["EX", "PX", "NX"]
    assert [cell.split()[0] for cell in cells(table, table.rows[1])[-3:]] == [
        "100.0",
        "100.0",
        "50.0",
    ]
    assert "rewrite_exact" in to_csv(build_report([run]))


def test_zsre(saved):
    right = Asked(new=TargetScore(logprobs=(-0.1, -0.2), top=(True, False)))
    other = Asked(true=TargetScore(logprobs=(-0.1,), top=(True,)))
    after = Measurement(rewrite=(right,), paraphrase=(right,), neighborhood=(other,))
    rows = [
        make_row(i, GOOD, before=after, after=after, benchmark="zsre", relation_id="")
        for i in range(2)
    ]
    table = table_of(saved(rows=rows), published=True)
    assert header(table)[2:] == [
        "S", "Efficacy", "Paraphrase", "Specificity", "EX", "PX", "NX"
    ]  # fmt: skip
    assert cells(table, table.rows[1])[3:6] == ["50.0 (9–91)", "50.0 (9–91)", "100.0 (34–100)"]
    assert cells(table, table.rows[1])[2].startswith("60.0 (")
    assert cells(table, table.rows[-1]) == [
        "GPT-2 XL: ROME (paper)", "10000", "—", "99.8", "88.1", "24.2", "—", "—", "—"
    ]  # fmt: skip


def test_what_is_missing_is_said(saved):
    rows = [
        make_row(0, GOOD),
        make_row(1, GOOD, after=None, failed="The value did not converge."),
        make_row(2, GOOD, after=measured(GOOD).model_copy(update={"paraphrase": ()})),
    ]
    table = table_of(saved(rows=rows, n_cases=5, findings={"unusable": {"7": "too long"}}))
    assert [cells(table, row)[1] for row in table.rows] == ["3", "2"]
    assert notes(table) == [
        "rome: 1 more record cannot be asked of this model.",
        "rome: unfinished, 3 of 5 records so far; 'factlab eval --resume' goes on with it.",
        "rome: 1 of 3 edits failed: case 1: The value did not converge.",
        "rome: PS, PM without 1 of 3 records (the record has no such prompts); "
        "GE, RS without 1 of 3 records (no texts were generated).",
    ]


def test_an_empty_run_has_no_figures(saved, tmp_path):
    report = build_report([saved(rows=[], n_cases=3)])
    assert [path.name for path in save_report(report, tmp_path / "out")] == [
        "report.md", "report.csv", "report.json"
    ]  # fmt: skip
    assert "unfinished, 0 of 3 records so far" in to_markdown(report)


# -- several runs -----------------------------------------------------------------------------


def test_runs_get_names_that_tell_them_apart(saved):
    runs = [
        saved(name="1", findings={"config": {"layer": 5, "value": {"steps": 20}}}),
        saved(name="2", findings={"config": {"layer": 5, "value": {"steps": 25}}}),
        saved(name="3", findings={"config": {"layer": 5, "value": {"steps": 25}}}),
        saved(name="4", method="memit", mode="together"),
        saved(name="5", mode="sequence"),
    ]
    assert [row.label for row in table_of(*runs).rows] == [
        "unedited", "rome (value.steps=20)", "rome (value.steps=25)", "rome (value.steps=25) (2)",
        "memit, 4 together", "rome, 4 in sequence",
    ]  # fmt: skip
    labelled = table_of(*runs, labels=["a", "b", "c", "d", "e"])
    assert [row.label for row in labelled.rows][1:] == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"], "1 label for 2 runs"),
        (["a", "a"], "'a' is given twice"),
        (["unedited", "a"], "unedited"),
    ],
)
def test_labels_that_do_not_fit(saved, labels, message):
    with pytest.raises(InvalidRequestError, match=message):
        build_report([saved(name="1"), saved(name="2")], labels=labels)


def test_a_table_for_each_model_and_data_set(saved):
    runs = [
        saved(name="1"),
        saved(name="2", model={"fingerprint": "f2"}),
        saved(name="3", method="ft", model={"name": "elsewhere"}),
        saved(name="4", method="ft+l", data={"sha256": "d2"}),
        saved(name="5", data={"name": "others", "sha256": "d3"}),
        saved(name="6", model={"dtype": "bfloat16"}),
    ]
    tables = build_report(runs).tables
    assert [[row.label for row in table.rows] for table in tables] == [
        ["unedited", "rome", "ft", "ft+l"],
        *[["unedited", "rome"]] * 3,
    ]


def test_the_unedited_model_is_that_of_the_largest_run(saved):
    table = table_of(saved(GOOD, name="1", method="ft"), saved(name="2"))
    assert [row.summary.n_records for row in table.rows] == [4, 1, 4]
    assert "The runs are not on the same records; see n." in notes(table)


def various(saved):
    """Runs of one model and data set that measured different things on different records."""
    texts = {"generation": {"text_tokens": 100}}
    likelihoods = [make_row(i, GOOD, "ft", before=measured(UNEDITED)) for i in range(4)]
    drifted = measured(UNEDITED).model_copy(update={"drift": Drift(kl=0.0, nll=2.0)})
    return [
        saved(name="1", method="ft", rows=likelihoods, generation=None, data={"sha256": "d2"}),
        saved(GOOD, BROAD, name="2", data={"name": "b"}, **texts),
        saved(name="3", method="kn", rows=[make_row(5, BROAD, before=drifted)], drift_tokens=9),
        saved(*[BROAD] * 3, name="4", method="memit", generation={"text_tokens": 9}),
        saved(*[BROAD] * 3, name="5", method="memit", generation={"text_tokens": 9}, seed=1),
        saved(name="6", method="memit", model={"name": "elsewhere"}, generation=None),
    ]  # fmt: skip


def test_the_order_of_the_runs_changes_only_the_order_of_the_lines(saved):
    runs = various(saved)
    wanted = None
    for order in [*itertools.permutations(range(6), 6)][::37]:
        report = build_report([runs[i] for i in order], against="ft", cases=[1])
        (table,) = to_json(report)["tables"]
        assert table["rows"][0]["label"] == "unedited"
        table["rows"].sort(key=lambda row: row["label"])
        table["notes"].sort()
        for case in table["cases"]:
            case["models"].sort(key=lambda texts: texts["label"])
        lines = sorted(to_csv(report).splitlines())
        header_line = header(report.tables[0])
        wanted = wanted or (table, lines, header_line)
        assert (table, lines, header_line) == wanted


def test_the_unedited_line_has_what_any_run_measured(saved):
    (table,) = build_report(various(saved), cases=[0]).tables
    unedited = table.rows[0].summary
    assert unedited.n_records == 5  # four of most runs, and one that only the third has
    assert unedited.metrics["entropy_bits"].n == 4
    assert unedited.metrics["perplexity"].n == 1
    (case,) = table.cases
    assert case.lines()[0] == ("unedited", "S0 is as it was.")


def test_runs_that_a_third_one_joins_share_a_table(saved):
    runs = [
        saved(name="1", data={"name": "x", "sha256": "d1"}),
        saved(name="2", method="ft", data={"name": "y", "sha256": "d2"}),
        saved(name="3", method="kn", data={"name": "x", "sha256": "d2"}),
    ]
    for order in itertools.permutations(runs):
        (table,) = build_report(order).tables
        assert len(table.rows) == 4


def test_texts_made_with_other_settings_are_pointed_out(saved):
    table = table_of(saved(name="1"), saved(name="2", generation={"text_tokens": 200}))
    assert any("GE and RS do not compare" in note for note in notes(table))
    table = table_of(saved(name="3"), saved(name="4", generation=None))
    assert not any("do not compare" in note for note in notes(table))


def test_right_after_each_edit_is_a_line_of_its_own(saved):
    rows = [make_row(i, UNEDITED, right_after=measured(GOOD)) for i in range(3)]
    table = table_of(saved(rows=rows, mode="sequence"))
    scores = {row.label: row.summary.metrics["score"].estimate.mean for row in table.rows}
    assert scores == {
        "unedited": 0, "rome, 3 in sequence": 0, "rome, 3 in sequence, right after each": 1
    }  # fmt: skip


def test_what_differs_is_marked(saved):
    rome = saved(*[GOOD] * 8, name="1")
    ft = saved(*[BROAD] * 8, name="2", method="ft")
    table = table_of(rome, ft, against="ROME")
    unedited, base, other = table.rows
    assert table.against == "rome"
    assert base.p_values == {}
    assert other.p_values["neighborhood_success"] == 2 / 256
    assert other.p_values["rewrite_success"] == 1
    assert unedited.differs("rewrite_success")
    assert not unedited.differs("neighborhood_success")
    assert cells(table, other)[3] == "100.0 (68–100)"
    assert cells(table, other)[7] == "0.0 (0–32)*"
    assert notes(table)[-1].startswith("* differs from rome (p < 0.05")


def test_what_a_terminal_would_obey_is_not_shown(saved):
    row = make_row(0, GOOD, after=measured(GOOD, "a\x1b[2J b\u202e"))
    (case,) = table_of(saved(rows=[row]), cases=[0]).cases
    assert case.lines()[1] == ("rome", "a�[2J b�")


def test_a_comparison_needs_one_run(saved):
    runs = [saved(name="1", seed=1), saved(name="2", seed=2)]
    with pytest.raises(InvalidRequestError, match=r"'memit'. There are: unedited, rome \(seed=1\)"):
        build_report(runs, against="memit")
    with pytest.raises(InvalidRequestError, match="Several runs are of method 'rome'"):
        build_report(runs, against="rome")
    assert table_of(*runs, against="rome (seed=2)").against == "rome (seed=2)"
    assert table_of(*runs, against="unedited").against == "unedited"


def test_no_runs():
    with pytest.raises(InvalidRequestError, match="no runs to report"):
        build_report([])


def test_texts_of_a_case_side_by_side(saved):
    failing = [make_row(1, GOOD, after=None, failed="No.")]
    runs = [
        saved(name="1"),
        saved(name="2", method="ft", rows=failing),
        saved(GOOD, name="3", method="kn"),
    ]
    (case,) = table_of(*runs, cases=[1]).cases
    assert case.statement == "S1 is in Rome (was: Paris)"
    assert case.lines() == [
        ("unedited", "S1 is as it was."),
        ("rome", "S1 by rome | is in Rome."),
        ("ft", "the edit failed: No."),
        ("kn", "not measured yet"),
    ]
    with pytest.raises(InvalidRequestError, match=r"case 7 yet \(measured: 4 cases, 0 to 3\)"):
        build_report(runs, cases=[7])


# -- published --------------------------------------------------------------------------------


def test_the_paper_agrees_with_itself():
    lines = published_results("counterfact")
    assert len(lines) == 14
    for line in lines:
        means = {name: metric.estimate.mean for name, metric in line.summary.metrics.items()}
        parts = [means[f"{group}_success"] for group in ("rewrite", "paraphrase", "neighborhood")]
        assert means["score"] == pytest.approx(3 / sum(1 / p for p in parts), abs=2e-3)
    rome = lines[8]
    assert (rome.model, rome.method, rome.summary.n_records) == ("GPT-2 XL", "ROME", 7500)
    fluency = rome.summary.metrics["entropy_bits"].estimate
    assert fluency[:2] == (pytest.approx(6.219), pytest.approx(0.005))


# -- files ------------------------------------------------------------------------------------


def test_published_lines_name_the_model_and_data_of_the_paper(saved):
    report = build_report([saved()], published=True)
    lines = [*csv.DictReader(io.StringIO(to_csv(report)))]
    published = [line for line in lines if line["kind"] == "published"]
    assert {line["model"] for line in published} == {"GPT-2 XL", "GPT-J"}
    assert {line["data"] for line in published} == {"CounterFact (paper)"}
    others = {(line["model"], line["data"]) for line in lines if line["kind"] != "published"}
    assert others == {("gpt2-xl", "facts")}
    row = to_json(report)["tables"][0]["rows"][-1]
    assert (row["model"], row["data"]["name"]) == ("GPT-J", "CounterFact (paper)")


def test_json_and_csv_agree(saved):
    report = build_report(
        [saved(name="1"), saved(BROAD, GOOD, name="2", method="ft")], against="ft"
    )
    document = json.loads(json.dumps(to_json(report), allow_nan=False))
    assert document["format"] == "factlab report 1"
    rows = document["tables"][0]["rows"]
    assert rows[1]["method"] == "rome"
    assert rows[1]["relations"]["P36"]["n"] == 2
    assert rows[1]["relations"]["P36"]["score"] == 1
    lines = list(csv.DictReader(io.StringIO(to_csv(report))))
    for line in lines:
        row = next(row for row in rows if row["label"] == line["row"])
        metric = row["metrics"][line["metric"]]
        for column, key in (
            ("value", "mean"), ("half_width", "half_width"), ("low", "low"), ("high", "high")
        ):  # fmt: skip
            assert (float(line[column]) if line[column] else None) == metric[key]
        assert int(line["n"]) == metric["n"]
        assert int(line["unscored"]) == sum(metric["unscored"].values())
        assert line["against"] == ("ft" if "p_value" in metric else "")


def test_markdown_is_shown_as_it_is(saved):
    text = to_markdown(build_report([saved(method="my|*method*")], cases=[2]))
    assert r"| my\|\*method\* | 4 |" in text
    assert r"| my\|\*method\* | S2 by my\|\*method\* \| is in Rome. |" in text
    assert "### Case 2: S2 is in Rome (was: Paris)" in text


def test_seconds_only_when_asked_for(saved):
    run = saved()
    assert "_s" not in to_csv(build_report([run])).replace("_success", "")
    table = table_of(run, timings=True)
    assert header(table)[-2:] == ["s per edit", "s per record"]
    assert cells(table, table.rows[0])[-2:] == ["—", "—"]
    assert cells(table, table.rows[1])[-2:] == ["3.00 ±2.05", "5.00 ±2.05"]  # edits 1.5 to 4.5


def test_the_same_records_make_the_same_files(saved, tmp_path):
    rows = [make_row(i, won) for i, won in enumerate([GOOD, BROAD, UNEDITED] * 3)]
    again = [row.model_copy(update={"edit_s": 99.0}) for row in reversed(rows)]
    for name, order in (("first", rows), ("second", again)):
        runs = [saved(rows=order, name=f"{name}-a"), saved(rows=order[:], name=f"{name}-b", seed=1)]
        files = save_report(build_report(runs, against="rome (seed=0)"), tmp_path / name)
    assert [path.name for path in files] == [
        "report.md", "report.csv", "report.json", "scores.png", "scores-by-relation.png"
    ]  # fmt: skip
    for path in files:
        assert path.read_bytes() == (tmp_path / "first" / path.name).read_bytes()


def test_figures_of_two_models(saved, tmp_path):
    runs = [
        saved(*[GOOD] * n, name=f"{n}{mode}{model}", mode=mode, model={"fingerprint": model})
        for n in (1, 3)
        for mode in ("together", "sequence")
        for model in ("f1", "f2")
    ]
    files = save_report(build_report(runs), tmp_path / "out")
    pictures = {path.name for path in files if path.suffix == ".png"}
    assert pictures == {
        f"{name}{end}.png"
        for name in ("scores", "scores-by-edits", "scores-by-relation")
        for end in ("", "-2")
    }
    assert all((tmp_path / "out" / name).read_bytes()[:4] == b"\x89PNG" for name in pictures)


def test_no_bar_and_no_whisker_leaves_the_axis(saved):
    """And no score of few records is certain."""
    report = build_report([saved(), saved(*[BROAD] * 4, name="2", method="ft")])
    for row in report.rows():
        shares = ("success", "exact", "score")
        if row["n"] and str(row["metric"]).endswith(shares):
            assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
            assert row["half_width"] > 0.1
    figure = report.plot()
    assert figure._repr_png_().startswith(b"\x89PNG")  # a notebook shows it
    (panel,) = figure.axes
    low, high = panel.get_xlim()
    assert (low, high) == (0, 101)
    whiskers = [part for lines in panel.collections for part in lines.get_segments()]
    assert whiskers
    for part in whiskers:
        assert part[:, 0].min() >= 0
        assert part[:, 0].max() <= 100 + 1e-9
    (legend,) = figure.legends
    explained = [text.get_text() for text in legend.get_texts()]
    assert [text.split(":")[0] for text in explained] == ["S", "ES", "PS", "NS"]


# -- a report in one's hands ------------------------------------------------------------------


def test_a_report_can_be_printed(saved):
    report = build_report([saved(), saved(BROAD, name="2", method="f<t", n_cases=2)])
    text = str(report)
    assert text.splitlines()[0] == "gpt2-xl (float32) on facts"
    assert [line.split()[0] for line in text.splitlines()[2:5]] == ["unedited", "rome", "f<t"]
    assert "f<t: unfinished, 1 of 2 records so far" in text
    assert max(map(len, text.splitlines())) < 160
    assert text.count("harmonic mean") == 1
    assert len(repr(report).splitlines()) == 2
    assert "gpt2-xl (float32) on facts: unedited, rome, f<t" in repr(report)
    page = report._repr_html_()
    assert "<td>f&lt;t</td>" in page
    assert page.count("<tr>") == 4


def test_the_files_of_a_report_from_python(saved, tmp_path):
    report = build_report([saved()])
    assert report.to_markdown() == to_markdown(report)
    assert report.to_csv() == to_csv(report)
    assert report.to_json() == to_json(report)
    assert [path.name for path in report.save(tmp_path / "out")][:1] == ["report.md"]
    figure = report.plot(tmp_path / "relations.png", "scores-by-relation")
    assert (tmp_path / "relations.png").read_bytes()[:4] == b"\x89PNG"
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["capital (P36), n = 2", "native language (P103), n = 2"]


def test_rows_are_those_of_the_csv(saved):
    report = build_report([saved(), saved(BROAD, name="2", method="ft")], against="ft")
    lines = list(csv.DictReader(io.StringIO(report.to_csv())))
    rows = report.rows()
    assert [*rows[0]] == [*lines[0]]
    assert [
        {key: "" if value is None else str(value) for key, value in row.items()} for row in rows
    ] == lines


def test_figures_that_cannot_be_drawn(saved, monkeypatch):
    report = build_report([saved()])
    with pytest.raises(InvalidRequestError, match="nothing to draw as 'scores-by-edits': it needs"):
        report.plot(name="scores-by-edits")
    with pytest.raises(InvalidRequestError, match="Table 1 is out of range: the report has 1"):
        report.plot(table=1)
    with pytest.raises(InvalidRequestError, match="must end in one of"):
        report.plot("scores.pgn")
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InvalidRequestError, match=r"called 'score'.*Did you mean 'scores'"):
        report.plot(name="score")


def test_a_data_frame_needs_pandas(saved, monkeypatch):
    report = build_report([saved()])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingPackageError, match=r"pip install pandas\. rows"):
        report.to_pandas()
    made = ModuleType("pandas")
    made.DataFrame = list
    monkeypatch.setitem(sys.modules, "pandas", made)
    assert report.to_pandas() == report.rows()


def test_reports_compare(saved):
    one, other = saved(), saved(BROAD, name="2")
    assert build_report([one]) == build_report([one])
    assert hash(build_report([one])) == hash(build_report([one]))
    assert build_report([one]) != build_report([other])
    assert build_report([one]) != "a report"


def test_a_run_is_shown_in_a_line(saved):
    run = saved(n_cases=6)
    assert repr(run) == "Run(rome, each, 4 of 6 records of facts, gpt2-xl)"
    again = saved(name="again", n_cases=6)
    assert (run, hash(run)) == (again, hash(again))
