"""Ripple queries: what they ask, what the files must hold, and whether scores agree with a world."""

import math
from collections import Counter
from dataclasses import replace

import pytest
from ripple_worlds import Told, World

import factlab as fl
from factlab.data.relation_names import RELATION_NAMES
from factlab.data.ripple.compile import asked_queries
from factlab.data.ripple.tables import load_aliases, load_values, load_words
from factlab.data.ripple.world import RippleWorld, filled
from factlab.data.ripple_query import Condition, RippleQuery
from factlab.data.shipped import FOLDER, Shipped
from factlab.errors import InvalidRequestError, StorageError
from factlab.evaluation.configs import MeasureConfig
from factlab.evaluation.measuring import ripple, yardstick
from factlab.evaluation.measuring.rows import Row
from factlab.evaluation.measuring.yardstick import Wanted, Yardstick
from factlab.evaluation.scoring.ripple_scores import AXIS_NAMES, score_ripple
from factlab.facts import words_of

CHANGED = {"composition", "composition_from", "alias", "reversal", "choice"}
KEPT = {"specificity", "negation", "loud", "forgetfulness"}


@pytest.fixture(scope="module")
def world() -> RippleWorld:
    return fl.data.load_ripple_world()


@pytest.fixture(scope="module")
def records(world) -> list[fl.data.Record]:
    return list(fl.data.with_ripple(fl.load_records("builtin"), world).records)


def edit_of(world, relation, subject, new, **changes) -> fl.data.Record:
    """A record of one edit, with its queries."""
    true = world.source.answers[relation, subject]
    template = world.source.phrasing[relation].prompts[0]
    record = fl.data.Record(
        case_id=0, relation_id=relation, fact=fl.Fact(template, subject, new, true), **changes
    )
    return fl.data.with_ripple([record], world).records[0]


def of_axis(record, axis) -> list[RippleQuery]:
    return [query for query in record.ripple if query.axis == axis]


# -- files ------------------------------------------------------------------------------------


def test_every_relation_has_its_words(world):
    relations = {triple.relation_id for triple in Shipped.load().triples}
    assert relations == set(world.tables.words)
    assert relations <= set(RELATION_NAMES)
    for words in world.tables.words.values():
        assert words.noun.startswith("the ")
        assert words.inverse
        assert words.negated


def test_aliases_name_one_subject_and_do_not_give_the_answer_away(world):
    triples = Shipped.load().triples
    subjects = {triple.subject for triple in triples}
    assert len(world.tables.aliases) >= 200
    assert set(world.tables.aliases) <= subjects
    for subject, aliases in world.tables.aliases.items():
        for alias in aliases:
            assert alias not in subjects
            # A surname stands for one person only.
            assert not [s for s in subjects - {subject} if s.split()[-1] == alias]
            for triple in triples:
                if triple.subject == subject:
                    assert triple.object.casefold() not in alias.casefold(), (alias, triple)


