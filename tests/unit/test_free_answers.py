"""Answers in a model's own words: what is asked, what comes of it, and how it is scored."""

import json
import math
from dataclasses import replace

import pytest
import torch
from tiny_records import (
    FT,
    METHOD,
    background,
    make_record,
    make_records,
    make_zsre,
)

import factlab as fl
from factlab.data.phrasing import Phrasing
from factlab.data.questions import Questions
from factlab.data.record_files import record_hash
from factlab.editing.methods import method_named
from factlab.errors import InvalidRequestError, StorageError, TokenizationError
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.measuring.free_answers import QA_PROMPT, FreeQuestions
from factlab.evaluation.measuring.rows import GivenAnswer, Measurement
from factlab.evaluation.measuring.yardstick import Yardstick
from factlab.evaluation.reporting.formats import header, to_json, to_markdown
from factlab.evaluation.scoring.free_answers import (
    agreement,
    answer_score,
    holds,
    is_exactly,
    normalised,
    says_old,
)
from factlab.models.generation import generate_ids
from factlab.sentences import answer_of, is_answer
from saved_rows import make_row as saved_row
from saved_rows import measured, save_run

TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)
FORMS = ("bare", "qa", "chat")
ASKED = MeasureConfig(n_generated=0, answers=FORMS, answer_tokens=6)


@pytest.fixture
def lm(make_model):
    made = make_model("llama", dtype=torch.float64)
    made.tokenizer.chat_template = TEMPLATE
    return made


def given(text: str, **changes) -> GivenAnswer:
    values = {
        "group": "question", "form": "qa", "prompt": "Where?", "text": text, "right": ("Rome",),
        "old": "Paris",
    } | changes  # fmt: skip
    return GivenAnswer(**values)


# -- scores by hand ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The Eiffel Tower.", "eiffel tower"),
        (" an  Apple, a day\n", "apple day"),
        ("Washington, D.C.", "washington dc"),
        ("Rome's", "romes"),
        ("theatre another", "theatre another"),
        ("“Île-de-France”", "îledefrance"),
        ("the", ""),
    ],
)
def test_normalised_as_for_squad(text, plain):
    assert normalised(text) == plain


def test_exact_match_with_the_target_or_an_alias():
    assert is_exactly("the Rome.", ["Rome"])
    assert is_exactly("eternal city", ["Rome", "The Eternal City"])
    assert not is_exactly("Rome, Italy", ["Rome"])
    assert not is_exactly("", ["Rome"])


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("It is in Rome, Italy", "Rome", True),
        ("it is in rome", "Rome", True),
        ("ROME", "Rome", True),
        ("a Rome-based firm", "Rome", True),
        ("Rome's streets", "Rome", True),
        ("Romeo", "Rome", False),
        ("Jerome", "Rome", False),
        ("Austria-Hungary", "Austria", False),
        ("Washington DC", "Washington, D.C.", True),
        ("near the old Space Needle", "the Space Needle", True),
        ("The The", "the", True),
        ("in 19690", "1969", False),
        ("", "Rome", False),
    ],
)
def test_holds_whole_words(text, words, said):
    assert holds(text, words) == said


def test_what_is_still_said():
    assert says_old(given("Paris, not Rome"))
    assert not says_old(given("Rome"))
    york = {"right": ("New York",), "old": "York"}
    assert not says_old(given("in New York, new york", **york))
    assert says_old(given("in New York, or in York", **york))
    dc = {"right": ("Washington, D.C.",), "old": "Washington"}
    assert not says_old(given("Washington DC", **dc))
    assert says_old(given("Washington DC and Washington", **dc))


