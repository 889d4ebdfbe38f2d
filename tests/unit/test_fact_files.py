import json
from pathlib import Path

import pytest

from factlab.data.fact_files import check_conflicts, load_fact_records, load_facts, save_facts
from factlab.data.record_files import load_records
from factlab.data.records import Record
from factlab.errors import InvalidRequestError, StorageError
from factlab.facts import Fact

FACTS = [
    Fact("{} is in", "The Louvre", "Rome", "Paris"),
    Fact("{} is in", 'Café "X", Oslo', target_true="Oslo"),
    Fact("The mother tongue of {} is", "Zidane", "Dutch"),
    Fact("{} was born in", "Zidane"),
]

TOML = """\
# four facts
[[fact]]
template = "{} is in"
subject = "The Louvre"
target_new = "Rome"
target_true = "Paris"

[[fact]]
template = "{} is in"
subject = 'Café "X", Oslo'
target_new = ""
target_true = "Oslo"
[[ fact ]]
template = "The mother tongue of {} is"
subject = "Zidane"
target_new = "Dutch"
[[fact]]
template = "{} was born in"
subject = "Zidane"
"""

CSV = """\
subject,template,target_true,target_new
The Louvre,{} is in,Paris,Rome
"Café ""X"", Oslo", {} is in,Oslo,

Zidane,The mother tongue of {} is,,Dutch
,,,
Zidane,{} was born in, ,
"""

ROWS = [
    {"template": "{} is in", "subject": "The Louvre", "target_new": "Rome", "target_true": "Paris"},
    {"template": "{} is in", "subject": 'Café "X", Oslo', "target_new": None, "target_true": "Oslo"},
    {"template": "The mother tongue of {} is", "subject": "Zidane", "target_new": "Dutch"},
    {"template": "{} was born in", "subject": "Zidane", "target_new": ""},
]  # fmt: skip

TEXTS = {
    "f.toml": TOML,
    "f.csv": CSV,
    "f.CSV": CSV.replace("\n", "\r\n"),
    "f.tsv": 'subject\ttemplate\ttarget_true\ttarget_new\nThe Louvre\t{} is in\tParis\tRome\n"Café ""X"", Oslo"\t{} is in\tOslo\t\n'
    "Zidane\tThe mother tongue of {} is\t\tDutch\nZidane\t{} was born in\t\t\n",
    "f.json": json.dumps(ROWS, indent=1),
    "f.jsonl": "\n".join(json.dumps(row) for row in ROWS),
}


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("name", TEXTS)
def test_every_kind_of_file_gives_the_same_facts(tmp_path, name, encoding):
    assert load_facts(write(tmp_path / name, TEXTS[name], encoding)) == FACTS
    assert load_facts(str(tmp_path / name)) == FACTS


def test_optional_columns_may_be_left_out(tmp_path):
    assert load_facts(write(tmp_path / "f.csv", "template,subject\n{} is,Rome")) == [Fact("{} is", "Rome")]  # fmt: skip


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_facts_round_trip(tmp_path, suffix):
    odd = [Fact(" {}\r\nis, in ", ' "\tRome\n', " ,x", "ü\u2028"), Fact("a\rb {}", "{}", None, '"')]
    path = tmp_path / f"new/f{suffix}"
    save_facts(FACTS + odd, path)
    assert load_facts(path) == FACTS + odd
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_could_not_be_read_back_is_not_written(tmp_path):
    path = write(tmp_path / "f.csv", CSV)
    with pytest.raises(StorageError, match="no facts"):
        save_facts([], path)
    with pytest.raises(StorageError, match=r"Fact 2 of .* target_new of fact 1\. Remove"):
        save_facts([FACTS[0], FACTS[0]], path)
    with pytest.raises(StorageError, match=r"f\.toml' is of no known kind: .* \.jsonl or \.csv\.$"):
        save_facts(FACTS, tmp_path / "f.toml")
    assert load_facts(path) == FACTS


def document(suffix, rows):
    """The rows as a file of this kind, and the line on which the last one begins."""
    if suffix == ".toml":
        tables = ["".join(f"{k} = {json.dumps(v)}\n" for k, v in row.items()) for row in rows]
        text = "".join(f"[[fact]]\n{table}" for table in tables)
        return text, text[: text.rindex("[[fact]]")].count("\n") + 1
    if suffix == ".json":
        return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", len(rows) + 1
    if suffix == ".jsonl":
        return "\n".join(json.dumps(row) for row in rows) + "\n", len(rows)
    delimiter = "," if suffix == ".csv" else "\t"
    table = [rows[0].keys(), *(row.values() for row in rows)]
    return "\n".join(delimiter.join(cells) for cells in table) + "\n", len(rows) + 1


