"""Human studies: who sees what, what the page gives away, and what answers come to."""

import base64
import json
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import binomtest

import factlab as fl
from factlab.errors import InvalidRequestError, StorageError
from factlab.human.agreement import coincidences, kendall_w, ordinal_alpha
from factlab.human.answers import Rating
from factlab.human.key import HumanStudy
from factlab.human.passages import cut
from factlab.human.plan import plan_pages
from factlab.human.report_page import agreement_table
from factlab.human.scores import score_question, sign_test
from factlab.web.results import result_document
from human_studies import METHODS, answers_of, hand_in, make_study, saved_run, wrote
from saved_rows import GOOD, make_row, save_run

EVIL = "</script><script>window.caught = 1</script><img src=x onerror=alert(1)>"


# -- the plan --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "per_rater", "raters", "n_methods"),
    [(50, 10, 15, 3), (7, 3, 5, 2), (4, 4, 1, 5), (9, 2, 11, 3)],
)
def test_the_plan_is_fair(items, per_rater, raters, n_methods):
    config = fl.human.HumanConfig(items=items, per_rater=per_rater, raters=raters, seed=3)
    plan = plan_pages(config, n_methods)
    assert [len({page.item for page in pages}) for pages in plan] == [per_rater] * raters
    seen = Counter(page.item for pages in plan for page in pages)
    assert set(seen) == {*range(items)}
    assert max(seen.values()) - min(seen.values()) <= 1
    for item in range(items):  # every method behind every letter, as nearly as may be
        orders = [page.order for pages in plan for page in pages if page.item == item]
        assert all(sorted(order) == [*range(n_methods)] for order in orders)
        for letter in range(n_methods):
            there = Counter(order[letter] for order in orders)
            counts = [there[method] for method in range(n_methods)]
            assert max(counts) - min(counts) <= 1


def test_the_plan_is_that_of_its_seed():
    config = fl.human.HumanConfig(items=9, per_rater=4, raters=6)
    assert plan_pages(config, 3) == plan_pages(config, 3)
    assert plan_pages(config, 3) != plan_pages(config.model_copy(update={"seed": 1}), 3)


def test_whoever_comes_first_sees_what_nobody_has_seen():
    plan = plan_pages(fl.human.HumanConfig(), 3)
    for first in (0, 5, 10):
        seen = [page.item for pages in plan[first : first + 5] for page in pages]
        assert sorted(seen) == [*range(50)]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"items": 3, "per_rater": 4}, "cannot see 4 different items of 3"),
        ({"items": 50, "per_rater": 10, "raters": 4}, "4 raters of 10 items see 40 of 50"),
        ({"items": 0}, "items"),
        ({"words": 1}, "words"),
    ],
)
def test_studies_that_cannot_be(settings, said):
    with pytest.raises(InvalidRequestError, match=said):
        fl.human.HumanConfig(**settings)


# -- passages --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One two three four.", "One two three four."),
        ("One two three four five six", "One two three four five…"),
        ("One two three", "One two three…"),
        ("One.\n\n\n\n two  three", "One.\n\ntwo three…"),
        ("One two three four five.", "One two three four five."),
        ("One two three four five. Six", "One two three four five.…"),
        ("One two…", "One two…"),
        ("", "…"),
        ("字" * 200, "字" * 80 + "…"),
    ],
)
def test_cutting(text, expected):
    assert cut(text, 5) == expected


def test_what_is_shown_is_what_was_written(tmp_path):
    study = make_study(tmp_path)
    assert study.labels == METHODS
    assert len({item.case_id for item in study.items}) == 10
    for item in study.items:
        starts = {passage.split(" tells")[0] for passage in item.passages}
        assert starts in [{f"S{item.case_id} prompt {number}"} for number in range(2)]
        assert [passage.split()[-1] for passage in item.passages] == ["river.", "hill.", "wall."]
        assert item.statement == f"S{item.case_id} is in Rome."
    assert {item.passages[0].split()[2] for item in study.items} == {"0", "1"}
    assert HumanStudy.load(tmp_path / "study") == study
    assert HumanStudy.load(tmp_path / "study" / "key.json") == study


