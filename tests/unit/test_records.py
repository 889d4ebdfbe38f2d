import copy
import gzip
import json

import jaxtyping
import pytest

from factlab.data import counterfact, json_lines, zsre
from factlab.data.json_lines import read_values
from factlab.data.records import Record, as_records
from factlab.errors import InvalidRequestError, StorageError
from factlab.facts import Fact

WHERE = "Line 3 of 'x.json'"

CASE = {
    "case_id": 7,
    "pararel_idx": 12,
    "requested_rewrite": {
        "prompt": "{}, a citizen of",
        "relation_id": "P27",
        "target_new": {"str": "Belgium", "id": "Q31"},
        "target_true": {"str": "Switzerland", "id": "Q39"},
        "subject": "Saussure",
    },
    "paraphrase_prompts": ["It rained. Saussure, who is from"],
    "neighborhood_prompts": ["Hohl is from", "Schaff is from"],
    "attribute_prompts": ["Poirot is from"],
    "generation_prompts": ["Saussure lives in", "Saussure lives in"],
}

QUESTION = {
    "subject": "Humphrey",
    "src": "Where did Humphrey study?",
    "pred": "Trinity College",
    "rephrase": "At which university was Humphrey?",
    "alt": "Michigan",
    "answers": ["Illinois", "Chicago"],
    "loc": "nq question: who sang nice day",
    "loc_ans": "Billy Idol",
    "cond": "...",
}


def changed(path, value):
    """`CASE` with one field replaced; None removes it."""
    case = copy.deepcopy(CASE)
    *outer, last = path.split(".")
    place = case
    for name in outer:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return case


def test_counterfact():
    record = counterfact.from_json(CASE, WHERE)
    assert record.case_id == 7
    assert record.benchmark == "counterfact"
    assert record.fact.prompt == "Saussure, a citizen of"
    assert (record.fact.target_new, record.new_id) == ("Belgium", "Q31")
    assert (record.fact.target_true, record.true_id) == ("Switzerland", "Q39")
    assert record.neighborhood_prompts == ("Hohl is from", "Schaff is from")
    assert record.neighborhood_answers == ()
    assert len(record.generation_prompts) == 2
    written = json.loads(json.dumps(counterfact.to_json(record)))
    assert written == {k: v for k, v in CASE.items() if k != "pararel_idx"}
    assert counterfact.from_json(written, WHERE) == record


def test_counterfact_with_less():
    case = {k: CASE[k] for k in ("case_id", "requested_rewrite")}
    rewrite = dict(case["requested_rewrite"])
    rewrite["entity"] = rewrite.pop("subject")
    rewrite["target_new"] = {"str": "Belgium"}
    record = counterfact.from_json(case | {"requested_rewrite": rewrite}, WHERE)
    assert record.fact.subject == "Saussure"
    assert record.new_id == ""
    assert record.neighborhood_prompts == record.paraphrase_prompts == ()


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("case_id", None, r"Line 3 of 'x\.json': field 'case_id' is missing"),
        ("case_id", "7", "case_id is '7', not a whole number"),
        ("case_id", True, "case_id is True, not a whole number"),
        ("case_id", -1, "case_id is -1"),
        ("requested_rewrite", None, "record 7: field 'requested_rewrite' is missing. Fields there"),
        ("requested_rewrite", [1], r"record 7: requested_rewrite is \[1\], not a JSON object"),
        ("requested_rewrite.subject", None, "field 'requested_rewrite.subject' is missing"),
        ("requested_rewrite.subject", "", "requested_rewrite.subject is empty"),
        ("requested_rewrite.prompt", "a citizen of", "requested_rewrite.prompt: .*holds 0"),
        ("requested_rewrite.prompt", "{} and {}", "requested_rewrite.prompt: .*holds 2"),
        ("requested_rewrite.target_new", "Rome", "requested_rewrite.target_new is 'Rome', not a JSON object"),
        ("requested_rewrite.target_new.str", 3, "requested_rewrite.target_new.str is 3, not a text"),
        ("requested_rewrite.target_new.str", "Switzerland", "target_true.str are both 'Switzerland'. The new target must differ"),
        ("requested_rewrite.target_true.id", 3, "requested_rewrite.target_true.id is 3, not a text"),
        ("paraphrase_prompts", "x", "paraphrase_prompts is 'x', not a list of texts"),
        ("neighborhood_prompts", ["a", ""], r"neighborhood_prompts\[1\] is empty"),
        ("generation_prompts", [{"a": "b" * 90}], r"generation_prompts\[0\] is .*\.\.\., not a text"),
    ],
)  # fmt: skip
def test_counterfact_that_is_wrong(path, value, reason):
    with pytest.raises(StorageError, match=reason):
        counterfact.from_json(changed(path, value), WHERE)


