import random
from collections import Counter

import pytest

from factlab.data.compile import compile_counterfact, compile_references
from factlab.data.compile_zsre import compile_zsre
from factlab.data.composition import composition
from factlab.data.fact_source import FactSource
from factlab.data.phrasing import (
    Phrasing,
    load_about,
    load_any_phrasing,
    load_asides,
    load_phrasing,
)
from factlab.data.relations import Triple, load_triples
from factlab.data.shipped import Shipped
from factlab.errors import InvalidRequestError, StorageError

WORDS = {
    "P1": Phrasing(
        rewrite=("{} lies in",),
        paraphrase=("To see {} go to", "{} belongs to", "The country of {} is", "{} is found in"),
        generation=("Near {} people", "In {} one"),
        question=("Where is {}?", "In which country is {}?", "What is the country of {}?"),
        statement=("{} is in [Y].", "[Y] has {}."),
    ),
    "P2": Phrasing(
        paraphrase=("{} speaks", "In {} they say", "{} writes in"),
        question=("What does {} speak?", "What is spoken in {}?"),
    ),
}
# Fourteen subjects of A, three of B, two of C; and languages.
TRIPLES = [
    *(Triple("P1", f"s{i}", "A", f"Q9{i}", "Q1") for i in range(14)),
    *(Triple("P1", f"t{i}", "B", object_id="Q2") for i in range(3)),
    *(Triple("P1", f"u{i}", "C") for i in range(2)),
    *(Triple("P2", f"s{i}", "X" if i % 2 else "Y") for i in range(4)),
]
ANSWERS = {(t.relation_id, t.subject): t.object for t in TRIPLES}


def subject_of(prompt, relation_id="P1"):
    names = {t.subject for t in TRIPLES if t.relation_id == relation_id}
    (found,) = names & {*prompt.replace("?", "").split()}
    return found


def test_every_fact_gives_a_record():
    records = compile_counterfact(TRIPLES, WORDS, 0)
    assert [r.case_id for r in records] == [*range(23)]
    assert {(r.relation_id, r.fact.subject) for r in records} == {*ANSWERS}
    for record in records:
        fact = record.fact
        right = ANSWERS[record.relation_id, fact.subject]
        assert fact.target_true == right
        assert fact.target_new != right
        assert fact.target_new in {t.object for t in TRIPLES if t.relation_id == record.relation_id}


def test_prompts_are_about_whom_they_should_be():
    for record in compile_counterfact(TRIPLES, WORDS, 3):
        fact, relation = record.fact, record.relation_id
        words = WORDS[relation]
        neighbors = [subject_of(p, relation) for p in record.neighborhood_prompts]
        assert {ANSWERS[relation, s] for s in neighbors} <= {fact.target_true}
        assert fact.subject not in neighbors
        attribute = [subject_of(p, relation) for p in record.attribute_prompts]
        assert {ANSWERS[relation, s] for s in attribute} == {fact.target_new}
        own = {t.replace("{}", fact.subject) for t in words.prompts}
        assert len({*record.paraphrase_prompts} & own - {fact.prompt}) == 2
        assert len(record.generation_prompts) == 10
        beginnings = words.generation or words.prompts
        assert {*record.generation_prompts} <= {t.replace("{}", fact.subject) for t in beginnings}
        if relation == "P1":
            assert fact.template == "{} lies in"


def test_subjects_are_varied_first_and_then_words():
    records = {
        r.fact.subject: r for r in compile_counterfact(TRIPLES, WORDS, 1) if r.relation_id == "P1"
    }
    many = records["s3"].neighborhood_prompts
    assert len({*many}) == len({subject_of(p) for p in many}) == 10
    two = records["t0"].neighborhood_prompts  # two others, five prompts
    assert len({*two}) == 10
    assert Counter(map(subject_of, two)) == {"t1": 5, "t2": 5}
    assert len({*records["u0"].neighborhood_prompts}) == 5


