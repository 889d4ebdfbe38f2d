"""Studies: relations, mixtures, layers, and more and more facts."""

import csv
import json
import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
from tiny_records import LIKELIHOODS, PASSAGES, background, make_record

import factlab as fl
from factlab.data.record_files import save_records
from factlab.editing.methods import METHODS
from factlab.errors import InvalidRequestError, StorageError
from factlab.estimate import Estimate
from factlab.evaluation import (
    LayersConfig,
    MixtureConfig,
    RelationsConfig,
    ScalingConfig,
    StudiedMethod,
    Study,
    study_layers,
    study_mixture,
    study_relations,
    study_scaling,
)
from factlab.evaluation.running.saved_run import load_run
from factlab.evaluation.scoring.scores import SCORE, score_row, summarise
from factlab.evaluation.studies.forgetting import forgetting_points
from factlab.evaluation.studies.mixture import mean_of_two
from saved_rows import make_row, measured, save_run

# MEMIT of a toy, as a person writes it.
TINY = {"layers": [0, 1], "value": {"steps": 2}, "contexts": {"groups": [[1, 3]]}}
SPEC = "memit:layers=[0,1],value.steps=2,contexts.groups=[[1,3]]"
MEMIT = fl.editing.MethodRequest(name="memit", settings=TINY)
RELATIONS = ("P19", "P27", "P641")


TEMPLATES = ("{} is in the", "See {} in", "{} plays")


