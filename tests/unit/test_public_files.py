"""Public files of edits become records, and what does not fit is counted."""

import copy
import gzip
import json
from dataclasses import replace

import pytest
from public_samples import FILES, MQUAKE_CASE, QA, RIPPLE_EDITS, SAMPLE, UNIEDIT, WIKI, ZSRE

from factlab.data import json_lines, ripple_json
from factlab.data.json_fields import Fields
from factlab.data.json_lines import read_values
from factlab.data.layouts.uniedit import is_entry
from factlab.data.record_files import load_records, record_hash, save_records
from factlab.data.records import Record
from factlab.data.ripple_query import Condition, RippleQuery
from factlab.errors import InvalidRequestError, StorageError
from factlab.facts import Fact

LISTS = [name for name in FILES if name != "uniedit"]


def written(path, values):
    """One value or one entry on each line."""
    if isinstance(values, dict):
        rows = (f"{json.dumps(name)}: {json.dumps(one)}" for name, one in values.items())
        path.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, values)))
    else:
        path.write_text("[" + ",\n".join(map(json.dumps, values)) + "\n]")
    return path


@pytest.mark.parametrize("name", FILES)
def test_every_field_becomes_what_it_should(tmp_path, caplog, name):
    values, records, left_out = FILES[name]
    path = written(tmp_path / f"{name}.json", values)
    assert load_records(path) == records
    said = [message for message in caplog.messages if "left out" in message]
    assert said == ([f"Of '{path}' was left out: {left_out}."] if left_out else [])


@pytest.mark.parametrize("name", FILES)
def test_lines_packed_files_and_slices(tmp_path, name):
    values, records, _ = FILES[name]
    entries = [{key: one} for key, one in values.items()] if isinstance(values, dict) else values
    path = written(tmp_path / "x.jsonl", entries)
    assert load_records(path) == records
    packed = tmp_path / "x.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(values).encode()))
    assert load_records(packed, offset=1, limit=1) == records[1:2]


@pytest.mark.parametrize("name", FILES)
def test_what_is_read_can_be_written(tmp_path, name):
    records = FILES[name][1]
    save_records(records, tmp_path / "y.json")
    again = load_records(tmp_path / "y.json")
    assert again == records
    assert record_hash(again) == record_hash(records)


def test_what_was_read_before_the_limit_is_what_is_said(tmp_path, caplog):
    path = written(tmp_path / "x.json", [WIKI | {"target_new": ""}, ZSRE, WIKI])
    assert [record.case_id for record in load_records(path, limit=1)] == [1]
    assert caplog.messages[-1].endswith(
        "left out: 1 record without a new target (line 1, record 0)."
    )
    caplog.clear()
    path = written(tmp_path / "x.json", [WIKI | {"subject": "Rome"}] * 3)
    with pytest.raises(InvalidRequestError, match=r"x\.json' holds no records"):
        load_records(path)
    assert (
        "3 records whose subject is not in their prompt (first in line 1, record 0)" in caplog.text
    )


def changed(value, path, new):
    """A copy with one field replaced; `...` removes it."""
    value = copy.deepcopy(value)
    *outer, last = path.split(".")
    place = value
    for name in outer:
        place = place[int(name) if name.isdigit() and isinstance(place, list) else name]
    if new is ...:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = new
    return value