def test_a_subject_without_neighbors_gives_a_record_without():
    triples = [*TRIPLES, Triple("P1", "alone", "D")]
    record = next(r for r in compile_counterfact(triples, WORDS, 0) if r.fact.subject == "alone")
    assert record.neighborhood_prompts == ()
    assert len(record.paraphrase_prompts) == 2


def test_identifiers_of_objects_are_kept():
    for record in compile_counterfact(TRIPLES, WORDS, 0):
        ids = {"A": "Q1", "B": "Q2"}
        assert record.true_id == ids.get(record.fact.target_true, "")
        assert record.new_id == ids.get(record.fact.target_new, "")


def test_new_objects_are_drawn_by_how_often_they_are_true():
    triples = [Triple("P1", f"a{i}", "A") for i in range(200)]
    triples += [Triple("P1", f"b{i}", "B") for i in range(90)]
    triples += [Triple("P1", f"c{i}", "C") for i in range(10)]
    drawn = Counter(
        r.fact.target_new
        for r in compile_counterfact(triples, WORDS, 0)
        if r.fact.target_true == "A"
    )
    assert drawn.total() == 200
    assert 0.8 < drawn["B"] / 200 < 0.97


def test_the_same_seed_gives_the_same_whatever_the_order():
    records = compile_counterfact(TRIPLES, WORDS, 5)
    mixed = TRIPLES * 2
    random.Random(9).shuffle(mixed)  # noqa: S311 - not a secret
    assert compile_counterfact(mixed, dict(reversed(WORDS.items())), 5) == records
    assert compile_counterfact(TRIPLES, WORDS, 5, limit=4) == records[:4]
    assert compile_counterfact(TRIPLES, WORDS, 6) != records
    assert compile_zsre(mixed, WORDS, 5) == compile_zsre(TRIPLES, WORDS, 5)
    assert compile_zsre(TRIPLES, WORDS, 5, limit=4) == compile_zsre(TRIPLES, WORDS, 5)[:4]


def test_asides_come_before_paraphrases_if_they_are_unrelated():
    asides = ("It rained.", "Nobody came to s3.", "A was closed.")
    for record in compile_counterfact(TRIPLES, WORDS, 0, asides=asides):
        if record.fact.subject == "s3" and record.relation_id == "P1":
            assert all(p.startswith("It rained. ") for p in record.paraphrase_prompts)
    alone = compile_counterfact(TRIPLES, WORDS, 0, asides=("A s t u",))
    assert not any(
        p.startswith("A s")
        for r in alone
        for p in r.paraphrase_prompts
        if "A" in (r.fact.target_new, r.fact.target_true)
    )


def test_more_subjects_are_asked_for_where_there_are_too_few():
    asked = []

    def find(relation_id, object_id):
        asked.append((relation_id, object_id))
        return ["t0", "t1", "new1", "new2", "u0", "new3"]

    records = compile_counterfact(TRIPLES, WORDS, 0, find_subjects=find)
    record = next(r for r in records if r.fact.subject == "t0")
    words = " ".join(record.neighborhood_prompts)
    assert all(name in words for name in ("t1", "t2", "new1", "new2", "new3"))
    assert "u0" not in words  # the facts say otherwise of it
    assert {*asked} == {("P1", "Q2")}  # there are enough of A, and C has no identifier