def test_a_study_is_that_of_its_seed(tmp_path):
    studies = [
        make_study(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert studies[0] == studies[1]
    assert studies[0].study != studies[2].study
    pages = [(tmp_path / name / "study" / "study.html").read_text() for name in "abc"]
    assert pages[0] == pages[1] != pages[2]


def test_the_unedited_model_takes_part(tmp_path):
    study = make_study(tmp_path, METHODS[:1], unedited=True)
    assert study.labels == ("unedited", "zq-one")
    assert study.items[0].passages[0].endswith("tells of nothing.")
    assert "unedited" not in (tmp_path / "study" / "study.html").read_text()


def test_only_records_that_all_have(tmp_path):
    runs = [
        saved_run(tmp_path, "a", range(8)),
        saved_run(tmp_path, "b", range(3, 12)),
    ]
    config = fl.human.HumanConfig(items=5, per_rater=5, raters=1)
    study = fl.human.make_human_study(runs, tmp_path / "study", config)
    assert sorted(item.case_id for item in study.items) == [3, 4, 5, 6, 7]
    with pytest.raises(InvalidRequestError, match="texts of 5 records in common, and 6 are asked"):
        fl.human.make_human_study(runs, tmp_path / "more", config.model_copy(update={"items": 6}))


def _with_texts(folder, texts, method="other", **request):
    rows = [wrote(make_row(case, GOOD), texts(case)) for case in range(3)]
    return fl.evaluation.load_run(save_run(folder / method, rows, method, **request))


def test_what_cannot_be_compared(tmp_path):
    one = saved_run(tmp_path, "one", range(3))
    config = fl.human.HumanConfig(items=3, per_rater=3, raters=1)

    def refused(said, *others, labels=None):
        with pytest.raises(InvalidRequestError, match=said):
            fl.human.make_human_study([one, *others], tmp_path / "study", config, labels)

    refused("two or more methods")
    refused("'one' and 'one .2.' hold the same texts", one)
    silent = save_run(
        tmp_path / "silent", [make_row(0, GOOD, "x").model_copy(update={"after": None})], "silent"
    )
    refused("Run 'silent' holds no generated texts", fl.evaluation.load_run(silent))
    other_data = {"data": {"sha256": "d2"}}
    for number, text in enumerate(("On S{} I know nothing.", "S{0} is S{0}.", "S1")):
        run = _with_texts(
            tmp_path, lambda case, t=text: [t.format(case)], f"m{number}", **other_data
        )
        refused(f"'one' and 'm{number}' on record 0 are of other prompts", run)
    run = _with_texts(tmp_path, lambda case: [f"On S{case}.", f"Of S{case}."], "m9", **other_data)
    refused("of other prompts", run)
    longer = saved_run(tmp_path, "long", range(3), generation={"text_tokens": 200})
    refused("text_tokens is 100 and 200", longer)
    two = saved_run(tmp_path, "two", range(3))
    refused("2 runs and 1 label", two, labels=["a"])
    refused("given twice", two, labels=["a", "a"])
    refused("at most 26", *[two] * 30)
    assert not (tmp_path / "study").exists()


def test_texts_of_another_part_of_the_records_may_be_compared(tmp_path):
    one = saved_run(tmp_path, "one", range(3))
    other = saved_run(tmp_path, "two", range(3), data={"sha256": "d2"})
    config = fl.human.HumanConfig(items=3, per_rater=3, raters=1)
    assert len(fl.human.make_human_study([one, other], tmp_path / "study", config).items) == 3


def test_a_study_is_not_written_over(tmp_path):
    runs = [saved_run(tmp_path, name) for name in "ab"]
    config = fl.human.HumanConfig(items=10, per_rater=5, raters=6)
    fl.human.make_human_study(runs, tmp_path / "study", config)
    key = (tmp_path / "study" / "key.json").read_bytes()
    with pytest.raises(StorageError, match="holds a human study already"):
        fl.human.make_human_study(runs, tmp_path / "study", config)
    assert (tmp_path / "study" / "key.json").read_bytes() == key
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match="is not empty"):
        fl.human.make_human_study(runs, tmp_path / "full")


# -- the page --------------------------------------------------------------------------------------


def _data(html):
    return json.loads(html.split('id="study">')[1].split("</script>")[0])


def test_the_page_gives_nothing_away(tmp_path):
    study = make_study(tmp_path, labels=["label-qz-1", "label-qz-2", "label-qz-3"], seed=123456789)
    html = (tmp_path / "study" / "study.html").read_text()
    for name in (*METHODS, "label-qz", "gpt2-xl", "123456789", "case_id", "seed", str(tmp_path)):
        assert name not in html
        assert name in (tmp_path / "study" / "key.json").read_text() or name in (
            *METHODS,
            str(tmp_path),
        )
    data = _data(html)
    assert set(data) == {"study", "contact", "letters", "items", "raters"}
    # Nor does the place of a passage: any method may lie first.
    first = Counter(item["passages"][0].split()[-1] for item in data["items"])
    assert len(first) == 3
    # What a rater reads behind a letter is what the key says.
    for pages, planned in zip(data["raters"], study.pages, strict=True):
        for page, plan in zip(pages, planned, strict=True):
            shown = data["items"][page["item"]]
            read = [shown["passages"][i] for i in page["order"]]
            assert read == [study.items[plan.item].passages[i] for i in plan.order]
            assert shown["fact"] == study.items[plan.item].statement


def test_no_text_of_a_model_is_markup(tmp_path):
    rows = [[wrote(make_row(i, GOOD, m), [f"S{i} {m} {EVIL}"]) for i in range(3)] for m in "ab"]
    runs = [
        fl.evaluation.load_run(save_run(tmp_path / m, own, m))
        for m, own in zip("ab", rows, strict=True)
    ]
    config = fl.human.HumanConfig(items=3, per_rater=3, raters=1, contact=EVIL)
    fl.human.make_human_study(runs, tmp_path / "study", config)
    html = (tmp_path / "study" / "study.html").read_text()
    assert "window.caught" in html
    assert "<script>window.caught" not in html
    assert "<img" not in html
    assert _data(html)["contact"] == EVIL


def test_the_page_asks_nobody_for_anything(tmp_path):
    make_study(tmp_path)
    html = (tmp_path / "study" / "study.html").read_text()
    assert "default-src 'none'" in html
    for sign in (
        "http://",
        "https://",
        "fetch(",
        "src=",
        "@import",
        "url(",
        "XMLHttp",
        "innerHTML",
    ):
        assert sign not in html, sign


# -- agreement -------------------------------------------------------------------------------------

# Krippendorff (2011), section C: four observers, twelve units, missing values.
PUBLISHED = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""


def _alpha(units, n_values):
    return ordinal_alpha(coincidences(units, n_values)[None]).item()


def test_alpha_is_that_of_the_published_example():
    observers = [line.split() for line in PUBLISHED.strip().splitlines()]
    units = [[int(v) - 1 for v in unit if v != "."] for unit in zip(*observers, strict=True)]
    assert _alpha(units, 5) == pytest.approx(0.815, abs=5e-4)


def test_alpha_by_hand():
    # Two raters, three units: (0, 0), (1, 2), (2, 2). Totals 2, 1, 3; n = 6.
    met = coincidences([[0, 0], [1, 2], [2, 2]], 3)
    assert met.tolist() == [[2, 0, 0], [0, 0, 1], [0, 1, 2]]
    # Differences: 0 to 1: (3 − 3/2)² = 9/4; 1 to 2: (4 − 2)² = 4; 0 to 2: (6 − 5/2)² = 49/4.
    observed = 2 * 4
    expected = 2 * (2 * Fraction(9, 4) + 3 * 4 + 6 * Fraction(49, 4))
    assert ordinal_alpha(met[None]).item() == pytest.approx(float(1 - 5 * observed / expected))


def test_alpha_of_those_who_agree_and_of_nothing():
    assert _alpha([[0, 0, 0], [2, 2], [1]], 3) == 1.0
    assert np.isnan(_alpha([[1, 1], [1, 1]], 3))
    assert np.isnan(_alpha([[0], [2]], 3))


def test_w():
    assert kendall_w([[1, 2, 3]] * 4) == 1.0
    assert kendall_w([[1, 2, 3], [3, 2, 1]]) == 0.0
    assert kendall_w([[1, 2.5, 2.5, 4]] * 3) == pytest.approx(1.0)  # with ties, too
    assert np.isnan(kendall_w([[1, 2, 3]]))
    # Sums 4, 7, 7: their squares about the mean come to 6, of 18 at most.
    assert kendall_w([[1, 2, 3], [1, 3, 2], [2, 2, 2]]) == pytest.approx(
        6 / (18 - 6)
    )  # one all tied
    assert kendall_w([[1, 2, 3], [1, 3, 2], [2, 3, 1]]) == pytest.approx(8 / 18)
    # Of two rankings W is the mean rank correlation, moved to 0–1 (Spearman's).
    first, second = [1, 2, 3, 4, 5], [2, 1, 4, 3, 5]
    rho = np.corrcoef(first, second)[0, 1]
    assert kendall_w([first, second]) == pytest.approx((rho + 1) / 2)


@pytest.mark.parametrize(("wins", "losses"), [(5, 0), (60, 40), (3, 3), (0, 1), (97, 53)])
def test_the_sign_test_is_the_exact_binomial_one(wins, losses):
    assert sign_test(wins, losses) == pytest.approx(binomtest(wins, wins + losses).pvalue)


# -- scores ----------------------------------------------------------------------------------------


def _drawn(strengths, seed):
    """Raters who rank by strength and noise (Gumbel's: Plackett and Luce's model)."""
    random = np.random.default_rng(seed)

    def rule(rater, item, question):
        noisy = np.log(strengths[question]) + random.gumbel(size=len(strengths[question]))
        return [*map(int, np.argsort(-noisy))]

    return rule


def test_planted_preferences_are_found(tmp_path):
    study = make_study(tmp_path, items=12, per_rater=6, raters=60)
    strengths = {"consistent": [1.0, 2.0, 5.0], "fluent": [4.0, 1.0, 1.0]}
    found = fl.human.score_human_study(
        study, hand_in(study, tmp_path / "answers", _drawn(strengths, 5))
    )
    assert len(found.ratings) == 2 * 360
    for one in found.questions:
        strength = np.array(strengths[one.question])
        for method, share in zip(one.methods, strength / strength.sum(), strict=True):
            low, high = method.most.interval
            assert low <= share <= high
            assert high - low < 0.12
        for win in one.wins:
            above, below = (strength[METHODS.index(name)] for name in (win.above, win.below))
            low, high = win.share.interval
            assert low - 0.01 <= above / (above + below) <= high + 0.01
            assert win.wins >= win.losses
            assert win.times.mean == pytest.approx(win.wins / win.losses)
            assert win.p == pytest.approx(binomtest(win.wins, win.wins + win.losses).pvalue)
        assert 0.02 < one.alpha.mean < 0.5
        ranks = [method.rank.mean for method in one.methods]
        assert sum(ranks) == pytest.approx(6)
        assert np.argmin(ranks) == np.argmax(strength)


def test_raters_who_guess_do_not_agree(tmp_path):
    study = make_study(tmp_path, items=12, per_rater=6, raters=40)
    even = {"consistent": [1.0] * 3, "fluent": [1.0] * 3}
    found = fl.human.score_human_study(study, hand_in(study, tmp_path / "answers", _drawn(even, 2)))
    for one in found.questions:
        assert abs(one.alpha.mean) < 0.04
        low, high = one.alpha.interval
        assert low < 0.02 and high > -0.02
        assert one.w.mean == pytest.approx(one.w_by_chance, abs=0.03)
        assert one.w_by_chance == pytest.approx(1 / 20)


def test_raters_who_agree(tmp_path):
    study = make_study(tmp_path)
    best = [1, 0, 2]
    found = fl.human.score_human_study(
        study, hand_in(study, tmp_path / "answers", lambda rater, item, question: best)
    )
    for one in found.questions:
        assert (one.alpha.mean, one.w.mean, one.n_agreed) == (1.0, 1.0, 10)
        assert [method.most.mean for method in one.methods] == [0, 1, 0]
        assert [method.rank.mean for method in one.methods] == [2, 1, 3]
        assert all(win.losses == 0 and 0.6 < win.share.interval[0] < 1 for win in one.wins)
    assert [win["times"] for win in found.to_json()["wins"]] == [None] * 6
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize("n_methods", [2, 4])
def test_any_number_of_methods(tmp_path, n_methods):
    study = make_study(tmp_path, [f"m{i}" for i in range(n_methods)])
    found = fl.human.score_human_study(
        study, hand_in(study, tmp_path / "a", lambda rater, item, question: [*range(n_methods)])
    )
    one = found.questions[0]
    ranks = [1, *[(n_methods + 1) / 2] * (n_methods - 2), n_methods]
    assert [method.rank.mean for method in one.methods] == ranks
    assert len(one.wins) == n_methods * (n_methods - 1) // 2
    assert one.alpha.mean == one.w.mean == 1.0
    if n_methods == 4:  # nobody has said which of the two in the middle is better
        (level,) = [win for win in one.wins if win.wins + win.losses == 0]
        assert np.isnan(level.p) and np.isnan(level.share.mean)
    found.save(tmp_path / "scores")


def test_one_rater_and_one_item():
    rating = Rating(1, 1, 0, "fluent", 0, 1, 3.0)
    one = score_question([rating], "fluent", ["a", "b"])
    assert (one.n, one.n_agreed, one.wins[0].wins) == (1, 0, 1)
    assert np.isnan(one.alpha.mean) and not one.wins[0].share.has_interval
    assert agreement_table([one]).lines == [["fluent", "0", "—", "—", "—"]]


def test_wins_are_as_sure_as_their_items():
    """Raters of one item say the same: an interval over ratings would be too narrow."""
    ratings = [
        Rating(rater, 1, item, "fluent", item % 3 > 0, item % 3 == 0, 1.0)
        for item in range(30) for rater in range(10)
    ]  # fmt: skip
    (win,) = score_question(ratings, "fluent", ["a", "b"]).wins
    assert (win.above, win.wins, win.losses) == ("b", 200, 100)
    low, high = win.share.interval
    assert 0.25 < high - low < 0.45


# -- answers ---------------------------------------------------------------------------------------


def _by_number(rater, item, question):
    return [0, 1, 2]


@pytest.fixture
def handed_in(tmp_path):
    study = make_study(tmp_path)
    return study, hand_in(study, tmp_path / "answers", _by_number)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"study": "000"}, "is of another study: its study is '000'"),
        ({"format": "factlab human answers 2"}, "written by a newer factlab"),
        ({"format": "something"}, "is not the answers of a rater"),
        ({"rater": 7}, "rater is 7, and the study has 1 to 6"),
        ({"rater": 0}, "rater is 0"),
        ({"rater": True}, "rater: "),
        ({"rater": "1"}, "rater: "),
        ({"name": "Ada"}, "an entry 'name'"),
        ({"pages": None}, "pages: "),
        ({"stopped": None}, "stopped: "),
        ({"pages.0.page": 6}, r"pages\.0\.page is 6, and this rater has 1 to 5"),
        ({"pages.0.page": 2}, r"pages\.1\.page is 2 for the second time"),
        ({"pages.1.most_fluent": "D"}, r"pages\.1\.most_fluent is 'D', and the passages are A, B, C"),
        ({"pages.1.most_fluent": "AB"}, r"pages\.1\.most_fluent is 'AB'"),
        ({"pages.1.most_fluent": ""}, r"pages\.1\.most_fluent is ''"),
        ({"pages.1.least_consistent": None}, r"pages\.1\.least_consistent: "),
        ({"pages.2.seconds": -1}, r"pages\.2\.seconds: "),
        ({"pages.2.least_fluent": "A", "pages.2.most_fluent": "A"},
         r"pages\.2\.most_fluent and least_fluent are the same"),
        ({"pages.2.least_consistent": "B", "pages.2.most_consistent": "B"},
         r"pages\.2\.most_consistent and least_consistent are the same"),
    ],
)  # fmt: skip
def test_damaged_answers_are_told_by_file_and_field(handed_in, change, said):
    study, files = handed_in
    document = json.loads(files[0].read_text())
    for place, value in change.items():
        *path, last = place.split(".")
        inner = document
        for step in path:
            inner = inner[int(step) if step.isdigit() else step]
        inner[last] = value
    files[0].write_text(json.dumps(document))
    with pytest.raises(StorageError, match=said) as error:
        fl.human.score_human_study(study, files)
    assert "rater-1.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_scores_may_lie_among_the_answers(handed_in):
    """As `human score STUDY answers --out answers` puts them, again when another rater is done."""
    study, files = handed_in
    first = fl.human.score_human_study(study, [files[0].parent])
    first.save(files[0].parent)
    again = fl.human.score_human_study(study, [files[0].parent])
    assert again.to_json() == first.to_json()