@pytest.mark.parametrize("suffix", [".toml", ".json", ".jsonl", ".csv", ".tsv"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"template": "It is in"}, r"Template 'It is in' holds 0 '\{\}'"),
        ({"template": " "}, "template is missing or empty"),
        ({"subject": ""}, "subject is missing or empty"),
        ({}, "has the template, subject and target_new of line [12]"),
    ],
)
def test_the_line_of_a_bad_fact_is_named(tmp_path, suffix, change, reason):
    row = {"template": "{} is in", "subject": "Rome", "target_new": "Peru"}
    text, line = document(suffix, [row, row | {"subject": "Oslo"}, row | change])
    with pytest.raises(StorageError, match=f"Line {line} of '.*{suffix}'") as caught:
        load_facts(write(tmp_path / f"f{suffix}", text))
    assert caught.match(reason)


@pytest.mark.parametrize("suffix", [".toml", ".json", ".jsonl"])
@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"template": "{} is", "subject": "Oslo", "target": "x"}, r"'target' is none of .*Did you mean 'target_\w+'\?"),
        ({"template": "{} is"}, "subject is missing"),
        ({"template": "{} is", "subject": 7}, "subject is 7, not a text"),
    ],
)  # fmt: skip
def test_fields_are_checked(tmp_path, suffix, row, reason):
    text, line = document(suffix, [{"template": "{} is", "subject": "Rome"}, row])
    with pytest.raises(StorageError, match=f"Line {line} of .*: .*{reason}"):
        load_facts(write(tmp_path / f"f{suffix}", text))


def test_the_same_subject_or_template_may_come_again(tmp_path):
    text = "template,subject,target_new\n{} is,Rome,a\n{} is,Rome,b\n{} is,Rome,\n{} is,Oslo,a\n{} was,Rome,a\n"
    assert len(load_facts(write(tmp_path / "f.csv", text))) == 5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("template,subjet\n{} is,Rome\n", "columns template, subjet.*Did you mean 'subject'"),
        ("template,target_new\n{} is,Rome\n", "Line 2 of .*subject is missing or empty"),
        ("template;subject\n{} is;Rome\n", "with commas between"),
        ("template,subject,subject\n{} is,Rome,\n", "each once"),
        ("template,subject\n{} is,Rome,Italy\n", "Line 2 of .* has 3 cells for 2 columns"),
        ("template,subject\n{} is\n", "Line 2 of .* has 1 cell for 2 columns"),
        ('template,subject\n{} is,Rome\n"{} is,Oslo\n\n\n', "Line 3 of .*unexpected end of data"),
        ('template,subject\n{} is,Rome\n"{}" is,Oslo\n\n\n', "Line 3 of .*quotes"),
        ('template,subject\n"{}\nis\n",Rome\n{,Oslo\n', "Line 5 of .*holds 0"),
        ("template,subject\n", "no facts in"),
        ("", "no facts in"),
    ],
)
def test_tables_that_are_not_facts(tmp_path, text, reason):
    with pytest.raises(StorageError, match=reason):
        load_facts(write(tmp_path / "f.csv", text))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[[fact]]\ntemplate = "{} is\n', r"not valid TOML: .*line 2"),
        ('[fact]\ntemplate = "{} is"\n', "has fact outside of a list"),
        ('[[facts]]\ntemplate = "{} is"\n', r"has facts outside of a list.*line \[\[fact\]\]"),
        ("fact = [3]\n", "Fact 1 of .*: a fact has named fields; this is a int"),
        ('fact = [{subject = "Rome", template = "{} is"}, {subject = "Oslo", template = "is"}]', "Fact 2 of"),
        ('[[fact]]\nsubject = "Rome"\ntemplate = """\n[[fact]]"""\n', "Fact 1 of"),
        ("", "no facts in"),
    ],
)  # fmt: skip
def test_toml_that_is_not_facts(tmp_path, text, reason):
    with pytest.raises(StorageError, match=reason):
        load_facts(write(tmp_path / "f.toml", text))


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_json_that_is_not_facts(tmp_path, suffix):
    path = tmp_path / f"f{suffix}"
    good = json.dumps(ROWS[0])
    for text, reason in (
        (f"[\n{good},\n{{oops}}]", r"Line 3 of .* is not valid JSON"),
        (f"[\n{good}\n", "Line 3 of .*not closed"),
        (f"{good}\n[]", "Line 2 of .*: a fact has named fields; this is a list"),
        ("", "no facts in"),
        ("[]", "no facts in"),
    ):
        with pytest.raises(StorageError, match=reason):
            load_facts(write(path, text))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(
        StorageError, match=r"f\.yml' is of no known kind: .* \.toml, .*\.csv or \.tsv"
    ):
        load_facts(tmp_path / "f.yml")
    for suffix in (".toml", ".json", ".jsonl", ".csv", ".tsv"):
        path = tmp_path / f"f{suffix}"
        with pytest.raises(StorageError, match="Cannot read"):
            load_facts(path)
        path.write_bytes(b"template\n\xff\n")
        with pytest.raises(StorageError, match=r"Line 2 of .* is not UTF-8"):
            load_facts(path)


