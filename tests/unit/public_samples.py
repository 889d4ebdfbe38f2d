"""Small files in the layouts of public ones, with facts of our own, and what becomes of them."""

from factlab.data.records import Record
from factlab.data.ripple_query import Condition, RippleQuery
from factlab.facts import Fact

WIKI = {
    "subject": "Oslo",
    "prompt": "The river through Oslo is",
    "target_new": "Loire",
    "ground_truth": "Akerselva",
    "portability": {
        "Reasoning": [
            {"prompt": "The mouth of the river through Oslo is", "ground_truth": [["Atlantic", "Atlantic Ocean"]]},
            {"prompt": "The source of the river through Oslo is", "ground_truth": []},
        ],
        "Subject_Aliasing": [{"prompt": "The river through Christiania is", "ground_truth": "Loire"}],
        "Logical_Generalization": [{"prompt": "Does the Loire flow through Oslo?", "ground_truth": [["yes"], ["true"]]}],
        "Guessing": [{"prompt": "x", "ground_truth": "y"}],
    },
    "locality": {
        "Relation_Specificity": [{"prompt": "The country of Oslo is", "ground_truth": [["Norway", "NO"]]}],
        "Forgetfulness": [{"prompt": ["The river through Oslo, which is not Loire, is"], "ground_truth": ["Akerselva"]}],
    },
}  # fmt: skip
BIO = {
    "text": "This is about ada lie. Ada Lie (1900-1980) was a painter.",
    "labels": "She grew up in Bergen.",
    "concept": "Ada  Lie",
    "locality": {"Relation_Specificity": [{"prompt": "ada lie field of work", "ground_truth": ["art"]}]},
}  # fmt: skip
ZSRE = {
    "subject": "Moss",
    "prompt": "Which county is Moss in?",
    "target_new": "Troms",
    "ground_truth": ["Viken"],
    "rephrase_prompt": "In which county does Moss lie?",
    "cond": "Viken >> Troms || Which county is Moss in?",
    "locality": {},
    "portability": {},
}
AS_READ = {
    "subject": "Moss", "prompt": "Moss is in", "target_new": "Troms", "ground_truth": None,
    "portability_r": [{"prompt": "The north of Moss is", "ground_truth": "cold"}],
    "portability_s": None, "locality_rs": [{"prompt": "Moss has a", "ground_truth": ["harbour"]}],
    "locality_f": None,
}  # fmt: skip
KNOWEDIT = [
    WIKI,
    BIO,
    ZSRE,
    AS_READ,
    WIKI | {"target_new": ""},
    WIKI | {"subject": "Bergen"},
    WIKI | {"subject": ""},
]
KNOWEDIT_RECORDS = [
    Record(
        case_id=0,
        benchmark="zsre",
        fact=Fact("The river through {} is", "Oslo", "Loire", "Akerselva"),
        neighborhood_prompts=["The country of Oslo is", "The river through Oslo, which is not Loire, is"],
        neighborhood_answers=["Norway", "Akerselva"],
        ripple=[
            RippleQuery(axis="composition", prompt="The mouth of the river through Oslo is", answers=["Atlantic", "Atlantic Ocean"]),
            RippleQuery(axis="alias", prompt="The river through Christiania is", answers=["Loire"], old_answers=["Akerselva"]),
            RippleQuery(axis="logic", prompt="Does the Loire flow through Oslo?", answers=["yes", "true"]),
        ],
    ),
    Record(
        case_id=1,
        benchmark="zsre",
        fact=Fact("This is about {}. Ada Lie (1900-1980) was a painter.", "ada lie", "She grew up in Bergen."),
        neighborhood_prompts=["ada lie field of work"],
        neighborhood_answers=["art"],
    ),
    Record(
        case_id=2,
        benchmark="zsre",
        fact=Fact("Which county is {} in?", "Moss", "Troms", "Viken"),
        paraphrase_prompts=["In which county does Moss lie?"],
        question_prompts=["Which county is Moss in?", "In which county does Moss lie?"],
    ),
    Record(
        case_id=3,
        benchmark="zsre",
        fact=Fact("{} is in", "Moss", "Troms"),
        neighborhood_prompts=["Moss has a"],
        neighborhood_answers=["harbour"],
        ripple=[RippleQuery(axis="composition", prompt="The north of Moss is", answers=["cold"])],
    ),
]  # fmt: skip
KNOWEDIT_LEFT = (
    "1 question without a text or an answer (line 1, record 0); "
    "1 list of portability called 'Guessing' (line 1, record 0); "
    "1 record without a new target (line 5, record 4); "
    "2 records whose subject is not in their prompt (first in line 6, record 5)"
)