def differing(count: int, **changes) -> list[fl.Record]:
    """Facts that do not contradict each other."""
    return [
        make_record(i, fact=replace(make_record(i).fact, template=TEMPLATES[i // 6]), **changes)
        for i in range(count)
    ]


def related(per_relation: int = 2) -> list[fl.Record]:
    """Records of three relations in turn."""
    return [
        replace(record, relation_id=RELATIONS[i % 3])
        for i, record in enumerate(differing(len(RELATIONS) * per_relation))
    ]


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


# -- every study, small -----------------------------------------------------------------------


def relations(lm, folder, **more):
    config = RelationsConfig(method=MEMIT, least=2)
    return study_relations(lm, related(), folder, config, **more)


def mixture(lm, folder, **more):
    config = MixtureConfig(method=MEMIT, pairs="P19:P27", numbers=(2, 3))
    return study_mixture(lm, related(3), folder, config, **more)


def layers(lm, folder, **more):
    config = LayersConfig(method=MEMIT, counts="1,2", tops="0,1", n_facts=3)
    return study_layers(lm, related(), folder, config, **more)


def scaling(lm, folder, **more):
    config = ScalingConfig(
        methods=[SPEC, "ft:layer=1,steps=2"], numbers="1,2,4", mode="together", measure=LIKELIHOODS
    )
    return study_scaling(lm, related(), folder, config, **more)


STUDIES = {
    "relations": relations, "mixture": mixture, "layers": layers, "scaling": scaling,
}  # fmt: skip
N_POINTS = {"relations": 3, "mixture": 8, "layers": 3, "scaling": 6}


@pytest.mark.parametrize("kind", STUDIES)
def test_a_study_goes_on_where_it_was_stopped(kind, lm, tmp_path, monkeypatch):
    whole = STUDIES[kind](lm, tmp_path / "whole")
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 4

    part = STUDIES[kind](lm, tmp_path / "part", should_stop=stop)
    assert 0 < len(part.points) < len(whole.points) == N_POINTS[kind]
    assert part != whole
    done = {path.parent for path in (tmp_path / "part").rglob("run.json")}
    finished = {path for path in done if not load_run(path).n_missing}
    assert finished
    before = {path: (path / "run.json").stat().st_mtime_ns for path in finished}
    again = STUDIES[kind](lm, tmp_path / "part")
    assert again == whole
    assert {path: (path / "run.json").stat().st_mtime_ns for path in finished} == before


@pytest.mark.parametrize("kind", STUDIES)
def test_a_study_has_files_that_say_the_same(kind, lm, tmp_path):
    study = STUDIES[kind](lm, tmp_path, data_name="tiny records")
    files = study.save(tmp_path / "saved")
    assert [file.name for file in files] == [
        f"{kind}.{end}" for end in ("png", "md", "csv", "json")
    ]
    assert files[0].read_bytes()[:4] == b"\x89PNG"
    # JSON brings it back.
    again = Study.load(files[3])
    assert again == study
    assert hash(again) == hash(study)
    assert again.rows() == study.rows()
    json.loads(files[3].read_text(), parse_constant=pytest.fail)
    # CSV has the rows.
    lines = list(csv.DictReader(files[2].read_text().splitlines()))
    rows = study.rows()
    assert len(lines) == len(rows) == len(study.points)
    for line, row in zip(lines, rows, strict=True):
        assert list(line) == list(row)
        for name, value in row.items():
            if isinstance(value, float):
                assert float(line[name]) == pytest.approx(value, abs=1e-6)
            else:
                assert line[name] == ("" if value is None else str(value))
    # Markdown and the terminal have the table.
    text = files[1].read_text()
    table = study.table()
    assert len([line for line in text.splitlines() if line.startswith("| ")]) >= len(table) + 2
    for line in table:
        assert line["S"] in text
        assert line["S"] in str(study)
    assert all("S unedited" in line for line in table)
    assert "tiny records" in text
    assert "95 % confidence interval" in text
    # The picture says what it is of.
    figure = study.plot()
    small_print = figure.get_supxlabel()
    assert "tiny-gpt2 on tiny records" in small_print
    assert study.method.split(" ")[0] in small_print
    assert {"mixture": "2–3 records", "scaling": "1–4 records"}.get(kind, "record") in small_print


def scores_of(folder, stage="after"):
    run = load_run(folder)
    found = summarise([score_row(row, stage) for row in run.rows], "counterfact")
    return {name: metric.estimate for name, metric in found.metrics.items()}


def assert_same(one: Estimate, other: Estimate) -> None:
    assert one.mean == pytest.approx(other.mean, nan_ok=True)
    assert one.interval == pytest.approx(other.interval, nan_ok=True)


# -- relations --------------------------------------------------------------------------------


def test_relations_are_told_apart(lm, tmp_path):
    study = relations(lm, tmp_path)
    assert {point.place["relation"] for point in study.points} == {*RELATIONS}
    for point in study.points:
        folder = tmp_path / str(point.place["relation"])
        run = load_run(folder)
        assert {row.relation_id for row in run.rows} == {point.place["relation"]}
        assert (run.request.mode, run.request.method, point.n) == ("together", "memit", 2)
        for stage, scores in (("after", point.scores), ("before", point.unedited)):
            wanted = scores_of(folder, stage)
            for name, estimate in scores.items():
                assert_same(estimate, wanted[name])
    means = [point.scores[SCORE].mean for point in study.points]
    assert means == sorted(means, reverse=True)
    assert any("place of birth (P19)" in line["relation"] for line in study.table())
    names = [text.get_text() for text in study.plot().axes[0].get_yticklabels()]
    assert "place of birth (P19), n = 2" in names


def test_relations_with_few_records_are_left_out():
    records = [*related(3), make_record(50, relation_id="P30")]
    config = RelationsConfig(least=3, per_relation=2)
    assert {name: len(own) for name, own in config.chosen(records).items()} == dict.fromkeys(
        RELATIONS, 2
    )


# -- mixtures ---------------------------------------------------------------------------------


def test_a_mixture_has_half_of_each(lm, tmp_path):
    study = mixture(lm, tmp_path)
    for n in (2, 3):
        own = [row.relation_id for row in load_run(tmp_path / f"P19+P27-{n}").rows]
        assert len(own) == n
        assert own.count("P19") == -(-n // 2)
        alone = [point for point in study.points if point.place["facts"] == n]
        assert [point.place["of"] for point in alone] == ["P19", "P27", "mixture", "mean"]
        first, second, both, mean = alone
        assert (first.n, second.n, both.n, mean.n) == (n, n, n, 2 * n)
        assert_same(both.scores[SCORE], scores_of(tmp_path / f"P19+P27-{n}")[SCORE])
        for name in ("rewrite_success", "neighborhood_success"):
            wanted = (first.scores[name].mean + second.scores[name].mean) / 2
            assert mean.scores[name].mean == pytest.approx(wanted)


def test_a_mean_of_two_is_surer_than_either():
    found = mean_of_two(Estimate(0.4, 0.03), Estimate(0.8, 0.04))
    assert found.mean == pytest.approx(0.6)
    assert found.half_width == pytest.approx(0.025)


def test_the_largest_relations_are_paired():
    records = [*related(3), *(make_record(50 + i, relation_id="P30") for i in range(4))]
    chosen = MixtureConfig(numbers=(2, 3)).chosen(records)
    assert list(chosen) == [("P30", "P19"), ("P27", "P641")]
    assert [r.relation_id for r in chosen["P30", "P19"]] == ["P30"] * 3 + ["P19"] * 3


# -- layers -----------------------------------------------------------------------------------


def test_layers_are_edited_up_to_the_top(lm, tmp_path):
    study = layers(lm, tmp_path)
    places = [(point.place["top"], point.place["count"]) for point in study.points]
    assert places == [(0, 1), (1, 1), (1, 2)]
    for folder, own in (("00-00", [0]), ("01-01", [1]), ("00-01", [0, 1])):
        assert load_run(tmp_path / f"layers-{folder}").config["layers"] == own
    assert [line["layers"] for line in study.table()] == ["0", "1", "0–1"]
    assert_same(study.points[2].scores[SCORE], scores_of(tmp_path / "layers-00-01")[SCORE])


def test_a_layer_where_nothing_can_be_written_is_noted(lm, tmp_path):
    config = LayersConfig(method=MEMIT, counts="1", tops="0,2", n_facts=2)
    study = study_layers(lm, related(), tmp_path, config)
    assert [point.place["top"] for point in study.points] == [0]
    assert any("layers-02-02" in note for note in study.notes)


def test_layers_are_spread_over_the_model():
    cells = LayersConfig().cells(30)
    assert cells == sorted(cells)  # those of one top follow each other
    assert sorted({top for top, _ in cells}) == list(range(0, 29, 3))
    assert (0, 2) not in cells
    assert LayersConfig(counts="1").cells(2) == [(0, 1)]


# -- more and more facts ----------------------------------------------------------------------


def test_points_are_runs_of_the_first_facts(lm, tmp_path):
    study = scaling(lm, tmp_path)
    places = [(point.place["method"], point.place["written"]) for point in study.points]
    labels = (StudiedMethod.parse(SPEC).label, "ft (layer=1, steps=2)")
    assert places == [(label, n) for label in labels for n in (1, 2, 4)]
    for point in study.points[3:]:
        run = load_run(tmp_path / "ft-layer=1-steps=2" / f"n-{point.place['written']}")
        assert [row.case_id for row in run.rows] == list(range(point.n))
        assert run.request.mode == "together"
    assert_same(
        study.points[2].scores[SCORE], scores_of(next(tmp_path.glob("memit*")) / "n-4")[SCORE]
    )


def in_turns(lm, records, folder, turn, config=None):
    """A sequence of FT that ends there."""
    return fl.evaluate(
        lm, records, "ft", folder, fl.editing.FineTuneConfig(layer=1, steps=2), mode="sequence",
        turn=turn, measure=LIKELIHOODS if config is None else config.measure,
        ordinary_text=PASSAGES,
    )  # fmt: skip


def test_a_sequence_is_measured_on_the_way(lm, tmp_path):
    measure = fl.evaluation.MeasureConfig(n_generated=2, text_tokens=12, drift_tokens=20)
    config = ScalingConfig(
        methods=["ft:layer=1,steps=2"], numbers="1,3,12", turn=2, measure=measure
    )
    assert config.rounded() == (1, 4, 12)
    records = differing(12)
    study = study_scaling(lm, records, tmp_path / "s", config, ordinary_text=PASSAGES)
    assert sorted(path.name for path in (tmp_path / "s").glob("*/*")) == ["n-1", "n-12"]
    every = [point for point in study.points if point.place["measured"] == "all"]
    assert [(p.place["written"], p.n) for p in every] == [(1, 1), (4, 4), (12, 12)]
    for point in every:
        folder = tmp_path / f"{point.n}"
        in_turns(lm, records[: point.n], folder, 2, config)
        for stage, scores in (("after", point.scores), ("before", point.unedited)):
            wanted = scores_of(folder, stage)
            assert_same(scores[SCORE], wanted[SCORE])
            assert_same(scores["entropy_bits"], wanted["entropy_bits"])
            assert scores["entropy_bits"].mean > 0
            assert scores["perplexity"].mean == pytest.approx(wanted["perplexity"].mean)
            assert scores["drift_kl_nats"].mean == pytest.approx(wanted["drift_kl_nats"].mean)
            assert math.isnan(scores["perplexity"].half_width)
    table = study.table()
    assert table[0].keys() == table[-1].keys()
    assert "in turns of 2" in study.method
    assert [panel.get_xscale() for panel in study.plot().axes[:5]] == ["log"] * 5


def test_what_is_forgotten(lm, tmp_path):
    config = ScalingConfig(
        methods=["ft:layer=1,steps=2"], numbers="4,12", turn=2, measure=LIKELIHOODS
    )
    records = differing(12)[::-1]  # not in the order of their numbers
    study = study_scaling(lm, records, tmp_path / "s", config)
    run = load_run(tmp_path / "s" / "ft-layer=1-steps=2" / "n-12")
    by_case = {row.case_id: row for row in run.rows}
    in_turns(lm, records[:4], tmp_path / "4", 2)
    on_the_way = {row.case_id: row for row in load_run(tmp_path / "4").rows}
    parted = [point for point in study.points if point.place["measured"] != "all"]
    assert {(p.place["first"], p.place["last"]) for p in parted} == {
        (first, first + 1) for first in range(1, 13, 2)
    }
    # The first turn: right after, when four were written, and at the end.
    first = [point for point in parted if point.place["first"] == 1]
    assert [(p.place["measured"], p.place["written"]) for p in first] == [
        ("right after", 2), ("later", 4), ("at the end", 12),
    ]  # fmt: skip
    own = [record.case_id for record in records[:2]]
    for point, rows, stage in zip(
        first, (by_case, on_the_way, by_case), ("right_after", "after", "after"), strict=True
    ):
        found = summarise([score_row(rows[case], stage) for case in own], "counterfact")
        assert point.n == 2
        for name in ("rewrite_success", "neighborhood_magnitude", SCORE):
            if name in point.scores:
                assert_same(point.scores[name], found.metrics[name].estimate)
    # The last turn has nothing after it.
    last = [point.place["measured"] for point in parted if point.place["last"] == 12]
    assert last == ["right after", "at the end"]
    titles = [panel.get_title(loc="left") for panel in study.plot().axes]
    assert "S of facts 1–2, as more follow" in titles


def test_many_turns_are_grouped(tmp_path):
    right_after = measured((True, True, True))  # new targets win everywhere, at the end not beside
    rows = [make_row(i, (True, True, False), right_after=right_after) for i in range(25)]
    records = [
        make_record(i, fact=fl.Fact("{} is in", f"S{i}", "Rome", "Paris")) for i in range(25)
    ]
    run = load_run(save_run(tmp_path / "run", rows, mode="sequence"))
    points = [*forgetting_points("a", run, records, 1)]
    groups = [(point.place["first"], point.place["last"]) for point in points]
    assert groups[::2] == groups[1::2] == [(n, min(n + 2, 25)) for n in range(1, 26, 3)]
    assert [point.place["measured"] for point in points[:2]] == ["right after", "at the end"]
    assert [point.scores["neighborhood_success"].mean for point in points[:2]] == [0, 1]
    assert [*forgetting_points("a", run, records, 25)] == []


def test_methods_that_write_one_fact_at_a_time_take_turns_of_one(lm, tmp_path, monkeypatch):
    single = replace(METHODS["rome"], name="single", compute_together=None)
    monkeypatch.setitem(METHODS, "single", single)
    config = ScalingConfig(
        methods=["single:layer=0,value.steps=2,contexts.groups=[[1,3]]"], numbers="1,4", turn=4,
        measure=LIKELIHOODS,
    )  # fmt: skip
    study_scaling(lm, related(), tmp_path / "s", config)
    (folder,) = (tmp_path / "s").glob("*/*")
    run = load_run(folder)
    assert (folder.name, run.request.turn, run.request.checkpoints) == ("n-4", 1, (1,))
    with pytest.raises(InvalidRequestError, match="'single' writes one fact at a time"):
        ScalingConfig(methods=["single"], mode="together").choices()
    with pytest.raises(InvalidRequestError, match="'single' writes one fact at a time"):
        RelationsConfig(method={"name": "single"}).choice()


# -- methods in a word ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "label", "settings"),
    [
        ("memit", "memit", {}),
        ("memit:remember=false", "memit (remember=false)", {"remember": False}),
        ("a: x.y=[1, 2] , z=none", "a (x.y=[1, 2], z=none)", {"x": {"y": [1, 2]}, "z": "none"}),
    ],
)
def test_a_method_in_a_word(text, label, settings):
    found = StudiedMethod.parse(text)
    assert (found.label, found.method.settings) == (label, settings)
    assert "/" not in found.folder and " " not in found.folder


# -- what cannot be studied -------------------------------------------------------------------

FEW = related(3)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: RelationsConfig(relations="P91").chosen(FEW), "no records of relation 'P91'"),
        (lambda: RelationsConfig(relations="P19").chosen(FEW), "'P19' has 3 records, and 20 are"),
        (lambda: RelationsConfig().chosen(FEW), "No relation has 20 records; the largest has 3"),
        (lambda: RelationsConfig().chosen([make_record(0, relation_id="")]), "do not say their"),
        (lambda: MixtureConfig(pairs="P19"), "'P19' is no pair"),
        (lambda: MixtureConfig(pairs="P19:P19"), "is no pair"),
        (lambda: MixtureConfig(pairs="P19:P9999", numbers=(2,)).chosen(FEW), "no records of relation"),
        (lambda: MixtureConfig(pairs="P19:P27").chosen(FEW), "'P19' has 3 records, and 30 are"),
        (lambda: MixtureConfig().chosen(FEW), "not two relations with 30 records"),
        (lambda: MixtureConfig(numbers="1,4"), "1 facts cannot be mixed"),
        (lambda: LayersConfig(counts="0"), "greater than 0"),
        (lambda: LayersConfig(n_facts=10).chosen(FEW), "There are 9 records, and 10 are needed"),
        (lambda: LayersConfig(counts="5", tops="1,2").cells(3), "no 5 layers up to layer 2"),
        (lambda: LayersConfig(method={"name": "ft"}).choice(), "'ft' does not edit several"),
        (lambda: ScalingConfig(numbers="10").chosen(FEW), "There are 9 records, and 10 are"),
        (lambda: ScalingConfig(numbers="0,1"), "greater than 0"),
        (lambda: ScalingConfig(methods=["memit:"]), "'memit:' is not understood"),
        (lambda: ScalingConfig(methods=["memit:layers"]), "is not understood"),
        (lambda: ScalingConfig(methods=[":x=1"]), "is not understood"),
        (lambda: ScalingConfig(methods=["memit", "memit"]), "named twice"),
        (lambda: ScalingConfig(methods=[]), "no method to study"),
        (lambda: ScalingConfig(methods=["memmit"]).choices(), "Did you mean 'memit'"),
        (lambda: ScalingConfig(methods=["memit:value.stpes=1"]).choices(), "Did you mean 'steps'"),
    ],
)  # fmt: skip
def test_what_cannot_be_studied(ask, message):
    with pytest.raises(InvalidRequestError, match=message):
        ask()