def test_a_record_is_an_object():
    for layout in (counterfact, zsre):
        with pytest.raises(StorageError, match=r"Line 3 .*the value is 'x', not a JSON object"):
            layout.from_json("x", WHERE)


def test_zsre():
    record = zsre.from_json(QUESTION, WHERE, index=4)
    assert (record.case_id, record.benchmark, record.relation_id) == (4, "zsre", "")
    assert record.fact.template == "Where did {} study?"
    assert (record.fact.target_new, record.fact.target_true) == ("Illinois", None)
    assert record.paraphrase_prompts == ("At which university was Humphrey?",)
    assert record.neighborhood_prompts == ("nq question: who sang nice day?",)
    assert record.neighborhood_answers == ("Billy Idol",)
    written = zsre.to_json(record)
    assert written["loc"] == QUESTION["loc"]
    assert zsre.from_json(written, WHERE) == record


def test_zsre_the_question_mark_is_there_once_and_the_first_subject_is_meant():
    record = zsre.from_json(
        QUESTION | {"loc": "nq question: who?", "src": "Is Humphrey Humphrey?"}, WHERE
    )
    assert record.neighborhood_prompts == ("nq question: who?",)
    assert record.fact.template == "Is {} Humphrey?"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"src": None}, "record 4: field 'src' is missing"),
        ({"subject": "Watson"}, "record 4: subject or src: Subject 'Watson' does not occur"),
        ({"answers": []}, "record 4: answers is missing or empty"),
        ({"answers": [""]}, r"answers\[0\] is empty"),
        ({"answers": "Illinois"}, "answers is 'Illinois', not a list"),
        ({"loc": ""}, "loc is empty"),
        ({"loc_ans": 16}, "loc_ans is 16, not a text"),
        ({"src": "Does \ud800 like Humphrey?"}, "src holds U\\+D800 at character 6"),
    ],
)
def test_zsre_that_is_wrong(change, reason):
    with pytest.raises(StorageError, match=reason):
        zsre.from_json(QUESTION | change, WHERE, index=4)


def test_a_question_with_braces():
    question = QUESTION | {"src": "Does Humphrey like {} and {x}?", "subject": "Humphrey"}
    record = zsre.from_json(question, WHERE)
    assert record.fact.prompt == question["src"]
    assert zsre.to_json(record)["src"] == question["src"]


def test_zsre_needs_one_of_each():
    record = counterfact.from_json(CASE, WHERE)
    with pytest.raises(InvalidRequestError, match="Record 7 has 1 paraphrases, 2 unrelated"):
        zsre.to_json(record)


# Reading piece by piece ---------------------------------------------------------------------------

VALUES = [
    {"a": "x" * 40, "b": [1, 2.5e-3, None, True], "ü\n": 'quo"te \\ \u2028'},
    -12.5e10,
    "text",
    [],
    {},
    False,
    1234567890,
    {"nested": [{"deep": [[["é"]]]}]},
]


@pytest.fixture(params=[1, 2, 3, 7, 1 << 16])
def chunk(request, monkeypatch):
    monkeypatch.setattr(json_lines, "_CHUNK_BYTES", request.param)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("as_array", [False, True])