@pytest.mark.parametrize(
    ("value", "path", "new", "reason"),
    [
        (WIKI, "subject", ..., "record 0: field 'subject' is missing"),
        (WIKI, "target_new", 3, "record 0: target_new is 3, not a text"),
        (WIKI, "prompt", "", "record 0: prompt is empty"),
        (WIKI, "locality", [1], r"record 0: locality is \[1\], not a JSON object"),
        (WIKI, "portability.Reasoning", "x", r"portability\.Reasoning is 'x', not a list of objects"),
        (WIKI, "portability.Reasoning.0", 4, r"portability\.Reasoning\[0\] is 4, not a JSON object"),
        (WIKI, "portability.Reasoning.0.ground_truth", [["a"], [3]], r"Reasoning\[0\]\.ground_truth\[1\]\[0\] is 3, not a text"),
        (WIKI, "portability.Reasoning.0.ground_truth", [[["a"]]], r"ground_truth\[0\]\[0\] is \['a'\], not a text"),
        (WIKI, "portability.Reasoning.0.ground_truth", ..., r"field 'portability\.Reasoning\[0\]\.ground_truth' is missing"),
        (WIKI, "locality.Forgetfulness.0.prompt", 1, r"locality\.Forgetfulness\[0\]\.prompt is 1, not a text"),
        (MQUAKE_CASE, "case_id", ..., "field 'case_id' is missing"),
        (MQUAKE_CASE, "requested_rewrite", [], "record 5: requested_rewrite is empty"),
        (MQUAKE_CASE, "requested_rewrite.0", "x", r"record 5: requested_rewrite\[0\] is 'x', not a JSON object"),
        (MQUAKE_CASE, "requested_rewrite.0.subject", ..., r"record 5: field 'requested_rewrite\.subject' is missing"),
        (MQUAKE_CASE, "questions", [], "record 5: questions is missing or empty"),
        (MQUAKE_CASE, "questions", ["", "x"], r"record 5: questions\[0\] is empty"),
        (MQUAKE_CASE, "new_answer", None, "record 5: field 'new_answer' is missing"),
        (MQUAKE_CASE, "new_single_hops", ..., "record 5: field 'new_single_hops' is missing"),
        (MQUAKE_CASE, "new_single_hops.1.cloze", 1, r"record 5: new_single_hops\[1\]\.cloze is 1, not a text"),
        (RIPPLE_EDITS[0], "edit", [], r"record 0: edit is \[\], not a JSON object"),
        (RIPPLE_EDITS[0], "edit.relation", ..., r"record 0: field 'edit\.relation' is missing"),
        (RIPPLE_EDITS[0], "edit.original_fact.prompt", 2, r"edit\.original_fact\.prompt is 2, not a text"),
        (RIPPLE_EDITS[0], "Relation_Specificity", {}, r"Relation_Specificity is \{\}, not a list of objects"),
        (RIPPLE_EDITS[0], "Relation_Specificity.0.test_queries", ..., r"field 'Relation_Specificity\[0\]\.test_queries' is missing"),
        (RIPPLE_EDITS[0], "Relation_Specificity.0.test_queries.0.answers.0.value", 5, r"answers\[0\]\.value is 5, not a text"),
        (QA, "target", ["a"], r"record 0: target is \['a'\], not a text"),
        (QA, "locality", {"loc": 1}, "record 0: locality is .*, not a list of objects"),
        (QA, "locality.0.loc_ans", ..., r"record 0: field 'locality\[0\]\.loc_ans' is missing"),
        (SAMPLE, "edit.prompt", ..., r"record 0: field 'edit\.prompt' is missing"),
        (SAMPLE, "generality.0.paths", "x", "record 0: paths is 'x', not a list of lists"),
        (SAMPLE, "generality.0.paths", [], "record 0: generality without paths"),
        (SAMPLE, "generality.0", 3, r"record 0: generality\.0 is 3, not a JSON object"),
        (SAMPLE, "generality.5.single_path1", ..., r"field 'generality\.5\.single_path1' is missing"),
        (FILES["flat"][0][0], "prompt", 3, "record 7: prompt is 3, not a text"),
        (FILES["flat"][0][0], "case_id", "7", "case_id is '7', not a whole number"),
        (FILES["wiki_big_edit"][0][0], "update", "", "record 0: update is empty"),
        (FILES["wiki_big_edit"][0][0], "mhop", ["x"], r"record 0: mhop is \['x'\], not a text"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_record_and_field(tmp_path, value, path, new, reason):
    file = written(tmp_path / "x.json", [changed(value, path, new)])
    with pytest.raises(StorageError, match=f"Line 1 of .*{reason}"):
        load_records(file)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"relation_id": "P1", "target_id": "Q1", "samples": []}, "looks like reference texts"),
        ({"known_id": 1, "subject": "a", "attribute": "b"}, "looks like facts that a model knows"),
        ({"src": "a", "alt": "b", "pred": "c"}, "looks like examples to train another editor"),
        ({"success": [], "locality": []}, "looks like Sanitation of KnowEdit"),
        (
            {f"f{i}": i for i in range(99)},
            r"has the fields f0, .*f11, \.\.\.\. A CounterFact record",
        ),
        ([WIKI], "the first record is a list"),
        ({"edit": "x"}, "has the fields edit"),
    ],
)
def test_a_file_of_another_kind_is_told(tmp_path, value, reason):
    with pytest.raises(StorageError, match=reason):
        load_records(written(tmp_path / "x.json", [value]))


