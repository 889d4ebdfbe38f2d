import gzip
import json
import sys
import types
from pathlib import Path

import pytest

from factlab.data import shipped
from factlab.data.record_files import load_records, record_hash, save_records
from factlab.data.records import Record, Reference
from factlab.data.reference_files import (
    load_references,
    needed_references,
    reference_key,
    save_references,
)
from factlab.data.selection import RecordsRequest
from factlab.errors import InvalidRequestError, StorageError
from factlab.facts import Fact


def case(i, relation="P36"):
    return {
        "case_id": i,
        "requested_rewrite": {
            "prompt": "{} is in",
            "relation_id": relation,
            "target_new": {"str": "Rome", "id": "Q220"},
            "target_true": {"str": "Paris", "id": "Q90"},
            "subject": f"S{i}",
        },
        "neighborhood_prompts": [f"N{i} is in"],
    }


def question(i):
    return {
        "subject": f"S{i}", "src": f"Where is S{i}?", "rephrase": f"S{i} is where?",
        "answers": ["Rome"], "loc": "nq question: who", "loc_ans": "me",
    }  # fmt: skip


CASES = [case(i, "P36" if i % 3 else "P19") for i in range(12)]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "cases.json"
    path.write_text("[\n" + ",\n".join(json.dumps(c) for c in CASES) + "\n]")
    return path


def ids(records):
    return [record.case_id for record in records]


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".json.gz", ".jsonl.gz"])
def test_every_kind_of_file_gives_the_same_records(tmp_path, path, suffix):
    text = path.read_text() if "jsonl" not in suffix else "\n".join(map(json.dumps, CASES))
    other = tmp_path / f"x{suffix}"
    other.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    assert load_records(other) == load_records(str(other)) == load_records(path)
    assert record_hash(load_records(other)) == record_hash(load_records(path))


def test_the_layout_is_seen_from_the_first_record(tmp_path, path):
    assert {r.benchmark for r in load_records(path)} == {"counterfact"}
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(json.dumps(question(i)) for i in range(3)))
    records = load_records(path)
    assert [r.benchmark for r in records] == ["zsre"] * 3
    assert ids(records) == [0, 1, 2]
    assert ids(load_records(path, offset=1)) == [1, 2]
    path.write_text('{"prompt": "x", "gold": "y"}')
    with pytest.raises(
        StorageError, match=r"Line 1 of .*has the fields prompt, gold. A CounterFact"
    ):
        load_records(path)
    path.write_text("3")
    with pytest.raises(StorageError, match="the first record is a int"):
        load_records(path)


def test_slices(path):
    assert ids(load_records(path)) == [*range(12)]
    assert ids(load_records(path, offset=2, limit=3)) == [2, 3, 4]
    assert ids(load_records(path, relation="P19")) == [0, 3, 6, 9]
    assert ids(load_records(path, relation="P19", offset=1, limit=2)) == [3, 6]
    assert ids(load_records(path, offset=10, limit=9)) == [10, 11]


def test_shuffling(path):
    whole = ids(load_records(path, seed=1))
    assert sorted(whole) == [*range(12)]
    assert whole != [*range(12)]
    assert ids(load_records(path, seed=1)) == whole
    assert ids(load_records(path, seed=2)) != whole
    assert ids(load_records(path, seed=1, offset=3, limit=4)) == whole[3:7]


def test_of_each_subject_one_record():
    every = load_records("builtin")
    found = load_records("builtin", one_per_subject=True)
    subjects = [record.fact.subject for record in found]
    assert len(subjects) == len({*subjects}) == len({record.fact.subject for record in every})
    first = {record.fact.subject: record for record in reversed(every)}
    assert all(first[record.fact.subject] == record for record in found)
    assert load_records("builtin", 5, 7, one_per_subject=True) == found[5:12]
    request = RecordsRequest(one_per_subject=True, limit=3)
    assert (request.load(), request.every()) == (found[:3], found)
    with pytest.raises(InvalidRequestError, match="one record of each subject"):
        load_records("builtin", len(found), one_per_subject=True)