def test_what_will_not_do_is_counted():
    triples = [
        *TRIPLES,
        Triple("P1", "s0", "B"),
        Triple("P1", "v", "A"),
        Triple("P1", "v", "A", "Q7"),
        Triple("P3", "a", "A"),
        Triple("P3", "b", "B"),
        Triple("P4", "a", "A"),
    ]
    words = WORDS | {"P3": Phrasing(paraphrase=("{} a", "{} b")), "P4": WORDS["P1"]}
    source = FactSource.of(triples, words)
    assert source.skipped == {
        "the subject has several objects": 2,
        "the relation has fewer than 3 prompts": 2,
        "the relation has fewer than 2 objects": 1,
    }
    assert len(source.triples) == 13 + 3 + 2 + 1 + 4
    with pytest.raises(
        InvalidRequestError,
        match="No fact will do for a record: 1 since the relation has fewer than 2",
    ):
        compile_counterfact([Triple("P1", "a", "A")], WORDS, 0)
    with pytest.raises(InvalidRequestError, match="there are no facts"):
        compile_counterfact([], WORDS, 0)
    for compiler in (compile_counterfact, compile_zsre):
        with pytest.raises(InvalidRequestError, match="limit=0"):
            compiler(TRIPLES, WORDS, 0, limit=0)


def test_references():
    found = compile_references(TRIPLES, WORDS, {"A": "A is big. It is old."})
    assert {*found} == {("P1", "Q1"), ("P1", "Q2"), ("P1", "C"), ("P2", "X"), ("P2", "Y")}
    texts = {r.subject: r.text for r in found["P1", "Q1"]}
    assert len(texts) == 14
    assert texts["s1"] == "s1 is in A. A has s1. s1 speaks X. A is big. It is old."
    assert texts["s9"] == "s9 is in A. A has s9. A is big. It is old."
    speakers = {r.subject: r.text for r in found["P2", "X"]}
    assert speakers["s1"] == "s1 speaks X. In s1 they say X. s1 writes in X. s1 is in A."
    assert {*compile_references(TRIPLES, WORDS, needed={("P1", "C")})} == {("P1", "C")}


def test_zsre():
    records = compile_zsre(TRIPLES, WORDS, 0)
    assert len(records) == 23
    for record in records:
        fact = record.fact
        assert record.benchmark == "zsre"
        assert fact.target_new == ANSWERS[record.relation_id, fact.subject]
        assert fact.target_true is None
        assert fact.template in WORDS[record.relation_id].question
        (rephrase,), (unrelated,) = record.paraphrase_prompts, record.neighborhood_prompts
        assert rephrase != fact.prompt
        assert unrelated.startswith("nq question: ")
        assert unrelated == unrelated.lower()
        assert unrelated.count("?") == 1
        other = "P2" if record.relation_id == "P1" else "P1"
        subject = subject_of(unrelated, other)
        assert subject != fact.subject
        assert record.neighborhood_answers == (ANSWERS[other, subject],)


def test_zsre_needs_questions():
    with pytest.raises(InvalidRequestError, match="facts that will do: 1"):
        compile_zsre(TRIPLES, WORDS | {"P2": Phrasing(paraphrase=("{} a", "{} b", "{} c"))}, 0)


# Files --------------------------------------------------------------------------------------------

TEMPLATES = """\
relation\tkind\tpattern
P1\trewrite\t[X] lies in [Y]
P1\tparaphrase\tTo see [X] go to [Y] .
P1\tgeneration\tNear [X] people
P1\tquestion\tWhere is [X]?
P1\tstatement\t[Y] has [X].
"""