def test_other_files_that_are_no_answers(handed_in, tmp_path):
    study, files = handed_in
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(StorageError, match=r"bad\.json' is not valid JSON"):
        fl.human.score_human_study(study, [tmp_path / "bad.json"])
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(StorageError, match="holds a JSON list"):
        fl.human.score_human_study(study, [tmp_path / "bad.json"])
    with pytest.raises(StorageError, match="is not the answers of a rater"):
        fl.human.score_human_study(study, [tmp_path / "study" / "key.json"])
    with pytest.raises(StorageError, match="There is no file or folder"):
        fl.human.score_human_study(study, [tmp_path / "gone.json"])
    with pytest.raises(InvalidRequestError, match="There are no answers"):
        fl.human.score_human_study(study, [tmp_path / "study"])
    (tmp_path / "copy.json").write_bytes(files[1].read_bytes())
    with pytest.raises(StorageError, match=r"rater-2.json' and '.*copy.json' are both of rater 2"):
        fl.human.score_human_study(study, [*files, tmp_path / "copy.json"])
    with pytest.raises(InvalidRequestError, match="takes a list as answers"):
        fl.human.score_human_study(study, files[0])
    document = answers_of(study, 1, _by_number, pages=0)
    (tmp_path / "none.json").write_text(json.dumps(document))
    with pytest.raises(InvalidRequestError, match="No page is answered"):
        fl.human.score_human_study(study, [tmp_path / "none.json"])