def test_a_file_holds_one_kind(tmp_path):
    path = written(tmp_path / "x.json", [ZSRE, QA])
    with pytest.raises(
        StorageError, match=r"Line 2 of .*: this is a record of QAEdit, and the first one is a rec"
    ):
        load_records(path)
    path = written(tmp_path / "x.json", [MQUAKE_CASE, MQUAKE_CASE])
    with pytest.raises(StorageError, match=r"Line 2 of .*: case_id 5 was used before: line 1\."):
        load_records(path)
    path = written(tmp_path / "x.json", [ZSRE, 7])
    with pytest.raises(StorageError, match=r"Line 2 of .*the value is 7, not a JSON object"):
        load_records(path)


def test_lists_in_lists_without_end_are_refused(tmp_path):
    deep = "[" * 900 + "]" * 900
    text = json.dumps(WIKI).replace('[["yes"], ["true"]]', deep)
    assert deep in text
    (tmp_path / "x.json").write_text(f"[{text}]")
    with pytest.raises(StorageError, match=r"ground_truth\[0\]\[0\] is \[\[.*\.\.\., not a text"):
        load_records(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("sentence", "relation", "stem", "subject", "target"),
    [
        ("The place of birth of the Duke of York is Moss.", "PLACE_OF_BIRTH", "The place of birth of {} is", "the Duke of York", "Moss"),
        ("The names of the siblings of Ada are Bo.", "SIBLING", "The names of the siblings of {} are", "Ada", "Bo"),
        ("The name of the director of This Is Us is Bo Dahl.", "DIRECTOR", "The name of the director of {} is", "This Is Us", "Bo Dahl"),
        ("The name of the country which Oslo is associated with is Chad.", "COUNTRY", "The name of the country which {} is associated with is", "Oslo", "Chad"),
        ("The name of the sports team which Bo is a member of is Lyn.", "MEMBER_OF_SPORTS_TEAM", "The name of the sports team which {} is a member of is", "Bo", "Lyn"),
        ("The name of the league which Lyn plays in is A.", "LEAGUE", "The name of the league which {} plays in is", "Lyn", "A"),
        ("The name of the position held by Bo is mayor of Moss.", "POSITION_HELD", "The name of the position held by {} is", "Bo", "mayor of Moss"),
        ("The name of the currency in Chad is krone.", "CURRENCY", "The name of the currency in {} is", "Chad", "krone"),
        ("The name of the award Bo won is Cup.", "AWARD_RECEIVED", "The name of the award {} won is", "Bo", "Cup"),
        ("The number of children Bo has is 3.", "NUMBER_OF_CHILDREN", "The number of children {} has is", "Bo", "3"),
        ("Book is followed by Book II.", "FOLLOWED_BY", "{} is followed by", "Book", "Book II"),
        ("Book II follows Book.", "FOLLOWS", "{} follows", "Book II", "Book"),
    ],
)  # fmt: skip
def test_sentences_of_ripple_edits(tmp_path, sentence, relation, stem, subject, target):
    value = changed(RIPPLE_EDITS[3], "edit.prompt", sentence)
    value["edit"]["relation"] = relation
    (record,) = load_records(written(tmp_path / "x.json", [value]))
    assert record.fact == Fact(stem, subject, target)
    assert (record.benchmark, record.relation_id) == ("zsre", relation)


def test_an_object_that_a_query_names_may_hold_any_word(tmp_path):
    value = changed(RIPPLE_EDITS[0], "edit.prompt", "The spouse of Ada Lie is What is Love.")
    query = value["Subject_Aliasing"][0]["test_queries"][0]
    query["answers"] = [{"value": "What is Love", "aliases": []}]
    del value["edit"]["original_fact"]
    (record,) = load_records(written(tmp_path / "x.json", [value]))
    assert record.fact == Fact("The spouse of {} is", "Ada Lie", "What is Love")


def test_a_local_file_of_multi_counterfact(tmp_path):
    case = {
        "case_id": 3, "pararel_idx": 9, "requested_rewrite": MQUAKE_CASE["requested_rewrite"][0],
        "paraphrase_prompts": ["It rained. Akerselva runs through"],
        "neighborhood_prompts": ["Alna flows through"], "attribute_prompts": [], "generation_prompts": [],
    }  # fmt: skip
    (record,) = load_records(written(tmp_path / "multi_counterfact.json", [case]))
    assert record.fact == Fact("{} flows through", "Akerselva", "Lyon", "Oslo")
    assert record.paraphrase_prompts == ("It rained. Akerselva runs through",)
    assert (record.case_id, record.benchmark, record.question_prompts) == (3, "counterfact", ())