def test_pieces_of_any_size_give_the_same_values_and_lines(tmp_path, chunk, as_array, zipped):
    rows = [json.dumps(value, ensure_ascii=i % 2 == 0) for i, value in enumerate(VALUES)]
    text = "\ufeff[\n" + ",\n\n".join(rows) + "\n]\n" if as_array else "\n\n".join(rows)
    path = tmp_path / ("x.json.gz" if zipped else "x.json")
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    first = 2 if as_array else 1
    assert list(read_values(path)) == [(first + 2 * i, v) for i, v in enumerate(VALUES)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[\n{"a": 1},\n{"a": tru}\n]', "Line 3 of .*not valid JSON: Expecting value: line 3 column 7"),
        ('[{"a": 1},\n{"a": "b\nc"}]', "Line 2 of .*not valid JSON: Invalid control character.*line 2 column 9"),
        ('[\n{"a": 1},\n{"a": "open', "Line 3 of .*not valid JSON: Unterminated string"),
        ("[1\n 2]", "Line 2 of .*not closed or lacks a comma"),
        ("[1,\n2", "Line 2 of .*not closed"),
        ("[1,\n2] 3", "Line 2 of .*ends with ']' and nothing else"),
        ("[1,\n", "Line 2 of .*ends with ']'"),
        ("[" * 100_000, "not valid JSON"),
    ],
)  # fmt: skip
def test_broken_json_is_named_by_line(tmp_path, chunk, text, reason):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(StorageError, match=reason):
        list(read_values(path))


def test_what_is_read_before_a_mistake_is_given_out(tmp_path, chunk):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": "\xc3\xbc"}\n"\xff"\n')
    found = []
    with pytest.raises(StorageError, match=r"Line 3 of .* is not UTF-8 \(byte 0xff\)"):
        found.extend(value for _, value in read_values(path))
    assert found in ([], [{"a": 1}], [{"a": 1}, {"b": "ü"}])


def test_a_file_is_not_read_whole(tmp_path, monkeypatch):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n' * 50_000)
    longest = 0
    real = json_lines._Text._go_on

    def watched(self):
        nonlocal longest
        real(self)
        longest = max(longest, len(self._read))

    monkeypatch.setattr(json_lines._Text, "_go_on", watched)
    assert sum(1 for _ in read_values(path)) == 50_000
    assert longest < 2 * json_lines._CHUNK_BYTES


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_damaged_gz(tmp_path, damage):
    path = tmp_path / "x.json.gz"
    data = gzip.compress(json.dumps(["x" * 1000]).encode())
    path.write_bytes(data[:-10] if damage == "cut" else b"[1]")
    with pytest.raises(StorageError, match=r"Cannot read .*x\.json\.gz': .* complete"):
        list(read_values(path))


# -- made by hand ---------------------------------------------------------------------------------

FACT = Fact("{} is in", "The Louvre", "Rome", "Paris")


def test_a_record_needs_no_more_than_its_fact():
    record = Record(fact=FACT, paraphrase_prompts=["Visit the Louvre in"])
    assert (record.benchmark, record.relation_id, record.neighborhood_prompts) == (
        "counterfact", "", ()
    )  # fmt: skip
    assert record.paraphrase_prompts == ("Visit the Louvre in",)
    assert hash(record) == hash(Record(fact=FACT, paraphrase_prompts=("Visit the Louvre in",)))


def test_facts_and_records_without_a_number_are_numbered_by_their_place(monkeypatch):
    given = [FACT, Record(fact=FACT), Record(fact=FACT, case_id=7)]
    assert as_records(given) == [Record(fact=FACT, case_id=i) for i in (0, 1, 7)]
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InvalidRequestError, match="Number 1 of the records is a str"):
        as_records([FACT, "The Louvre"])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"fact": "The Louvre is in"}, "fact of a record is a str"),
        (
            {"paraphrase_prompts": "Where?"},
            r"paraphrase_prompts are a single text, 'Where\?', not a list",
        ),
        ({"neighborhood_prompts": None}, "neighborhood_prompts are a NoneType, not a list"),
        (
            {"generation_prompts": [3]},
            "text number 1 of the generation_prompts is 3, of type int, not a text",
        ),
    ],
)
def test_records_that_cannot_be(fields, reason, monkeypatch):
    # A user's program runs without the checks of types that tests run with.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InvalidRequestError, match=reason):
        Record(**({"fact": FACT} | fields))