def test_damaged_keys(handed_in, tmp_path):
    _, files = handed_in
    with pytest.raises(StorageError, match="There is no key"):
        fl.human.score_human_study(tmp_path / "gone", files)
    with pytest.raises(StorageError, match="is not the key of a human study"):
        fl.human.score_human_study(files[0], files)
    key = json.loads((tmp_path / "study" / "key.json").read_text())
    for change in ({"methods": key["methods"][:2]}, {"pages": [[{"item": 10, "order": [0, 1, 2]}]]},
                   {"pages": [[{"item": 0, "order": [0, 0, 2]}]]}, {"items": 3}):  # fmt: skip
        (tmp_path / "k.json").write_text(json.dumps(key | change))
        with pytest.raises(StorageError, match=r"k\.json' is damaged"):
            fl.human.score_human_study(tmp_path / "k.json", files)


def test_missing_pages_are_told(handed_in, tmp_path):
    study, files = handed_in
    short = answers_of(study, 4, _by_number, pages=3)
    files[3].write_text(json.dumps(short))
    forgot = answers_of(study, 5, _by_number) | {"stopped": False}
    del forgot["pages"][1]
    files[4].write_text(json.dumps(forgot))
    files[0].unlink()
    files[1].unlink()
    found = fl.human.score_human_study(tmp_path / "study", [tmp_path / "answers"])
    assert found.notes[0].startswith("4 raters of 6 and 17 pages of 30")
    assert "No answers of raters 1–2." in found.notes
    assert "Rater 4 stopped early: pages 4, 5 missing." in found.notes
    assert "Rater 5 left pages out: page 2 missing." in found.notes
    assert found.questions[0].n == 17


