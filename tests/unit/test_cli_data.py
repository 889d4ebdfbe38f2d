"""`factlab data`: what a set holds, one record, and compiling records."""

import json
import re

import pytest
from local_web import serving
from test_wikidata import Endpoint

from factlab.data.record_files import load_records
from factlab.data.reference_files import load_references, needed_references
from factlab.data.relation_names import relation_label

TINY = ["--model", "tiny:gpt2"]
FACTS = "relation\tsubject\tobject\tobject_id\n" + "".join(
    f"P131\t{subject}\t{place}\t{item}\n"
    for subject, place, item in (
        ("Sainte-Chapelle", "Paris", "Q90"),
        ("Notre-Dame", "Paris", "Q90"),
        ("Pantheon", "Rome", "Q220"),
        ("Trevi", "Rome", "Q220"),
        ("Trevi", "Paris", "Q90"),
    )
)
PATTERNS = "relation\tpattern\n" + "".join(
    f"P131\t[X] {w} [Y]\n" for w in ("is in", "lies in", "at")
)


@pytest.fixture
def files(tmp_path):
    facts, patterns = tmp_path / "facts.tsv", tmp_path / "patterns.tsv"
    facts.write_text(FACTS)
    patterns.write_text(PATTERNS)
    return ["--facts", facts, "--patterns", patterns, "--out", tmp_path / "new" / "set.json"]


def test_stats(run):
    code, out, err = run("data", "stats", "--json")
    document = json.loads(out)
    assert code == 0, err
    assert document["source"] == "builtin"
    assert len(document["sha256"]) == 64
    assert {i["item"]: i["total"] for i in document["items"]}["records"] == document["n_records"]
    assert document["known_share"] is None
    code, out, _ = run("data", "stats", "builtin-zsre", "--limit", "7", "--seed", "1")
    assert code == 0
    assert "paraphrase prompts" in out
    assert "known" not in out


def test_relations_are_called_by_their_names(run):
    code, out, err = run("data", "stats")
    assert code == 0, err
    assert "place of birth (P19)" in out
    assert not re.search(r"(?<!\()\bP\d+\b", out), "a relation without a name"
    relations = json.loads(run("data", "stats", "--json")[1])["relations"]
    names = {relation["relation_id"]: relation["name"] for relation in relations}
    assert names["P1303"] == "instrument"
    assert relation_label("P36") == "capital (P36)"
    assert relation_label("my relation") == "my relation"


def test_stats_of_what_a_model_knows(run):
    code, out, err = run("data", "stats", "--known", "--limit", "5", *TINY, "--json")
    assert code == 0, err
    assert 0 <= json.loads(out)["known_share"] <= 1
    code, out, _ = run("data", "stats", "--known", "--limit", "3", *TINY)
    assert "% of the true facts" in out
    assert "known" in out
    code, _, err = run("data", "stats", "builtin-zsre", "--known", *TINY)
    assert code == 2
    assert "zsRE records have none" in err


def test_show(run):
    code, out, err = run("data", "show", "builtin", "--case", "3")
    assert code == 0, err
    record = load_records("builtin", limit=4)[3]
    for text in (record.fact.prompt, record.fact.target_new, record.neighborhood_prompts[0]):
        assert text in out
    code, out, _ = run("data", "show", "builtin-zsre", "--json")
    assert json.loads(out)["case_id"] == 0
    assert "right there" in run("data", "show", "builtin-zsre")[1]
    code, _, err = run("data", "show", "builtin", "--case", "99999")
    assert code == 2
    assert "has case_id 99999. There are" in err
    assert "Did you mean 'builtin'?" in run("data", "show", "builtn")[2]


def test_build(run, files, tmp_path):
    code, out, err = run("data", "build", *files, "--json")
    assert code == 0, err
    document = json.loads(out)
    records = load_records(files[-1])
    assert document["n_records"] == len(records) == 3
    assert document["skipped"] == {"the subject has several objects": 2}
    assert {r.fact.subject for r in records} == {"Sainte-Chapelle", "Notre-Dame", "Pantheon"}
    assert next(r for r in records if r.fact.subject == "Pantheon").neighborhood_prompts == ()
    references = load_references(document["references"])
    assert {*references} == needed_references(records) == {("P131", "Q90"), ("P131", "Q220")}
    (tmp_path / "asides.txt").write_text("It rained.\n")
    (tmp_path / "about.tsv").write_text("object\tabout\nRome\tRome is old.\n")
    more = ["--asides", tmp_path / "asides.txt", "--about", tmp_path / "about.tsv", "--limit", "2"]
    code, out, _ = run("data", "build", *files, *more, "--overwrite")
    assert code == 0
    assert "2 facts left out: the subject has several objects" in out
    assert all("It rained. " in p for r in load_records(files[-1]) for p in r.paraphrase_prompts)
    assert "Rome is old." in (tmp_path / "new" / "set-references.json").read_text()


def test_build_with_wikidata(run, files):
    with serving(Endpoint()) as address:
        args = ["--wikidata", "--endpoint", f"{address}/sparql", "--limit", "1"]
        code, _, err = run("data", "build", *files, *args)
    assert code == 0, err
    (record,) = load_records(files[-1])
    prompts = record.neighborhood_prompts + record.attribute_prompts
    assert any("Eiffel Tower" in prompt for prompt in prompts)
    assert any("Colosseum" in prompt for prompt in prompts)
    code, _, err = run("data", "build", *files, *args, "--overwrite")  # without the server
    assert code == 0, err
    assert load_records(files[-1]) == [record]


def test_build_questions(run, files, tmp_path):
    rows = [f"{r}\tquestion\t{w} [X]?" for r in ("P131", "P2") for w in ("Where is", "What has")]
    rows += [f"{r}\tparaphrase\t[X] {w} [Y]" for r in ("P131", "P2") for w in ("a", "b", "c")]
    (tmp_path / "patterns.tsv").write_text("relation\tkind\tpattern\n" + "\n".join(rows))
    (tmp_path / "facts.tsv").write_text(FACTS + "P2\tBeth\tred\t\nP2\tAnn\tblue\t\n")
    code, out, err = run("data", "build", *files, "--zsre", "--json")
    assert code == 0, err
    assert json.loads(out)["references"] is None
    assert {r.benchmark for r in load_records(files[-1])} == {"zsre"}


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--zsre", "--wikidata"], "--zsre goes without --wikidata"),
        (["--endpoint", "http://x"], "--endpoint goes with --wikidata only"),
        (["--limit", "0"], "limit=0 must be at least 1"),
        (["--zsre"], "Relations with 2 questions and facts that will do: 0"),
        (["--wikidata", "--endpoint", "x"], "is no web address"),
    ],
)
def test_build_that_cannot_be(run, files, args, reason):
    code, _, err = run("data", "build", *files, *args)
    assert code == 2
    assert reason in err
    assert not files[-1].exists()


def test_build_needs_sensible_files(run, files, tmp_path):
    code, _, err = run("data", "build", *files[:-1], tmp_path / "set.jsonl")
    assert code == 2
    assert "must end with .json" in err
    lines = FACTS.splitlines()
    (tmp_path / "facts.tsv").write_text("\n".join(line.rpartition("\t")[0] for line in lines))
    code, _, err = run("data", "build", *files, "--wikidata")
    assert code == 2
    assert "Add a column object_id" in err