# A file that is one object ------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
def test_entries_are_read_one_after_another(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_lines, "_CHUNK_BYTES", chunk)
    path = written(tmp_path / "x.json", UNIEDIT | {'"x" é': SAMPLE})
    found = list(read_values(path, is_entry))
    assert [(line, list(value)) for line, value in found] == [
        (2, ["12"]),
        (3, ["31"]),
        (4, ['"x" é']),
    ]
    assert found[1][1] == {"31": UNIEDIT["31"]}
    assert list(read_values(path)) == [(1, UNIEDIT | {'"x" é': SAMPLE})]
    lines = tmp_path / "x.jsonl"
    lines.write_text(json.dumps(SAMPLE) + "\n" + json.dumps(SAMPLE))
    assert list(read_values(lines, is_entry)) == [(1, SAMPLE), (2, SAMPLE)]
    for text in ("{}", '{"a": 1}\n{"b": 2}', "3 4", ""):
        lines.write_text(text)
        assert list(read_values(lines, is_entry)) == list(read_values(lines))


def test_names_that_are_no_numbers_are_numbered_by_their_place(tmp_path):
    path = written(tmp_path / "x.json", {"9" * 5000: SAMPLE, "art-7": SAMPLE, "12": SAMPLE})
    assert [record.case_id for record in load_records(path)] == [0, 1, 12]


def test_an_object_larger_than_a_value_may_be(tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, "_LONGEST_VALUE", 3 * len(json.dumps(SAMPLE)))
    monkeypatch.setattr(json_lines, "_CHUNK_BYTES", 1000)
    path = written(tmp_path / "x.json", {str(i): SAMPLE for i in range(40)})
    assert [record.case_id for record in load_records(path)] == [*range(40)]
    path.write_text(path.read_text()[:-2000])
    assert len(load_records(path, limit=30)) == 30, "no more is read than is wanted"
    with pytest.raises(StorageError, match=r"Line 41 of .* is not valid JSON"):
        load_records(path)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("", "an object of entries is not closed, lacks a comma"),
        ("} 3", "is followed by something else"),
        (' "b": {}}', "lacks a comma"),
        (', 3: {}}', "an entry begins with a name"),
        (', "b" {}}', "an entry begins with a name"),
        (', "b": }', "not valid JSON"),
        (f', "a": {json.dumps(SAMPLE)}}}', ""),
    ],
)  # fmt: skip
def test_objects_that_are_broken(tmp_path, end, reason):
    path = tmp_path / "x.json"
    path.write_text(f'{{"a": {json.dumps(SAMPLE)}' + end)
    if not reason:  # the same name again is another sample, numbered by its place
        assert [record.case_id for record in load_records(path)] == [0, 1]
        return
    with pytest.raises(StorageError, match=f"Line 1 of .*{reason}"):
        load_records(path)


# What our own layout adds -------------------------------------------------------------------------

FULL = Record(
    case_id=4,
    fact=Fact("{} is in", "Moss", "Troms", "Viken"),
    neighborhood_prompts=["Oslo is in"],
    neighborhood_answers=["Norway"],
    question_prompts=["Where is Moss?"],
    new_aliases=["Troms county"],
    ripple=[
        RippleQuery(
            axis="choice",
            prompt="Moss is in",
            answers=["Troms"],
            old_answers=["Viken"],
            others=["Viken", "Agder"],
            manner="prefer",
            conditions=[
                Condition("Troms is in", ["Norway", "the north"]),
                Condition("Agder is in", ["Norway"], ["Sweden", "Denmark"]),
            ],
            needs="any",
        )
    ],
)


@pytest.mark.parametrize(
    "record",
    [
        FULL,
        replace(FULL, benchmark="zsre"),
        Record(case_id=0, fact=Fact("{} is in", "Moss", "Troms")),
        Record(case_id=0, fact=Fact("Who wrote Peer Gynt? Answer:", "", "Bo")),
    ],
)
def test_records_round_trip_with_all_they_have(tmp_path, record):
    save_records([record], tmp_path / "x.json")
    assert load_records(tmp_path / "x.json") == [record]