def test_a_layer_that_the_model_lacks(lm, tmp_path):
    config = LayersConfig(method=MEMIT, counts="1", tops="7", n_facts=2)
    with pytest.raises(InvalidRequestError, match="layers 0 to 2"):
        study_layers(lm, related(), tmp_path / "s", config)
    assert not (tmp_path / "s").exists()


def test_what_is_no_saved_study(tmp_path):
    (tmp_path / "a.json").write_text('{"format": "factlab study 1", "kind": "relations"}')
    with pytest.raises(StorageError, match="is damaged"):
        Study.load(tmp_path / "a.json")
    with pytest.raises(StorageError, match="Give the JSON file"):
        Study.load(tmp_path)


# -- the command ------------------------------------------------------------------------------


@pytest.fixture
def records_file(tmp_path):
    save_records(related(3), tmp_path / "records.json")
    return tmp_path / "records.json"


SET = ["--set", "layers=[0,1]", "--set", "value.steps=2", "--set", "contexts.groups=[[1,3]]"]
COMMANDS = {
    "relations": ["--least", "2", "--relations", "P19,P641", *SET],
    "mixture": ["--pairs", "P19:P641", "--numbers", "2", *SET],
    "layers": ["--facts", "3", "--counts", "1,2", "--top", "1", *SET],
    "scaling": ["--method", SPEC, "--mode", "together", "--numbers", "1,2", "--generate", "0",
                "--drift", "16"],
}  # fmt: skip


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_command_makes_a_study(kind, run, records_file, tmp_path):
    asked = [
        "study", kind, "--model", "tiny:gpt2", "--data", records_file, "--out", tmp_path / "out",
        *COMMANDS[kind],
    ]  # fmt: skip
    code, out, err = run(*asked)
    assert code == 0, err
    assert (tmp_path / "out" / f"{kind}.png").exists()
    study = Study.load(tmp_path / "out" / f"{kind}.json")
    assert study.data == "records.json"
    for line in study.table():
        assert line["S"] in out
    # Not twice without being told; with it, nothing is done again.
    assert run(*asked)[0] == 2
    code, again, _ = run(*asked, "--resume", "--json")
    assert code == 0
    assert json.loads(again) == study.to_json()