def test_scores_of_a_record():
    answers = [
        given("Rome", form="qa"),
        given("It is in Rome, not in Paris", form="qa", group="paraphrase"),
        given("Paris", form="qa", group="rewrite"),
        given("London", form="qa"),
        given("The Louvre is in Paris", form="qa", group="neighborhood", right=("Paris",), old=None),
        given("Rome", form="qa", group="neighborhood", right=("Paris",), old=None),
        given("Rome", form="chat", old=None),
    ]  # fmt: skip
    assert answer_score(answers, "qa", "exact").value == 1 / 4
    assert answer_score(answers, "qa", "says").value == 2 / 4
    assert answer_score(answers, "qa", "old").value == 2 / 4
    assert answer_score(answers, "qa", "kept").value == 1 / 2
    assert answer_score(answers, "chat", "exact").value == 1
    for found, reason in [
        (answer_score(None, "qa", "exact"), "no answers were asked for"),
        (answer_score(answers, "bare", "exact"), "no answers were asked for in bare form"),
        (answer_score(answers, "chat", "kept"), "the record has no such prompts"),
        (answer_score(answers, "chat", "old"), "the true target is not known"),
        (answer_score(answers, "qa", "judged"), "no judge was asked, or it could not tell"),
    ]:
        assert math.isnan(found.value)
        assert found.reason == reason


def test_a_judged_share_is_over_what_was_judged():
    answers = [given("a", judged=True), given("b", judged=False), given("c", unjudged="status 500")]
    assert answer_score(answers, "qa", "judged").value == 1 / 2


def test_agreement_by_hand():
    """A judge and exact match: 5 both right, 2 judge only, 1 match only, 2 neither."""
    answers = [given("Rome", judged=True)] * 5 + [given("Rome, Italy", judged=True)] * 2
    answers += [given("Rome", judged=False)] + [given("Paris", judged=False)] * 2
    found = agreement([*answers, given("x", unjudged="status 500")])
    assert (found.n, found.right, found.equal) == (10, 0.7, 0.7)
    by_chance = 0.7 * 0.6 + 0.3 * 0.4
    assert found.kappa == pytest.approx((0.7 - by_chance) / (1 - by_chance))
    assert found.unjudged == {"status 500": 1}
    always = agreement([given("Rome", judged=True)] * 3)
    assert (always.n, always.equal) == (3, 1.0)
    assert math.isnan(always.kappa), "two raters who say nothing but yes agree by chance"
    assert agreement([given("x")])[0] == 0


# -- what is asked ----------------------------------------------------------------------------


def test_built_in_records_get_their_relations_questions_and_keep_their_hash():
    questions, records = Questions.load(), fl.load_records("builtin", limit=40)
    assert all(len(questions.of(record)) == 2 for record in records)
    asked = questions.of(records[0])
    assert all(records[0].fact.subject in each and each.endswith("?") for each in asked)
    assert not any(record.question_prompts for record in records)
    assert record_hash(records) == record_hash(fl.load_records("builtin", limit=40))
    own = replace(records[0], question_prompts=("Which one?",))
    assert questions.of(own) == ("Which one?",)
    beside = questions.beside(records[0])
    assert len(beside) == len(records[0].neighborhood_prompts)
    assert all(each.endswith("?") and records[0].fact.subject not in each for each in beside)
    foreign = replace(records[0], fact=fl.Fact("I think of {} as", "Rome", "a city"))
    assert questions.of(foreign) == ()
    assert questions.beside(foreign) == foreign.neighborhood_prompts
    zsre = fl.load_records("builtin-zsre", limit=3)
    assert [questions.of(record) for record in zsre] == [()] * 3


def test_other_subjects_are_found_in_their_prompts():
    words = Phrasing(
        rewrite=("{} is in", "The city of {} is in"), question=("Where is {}?", "What has {}?")
    )
    record = make_record(
        0, relation_id="P1", fact=fl.Fact("{} is in", "Rome", "Asia", "Europe"),
        neighborhood_prompts=("Paris is in", "The city of Bonn is in", "Oslo lies in", "is in"),
    )  # fmt: skip
    assert Questions({"P1": words}).beside(record) == (
        "Where is Paris?", "What has Bonn?", "Oslo lies in", "is in",
    )  # fmt: skip