def test_passages_that_are_the_same_are_told(tmp_path):
    rows = [
        [wrote(make_row(i, GOOD, m), [f"S{i} is {m if i else 'x'}."]) for i in range(3)]
        for m in "ab"
    ]
    runs = [
        fl.evaluation.load_run(save_run(tmp_path / m, own, m))
        for m, own in zip("ab", rows, strict=True)
    ]
    config = fl.human.HumanConfig(items=3, per_rater=3, raters=2)
    study = fl.human.make_human_study(runs, tmp_path / "study", config)
    assert study.n_same == 1
    found = fl.human.score_human_study(study, hand_in(study, tmp_path / "a", lambda *_: [0, 1]))
    assert "In 1 item two passages are the same: their order is by chance." in found.notes


# -- the result ------------------------------------------------------------------------------------


def test_it_has_manners(handed_in, tmp_path):
    study, files = handed_in
    one, other = (fl.human.score_human_study(study, files) for _ in "ab")
    assert one == other and hash(one) == hash(other)
    assert repr(one).splitlines()[0] == "HumanScores(zq-one; zq-two; zq-three: 6 of 6 raters)"
    assert one._repr_html_().startswith("<pre>")
    rows = one.rows()
    assert len(rows) == 6 and len({tuple(row) for row in rows}) == 1
    assert one.plot(tmp_path / "p.svg")._repr_png_()[:4] == b"\x89PNG"


