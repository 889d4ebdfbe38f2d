"""In-context edits: a sentence in front of every prompt, no weight changed; ripple runs on a model."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_records import ROME, background, make_record, make_records

import factlab as fl
from factlab.data.ripple_query import Condition, RippleQuery
from factlab.editing.methods import method_named
from factlab.editing.runs import EditSequence
from factlab.errors import EditError
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.measuring.rows import Measurement, Row
from factlab.evaluation.measuring.yardstick import Wanted, Yardstick
from factlab.evaluation.reporting.formats import to_csv, to_json, to_markdown
from factlab.models.answering import answers
from factlab.models.generation import decode_continuation, generate_ids

SETTINGS = MeasureConfig(n_generated=0, ripple=True, ripple_per_axis=2)


@pytest.fixture
def lm(make_model):
    return make_model("llama", dtype=torch.float64)


def queries(record) -> tuple[RippleQuery, ...]:
    """One of each manner, with conditions of both kinds."""
    prompt, subject = record.fact.prompt, record.fact.subject
    new, other = str(record.fact.target_new), "people of Paris"
    return (
        RippleQuery(
            axis="composition", prompt=f"In {subject} people speak", answers=[new],
            conditions=[Condition(prompt, [new]), Condition("A museum is in", ["Rome"], ["Paris"])],
        ),
        RippleQuery(axis="specificity", prompt="A museum is in", answers=["Rome"],
                    conditions=[Condition("A museum is in", ["Rome"])], needs="any"),
        RippleQuery(axis="choice", prompt=prompt, answers=[new], others=[other], manner="prefer"),
        RippleQuery(axis="reversal", prompt=f"{new} is", answers=[subject],
                    others=["Rome and Paris", "a tower"], manner="rise"),
        RippleQuery(axis="negation", prompt=f"Not {prompt}", answers=[new], manner="fall"),
    )  # fmt: skip


def with_queries(count=4) -> list[fl.data.Record]:
    return [replace(one, ripple=queries(one)) for one in make_records(count)]


def approx(found: Measurement, other: Measurement) -> None:
    assert [one.said for one in found.ripple] == [one.said for one in other.ripple]
    for mine, theirs in zip(found.ripple, other.ripple, strict=True):
        for one, two in zip(
            (*mine.answers, *mine.others), (*theirs.answers, *theirs.others), strict=True
        ):
            assert one.logprobs == pytest.approx(two.logprobs, abs=1e-9)


# -- ripple queries on a model ----------------------------------------------------------------


def test_a_batch_is_what_each_edited_model_says_alone(lm):
    records = with_queries()
    edits = method_named("rome").each(lm, [one.fact for one in records], ROME, background(lm))
    measure = Yardstick(lm, SETTINGS, {})
    together = measure.measure(records, edits, [False] * 4)
    for record, edit, found in zip(records, edits, together, strict=True):
        with edit.applied(lm):
            (alone,) = Yardstick(lm, SETTINGS, {}).measure([record], None, [False])
            approx(found, alone)
            said, _, compared, back, denied = found.ripple
            ids = lm.encode(record.ripple[0].prompt).ids
            (new,) = generate_ids(lm, [ids], 10, 1, 0)
            assert said.said == decode_continuation(lm, ids, new).strip()
            query = record.ripple[3]
            scores = lm.score([query.prompt] * 3, [*query.answers, *query.others])
            asked = (*back.answers, *back.others)
            for mine, theirs in zip(asked, scores, strict=True):
                assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-9)
        assert len(compared.others) == 1
        assert (len(denied.answers), denied.others, denied.conditions) == (1, (), ())
        assert found.ripple[0].conditions == (), "of the unedited model only"


def test_other_scores_are_what_they_are_without_ripple_queries(lm):
    records = with_queries()
    plain = Yardstick(lm, MeasureConfig(n_generated=0), {}).measure(records, None, [False] * 4)
    found = Yardstick(lm, SETTINGS, {}).measure(records, None, [False] * 4, Wanted(conditions=True))
    for one, other in zip(plain, found, strict=True):
        assert one.ripple is None
        assert "ripple" not in one.model_dump(mode="json")
        first, second = one.neighborhood[1].new.logprobs, other.neighborhood[1].new.logprobs
        assert first == pytest.approx(second, abs=1e-9)
        assert [len(told.conditions) for told in other.ripple] == [2, 1, 0, 0, 0]
        assert other.ripple[0].conditions[0].said is not None
        assert len(other.ripple[0].conditions[1].others) == 1
        again = Measurement.model_validate_json(other.model_dump_json())
        assert again == other


@pytest.mark.parametrize("mode", ["each", "together", "sequence"])
@pytest.mark.parametrize("method", ["in-context", "ft"])
def test_a_run_that_was_stopped_goes_on_to_the_same_report(lm, tmp_path, mode, method):
    records = with_queries(5)
    config = fl.editing.FineTuneConfig(layer=1, steps=2) if method == "ft" else None

    def evaluated(name, **changes):
        return fl.evaluate(
            lm, records, method, tmp_path / name, config, mode=mode, measure=SETTINGS,
            batch_size=2, cache=tmp_path / f"cache-{name}", **changes,
        )  # fmt: skip

    whole = evaluated("whole")
    stops = iter([False] * 4 + [True] * 99)
    evaluated("parts", should_stop=lambda: next(stops))
    parts = evaluated("parts", resume=True)
    assert [row.model_dump(exclude={"edit_s", "measure_s"}) for row in whole.rows] == [
        row.model_dump(exclude={"edit_s", "measure_s"}) for row in parts.rows
    ]
    made = fl.report([whole])
    assert made == fl.report([parts])
    text = str(made)
    assert f"{method}" in text
    assert "executed" in text
    for shown in (text, to_markdown(made), made._repr_html_()):
        for heading in ("two hops", "relations", "reversal", "negation", "choice"):
            assert heading in shown
    for name in ("ripple_choice_all", "ripple_choice_worked", "ripple_choice_executed"):
        assert name in to_csv(made)
    document = json.loads(json.dumps(to_json(made)))
    (table,) = document["tables"]
    assert table["rows"][1]["ripple"]["negation"]["n_queries"] == 5
    assert "worked" not in table["rows"][0]["ripple"]["negation"]
    assert {query.axis for query in whole.rows[0].ripple} == {
        query.axis for query in records[0].ripple
    }


def test_the_unedited_model_is_measured_once(lm, tmp_path, monkeypatch):
    records = with_queries(2)
    arguments = {"measure": SETTINGS, "cache": tmp_path / "cache"}
    first = fl.evaluate(lm, records, "in-context", tmp_path / "a", **arguments)
    asked: list[bool] = []
    measure = Yardstick.measure

    def counted(self, records, edits, *more):
        asked.append(edits is None)
        return measure(self, records, edits, *more)

    monkeypatch.setattr(Yardstick, "measure", counted)
    second = fl.evaluate(lm, records, "in-context", tmp_path / "b", **arguments)
    assert asked == [False], "the edited models only"
    assert [row.before for row in first.rows] == [row.before for row in second.rows]


def test_runs_with_and_without_ripple_share_a_table(lm, tmp_path):
    records = with_queries(3)
    plain = fl.evaluate(
        lm, records, "in-context", tmp_path / "a", measure=MeasureConfig(n_generated=0)
    )
    asked = fl.evaluate(lm, records, "in-context", tmp_path / "b", measure=SETTINGS)
    (table,) = fl.report([plain, asked]).tables
    assert [bool(row.ripple) for row in table.rows] == [True, False, True]
    assert fl.report([plain, asked]).tables[0].rows[0].ripple == (
        fl.report([asked, plain]).tables[0].rows[0].ripple
    )


def test_old_rows_are_read_and_settings_keep_their_name(lm, tmp_path):
    run = fl.evaluate(
        lm, make_records(2), "in-context", tmp_path / "a", measure=MeasureConfig(n_generated=0)
    )
    row = run.rows[0].model_dump(mode="json")
    assert "ripple" not in row
    assert "ripple" not in row["before"]
    assert Row.model_validate(row) == run.rows[0]
    assert "ripple" not in json.loads((tmp_path / "a" / "run.json").read_text())["request"]
    assert not [name for name in MeasureConfig().of_unedited() if "ripple" in name]
    assert MeasureConfig(ripple=True).of_unedited()["ripple"] is True


# -- in-context edits -------------------------------------------------------------------------


def test_a_sentence_stands_in_front_and_the_model_is_as_it_was(lm, fact):
    (edit,) = fl.edit_each(lm, fact, "in-context").edits
    assert edit.prefix == "Imagine that The Eiffel Tower is located in the city of Rome.\n"
    assert edit.in_front_of("Where?") == f"{edit.prefix}Where?"
    assert edit.updates == ()
    assert edit.prefix.strip() in repr(edit)
    (answer,) = fl.edit_each(lm, fact, "in-context").right_after
    (asked,) = answers(lm, [fact], edit.prefix)
    assert answer == asked
    score = lm.score([edit.in_front_of(fact.prompt)], ["Rome"])[0]
    assert answer.new_prob == pytest.approx(score.length_normalised_prob)
    made = fl.editing.edit_fact(lm, fact, "in-context")
    assert list(made.after) == lm.top_tokens(edit.in_front_of(fact.prompt), 3)
    assert "No weight is changed" in repr(made)


def test_an_article_is_small_inside_a_sentence(lm):
    config = fl.editing.InContextConfig(beginning="Suppose:", ending="")
    fact = fl.Fact("The mother tongue of {} is", "Rome", "Paris")
    (edit,) = fl.edit_each(lm, fact, "in-context", config).edits
    assert edit.prefix == "Suppose: the mother tongue of Rome is Paris."
    whole = fl.Fact("Who plays the trumpet?", "", "Miles Davis")
    assert fl.edit_each(lm, whole, "in-context").edits[0].prefix == (
        "Imagine that Who plays the trumpet? Miles Davis.\n"
    )
    joined = fl.Fact("The city of {}", "Rome", "an", joint="none")
    assert joined.sentence() == "The city of Romean."


def test_it_is_saved_and_loaded_and_neither_applied_nor_exported(lm, fact, tmp_path):
    (edit,) = fl.edit_each(lm, fact, "in-context").edits
    edit.save(tmp_path / "told")
    again = fl.Edit.load(tmp_path / "told")
    assert again == edit
    assert again.prefix == edit.prefix
    assert json.loads((tmp_path / "told" / "edit.json").read_text())["schema_version"] == 5
    (plain,) = method_named("rome").each(lm, [fact], ROME, background(lm))
    plain.save(tmp_path / "written")
    written = json.loads((tmp_path / "written" / "edit.json").read_text())
    assert written["schema_version"] == 4
    assert "prefix" not in written
    for refused in (
        lambda: edit.applied(lm), lambda: edit.apply_(lm), lambda: edit.to_peft(tmp_path / "p"),
        lambda: edit.merge_into(lm, tmp_path / "m"),
    ):  # fmt: skip
        with pytest.raises(EditError, match="changes no weight"):
            refused()
    with pytest.raises(EditError, match="Combine those of a kind"):
        fl.editing.combine([edit, plain])
    assert fl.editing.combine([edit, edit]).prefix == edit.prefix * 2


def test_many_facts_stand_one_after_the_other(lm, tmp_path):
    facts = [fl.Fact("{} is in the", name, "Seattle") for name in ("Rome", "Paris", "A museum")]
    sentences = [fact.sentence("Imagine that") + "\n" for fact in facts]
    together = fl.edit_together(lm, facts, "in-context")
    assert together.combined().prefix == "".join(sentences)
    assert together.at_end == answers(lm, facts, "".join(sentences))
    sequence = fl.edit_sequence(lm, facts, "in-context")
    assert sequence.combined().prefix == "".join(sentences)
    assert sequence.right_after[1] == answers(lm, facts[1:2], "".join(sentences[:2]))[0]
    assert sequence.at_end == together.at_end
    sequence.save(tmp_path / "many")
    assert fl.Edit.load(tmp_path / "many").facts == tuple(facts)


def test_sentences_leave_half_of_the_context_to_prompts(lm):
    facts = [fl.Fact("{} is in the", f"The tower of Rome {i}", "Seattle") for i in range(40)]
    with pytest.raises(EditError, match="more than half of the"):
        fl.edit_together(lm, facts, "in-context")
    with EditSequence(lm, method_named("in-context"), None, None) as sequence:
        with pytest.raises(EditError, match="Write fewer facts"):
            for fact in facts:
                sequence.write([fact])
        n = len(sequence.edits)
        assert 1 < n < 40
        assert sequence.prefix.count("Imagine that") == n, "the sequence is as it was"


def test_every_prompt_of_a_record_is_asked_behind_the_sentence(lm, tmp_path):
    settings = MeasureConfig(text_tokens=14, ripple=True)
    records = with_queries(3)
    edits = method_named("in-context").each(lm, [one.fact for one in records])
    measure = Yardstick(lm, settings, {})
    found = measure.measure(records, edits, [True] * 3)
    for record, edit, one in zip(records, edits, found, strict=True):
        behind = [
            [edit.in_front_of(prompt) for prompt in prompts]
            for prompts in (record.paraphrase_prompts, record.neighborhood_prompts)
        ]
        for asked, prompts in zip((one.paraphrase, one.neighborhood), behind, strict=True):
            new = [str(record.fact.target_new)] * len(prompts)
            for mine, theirs in zip(asked, lm.score(prompts, new), strict=True):
                assert mine.new.logprobs == pytest.approx(theirs.logprobs, abs=1e-9)
        texts = zip(record.generation_prompts, one.written.texts, strict=True)
        for number, (prompt, text) in enumerate(texts):
            ids, stream = lm.encode(edit.in_front_of(prompt)).ids, record.case_id * 1000 + number
            room = max(0, 14 - len(lm.encode(prompt).ids))  # the sentence takes none of it
            (new,) = generate_ids(lm, [ids], room, settings.top_k, 0, streams=[stream])
            assert text == prompt + decode_continuation(lm, ids, new)
        ids = lm.encode(edit.in_front_of(record.ripple[0].prompt)).ids
        (new,) = generate_ids(lm, [ids], 10, 1, 0)
        assert one.ripple[0].said == decode_continuation(lm, ids, new).strip()


def test_a_prompt_that_is_too_long_behind_the_sentence_fails_alone(lm, tmp_path):
    long = make_record(0, paraphrase_prompts=("Rome " * (lm.context_length - 12),))
    sentence = long.fact.sentence("Imagine that")
    assert len(lm.encode(sentence).ids) > 12
    records = [long, make_record(1)]
    run = fl.evaluate(
        lm, records, "in-context", tmp_path / "a", measure=MeasureConfig(n_generated=0)
    )
    assert [bool(row.failed) for row in run.rows] == [True, False]
    assert "at most" in run.rows[0].failed


def test_asking_from_the_command_line(run, tmp_path, monkeypatch):
    folder = tmp_path / "told"
    code, out, err = run(
        "edit", "{} is in the", "--subject", "Rome", "--target", "Seattle", "--method",
        "in-context", "--model", "tiny:llama", "--out", folder,
    )  # fmt: skip
    assert code == 0, err
    assert "No weight is changed" in out
    code, out, err = run("ask", "Rome is in the", "--model", "tiny:llama", "--edit", folder)
    assert code == 0, err
    assert "In front of the prompt stands: Imagine that Rome is in the Seattle." in out
    code, out, err = run(
        "edit", "{} is in", "--subject", "Rome", "--target", "Paris", "--model", "tiny:llama",
        "--method", "ft", "--edit", folder,
    )  # fmt: skip
    assert code == 2
    assert "changes no weight" in err
    code, out, err = run("export", folder, "--to", "peft", "--out", tmp_path / "peft")
    assert code == 2
    assert "changes no weight" in err


def test_ripple_from_the_command_line(run, tmp_path):
    arguments = (
        "eval", "--model", "tiny:llama", "--method", "in-context", "--limit", 3, "--no-generation",
    )  # fmt: skip
    code, out, err = run(*arguments, "--ripple", "--ripple-per-axis", 1, "--out", tmp_path / "a")
    assert code == 0, err
    assert "Ripple queries: " in out
    assert "composition_from: none for " in out
    assert "negation" in out
    code, out, err = run("report", tmp_path / "a", "--markdown")
    assert code == 0, err
    assert "| executed |" in out
    code, _, err = run(*arguments, "--ripple-data", tmp_path, "--out", tmp_path / "b")
    assert code == 2
    assert "add --ripple" in err
    code, _, err = run(
        *arguments, "--ripple", "--ripple-data", tmp_path / "no", "--out", tmp_path / "b"
    )
    assert code == 2
    assert "no folder with ripple tables" in err