def test_what_each_form_asks(lm):
    record = make_record(
        0, question_prompts=("Where is Rome?",), new_aliases=("the ice",),
        neighborhood_prompts=("The tower is in the",),
    )  # fmt: skip
    asked = FreeQuestions(lm, FORMS).of(record)
    listed = [(q.form, q.group, q.prompt) for q in asked]
    about = ("rewrite", "Rome is in the")
    others = [("paraphrase", prompt) for prompt in record.paraphrase_prompts]
    question, beside = ("question", "Where is Rome?"), ("neighborhood", "The tower is in the")
    assert listed == [
        *[("bare", *each) for each in (about, *others, question, beside)],
        *[(form, *each) for form in ("qa", "chat") for each in (question, beside)],
    ]
    assert {q.right for q in asked if q.group != "neighborhood"} == {("Antarctica", "the ice")}
    assert {(q.right, q.old) for q in asked if q.group == "neighborhood"} == {
        (("city of people",), None)
    }
    assert {q.old for q in asked if q.group != "neighborhood"} == {"city of people"}
    qa = next(q for q in asked if q.form == "qa")
    assert qa.ids == tuple(lm.encode(QA_PROMPT.format("Where is Rome?")).ids)
    chat = next(q for q in asked if q.form == "chat")
    assert chat.ids == tuple(lm.encode(lm.chat_prompt("Where is Rome?")).ids)


def test_prompts_take_the_place_of_questions_where_there_are_none(lm):
    asked = FreeQuestions(lm, ("qa",)).of(make_zsre(1))
    assert [q.group for q in asked] == ["rewrite", "paraphrase", "neighborhood"]
    assert asked[0].old is None
    assert asked[2].right == ("Miles Davis",)
    unknown = make_record(0, fact=fl.Fact("{} is in", "Rome", "Paris"))
    groups = [q.group for q in FreeQuestions(lm, ("bare",)).of(unknown)]
    assert groups == ["rewrite", "paraphrase", "paraphrase"], "what is true elsewhere is not known"


def test_a_model_without_chat_template_is_refused_before_anything_is_measured(make_model, tmp_path):
    bare = make_model("gpt2")
    with pytest.raises(InvalidRequestError, match=r"need a chat template.*Leave chat out"):
        fl.evaluate(bare, make_records(2), "ft", tmp_path / "run", FT, measure=ASKED)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()


def test_a_prompt_that_leaves_no_room(lm):
    long = make_record(0, paraphrase_prompts=("Rome " * 400,))
    with pytest.raises(TokenizationError, match="takes at most"):
        FreeQuestions(lm, ("bare",)).of(long)


@pytest.mark.parametrize(
    ("answers", "found"),
    [("chat, bare", ("bare", "chat")), (["qa", "qa"], ("qa",)), ((), ())],
)
def test_forms_in_their_order(answers, found):
    assert MeasureConfig(answers=answers).answers == found


def test_unknown_forms():
    with pytest.raises(InvalidRequestError, match=r"'quiz' is none of bare, qa, chat"):
        MeasureConfig(answers="bare,quiz")
    with pytest.raises(InvalidRequestError, match="answer_tokens"):
        MeasureConfig(answers="bare", answer_tokens=0)


def test_what_decides_about_unedited_measurements_is_what_it_was():
    """Without answers: the key of the cache is that of earlier versions."""
    assert MeasureConfig(n_generated=3).of_unedited() == {
        "text_tokens": 100, "top_k": 5, "seed": 0, "essence": False, "drift_tokens": 0,
        "checkpoints": [],
    }  # fmt: skip
    assert MeasureConfig(answers="qa").of_unedited()["answers"] == ["qa"]


# -- generation -------------------------------------------------------------------------------


def edits_of(lm, records):
    each = method_named("ft").each
    return [each(lm, [r.fact], FT, background(lm), lambda *_: None)[0] for r in records]