def test_what_is_saved(handed_in, tmp_path):
    study, files = handed_in
    found = fl.human.score_human_study(study, files)
    names = [path.name for path in found.save(tmp_path / "scores")]
    assert sorted(names) == sorted(path.name for path in (tmp_path / "scores").iterdir())
    assert {"report.md", "report.html", "ratings.csv", "scores.json", "human.png"} == {*names}
    saved = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert saved == found.to_json()
    assert saved["places"][0]["most"] == 1.0
    assert [(one["above"], one["times"], one["n"]) for one in saved["published"]] == [
        ("ROME", 1.8, 150), ("FT+L", 1.3, 150),
    ]  # fmt: skip
    text = (tmp_path / "scores" / "report.md").read_text()
    assert "| consistent | zq-one | 30 | 100 (89–100) | 0 (0–11) | 1.00" in text
    assert "human.png" in text
    lines = (tmp_path / "scores" / "ratings.csv").read_text().splitlines()
    assert len(lines) == 1 + 60
    assert lines[1].endswith("consistent,zq-one,zq-three,30.5")


def test_the_workbench_shows_what_is_saved(handed_in, tmp_path):
    study, files = handed_in
    found = fl.human.score_human_study(study, files)
    folder = tmp_path / "scores"
    found.save(folder)
    shown = result_document(folder)
    assert shown["kind"] == "human"
    assert shown["rows"] == json.loads(json.dumps(found.rows()))
    assert shown["about"] == "\n".join(found.notes)
    assert base64.b64decode(shown["picture"]) == (folder / "human.png").read_bytes()
    (folder / "human.png").unlink()
    assert result_document(folder)["picture"] is None
    saved = json.loads((folder / "scores.json").read_text())
    (folder / "scores.json").write_text(json.dumps(saved | {"places": None}))
    with pytest.raises(StorageError, match="no places of methods"):
        result_document(folder)
    for other in (json.dumps(saved | {"format": "factlab human scores"}), "{}", "[]", "{"):
        (folder / "scores.json").write_text(other)
        with pytest.raises(StorageError, match="is no trace"):
            result_document(folder)