def rewrite(subject="Akerselva", new="Lyon"):
    return {
        "prompt": "{} flows through", "relation_id": "P131", "subject": subject,
        "target_new": {"str": new, "id": "Q456"}, "target_true": {"str": "Oslo", "id": "Q585"},
        "question": f"Which city does {subject} flow through?",
    }  # fmt: skip


MQUAKE_CASE = {
    "case_id": 5,
    "requested_rewrite": [rewrite()],
    "questions": ["In which country is the city on Akerselva?", "Which country has the city of the museum of Ada Lie?"],
    "answer": "Norway",
    "answer_alias": ["Noreg"],
    "new_answer": "France",
    "new_answer_alias": ["French Republic", "France"],
    "single_hops": [{"question": "?", "cloze": "Oslo lies in", "answer": "Norway", "answer_alias": []}],
    "new_single_hops": [
        {"question": "Which city does Akerselva flow through?", "cloze": "Akerselva flows through", "answer": "Lyon", "answer_alias": ["Lyons"]},
        {"question": "Where is Lyon?", "cloze": "Lyon lies in", "answer": "France", "answer_alias": ["FR"]},
    ],
    "orig": {"triples": []},
}  # fmt: skip
MQUAKE = [
    MQUAKE_CASE,
    MQUAKE_CASE | {"case_id": 6, "requested_rewrite": [rewrite(), rewrite("Alna")]},
    MQUAKE_CASE | {"case_id": 7, "requested_rewrite": [rewrite(), rewrite("Alna")]},
    MQUAKE_CASE | {"case_id": 8, "requested_rewrite": [rewrite("Alna", "Metz")]},
]
KNOWN = [Condition("Lyon lies in", ["France", "FR"])]
MQUAKE_RECORDS = [
    Record(
        case_id=5,
        relation_id="P131",
        fact=Fact("{} flows through", "Akerselva", "Lyon", "Oslo"),
        new_id="Q456",
        true_id="Q585",
        question_prompts=["Which city does Akerselva flow through?"],
        new_aliases=["Lyons"],
        ripple=[
            RippleQuery(axis=axis, prompt=question, answers=["France", "French Republic"], old_answers=["Norway", "Noreg"], conditions=KNOWN)
            for axis, question in zip(("composition", "composition_from"), MQUAKE_CASE["questions"], strict=True)
        ],
    ),
    Record(
        case_id=8,
        relation_id="P131",
        fact=Fact("{} flows through", "Alna", "Metz", "Oslo"),
        new_id="Q456",
        true_id="Q585",
        question_prompts=["Which city does Alna flow through?"],
    ),
]  # fmt: skip
MQUAKE_LEFT = (
    "2 cases of several edits, which hold only together (first in line 2, record 6); "
    "1 chain of facts without the edited one (line 4, record 8)"
)


def query(prompt, answers, ids=("Q20",), **more):
    return {
        "prompt": prompt, "query_type": "regular", "subject_id": "Q585", "relation": "COUNTRY",
        "answers": [{"value": value, "aliases": list(others)} for value, *others in answers],
        "target_ids": list(ids), "phrase": None,
    } | more  # fmt: skip


def case(queries, conditions=()):
    return {"test_queries": queries, "test_condition": "OR", "condition_queries": list(conditions)}


def ripple_edit(prompt, before=None, relation="COUNTRY_OF_CITIZENSHIP", target_id="Q142", **axes):
    edit = {"prompt": prompt, "subject_id": "Q1", "relation": relation, "target_id": target_id}
    if before is not None:
        edit["original_fact"] = edit | {"prompt": before, "target_id": "Q20"}
    return {"example_type": "popular" if before else "recent", "edit": edit} | axes


