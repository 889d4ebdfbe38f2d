"""What is said of a study of localisation: regressions, pictures, tables and words, from made-up rows."""

import csv
import math

import numpy as np
import pytest

from factlab.editing.variants import VARIANTS
from factlab.errors import InvalidRequestError
from factlab.evaluation import Localisation, LocalisationConfig
from factlab.evaluation.localising.explained import choices, is_concentrated, observations
from factlab.evaluation.localising.findings import explained_in_words, traces_in_words
from factlab.evaluation.localising.pictures import draw_picture
from factlab.evaluation.localising.plot_effects import mean_effects, peak_layers
from factlab.evaluation.localising.published import published_r2
from factlab.evaluation.localising.r2_tables import (
    choice_table,
    outcome_table,
    r2_table,
    robustness_table,
)
from factlab.evaluation.localising.report_page import to_html, to_markdown
from factlab.evaluation.localising.result import FIGURES
from factlab.evaluation.localising.rows import EditRow, FactRow, StudyFindings, StudyRequest
from factlab.evaluation.scoring.problem_scores import Told

N_LAYERS, LAYERS = 12, (0, 3, 6, 9)


def made_up(score, n_facts=20, variants=VARIANTS, failed=()):
    """A study whose rewrite scores are a function of fact, layer, effect and method."""
    random = np.random.default_rng(4)
    config = LocalisationConfig(layers=LAYERS, variants=variants, windows=(1, 5))
    effects = random.beta(1, 3, (2, n_facts, N_LAYERS))
    facts = {
        place: FactRow(
            record=place, case_id=place, prompt=f"Fact {place} is", subject=f"Fact {place}",
            target_true="so", clean_prob=0.6, corrupted_prob=0.1, said="otherwise",
            n_subject_tokens=2, peak_token=1,
            effects={
                window: {"by_layer": row, "last_subject": [x / 2 for x in row]}
                for window, row in zip((1, 5), effects[:, place].tolist(), strict=True)
            },
        )
        for place in range(n_facts)
    }  # fmt: skip
    edits = []
    for place in range(n_facts):
        for layer in LAYERS:
            for method in config.methods:
                for variant in config.variants:
                    key = (place, layer, method.label, variant)
                    values = {
                        "place": place,
                        "layer": layer,
                        "method": method.label,
                        "variant": variant,
                    }
                    if key in failed:
                        edits.append(EditRow(**values, failed="Nothing depends on it."))
                        continue
                    share = score(place, layer, effects[1, place, layer], method.label, random)
                    before, after = (
                        0.2,
                        0.2 * (1 - share) if variant == "erasure" else 0.2 + 0.8 * share,
                    )
                    told = [
                        Told(rewrite=math.log(p), paraphrase=[math.log(p)] * 2, neighborhood=[math.log(0.3)],
                             essence=[-20.0 - p])
                        for p in (before, after)
                    ]  # fmt: skip
                    edits.append(
                        EditRow(
                            **values, target="so", before=told[0], after=told[1], text_lengths=(10,)
                        )
                    )
    asked = StudyRequest(
        model={"name": "a <model>", "fingerprint": "0", "dtype": "torch.float32"},
        data={"name": "made up", "sha256": "0", "n_records": 50}, config=config,
    )  # fmt: skip
    found = StudyFindings(
        cases=range(n_facts), n_asked=50, n_unknown=9, unusable={"3": "It has no subject."},
        noise_level=0.3, n_layers=N_LAYERS, versions={},
    )  # fmt: skip
    return Localisation(asked, found, LAYERS, facts, edits)


def of_layers(place, layer, effect, method, random):
    return float(np.clip(0.8 - layer / 20 + random.normal(0, 0.05), 0.01, 0.99))


def of_effects(place, layer, effect, method, random):
    own = effect if method == "rome" else 0
    return float(np.clip(0.5 - layer / 40 + 0.45 * own + random.normal(0, 0.03), 0.01, 0.99))


@pytest.fixture(scope="module")
def plain():
    return made_up(of_layers)


@pytest.fixture(scope="module")
def planted():
    return made_up(of_effects)


def test_rows_become_observations(plain):
    rows = observations(plain, "rome", "erasure", "rewrite")
    assert len(rows) == 20 * 4
    by_key = {
        (row["fact"], row["layer"]): row
        for row in plain.rows()
        if row["method"] == "rome" and row["variant"] == "erasure"
    }
    for row in rows:
        told = by_key[row.fact, row.layer]
        assert (row.effect, row.score) == (told["effect"], told["rewrite"])
        assert told["effect_last"] == pytest.approx(told["effect"] / 2)


def test_what_layers_alone_made_is_said_to_be_of_layers(plain):
    by_key = {(one.method, one.variant): one.regression for one in plain.explained("rewrite")}
    assert len(by_key) == 4 * 5
    assert all(one.n_rows == 80 and one.n_facts == 20 for one in by_key.values())
    assert all(one.r2_layer > 0.7 for one in by_key.values())
    assert sum(one.delta_low > 0 for one in by_key.values()) <= 3
    words = " ".join(explained_in_words(plain))
    assert "80 rows of 20 facts" in words