def test_labels_with_signs_are_drawn_as_they_are(tmp_path):
    study = make_study(tmp_path, labels=["a$b$", "_c_", "|d|"])
    found = fl.human.score_human_study(study, hand_in(study, tmp_path / "a", _by_number))
    found.save(tmp_path / "scores")
    assert r"\_c\_" in (tmp_path / "scores" / "report.md").read_text()


# -- the command line ------------------------------------------------------------------------------


def test_the_commands(run, tmp_path):
    for method in METHODS[:2]:
        saved_run(tmp_path, method)
    runs = [tmp_path / method for method in METHODS[:2]]
    sizes = ("--items", 10, "--per-rater", 5, "--raters", 6, "--seed", 3)
    code, out, err = run(
        "human", "make", *runs, *sizes, "--unedited", "--out", tmp_path / "study", "--json"
    )
    assert code == 0, err
    made = json.loads(out)
    assert made["methods"] == ["unedited", *METHODS[:2]]
    assert made["raters_per_item"] == [3, 3]
    study = HumanStudy.load(made["key"])
    assert study.config == fl.human.HumanConfig(
        items=10, per_rater=5, raters=6, seed=3, unedited=True
    )
    hand_in(study, tmp_path / "answers", _by_number)
    code, out, _ = run(
        "human", "score", tmp_path / "study", tmp_path / "answers", "--out", tmp_path / "s"
    )
    assert code == 0
    for said in ("6 raters of 6", "ROME paper", "1.8", "Krippendorff", "human.png", "zq-two"):
        assert said in out
    code, out, _ = run("human", "score", made["key"], tmp_path / "answers", "--json")
    assert json.loads(out)["study"] == made["study"]


def test_the_commands_refuse_before_they_read(run, tmp_path):
    code, _, err = run(
        "human", "make", tmp_path / "gone", "--items", 3, "--per-rater", 4, "--out", tmp_path / "s"
    )
    assert code == 2 and "cannot see 4 different items of 3" in err
    make_study(tmp_path)
    code, _, err = run("human", "make", tmp_path / "gone", "--out", tmp_path / "study")
    assert code == 2 and "holds a human study already" in err
    code, _, err = run(
        "human", "make", tmp_path / "gone", tmp_path / "gone", "--out", tmp_path / "s"
    )
    assert code == 2 and "holds no run" in err
    code, _, err = run("human", "score", tmp_path / "gone", tmp_path)
    assert code == 2 and "There is no key" in err