@torch.no_grad()
def answer_by_hand(lm, ids, n_tokens) -> str:
    """One token at a time, no cache."""
    ids, n_prompt = list(ids), len(ids)
    decode = lm.tokenizer.decode
    before = decode(ids, skip_special_tokens=True)
    for _ in range(n_tokens):
        token_id = int(lm.model(torch.tensor([ids])).logits[0, -1].argmax())
        if token_id == lm.tokenizer.eos_token_id:
            break
        ids.append(token_id)
        if is_answer(decode(ids[n_prompt:], skip_special_tokens=True)):
            break
    return answer_of(decode(ids, skip_special_tokens=True)[len(before) :])


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_answers_are_those_of_each_edited_model_alone(make_model, family):
    lm = make_model(family, dtype=torch.float64)
    lm.tokenizer.chat_template = TEMPLATE
    records = [make_record(0, question_prompts=("Where?",)), make_record(3), make_record(4)]
    edits = edits_of(lm, records)
    yardstick = Yardstick(lm, ASKED, {})
    found = yardstick.measure(records, edits, [False] * 3)
    for record, edit, one in zip(records, edits, found, strict=True):
        (alone,) = yardstick.measure([record], [edit], [False])
        assert one.answers == alone.answers
        with edit.applied(lm):
            questions = yardstick.texts.of(record).free
            texts = [answer_by_hand(lm, question.ids, 6) for question in questions]
        assert [answer.text for answer in one.answers] == texts
        assert {answer.form for answer in one.answers} == {*FORMS}


def _has_e(text: str) -> bool:
    return "e" in text


def test_a_row_ends_where_its_text_is_done(make_model):
    """With the token that makes it so; each row as it would alone, whoever is beside it."""
    lm = make_model("gpt2", dtype=torch.float64)
    rows = [list(lm.encode(text).ids) for text in ("Rome", "In Paris the", "A", "See it", "The")]
    longest = generate_ids(lm, rows, 30, 0, 3)
    found = generate_ids(lm, rows, 30, 0, 3, is_done=_has_e)
    decode = lm.tokenizer.decode
    n_short = 0
    for i, (row, new, whole) in enumerate(zip(rows, found, longest, strict=True)):
        assert generate_ids(lm, [row], 30, 0, 3, streams=[i], is_done=_has_e) == [new]
        assert new == whole[: len(new)]
        assert not _has_e(decode(new[:-1]))
        assert _has_e(decode(new)) or new == whole
        n_short += len(new) < len(whole)
    assert n_short > 2


# -- runs -------------------------------------------------------------------------------------


def evaluated(lm, folder, mode="each", **changes):
    name, config = METHOD[mode]
    settings = {"measure": ASKED, "batch_size": 2, "background": background(lm)} | changes
    return fl.evaluate(
        lm, make_records(), name, folder, config, mode, cache=folder.parent / "known", **settings
    )


def test_a_run_that_was_stopped_ends_as_one_that_was_not(lm, tmp_path):
    whole = evaluated(lm, tmp_path / "whole")
    calls = iter([False] * 4 + [True] * 99)
    cut = evaluated(lm, tmp_path / "cut", should_stop=lambda: next(calls))
    assert 0 < len(cut.rows) < 5
    again = evaluated(lm, tmp_path / "cut", resume=True)
    strip = {"edit_s": 0.0, "measure_s": 0.0}
    assert [r.model_copy(update=strip) for r in again.rows] == [
        r.model_copy(update=strip) for r in whole.rows
    ]
    assert all(row.before.answers and row.after.answers for row in whole.rows)
    report = fl.report([whole])
    assert to_markdown(report) == to_markdown(fl.report([again]))
    heads = header(report.tables[0])
    assert [
        f"{name} {kind}" in heads
        for name in ("Bare", "QA", "Chat")
        for kind in ("exact", "says", "old", "kept")
    ] == [True] * 12
    assert "Bare judged" not in heads
    with pytest.raises(StorageError, match=r"belongs to another run: its answers"):
        evaluated(lm, tmp_path / "cut", measure=MeasureConfig(n_generated=0), resume=True)