def test_templates(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text(TEMPLATES)
    expected = {
        "P1": Phrasing(
            ("{} lies in",), ("To see {} go to",), ("Near {} people",), ("Where is {}?",), ("[Y] has {}.",)
        )
    }  # fmt: skip
    assert load_phrasing(path) == load_any_phrasing(path) == expected
    assert expected["P1"].statements("a [Y]", "b") == ["b has a [Y]."]
    path.write_text("relation\tpattern\nP1\t[X] is in [Y]\nP9\t[X] is [Y]\n")
    assert load_any_phrasing(path, expected) == {
        "P1": Phrasing(paraphrase=("{} is in",), generation=("Near {} people",)),
        "P9": Phrasing(paraphrase=("{} is",)),
    }


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("P1\trewrit\t[X] in [Y]", r"kind 'rewrit', which is none of .*Did you mean 'rewrite'\?"),
        ("P1\trewrite\tIn [Y] is [X]", r"relation P1 does not suit its kind.*\[Y\] behind it"),
        ("P1\tparaphrase\t[X] in [Y] now", "does not suit"),
        ("P1\tgeneration\tNear [X] is [Y]", r"\[X\] once and no \[Y\]"),
        ("P1\tquestion\tWhere?", "of kind question|Of kind question"),
        ("P1\tstatement\t[X] is.", r"\[X\] and \[Y\] once each"),
        ("P1\tstatement\t[X] {} is [Y].", "does not suit"),
        ("P1\tquestion\t ", "Line 2 of .*pattern is empty"),
    ],
)
def test_templates_that_are_wrong(tmp_path, row, reason):
    path = tmp_path / "t.tsv"
    path.write_text(f"relation\tkind\tpattern\n{row}\n")
    with pytest.raises(StorageError, match=reason):
        load_phrasing(path)
    path.write_text("relation\tkind\tpattern\n")
    with pytest.raises(StorageError, match="holds no patterns"):
        load_phrasing(path)


def test_identifiers_in_a_file_of_facts(tmp_path):
    path = tmp_path / "f.tsv"
    path.write_text("relation\tsubject\tobject\tobject_id\nP1\ta\tA\tQ1\nP1\tb\tB\t\n")
    assert load_triples(path) == [Triple("P1", "a", "A", "", "Q1"), Triple("P1", "b", "B")]


def test_a_folder_of_facts(tmp_path):
    (tmp_path / "facts.tsv").write_text("relation\tsubject\tobject\nP1\tAnn\tA\nP1\tBob\tB\n")
    more = "".join(f"P1\tparaphrase\t{w} [X] [Y]\n" for w in ("At", "By", "To"))
    (tmp_path / "templates.tsv").write_text(TEMPLATES + more)
    (tmp_path / "objects.tsv").write_text("object\tabout\nA\tA is big.\n")
    (tmp_path / "asides.txt").write_text("It rained.\n\n  Nobody came. \n")
    assert load_asides(tmp_path / "asides.txt") == ("It rained.", "Nobody came.")
    assert load_about(tmp_path / "objects.tsv") == {"A": "A is big."}
    shipped = Shipped.load(tmp_path)
    records = shipped.counterfact()
    assert {r.fact.prompt for r in records} == {"Ann lies in", "Bob lies in"}
    assert all(
        p.startswith(("It rained. ", "Nobody ")) for r in records for p in r.paraphrase_prompts
    )
    assert shipped.references()["P1", "A"][0].text == "A has Ann. A is big."


# What a set holds ---------------------------------------------------------------------------------


def test_composition():
    records = compile_counterfact(TRIPLES, WORDS, 0)
    found = composition(records)
    items = {item.item: item for item in found.items}
    assert items["records"].total == items["counterfactual statements"].total == 23
    assert items["records"].per_relation == 11.5
    assert items["records"].per_record == 1
    assert items["subjects"].total == 19  # s0 to s3 are in both relations
    assert items["subjects"].per_relation == 11.5
    assert items["objects"].total == 5
    assert items["objects"].per_record == 2
    assert items["paraphrase prompts"].per_record == 2
    assert [(r.relation_id, r.counts["records"]) for r in found.relations] == [
        ("P1", 19),
        ("P2", 4),
    ]
    assert found.known_share is None


def test_share_of_known_facts():
    records = compile_counterfact(TRIPLES, WORDS, 0)
    found = composition(records, [r.relation_id == "P2" for r in records])
    assert found.known_share == pytest.approx(4 / 23)
    assert [r.known_share for r in found.relations] == [0, 1]
    for wrong in ([], None):
        with pytest.raises(InvalidRequestError, match="and 0 flags"):
            composition([] if wrong is None else records, wrong)