BORN = query("The place of birth of Ada Lie is", [("Moss",), ("M", "9")], ids=["Q3"])
HOP = query("The currency of the country of citizenship of Ada Lie is", [("euro", "EUR")],
            query_type="two_hop", second_hop_target_ids=["Q4916"])  # fmt: skip
RIPPLE_EDITS = [
    ripple_edit(
        "The name of the country of citizenship of Ada Lie is France.",
        "The name of the country of citizenship of Ada Lie is Norway.",
        Relation_Specificity=[case([BORN], [BORN])],
        Subject_Aliasing=[
            case([query("The name of the country of citizenship of A. Lie is", [("France", "French Republic", "F")], ids=["Q142"])])
        ],
        Compositionality_I=[
            case([HOP], [query("The name of the currency in France is", [("euro",)], ids=["Q4916"])]),
            case([HOP], [query("The name of the currency in Rome is", [])]),
        ],
        Compositionality_II=[],
        Logical_Generalization=[case([query("Is Ada Lie French?", [("yes",)]), query("Is Ada Lie Norwegian?", [("no",)])])],
        Forgetfulness=[case([query("x is", [("F",)])])],
    ),
    ripple_edit("The gender of Ada Lie is male.", "The gender of Ada Lie is male."),
    ripple_edit("The gender of Bo Dahl is male.", "The gender of Bo Dahl is ."),
    ripple_edit("Ada Lie drank tea."),
]  # fmt: skip
RIPPLE_RECORDS = [
    Record(
        case_id=0,
        relation_id="COUNTRY_OF_CITIZENSHIP",
        fact=Fact("The name of the country of citizenship of {} is", "Ada Lie", "France", "Norway"),
        new_id="Q142",
        true_id="Q20",
        new_aliases=["French Republic"],
        ripple=[
            RippleQuery(axis="specificity", prompt=BORN["prompt"], answers=["Moss", "9"], conditions=[Condition(BORN["prompt"], ["Moss", "9"])]),
            RippleQuery(axis="logic", prompt="Is Ada Lie French?", answers=["yes"]),
            RippleQuery(axis="logic", prompt="Is Ada Lie Norwegian?", answers=["no"]),
            RippleQuery(axis="alias", prompt="The name of the country of citizenship of A. Lie is", answers=["France", "French Republic"], old_answers=["Norway"]),
            RippleQuery(axis="composition", prompt=HOP["prompt"], answers=["euro", "EUR"], conditions=[Condition("The name of the currency in France is", ["euro"])]),
        ],
    ),
    Record(
        case_id=2,
        relation_id="COUNTRY_OF_CITIZENSHIP",
        fact=Fact("The gender of {} is", "Bo Dahl", "male"),
        new_id="Q142",
        true_id="Q20",
    ),
]  # fmt: skip
RIPPLE_LEFT = (
    "2 queries without an answer, or with such a condition (first in line 1, record 0); "
    "1 record that changes nothing (line 2, record 1); "
    "1 record whose sentence does not tell subject and object (line 4, record 3)"
)

QA = {
    "id": 94, "source": "NQ", "prompt": "which river flows through Oslo", "target": "Loire",
    "subject": "oslo", "rephrase": "Which river runs through Oslo?",
    "locality": [{"loc": "who wrote peer gynt", "loc_ans": "Henrik Ibsen"}, {"loc": "who", "loc_ans": ""}],
}  # fmt: skip
QAEDIT = [QA, QA | {"source": "TQA", "locality": []}]
QAEDIT_RECORDS = [
    Record(
        case_id=0,
        benchmark="zsre",
        fact=Fact("which river flows through {}", "Oslo", "Loire"),
        paraphrase_prompts=["Which river runs through Oslo?"],
        neighborhood_prompts=["who wrote peer gynt"],
        neighborhood_answers=["Henrik Ibsen"],
        question_prompts=["which river flows through Oslo?", "Which river runs through Oslo?"],
    ),
    Record(
        case_id=1,
        benchmark="zsre",
        fact=Fact("which river flows through {}", "Oslo", "Loire"),
        paraphrase_prompts=["Which river runs through Oslo?"],
        question_prompts=["which river flows through Oslo?", "Which river runs through Oslo?"],
    ),
]
QAEDIT_LEFT = "1 question without a text or an answer (line 1, record 0)"