def test_the_published_layout_is_written_as_it_was(tmp_path):
    plain = replace(FULL, neighborhood_answers=(), question_prompts=(), new_aliases=(), ripple=())
    save_records([plain], tmp_path / "x.json")
    (value,) = json.loads((tmp_path / "x.json").read_text())
    assert list(value) == [
        "case_id", "requested_rewrite", "paraphrase_prompts", "neighborhood_prompts",
        "attribute_prompts", "generation_prompts",
    ]  # fmt: skip
    save_records([FULL], tmp_path / "x.json")
    (value,) = json.loads((tmp_path / "x.json").read_text())
    assert "benchmark" not in value
    assert value["ripple"][0]["conditions"] == [
        {"prompt": "Troms is in", "answers": ["Norway", "the north"]},
        {"prompt": "Agder is in", "answers": ["Norway"], "others": ["Sweden", "Denmark"]},
    ]


def test_a_record_that_would_not_come_back_is_refused(tmp_path):
    for wrong in (
        replace(FULL, neighborhood_answers=["a", "b"]),
        replace(FULL, fact=Fact("{} is in", "Moss", "Troms", "Troms")),
        replace(FULL, fact=Fact("{} is in", "Moss")),
    ):
        with pytest.raises(InvalidRequestError, match="Record 4 would not be read back as it is"):
            save_records([wrong], tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ripple": "x"}, "record 4: ripple is 'x', not a list of objects"),
        ({"ripple": [{"axis": "alais", "prompt": "a", "answers": ["b"]}]}, r"ripple\[0\]\.axis is 'alais', none of .*Did you mean 'alias'\?"),
        ({"ripple": [{"axis": "alias", "prompt": "a", "answers": ["b"], "manner": "sing"}]}, r"ripple\[0\]\.manner is 'sing', none of say"),
        ({"ripple": [{"axis": "alias", "prompt": "a", "answers": []}]}, "record 4: A query of axis alias has no answer"),
        ({"ripple": [{"axis": "alias", "prompt": "a", "answers": ["b"], "conditions": [{"prompt": ""}]}]}, r"ripple\[0\]\.conditions\[0\]\.prompt is empty"),
        ({"benchmark": "zsRE"}, "record 4: benchmark is 'zsRE', none of counterfact, zsre"),
        ({"new_aliases": [3]}, r"record 4: new_aliases\[0\] is 3, not a text"),
        ({"neighborhood_answers": ["a", "b"]}, "record 4: neighborhood_answers are 2, for 1 neighborhood prompt"),
    ],
)  # fmt: skip
def test_what_was_added_is_checked(tmp_path, change, reason):
    save_records([FULL], tmp_path / "x.json")
    (value,) = json.loads((tmp_path / "x.json").read_text())
    with pytest.raises(StorageError, match=reason):
        load_records(written(tmp_path / "x.json", [value | change]))


def test_a_query_is_written_without_what_it_has_by_default():
    query = RippleQuery(axis="alias", prompt="a", answers=["b"])
    value = ripple_json.to_json(query)
    assert value == {"axis": "alias", "prompt": "a", "answers": ["b"]}
    assert ripple_json.from_json(Fields(value, "here")) == query


# The command line ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_public_file_is_shown_and_evaluated(run, tmp_path, name):
    values, records, left_out = FILES[name]
    path = written(tmp_path / f"{name}.json", values)
    code, out, err = run("data", "show", path)
    assert code == 0, err
    first = records[0]
    for text in (first.fact.subject, first.fact.target_new, *first.question_prompts[:1]):
        assert text in out
    if first.ripple:
        assert f"{first.ripple[0].axis}: " in out
    code, out, err = run(
        "eval", "--data", path, "--model", "tiny:gpt2", "--method", "ft", "--layer", 1,
        "--set", "steps=1", "--no-generation", "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert left_out in " ".join(err.split())
    (table,) = json.loads(out)["tables"]
    assert [row["n"] for row in table["rows"]] == [len(records)] * 2


def test_questions_and_ripple_queries_are_counted(run, tmp_path):
    path = written(tmp_path / "x.json", FILES["mquake"][0])
    code, out, err = run("data", "stats", path, "--json")
    assert code == 0, err
    found = {item["item"]: item["total"] for item in json.loads(out)["items"]}
    assert (found["records"], found["question prompts"], found["ripple queries"]) == (2, 2, 2)
    assert "ripple queries" not in run("data", "stats", "builtin", "--limit", "3")[1]