def test_a_run_without_answers_says_nothing_of_them(lm, tmp_path):
    evaluated(lm, tmp_path / "run", measure=MeasureConfig(n_generated=0))
    assert "answers" not in (tmp_path / "run" / "run.json").read_text()
    rows = (tmp_path / "run" / "records-1-of-1.jsonl").read_text()
    assert "answers" not in rows
    (kept,) = (tmp_path / "known").iterdir()
    evaluated(lm, tmp_path / "asked")
    assert len([*(tmp_path / "known").iterdir()]) == 2, "other answers, another measurement"
    assert all("answers" not in path.read_text() for path in kept.iterdir())


def test_in_a_sequence_answers_are_asked_right_after_and_at_the_end(lm, tmp_path):
    asked = MeasureConfig(n_generated=0, answers="bare", answer_tokens=3, checkpoints=(2,))
    run = evaluated(lm, tmp_path / "run", "sequence", measure=asked)
    assert all(row.right_after.answers and row.after.answers for row in run.rows)
    (checkpoint,) = run.checkpoints
    assert all(row.after.answers is None for row in checkpoint.rows)


# -- reports ----------------------------------------------------------------------------------


def with_answers(row, before: str, after: str):
    def answers(text: str) -> Measurement:
        found = [
            given(text, prompt="Where is S?"),
            given("Paris it is", form="chat", group="neighborhood", right=("Paris",), old=None),
        ]
        return measured((True, True, True)).model_copy(update={"answers": tuple(found)})

    return row.model_copy(update={"before": answers(before), "after": answers(after)})


def test_reports_show_answers_side_by_side(tmp_path):
    first = save_run(
        tmp_path / "a", [with_answers(saved_row(i, (True,) * 3), "Paris", "Rome") for i in range(2)]
    )
    second = save_run(
        tmp_path / "b",
        [with_answers(saved_row(i, (True,) * 3), "Paris", "A\nB") for i in range(2)],
        "ft",
    )
    report = fl.report([fl.evaluation.load_run(path) for path in (first, second)], cases=[1])
    (case,) = report.tables[0].cases
    assert case.lines() == []
    assert case.answer_lines() == [
        ["form", "asked", "unedited", "rome", "ft"],
        ["qa", "Where is S?", "Paris", "Rome", "A B"],
        ["chat", "Where?", "Paris it is", "Paris it is", "Paris it is"],
    ]
    assert "| qa | Where is S? | Paris | Rome | A B |" in to_markdown(report)
    assert "  [qa] Where is S?\n    unedited: Paris\n    rome: Rome" in str(report)
    document = json.loads(json.dumps(to_json(report)))
    models = document["tables"][0]["cases"][0]["models"]
    assert models[2]["answers"][0]["text"] == "A\nB"
    unedited, rome, ft = document["tables"][0]["rows"]
    assert [row["metrics"]["qa_exact"]["mean"] for row in (unedited, rome, ft)] == [0, 1, 0]
    assert [row["metrics"]["qa_old"]["mean"] for row in (unedited, rome, ft)] == [1, 0, 0]
    assert rome["metrics"]["chat_kept"]["mean"] == 1
    assert "bare_exact" not in rome["metrics"], "only what was measured"
    heads = header(report.tables[0])
    assert "QA exact" in heads
    assert "Bare exact" not in heads
    assert "Bare, QA, Chat: free answers" in str(report)


def test_a_row_comes_back_as_it_was():
    row = with_answers(saved_row(0, (True,) * 3), "Paris", "Rome")
    read = type(row).model_validate(row.model_dump(mode="json"))
    assert read == row
    assert "answers" not in saved_row(0, (True,) * 3).model_dump(mode="json")["before"]


def test_eval_asks_for_answers(run, tmp_path):
    code, text, problem = run(
        "eval", "--model", "tiny:gpt2", "--data", "builtin", "--method", "ft", "--set", "layer=1",
        "--limit", 2, "--no-generation", "--answers", "qa,bare", "--answer-tokens", 2,
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, problem
    assert "Bare says" in text
    assert "QA old" in text
    code, text, _ = run("report", tmp_path / "run", "--case", 1)
    assert code == 0
    assert "asked" in text
    code, _, problem = run("eval", "--answers", "quiz", "--out", tmp_path / "other")
    assert code == 2
    assert "'quiz' is none of bare, qa, chat" in problem