def test_a_planted_effect_is_told_of_the_method_that_has_it(planted):
    found = planted.explained("rewrite")
    above = {one.method for one in found if one.regression.delta_low > 0.02}
    assert above == {"rome"}
    words = " ".join(explained_in_words(planted))
    assert "most with rome" in words
    assert "5 of 20 cases" in words
    best = {one.method: one for one in choices(planted)}
    assert best["rome"].by_trace > best["memit"].by_trace


def test_words_of_traces_have_the_numbers(plain):
    words = " ".join(traces_in_words(plain))
    means = [one.mean for one in mean_effects(plain, 5)]
    assert f"around layer {means.index(max(means))}: {max(means):.3f} ±" in words
    assert "from 0.600 to 0.100" in words
    peaks = peak_layers(plain)
    assert len(peaks) == 20
    assert f"layers {min(peaks)} to {max(peaks)}" in words


def test_tables_are_in_the_form_of_the_paper(plain):
    table = r2_table(plain)
    assert len(table.lines) == 20
    assert all(len(line) == len(table.heads) for line in table.lines)
    first = dict(zip(table.heads, table.lines[0], strict=True))
    assert (first["problem"], first["method"]) == ("error injection", "ft+l")
    assert first["published"] == "0.756 / 0.062 / 0.758 / 0.002"
    assert (first["rows"], first["facts"]) == ("80", "20")
    assert first["F-test"].startswith("F(4, 72) = ")
    assert published_r2("rome", 1, "reversal").delta == 0.015
    assert published_r2("kn", 1, "reversal") is None
    for other in (outcome_table(plain), robustness_table(plain), choice_table(plain)):
        assert all(len(line) == len(other.heads) for line in other.lines)
    # The main effects, window 1, the last subject token, concentrated facts.
    assert len(robustness_table(plain).lines) == 4


def test_concentrated_facts_have_their_effect_in_few_layers(plain):
    fact = plain.facts[0]
    few = {"by_layer": [0.0, 0.9, 0.5, *[0.1] * 9], "last_subject": [0.0] * 12}
    many = {"by_layer": [0.5] * 12, "last_subject": [0.0] * 12}
    none = {"by_layer": [None, *[0.0] * 11], "last_subject": [0.0] * 12}
    told = [
        FactRow.model_validate({**fact.model_dump(), "effects": {5: each}})
        for each in (few, many, none)
    ]
    assert [is_concentrated(each, 5) for each in told] == [True, False, False]
    assert [each.peak_layer(5) for each in told] == [1, 0, None]


@pytest.mark.parametrize("name", FIGURES)
def test_every_picture_is_drawn(name, plain, tmp_path):
    plain.plot(tmp_path / "picture.png", name)
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"


def test_a_picture_that_is_not_there_is_refused(plain):
    with pytest.raises(InvalidRequestError, match=r"no picture 'effect'\. Did you mean 'effects'"):
        draw_picture(plain, "effect")
    nothing = Localisation(plain.asked, plain.found, LAYERS, {}, [])
    with pytest.raises(InvalidRequestError, match="Nothing has been edited yet"):
        nothing.plot()
    assert nothing.n_missing == 20 * (1 + 4 * 4 * 5)


def test_the_page_says_the_same_in_markdown_and_html(plain, tmp_path):
    files = plain.save(tmp_path)
    assert {file.name for file in files} == {
        "report.md", "report.html", "rows.csv", "regressions.csv", "effects.png", "peaks.png",
        "scatter.png", "scores.png", "r2.png",
    }  # fmt: skip
    markdown, page = to_markdown(plain), to_html(plain)
    assert (tmp_path / "report.md").read_text() == markdown
    for line in r2_table(plain).lines:
        assert all(cell in markdown and cell.replace("<", "&lt;") in page for cell in line)
    assert "a <model>" not in page
    assert "a &lt;model&gt;" in page
    assert page.count("data:image/png;base64") == 5
    for name in ("effects", "peaks", "scores", "scatter", "r2"):
        assert f"({name}.png)" in markdown
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(plain.rows()) == 20 * 4 * 4 * 5
    with (tmp_path / "regressions.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 5 * 20 + 3 * 20


def test_two_studies_are_equal_if_they_hold_the_same(plain, planted):
    again = Localisation(
        plain.asked, plain.found, plain.layers, dict(plain.facts), list(plain.edits)
    )
    assert again == plain
    assert hash(again) == hash(plain)
    assert plain != planted
    assert len(plain._pictures()) == 5
    assert len(plain.to_json()["rows"]) == len(plain.rows())


def test_edits_that_failed_are_counted_and_left_out():
    failed = {(place, 9, "memit", "forcing") for place in range(20)}
    study = made_up(of_layers, failed=failed)
    assert study.n_failed == 20
    assert "20 edits of 1,600 failed, the first (memit, layer 9, forcing): Nothing" in repr(study)
    found = {(one.method, one.variant): one.regression for one in study.explained("rewrite")}
    assert found["memit", "forcing"].n_layers == 3
    assert found["memit", "forcing"].n_rows == 60
    assert len(choices(study)) == 19


def test_too_few_facts_have_no_regression():
    study = made_up(of_layers, n_facts=2, variants=("injection",))
    assert "too few rows" in " ".join(explained_in_words(study))
    assert "—" in r2_table(study).lines[0]