FLAT_EDIT = {
    "case_id": 7, "prompt": "The river through Oslo is", "subject": "Oslo", "target_new": "Loire",
    "ground_truth": "Akerselva", "rephrase_prompt": "Through Oslo flows the",
    "locality_prompt": "The river through Nydalen is", "locality_ground_truth": "Akerselva",
}  # fmt: skip
FLAT = [FLAT_EDIT, FLAT_EDIT | {"case_id": 8, "locality_ground_truth": "Glomma"}]
FLAT_RECORDS = [
    Record(
        case_id=number,
        fact=Fact("The river through {} is", "Oslo", "Loire", "Akerselva"),
        paraphrase_prompts=["Through Oslo flows the"],
        neighborhood_prompts=beside,
    )
    for number, beside in ((7, ["The river through Nydalen is"]), (8, []))
]
FLAT_LEFT = "1 unrelated prompt that has not the fact's own answer (line 2, record 8)"

BIG = {
    "tag": "new", "subject": "Oslo", "update": "Which river flows through Oslo?", "ans": "Loire",
    "rephrase": "What is the river of Oslo?", "personas": "Oslo's river, which is it?",
    "personas_formal": "Name the river.", "mhop": "Where does Oslo's river end?",
    "mhop_ans": "Atlantic", "loc": "Who wrote Peer Gynt?", "loc_ans": "Ibsen",
}  # fmt: skip
WIKI_BIG_EDIT = [
    BIG,
    BIG | {"personas": None, "mhop": float("nan"), "mhop_ans": "x", "loc": None, "loc_ans": None},
    BIG | {"ans": None},
]
BIG_RECORDS = [
    Record(
        case_id=0,
        benchmark="zsre",
        fact=Fact("Which river flows through {}?", "Oslo", "Loire"),
        paraphrase_prompts=["What is the river of Oslo?", "Oslo's river, which is it?"],
        neighborhood_prompts=["Who wrote Peer Gynt?"],
        neighborhood_answers=["Ibsen"],
        question_prompts=["Which river flows through Oslo?", "What is the river of Oslo?", "Oslo's river, which is it?"],
        ripple=[RippleQuery(axis="composition", prompt="Where does Oslo's river end?", answers=["Atlantic"])],
    ),
    Record(
        case_id=1,
        benchmark="zsre",
        fact=Fact("Which river flows through {}?", "Oslo", "Loire"),
        paraphrase_prompts=["What is the river of Oslo?"],
        question_prompts=["Which river flows through Oslo?", "What is the river of Oslo?"],
    ),
]  # fmt: skip
BIG_LEFT = (
    "1 question without a text or an answer (line 2, record 1); "
    "1 record without a new target (line 3, record 2)"
)

EDIT, BACK = ["h_e", "r_e", "t_e", "f", "s"], ["t_e", "r_e", "h_e", "b", "m"]


def hop(path, prompt, target, subject="Oslo", **more):
    return {"path": path, "prompt": prompt, "target": target, "subject": subject} | more


def item(prompt, target, paths=(EDIT,), hops=(), path_type="single", **more):
    chain = {"paths": [*paths], "one_hops": [*hops]} if path_type == "single" else {}
    return {"path_type": path_type, "prompt": prompt, "target": target} | chain | more


ON = hop(["t_e", "r_0", "e_0"], "The Loire ends in the", "Atlantic", "Loire")
TURNED = hop(["e_0", "r_0", "t_e"], "Blois lies on the", "Loire", "Blois",
             reverse_in_multi_hop=True, reversed={"prompt": "On the Loire lies", "target": "Blois"})  # fmt: skip