def test_facts_that_go_together():
    check_conflicts([])
    check_conflicts([*FACTS, Fact("{} is in", "The Louvre"), Fact("{} is in", "Rome", "Rome")])


def test_conflicts_are_listed():
    with pytest.raises(InvalidRequestError) as caught:
        check_conflicts([FACTS[0], FACTS[2], Fact("{} is in", "The Louvre", "Oslo"), FACTS[2]])
    assert str(caught.value) == (
        "Conflicts between facts: 2 (facts 1, 3: 'The Louvre is in' should become 'Rome' and 'Oslo'; "
        "facts 2, 4: 'The mother tongue of Zidane is' is given more than once). "
        "Keep one fact for each template and subject."
    )


def test_five_conflicts_are_shown():
    for n in (5, 7):
        facts = [Fact("{} is", f"S{i}", target) for i in range(n) for target in "ab"]
        with pytest.raises(InvalidRequestError, match=f"facts: {n} ") as caught:
            check_conflicts(facts)
        assert str(caught.value).count("should become") == 5
        assert ("and 2 more" in str(caught.value)) == (n == 7)


def test_a_fact_given_twice_is_refused_whatever_was_true():
    with pytest.raises(InvalidRequestError, match="more than once"):
        check_conflicts([FACTS[0], Fact("{} is in", "The Louvre", "Rome")])
    with pytest.raises(InvalidRequestError, match="more than once"):
        check_conflicts([FACTS[3], FACTS[3]])


# -- prompts beside the facts ---------------------------------------------------------------------

LOUVRE = Record(
    fact=FACTS[0],
    case_id=0,
    relation_id="P131",
    paraphrase_prompts=("To see The Louvre, go to", "Where is it? In"),
    neighborhood_prompts=("Notre-Dame is in",),
    generation_prompts=("The Louvre has",),
)
BARE = Record(fact=FACTS[3], case_id=1)
PROMPTED = {
    "f.csv": """\
template,subject,target_new,target_true,relation,paraphrase_1,paraphrase_2,neighborhood,generation_1
{} is in,The Louvre,Rome,Paris,P131,"To see {}, go to",Where is it? In,Notre-Dame is in,{} has
{} was born in,Zidane,,,,,,,
""",
    "f.json": json.dumps([
        {"template": "{} is in", "subject": "The Louvre", "target_new": "Rome",
         "target_true": "Paris", "relation": "P131", "generation_prompts": ["{} has"],
         "paraphrase_prompts": ["To see {}, go to", "Where is it? In"],
         "neighborhood_prompts": ["Notre-Dame is in"]},
        {"template": "{} was born in", "subject": "Zidane"},
    ]),
    "f.toml": """\
[[fact]]
template = "{} is in"
subject = "The Louvre"
target_new = "Rome"
target_true = "Paris"
relation = "P131"
paraphrase_prompts = ["To see {}, go to", "Where is it? In"]
neighborhood_prompts = ["Notre-Dame is in"]
generation_prompts = "{} has"
[[fact]]
template = "{} was born in"
subject = "Zidane"
""",
}  # fmt: skip


@pytest.mark.parametrize("name", PROMPTED)
def test_prompts_beside_facts_make_records(tmp_path, name):
    path = write(tmp_path / name, PROMPTED[name])
    assert load_fact_records(path) == [LOUVRE, BARE]
    assert load_records(path) == [LOUVRE, BARE]
    assert load_records(str(path), offset=1) == [BARE]
    assert load_facts(path) == [FACTS[0], FACTS[3]]