def test_second_values_hold_the_facts_own_object(world):
    for (relation, subject), values in world.tables.values.items():
        assert len(values) > 1
        known = world.source.answers.get((relation, subject))
        assert known is None or known in values, (relation, subject)
    with_a_record = {key for key in world.tables.values if key in world.source.answers}
    assert len(with_a_record) >= 50


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ripple.tsv", "relation\tsort\tpattern\nP1\tnoun\tx [X]\n", "has no column 'kind'"),
        ("ripple.tsv", "relation\tkind\tpattern\nP1\tnuon\tx [X]\n", "Did you mean 'noun'"),
        ("ripple.tsv", "relation\tkind\tpattern\nP1\tnoun\tx [X] [Y]\n", r"\[X\] once and no"),
        (
            "ripple.tsv",
            "relation\tkind\tpattern\nP1\tinverse\t[X] of [Y]\n",
            "behind it at the end",
        ),
        ("ripple.tsv", "relation\tkind\tpattern\nP1\tnegated\tnot [Y] [X]\n", "does not suit"),
        (
            "ripple.tsv",
            "relation\tkind\tpattern\nP1\tnoun\ta [X]\nP1\tnoun\tb [X]\n",
            "two patterns",
        ),
        ("aliases.tsv", "name\talias\nRome\tRoma\n", "has no column 'subject'"),
        ("aliases.tsv", "subject\talias\nRome\tCity\nParis\tCity\n", "must tell who is meant"),
        ("aliases.tsv", "subject\talias\nRome\tRome\n", "its own name"),
        ("second_values.tsv", "relation\tsubject\tobject\nP1\tRome\t \n", "object is empty"),
    ],
)
def test_a_wrong_file_gets_a_sentence(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(StorageError, match=message):
        fl.data.load_ripple_world(tmp_path)


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(StorageError, match="no folder with ripple tables"):
        fl.data.load_ripple_world(tmp_path)


def test_own_files_stand_in_for_the_built_in_ones(tmp_path):
    (tmp_path / "aliases.tsv").write_text("subject\talias\nMarseille\tMassalia\n")
    world = fl.data.load_ripple_world(tmp_path)
    assert world.tables.aliases == {"Marseille": ("Massalia",)}
    assert world.tables.words == load_words(FOLDER / "ripple.tsv")
    assert load_values(FOLDER / "second_values.tsv") == world.tables.values
    assert load_aliases(FOLDER / "aliases.tsv") != world.tables.aliases
    (query,) = of_axis(edit_of(world, "P17", "Marseille", "Japan"), "alias")
    assert query.prompt == "Massalia is located in the country of"


def test_a_relation_without_words_is_counted(tmp_path, world):
    (tmp_path / "ripple.tsv").write_text("relation\tkind\tpattern\nP19\tnoun\tthe home of [X]\n")
    bare = fl.data.load_ripple_world(tmp_path)
    made = fl.data.with_ripple(
        [replace(edit_of(world, "P17", "Marseille", "Japan"), ripple=())], bare
    )
    assert made.skipped["composition", "the relation has no noun phrase"] == 1
    assert made.skipped["reversal", "the relation has no inverse prompt"] == 1
    assert made.n_queries == sum(made.by_axis().values())
    assert not {"composition", "reversal"} & set(made.by_axis())
    assert "negation" in made.by_axis(), "what is false can be said of any fact"


# -- queries ----------------------------------------------------------------------------------


def test_two_hops_through_the_new_object(world):
    record = edit_of(world, "P17", "Marseille", "Germany")
    asked = {query.prompt: query for query in of_axis(record, "composition")}
    currency = "The currency used in the country where Marseille is located is the"
    assert currency not in asked, "both countries pay in euro: the edit changes nothing"
    continent = "The country where Marseille is located lies on the continent of"
    assert asked[continent].answers == ("Europe",)
    assert asked[continent].old_answers == (), "the facts do not say where France is"
    mexico = edit_of(world, "P17", "Marseille", "Mexico")
    query = next(one for one in of_axis(mexico, "composition") if one.prompt == currency)
    assert query.answers == ("peso",)
    assert query.old_answers == ("euro",)
    assert query.conditions == (
        Condition("Marseille is located in the country of", ("France",)),
        Condition("The currency used in Mexico is the", ("peso",)),
    )
    assert query.manner == "say"


def test_a_hop_to_the_edited_fact(world):
    record = edit_of(world, "P38", "France", "rupee")
    asked = {query.prompt: query for query in of_axis(record, "composition_from")}
    query = asked["The currency used in the country where Strasbourg is located is the"]
    assert (query.answers, query.old_answers) == (("rupee",), ("euro",))
    assert query.conditions == (
        Condition("Strasbourg is located in the country of", ("France",)),
        Condition("The currency used in France is the", ("euro",)),
    )
    river = edit_of(world, "P403", "Thames", "Black Sea")
    assert "The river on which Oxford lies flows into the" in {
        query.prompt for query in of_axis(river, "composition_from")
    }, "one article, and a prompt for what is described"


def test_other_axes_by_hand(world):
    record = edit_of(
        world, "P1303", "Glenn Gould", "violin",
        neighborhood_prompts=["The musical instrument played by Frédéric Chopin is the"],
    )  # fmt: skip
    (choice,) = of_axis(record, "choice")
    listed, _, prompt = choice.prompt.partition("\n")
    assert prompt == "The musical instrument played by Glenn Gould is the"
    names = set(listed.removeprefix("Possible answers: ").removesuffix(".").split(", "))
    assert names == {"violin", *choice.others}
    assert len(names) == 4
    assert "piano" in names
    assert "organ" not in names, "that is true as well"
    (kept,) = of_axis(record, "forgetfulness")
    assert kept.answers == ("organ",)
    assert not {"piano", "organ", "violin"} & set(kept.others)
    (loud,) = of_axis(record, "loud")
    assert loud.prompt == (
        "The musical instrument played by Glenn Gould is the violin. "
        "The musical instrument played by Frédéric Chopin is the"
    )
    assert (loud.answers, loud.others) == (("piano",), ("violin",))
    (back,) = of_axis(record, "reversal")
    assert back.prompt == "The violin is the instrument of"
    assert back.answers == ("Glenn Gould",)
    true_of_it = {s for (r, s), o in world.source.answers.items() if (r, o) == ("P1303", "violin")}
    assert len(back.others) == 9
    assert not true_of_it & set(back.others)
    assert {query.prompt for query in of_axis(record, "negation")} == {
        "The musical instrument played by Glenn Gould is not the",
        "It is false that the musical instrument played by Glenn Gould is the",
    }
    (other,) = of_axis(edit_of(world, "P19", "David Bowie", "Vienna"), "specificity")
    assert other.prompt == "David Bowie died in the city of"
    assert other.answers == ("New York City",)
    (alias,) = of_axis(edit_of(world, "P30", "Norway", "Asia"), "alias")
    assert alias.prompt == "The Kingdom of Norway is located on the continent of"
    assert (alias.answers, alias.old_answers) == (("Asia",), ("Europe",))


def test_a_fact_of_ones_own_has_what_there_are_words_for(fact):
    record = fl.data.Record(
        fact=fact, neighborhood_prompts=["The Louvre is located in the city of"]
    )
    made = fl.data.with_ripple([record])
    assert made.by_axis() == {"negation": 1, "loud": 1}
    assert made.records[0].ripple[0].prompt == (
        "It is false that The Eiffel Tower is located in the city of"
    )


def test_own_queries_are_kept_and_nothing_is_made_of_what_has_no_target(fact):
    own = RippleQuery(axis="logic", prompt="So it is in", answers=["Italy"])
    asked = fl.data.Record(fact=fact, ripple=[own])
    erased = fl.data.Record(fact=replace(fact, target_new=None))
    assert fl.data.with_ripple([asked, erased]).records == (asked, erased)


def test_queries_are_the_same_for_a_seed_and_no_more_than_asked_for(world):
    plain = fl.load_records("builtin", limit=40)
    made = fl.data.with_ripple(plain, world, seed=1).records
    assert made == fl.data.with_ripple(plain[::-1], world, seed=1).records[::-1]
    assert made != fl.data.with_ripple(plain, world, seed=2).records
    for record in made:
        few = asked_queries(record, 2, 0)
        assert few == asked_queries(record, 2, 0)
        assert max(Counter(query.axis for query in few).values()) <= 2
        assert {query.axis for query in few} == {query.axis for query in record.ripple}
    assert any(asked_queries(one, 2, 0) != asked_queries(one, 2, 1) for one in made)


def test_what_the_facts_give(records):
    with_axis = Counter(axis for record in records for axis in {q.axis for q in record.ripple})
    assert with_axis["composition"] > 180
    assert with_axis["composition_from"] >= 20
    assert with_axis["specificity"] >= 160
    assert with_axis["alias"] > 250
    assert with_axis["forgetfulness"] >= 45
    for axis in ("reversal", "negation", "loud"):
        assert with_axis[axis] > 1200


def test_filled():
    assert filled("The {} is a kind of", "whale") == "The whale is a kind of"
    assert (
        filled("{} lies in", "the river on which Rome lies")
        == "The river on which Rome lies lies in"
    )
    assert filled("In {} is", "the north") == "In the north is"


def test_a_condition_needs_an_answer():
    with pytest.raises(InvalidRequestError, match="has no answer"):
        Condition("Rome is in", ())


# -- worlds -----------------------------------------------------------------------------------


def rows_in(monkeypatch, records, world, told) -> list[Row]:
    """The rows of an evaluation in which a record's own world answers."""
    lm = Told(World(world, {}))
    monkeypatch.setattr(yardstick, "score_targets", lm.score_targets)
    monkeypatch.setattr(yardstick, "said_by", lm.said_by)
    measure = Yardstick(lm, MeasureConfig(n_generated=0, ripple=True, ripple_per_axis=4), {})
    before = measure.measure(records, None, [False] * len(records), Wanted(conditions=True))
    after = []
    for record, edits in zip(records, told, strict=True):
        lm.world = World(world, edits)
        after += measure.measure([record], None, [False])
    return [
        Row(
            case_id=record.case_id, benchmark="counterfact", relation_id=record.relation_id,
            subject=record.fact.subject, prompt=record.fact.prompt,
            target_new=str(record.fact.target_new), target_true=record.fact.target_true,
            before=was, after=now, edit_s=0, measure_s=0, seed=0,
            ripple=measure.ripple_queries(record),
        )
        for record, was, now in zip(records, before, after, strict=True)
    ]  # fmt: skip


def edit_in(record) -> dict[tuple[str, str], str]:
    return {(record.relation_id, record.fact.subject): words_of(str(record.fact.target_new))}


def some_of_each_axis(records, n=12) -> list[fl.data.Record]:
    chosen: dict[int, fl.data.Record] = {}
    for axis in AXIS_NAMES:
        having = [r for r in records if any(q.axis == axis for q in r.ripple)]
        chosen |= {record.case_id: record for record in having[:n]}
    return list(chosen.values())


def test_the_edited_world_passes_every_axis(monkeypatch, records, world):
    some = some_of_each_axis(records)
    rows = rows_in(monkeypatch, some, world, [edit_in(record) for record in some])
    scores = {one.axis: one for one in score_ripple(rows, "after")}
    assert set(scores) == CHANGED | KEPT
    for axis, one in scores.items():
        assert one.executed.mean == 1, axis
        assert (one.worked.mean, one.all.mean) == (1, 1), axis
        assert one.n_worked == one.n_all == one.n_records >= 12, axis
        assert not one.unscored
    assert scores["reversal"].mean_rank == 1


def test_the_old_world_fails_what_changed_and_passes_what_must_stay(monkeypatch, records, world):
    some = some_of_each_axis(records)
    rows = rows_in(monkeypatch, some, world, [{}] * len(some))
    for one in score_ripple(rows, "after"):
        assert one.all.mean == (0 if one.axis in CHANGED else 1), one.axis
        assert one.n_worked == 0, "no edit has worked"
        assert math.isnan(one.worked.mean)
    for one in score_ripple(rows, "before"):
        assert one.all.mean == (0 if one.axis in CHANGED else 1), one.axis


def test_a_model_that_knows_nothing_executes_nothing_but_what_has_no_condition(
    monkeypatch, records, world
):
    some = some_of_each_axis(records, 3)
    rows = rows_in(monkeypatch, some, world, [{}] * len(some))
    ignorant = replace_told(rows)
    for one in score_ripple(ignorant, "after"):
        free = one.axis in ("reversal", "negation", "choice")
        assert one.executed.mean == (1 if free else 0), one.axis
        assert one.conditioned != free, one.axis
        if not free:
            assert one.unscored == {
                "the unedited model does not know what it builds on": one.n_queries
            }
            assert math.isnan(one.all.mean)


def replace_told(rows: list[Row]) -> list[Row]:
    """The same, with an unedited model that says nothing and prefers other candidates."""
    made: list[Row] = []
    for row in rows:
        told = [
            one.model_copy(
                update={
                    "conditions": tuple(
                        each.model_copy(
                            update={"said": each.said and "?", "answers": each.others[:1] and
                                    (each.others[0],)}
                        )
                        for each in one.conditions
                    )
                }
            )
            for one in row.before.ripple
        ]  # fmt: skip
        before = row.before.model_copy(update={"ripple": tuple(told)})
        made.append(row.model_copy(update={"before": before}))
    return made


def test_what_cannot_be_asked_says_so(make_model, fact):
    lm = make_model("llama")
    long = RippleQuery(axis="logic", prompt="Rome " * 500, answers=["Paris"])
    probe = ripple.ripple_probe(lm, long, "")
    assert "at most" in probe.unasked
    record = fl.data.Record(
        case_id=0, fact=fl.Fact("{} is in the", "Rome", "Paris", "Seattle"), ripple=[long]
    )
    measure = Yardstick(lm, MeasureConfig(n_generated=0, ripple=True), {})
    (told,) = measure.measure([record], None, [False], Wanted(conditions=True))
    assert told.ripple[0].unasked