SAMPLE = {
    "edit": {
        "prompt": "The river through Oslo is the", "subject": "Oslo", "target": "Loire",
        "property": {"id": "P206", "label": "on the water"},
        "tail_entity": {"datatype": "wikibase-item", "value": {"id": "Q1", "label": "Loire", "aliases": ["Leger"]}},
    },
    "generality": {
        "0": item("Through Oslo flows the", "Loire river", hops=[hop(EDIT[:3], "a", "b")]),
        "1": item("The river through Christiania is the", "Loire", hops=[hop(EDIT[:3], "a", "b", "Christiania")]),
        "2": item("The city on the Loire is", "Oslo", [BACK], [hop(EDIT[:3], "a", "b")]),
        "3": item("The river through Oslo ends in the", "Atlantic", [EDIT, ["t_e", "r_0", "e_0", "f", "s"]], [hop(EDIT[:3], "a", "b"), ON]),
        "4": item("The town on the river through Oslo is", "Blois", [["e_1", "r_1", "h_e", "f", "s"], EDIT], [TURNED]),
        "5": item("Does it end where the Garonne does?", "Yes", path_type="double", single_path1={"one_hops": [ON]}, single_path2={"one_hops": []}),
    },
    "locality": {"0": item("Peer Gynt is by", "Ibsen", [["e_0", "r_0", "e_1", "f", "s"]])},
}  # fmt: skip
DATED = {
    "edit": {"prompt": "Oslo was founded in", "subject": "Oslo", "target": "1050",
             "property": {"id": "P571"}, "tail_entity": {"datatype": "time", "value": {"time": "+1050"}}},
    "generality": {"0": item("Oslo began in", "1050", hops=[hop(EDIT[:3], "a", "b")])}, "locality": {},
}  # fmt: skip
UNIEDIT = {"12": SAMPLE, "31": DATED}
UNIEDIT_RECORDS = [
    Record(
        case_id=12,
        benchmark="zsre",
        relation_id="P206",
        fact=Fact("The river through {} is the", "Oslo", "Loire"),
        new_id="Q1",
        paraphrase_prompts=["Through Oslo flows the"],
        neighborhood_prompts=["Peer Gynt is by"],
        neighborhood_answers=["Ibsen"],
        new_aliases=["Leger", "Loire river"],
        ripple=[
            RippleQuery(axis="alias", prompt="The river through Christiania is the", answers=["Loire"]),
            RippleQuery(axis="reversal", prompt="The city on the Loire is", answers=["Oslo"]),
            RippleQuery(axis="composition", prompt="The river through Oslo ends in the", answers=["Atlantic"], conditions=[Condition("The Loire ends in the", ["Atlantic"])]),
            RippleQuery(axis="composition_from", prompt="The town on the river through Oslo is", answers=["Blois"], conditions=[Condition("On the Loire lies", ["Blois"])]),
            RippleQuery(axis="logic", prompt="Does it end where the Garonne does? Answer yes or no:", answers=["Yes"], conditions=[Condition("The Loire ends in the", ["Atlantic"])]),
        ],
    ),
    Record(
        case_id=31,
        benchmark="zsre",
        relation_id="P571",
        fact=Fact("{} was founded in", "Oslo", "1050"),
        paraphrase_prompts=["Oslo began in"],
    ),
]  # fmt: skip

# By name: a file's values, the records, and what is left out.
FILES = {
    "knowedit": (KNOWEDIT, KNOWEDIT_RECORDS, KNOWEDIT_LEFT),
    "mquake": (MQUAKE, MQUAKE_RECORDS, MQUAKE_LEFT),
    "ripple_edits": (RIPPLE_EDITS, RIPPLE_RECORDS, RIPPLE_LEFT),
    "qaedit": (QAEDIT, QAEDIT_RECORDS, QAEDIT_LEFT),
    "flat": (FLAT, FLAT_RECORDS, FLAT_LEFT),
    "wiki_big_edit": (WIKI_BIG_EDIT, BIG_RECORDS, BIG_LEFT),
    "uniedit": (UNIEDIT, UNIEDIT_RECORDS, ""),
}