def test_reading_stops_early(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(map(json.dumps, CASES[:3])) + "\nnot json")
    assert ids(load_records(path, limit=3)) == [0, 1, 2]
    with pytest.raises(StorageError, match="Line 4"):
        load_records(path, limit=4)
    with pytest.raises(StorageError, match="Line 4"):
        load_records(path, limit=3, seed=0)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"relation": "P35"}, r"' has 12 records, none of relation 'P35'. There are P19, P36\. Did you mean 'P36'"),
        ({"offset": 12}, "Offset 12 leaves nothing of the 12 records of .*Choose an offset below 12"),
        ({"relation": "P19", "offset": 4}, "nothing of the 4 records of .* with relation 'P19'"),
        ({"seed": 1, "offset": 99}, "Offset 99"),
        ({"limit": 0}, "offset=0 and limit=0"),
        ({"offset": -1}, "offset=-1"),
    ],
)  # fmt: skip
def test_what_leaves_nothing_is_named(path, options, reason):
    with pytest.raises(InvalidRequestError, match=reason):
        load_records(path, **options)


def test_empty_files(tmp_path):
    path = tmp_path / "x.json"
    for text in ("", "[]"):
        path.write_text(text)
        with pytest.raises(InvalidRequestError, match=r"x\.json' holds no records"):
            load_records(path)
    path.write_text(json.dumps([question(0)]))
    with pytest.raises(InvalidRequestError, match="They do not say their relation"):
        load_records(path, relation="P1")


def test_wrong_records_are_named(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("[\n" + ",\n".join(json.dumps(c) for c in (case(0), case(1), case(0))) + "]")
    with pytest.raises(StorageError, match=r"Line 4 of .*: case_id 0 was used before: line 2\."):
        load_records(path)
    bad = case(5)
    del bad["requested_rewrite"]["subject"]
    path.write_text("[\n" + ",\n".join(json.dumps(c) for c in (case(0), bad)) + "]")
    with pytest.raises(
        StorageError, match=r"Line 3 of .*, record 5: field 'requested_rewrite.subj"
    ):
        load_records(path)
    with pytest.raises(StorageError, match="Cannot read"):
        load_records(tmp_path / "none.json")


def test_unknown_names():
    with pytest.raises(InvalidRequestError, match=r"'counterfacts'.*Did you mean 'counterfact'\?"):
        load_records("counterfacts")
    with pytest.raises(InvalidRequestError, match="hf:owner/dataset"):
        load_records("hf:counterfact")


def test_records_round_trip(tmp_path, path):
    records = load_records(path)
    save_records(records, tmp_path / "new" / "y.json")
    assert load_records(tmp_path / "new" / "y.json") == records
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(json.dumps(question(i)) for i in range(3)))
    questions = load_records(path, offset=1)
    save_records(questions, tmp_path / "z.json")
    assert load_records(tmp_path / "z.json") == questions
    for wrong in ([], [records[0], questions[0]]):
        with pytest.raises(InvalidRequestError, match="of one benchmark"):
            save_records(wrong, tmp_path / "w.json")


def test_the_hash_is_of_content_and_order(path):
    records = load_records(path)
    assert record_hash(records) != record_hash(records[::-1])
    assert record_hash(records) != record_hash(records[1:])
    assert len(record_hash(records)) == 64


def test_builtin():
    records = load_records("builtin")
    assert record_hash(records) == record_hash(load_records("builtin"))
    assert ids(records) == [*range(len(records))]
    questions = load_records("builtin-zsre", limit=5)
    assert {r.benchmark for r in questions} == {"zsre"}
    found = load_references("builtin", needed_references(records[:9]))
    assert {*found} == needed_references(records[:9])


def test_builtin_files_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    with pytest.raises(StorageError, match=r"Cannot read .*facts\.tsv"):
        load_records("builtin")


# The hub ------------------------------------------------------------------------------------------


def test_a_file_on_the_hub(path, monkeypatch):
    import huggingface_hub

    asked = []

    def download(name, file, repo_type):
        asked.append((name, file, repo_type))
        if file == "none.json":
            raise OSError("404")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert load_records("hf:me/set:cases.json") == load_records(path)
    assert asked == [("me/set", "cases.json", "dataset")]
    with pytest.raises(
        StorageError, match=r"Cannot download 'none\.json' of data set 'me/set': 404"
    ):
        load_records("hf:me/set:none.json")