def test_the_example_of_the_documentation():
    path = Path(__file__).parents[2] / "examples" / "facts.csv"
    records = load_records(path)
    assert len(records) == 5
    for record in records:
        assert record.fact.target_new
        assert record.fact.target_true
        assert len(record.paraphrase_prompts) == len(record.neighborhood_prompts) == 2
        assert all(record.fact.subject in prompt for prompt in record.paraphrase_prompts)
        assert not any(record.fact.subject in prompt for prompt in record.neighborhood_prompts)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("template,subject,paraphrases\n{} is,Rome,x", r"names .* paraphrase_1.*mean 'paraphrase'"),
        ("template,subject,neighborhood_1\n{} is,Rome,{} was", "Write out the other subject"),
        ("template,subject,paraphrase_1\n{} is,Rome,{} and {}", "Line 2 of .*2 '{}'"),
        ("template,subject,relation\n{} is,Rome,P1\n{} is,Rome,P2", "of line 2. Remove one"),
    ],
)
def test_prompts_that_are_wrong(tmp_path, text, reason):
    path = write(tmp_path / "f.csv", text)
    for load in (load_facts, load_records):
        with pytest.raises(StorageError, match=reason):
            load(path)


def test_prompts_that_are_no_texts(tmp_path):
    row = {"template": "{} is", "subject": "Rome", "paraphrase_prompts": [1]}
    path = write(tmp_path / "f.json", json.dumps([row]))
    with pytest.raises(StorageError, match="paraphrase_prompts holds 1, not a text"):
        load_records(path)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".toml"])
def test_fields_of_ones_own_are_not_used_and_that_is_said(tmp_path, caplog, suffix):
    names = ["ID", "Template", "Subject", "Target New", "comment", "joint"]
    cells = ["7", "{} is in", "Rome", "Italy", "look it up", "none"]
    row = dict(zip(names, cells, strict=True))
    lines = {
        ".csv": [",".join(names), ",".join(cells)],
        ".tsv": ["\t".join(names), "\t".join(cells)],
        ".jsonl": [json.dumps(row)],
        ".toml": ["[[fact]]", *(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in row.items())],
    }
    (fact,) = load_facts(write(tmp_path / f"f{suffix}", "\n".join(lines[suffix])))
    assert fact == Fact("{} is in", "Rome", "Italy", joint="none")
    assert "these fields are not used: ID, comment." in caplog.text
    assert caplog.text.count("not used") == 1


def test_a_joint_that_is_none(tmp_path):
    text = "template,subject,target_new,joint\n{} is,Rome,x,tight\n"
    with pytest.raises(StorageError, match=r"Line 2 of .*joint='tight' must be 'space'"):
        load_facts(write(tmp_path / "f.csv", text))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_how_targets_are_joined_is_saved(tmp_path, suffix):
    facts = [Fact("{} is", "Rome", "x", joint="none"), Fact("{} was", "Rome", "x", joint="space")]
    save_facts(facts, tmp_path / f"f{suffix}")
    assert load_facts(tmp_path / f"f{suffix}") == facts


def test_code_in_a_table(tmp_path):
    text = 'template,subject,target_new\n"In {}, x = {{}} makes a",Python,dict\n'
    (fact,) = load_facts(write(tmp_path / "f.csv", text))
    assert fact.prompt == "In Python, x = {} makes a"


def test_outer_spaces_make_no_other_fact(tmp_path):
    facts = [Fact("{} is in", "Rome", "Italy"), Fact("{} is in ", " Rome", "France")]
    with pytest.raises(InvalidRequestError, match=r"facts 1, 2: .* become 'Italy' and 'France'"):
        check_conflicts(facts)
    with pytest.raises(InvalidRequestError, match="given more than once"):
        check_conflicts([facts[0], Fact(" {} is in", "Rome", " Italy ")])
    text = 'template,subject,target_new\n{} is,Rome,a\n"{} is ",Rome," a"\n'
    with pytest.raises(StorageError, match=r"Line 3 .* of line 2"):
        load_facts(write(tmp_path / "f.csv", text))


def test_questions_and_other_names_of_the_target(tmp_path):
    path = tmp_path / "facts.csv"
    path.write_text(
        "template,subject,target_new,question_1,question_2,new_alias_1,new_alias_2\n"
        "{} is in,The Louvre,Rome,Where is {}?,,the Eternal City,Roma\n"
        "{} is in,Big Ben,Rome,,,,\n"
    )
    first, second = load_fact_records(path)
    assert first.question_prompts == ("Where is The Louvre?",)
    assert first.new_aliases == ("the Eternal City", "Roma")
    assert (second.question_prompts, second.new_aliases) == ((), ())
    listed = tmp_path / "facts.json"
    listed.write_text(
        '[{"template": "{} is in", "subject": "The Louvre", "target_new": "Rome",'
        ' "question_prompts": ["Where is {}?"], "new_aliases": ["the Eternal City", "Roma"]}]'
    )
    assert load_fact_records(listed) == [first]