def test_a_command_can_be_stopped(run, records_file, tmp_path, monkeypatch):
    asked = [
        "study", "relations", "--model", "tiny:gpt2", "--data", records_file, "--out",
        tmp_path / "out", *COMMANDS["relations"],
    ]  # fmt: skip
    with monkeypatch.context() as patch:
        at_once = lambda _session: nullcontext(lambda: True)  # noqa: E731
        patch.setattr("factlab.cli.study.finishing_on_interrupt", at_once)
        code, out, _ = run(*asked)
    assert code == 130
    assert "Go on with --resume" in out
    assert not (tmp_path / "out" / "relations.json").exists()
    assert run(*asked, "--resume")[0] == 0


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("relations", ["--relations", "P20"], "There are no records of relation 'P20'"),
        ("mixture", ["--pairs", "P19:P27"], "'P19' has 3 records"),
        ("layers", ["--counts", "2-1"], "--counts cannot be"),
        ("layers", ["--top", "x"], "--top cannot be"),
        ("layers", [], "There are 6 records, and 100 are needed"),
        ("scaling", ["--numbers", "7"], "There are 6 records, and 7 are needed"),
        ("scaling", ["--method", "memit:x"], "'memit:x' is not understood"),
    ],
)
def test_a_command_refuses_before_there_is_a_model(
    kind, options, message, run, records_file, tmp_path, monkeypatch
):
    monkeypatch.setattr("factlab.cli.session.Session.load_model", pytest.fail)
    code, _, err = run("study", kind, "--data", records_file, "--out", tmp_path / "out", *options)
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()