def test_a_data_set_on_the_hub(path, monkeypatch):
    def load_dataset(name, data_files, streaming):
        if name == "me/none":
            raise ValueError("no such data set")
        assert streaming
        return {"train": iter(CASES[:8]), "test": iter([case(8), {"case_id": 0}])}

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    assert load_records("hf:me/set", limit=9) == [
        *load_records(path, limit=8),
        *load_records("hf:me/set", offset=8, limit=1),
    ]
    with pytest.raises(StorageError, match=r"Row 2 of 'hf:me/set' \(test\), record 0: field 'requ"):
        load_records("hf:me/set")
    with pytest.raises(StorageError, match="Cannot read data set 'hf:me/none': no such"):
        load_records("hf:me/none")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(StorageError, match=r"pip install 'factlab\[hub\]'.*hf:me/set:file\.json"):
        load_records("hf:me/set")


# References ---------------------------------------------------------------------------------------

SNIPPETS = [
    {"relation_id": "P36", "target_id": "Q220", "samples": [{"name": "Lazio", "text": "Lazio is."}]},
    {"relation_id": "P36", "target_id": "Q90", "samples": [{"text": "No name."}]},
    {"relation_id": "P36", "target_id": "Q220", "samples": [{"name": "Trajan", "text": "A man."}]},
]  # fmt: skip


def snippets(tmp_path, entries) -> Path:
    path = tmp_path / "snippets.json"
    path.write_text("[\n" + ",\n".join(json.dumps(e) for e in entries) + "\n]")
    return path


def test_references(tmp_path):
    path = snippets(tmp_path, SNIPPETS)
    found = load_references(path)
    assert found == {
        ("P36", "Q220"): (Reference("Lazio", "Lazio is."), Reference("Trajan", "A man.")),
        ("P36", "Q90"): (Reference("", "No name."),),
    }
    save_references(found, tmp_path / "y.json")
    assert load_references(tmp_path / "y.json") == found
    assert {*load_references(str(path), {("P36", "Q90")})} == {("P36", "Q90")}


@pytest.mark.parametrize(
    "chosen", [{}, {"limit": 1}, {"offset": 1}, {"relation": "P19"}, {"seed": 3, "limit": 2}]
)
def test_references_do_not_depend_on_which_records_are_chosen(path, tmp_path, chosen):
    """Else how rare a word is would, and with it the consistency of every text."""
    keys = sorted(needed_references(load_records(path)))
    texts = {key: (Reference("A", f"Of {key}."),) for key in [*keys, ("P0", "of none")]}
    save_references(texts, tmp_path / "texts.json")
    request = RecordsRequest(source=str(path), references=str(tmp_path / "texts.json"), **chosen)
    assert sorted(request.load_references()) == keys
    assert len(keys) > 1


def test_a_relation_that_references_lack_is_not_there(tmp_path):
    assert load_references(snippets(tmp_path, SNIPPETS), {("P1", "Q1")}) == {}


def test_keys_of_references(path):
    record = load_records(path, limit=1)[0]
    assert reference_key(record) == ("P19", "Q220")
    bare = Record(case_id=0, relation_id="P1", fact=Fact("{} is", "a", "b", "c"))
    assert needed_references([record, bare]) == {("P19", "Q220"), ("P1", "b")}


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"target_id": "Q1", "samples": []}, "Line 2 of .*: field 'relation_id' is missing"),
        ({"relation_id": "P1", "target_id": 1, "samples": []}, "target_id is 1, not a text"),
        ({"relation_id": "P1", "target_id": "Q1", "samples": 3}, "samples is 3, not a list of obj"),
        ({"relation_id": "P1", "target_id": "Q1", "samples": [{"name": "x"}]}, r"'samples\[0\].text' is missing"),
        (["x"], "the value is .*not a JSON object"),
    ],
)  # fmt: skip
def test_references_that_are_wrong(tmp_path, entry, reason):
    with pytest.raises(StorageError, match=reason):
        load_references(snippets(tmp_path, [entry]))
    with pytest.raises(InvalidRequestError, match=r"'builtins'.*Did you mean 'builtin'\?"):
        load_references("builtins")
