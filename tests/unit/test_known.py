import json

import pytest

import factlab as fl
from factlab.data.relations import Triple, load_templates, load_triples
from factlab.data.well_known import WELL_KNOWN
from factlab.errors import InvalidRequestError, StorageError
from factlab.tracing.knowns import build_known

ROW = {
    "known_id": 7,
    "subject": "Space Needle",
    "attribute": "Seattle",
    "template": "{} is in",
    "prediction": " Seattle, of course",
    "prompt": "Space Needle is in",
    "relation_id": "P131",
}


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_arrays_and_lines_are_read(tmp_path):
    other = ROW | {"known_id": 8, "relation_id": ""}
    array = write(tmp_path / "a.json", json.dumps([ROW, other], indent=1))
    lines = write(tmp_path / "l.jsonl", json.dumps(ROW) + "\n\n" + json.dumps(other))
    known = fl.data.load_known(array)
    assert known == fl.data.load_known(lines)
    assert known[0].fact == fl.Fact("{} is in", "Space Needle", target_true="Seattle")


def test_only_four_fields_are_needed(tmp_path):
    fields = {name: ROW[name] for name in ("known_id", "subject", "attribute", "prompt")}
    (known,) = fl.data.load_known(write(tmp_path / "k.json", json.dumps([fields])))
    assert known.relation_id == ""


def test_files_round_trip(tmp_path):
    known = [
        fl.data.KnownFact(**ROW),
        fl.data.KnownFact(**(ROW | {"known_id": 8, "subject": "Needle"})),
    ]
    fl.data.save_known(known, tmp_path / "k.json")
    assert fl.data.load_known(tmp_path / "k.json") == known


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([ROW, {k: v for k, v in ROW.items() if k != "prompt"}], "'prompt' is missing"),
        ([ROW, ROW], r"known_id 7 was used on line 2 already"),
        ([ROW, ROW | {"known_id": "8"}], "known_id is '8'"),
        ([ROW, ROW | {"known_id": 8, "attribute": ""}], "attribute is ''"),
        ([ROW, ROW | {"known_id": 8, "subject": "Louvre"}], "'Louvre' does not occur"),
        ([ROW, 3], "a fact is a JSON object, not a int"),
    ],
)
def test_the_line_of_a_bad_fact_is_named(tmp_path, rows, reason):
    text = "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
    with pytest.raises(StorageError, match="Line 3 of") as caught:
        fl.data.load_known(write(tmp_path / "k.json", text))
    assert caught.match(reason)


def test_files_that_are_not_facts(tmp_path):
    path = tmp_path / "k.json"
    path.write_bytes(b'[\n{"known_id": 1,\n"subject": "\xff"}]')
    with pytest.raises(StorageError, match=r"Line 3 of .* is not UTF-8"):
        fl.data.load_known(path)
    with pytest.raises(StorageError, match=r"Line 2 of .* not valid JSON"):
        fl.data.load_known(write(path, "[\n{oops}]"))
    with pytest.raises(StorageError, match="not closed or lacks a comma"):
        fl.data.load_known(write(path, f"[{json.dumps(ROW)}"))
    with pytest.raises(StorageError, match="holds no facts"):
        fl.data.load_known(write(path, "[]"))
    with pytest.raises(StorageError, match="Cannot read"):
        fl.data.load_known(tmp_path / "none.json")


def test_relations_are_read_and_cut_at_the_object(tmp_path):
    facts = write(tmp_path / "f.tsv", "relation\tsubject\tobject\nP1\tRome\tItaly\n")
    assert load_triples(facts) == [Triple("P1", "Rome", "Italy")]
    patterns = write(
        tmp_path / "p.tsv",
        "relation\tpattern\nP1\t[X] is in [Y].\nP1\tIn [Y] is [X].\nP1\t[X] in [Y] lies\nP1\t[X] [Y] .\n",
    )
    assert load_templates(patterns) == {"P1": ["{} is in"]}
    with pytest.raises(StorageError, match="no column 'pattern'"):
        load_templates(facts)
    with pytest.raises(StorageError, match=r"Line 2 of .*: object is empty"):
        load_triples(write(facts, "relation\tsubject\tobject\nP1\tRome\t\n"))
    with pytest.raises(StorageError, match="nothing to complete"):
        load_templates(write(patterns, "relation\tpattern\nP1\tIn [Y] is [X].\n"))


def said(lm, prompt):
    return lm.generate(prompt, max_new_tokens=10)[len(prompt) :]


def test_what_the_model_says_first_is_known(make_model):
    lm = make_model("gpt2", seed=2)
    templates = {"P1": ["{} is never", "{} was"], "P2": ["{} is"]}
    words = said(lm, "Rome was").split()
    triples = [Triple("P1", "Rome", words[0]), Triple("P2", "Rome", "Nowhere at all")]
    known = build_known(lm, triples, templates)
    assert [(k.known_id, k.attribute) for k in known] == [(0, words[0])]
    assert fl.tracing.knows(lm, [known[0].fact]) == [True]
    assert known[0].prompt.startswith("Rome ")
    lm.memory_gib = 1e-9
    one_by_one = build_known(lm, triples, templates)
    assert one_by_one == known


def test_another_capitalised_word_comes_first(make_model, monkeypatch):
    lm = make_model("gpt2")
    triples, templates = [Triple("P1", "Rome", "Italy")], {"P1": ["{} is in"]}
    monkeypatch.setattr("factlab.tracing.knowns.knows", lambda lm, facts: [True] * len(facts))
    for text, expected in (
        (" the land of Italy, where", "Rome is in the land of"),
        (" the Republic of Italy", None),
        (" Italyland", None),
        (" Italy", "Rome is in"),
    ):
        monkeypatch.setattr(type(lm), "generate_batch", lambda self, _prompts, t=text, **_: [t])
        if expected is None:
            with pytest.raises(InvalidRequestError, match="knows none"):
                build_known(lm, triples, templates)
        else:
            assert build_known(lm, triples, templates)[0].prompt == expected


def test_relations_without_templates(make_model):
    with pytest.raises(InvalidRequestError, match="no relation in common"):
        build_known(make_model("gpt2"), [Triple("P1", "Rome", "Italy")], {"P2": ["{} is"]})


def test_what_is_shipped_is_in_order():
    assert len(set(WELL_KNOWN)) == len(WELL_KNOWN) == 40
    assert all(fact.target_true and fact.target_new is None for fact in WELL_KNOWN)


@pytest.mark.slow
def test_the_bundled_model_knows_capitals(bundled):
    triples = [Triple("P36", c, a) for c, a in (("Japan", "Tokyo"), ("Norway", "Reykjavik"))]
    known = build_known(bundled, triples, {"P36": ["The capital of {} is the city of"]})
    assert [k.attribute for k in known] == ["Tokyo"]
    assert fl.tracing.knows(bundled, [triple.phrased("The capital of {} is the city of") for triple in triples]) == [True, False]  # fmt: skip
