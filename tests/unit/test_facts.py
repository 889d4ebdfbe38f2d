import subprocess
import sys

import pytest

from factlab.errors import InvalidRequestError
from factlab.facts import Fact, TokenSpan, words_of


def test_prompt_fills_the_slot():
    fact = Fact("In the city of {}, the", "Paris")
    assert fact.prompt == "In the city of Paris, the"
    assert fact.prompt[fact.subject_start :].startswith("Paris")


@pytest.mark.parametrize(("template", "count"), [("no slot", "0"), ("{} and {}", "2")])
def test_a_template_has_exactly_one_slot(template, count):
    with pytest.raises(InvalidRequestError, match=f"holds {count} '{{}}'"):
        Fact(template, "x")


@pytest.mark.parametrize("field", ["subject", "target_new", "target_true"])
def test_empty_strings_are_refused(field):
    values = {"subject": "x", "target_new": "y", "target_true": "z", field: " "}
    with pytest.raises(ValueError, match=f"{field} is empty"):
        Fact("{} is", **values)


def test_from_prompt_cuts_out_the_first_occurrence():
    fact = Fact.from_prompt("Rome is the capital; Rome is in", "Rome")
    assert fact.template == "{} is the capital; Rome is in"
    assert fact.prompt == "Rome is the capital; Rome is in"


def test_from_prompt_says_that_there_are_others_or_takes_the_one_chosen(caplog):
    Fact.from_prompt("Rome is the capital; Rome is in", "Rome")
    assert "occurs 2 times" in caplog.text
    caplog.clear()
    fact = Fact.from_prompt("Rome is the capital; Rome is in", "Rome", occurrence=2)
    assert caplog.text == ""
    assert fact.template == "Rome is the capital; {} is in"
    assert Fact.from_prompt("a b a b a", "a", occurrence=3).template == "a b a b {}"
    with pytest.raises(InvalidRequestError, match=r"occurs 2 times .* from 1 to 2"):
        Fact.from_prompt("Rome is the capital; Rome is in", "Rome", occurrence=3)


def test_from_prompt_names_a_missing_subject():
    with pytest.raises(InvalidRequestError, match="'Space Needles' does not occur in prompt"):
        Fact.from_prompt("The Space Needle is in", "Space Needles")


def test_other_braces_are_left_alone():
    assert Fact("{} wrote {x} and }{", "Ada").prompt == "Ada wrote {x} and }{"


def test_span_last():
    assert TokenSpan(2, 5).last == 4


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("In Python, x = {} makes a", "Python"),
        ("print('{}'.format(3)) in Python prints", "Python"),
        ("{Rome} and {}", "Rome"),
        ("f'{{}}' {} {{ x in Rome", "Rome"),
        ("{}{Rome}{}", "Rome"),
        ("{Rome", "Rome"),
        ("{{Rome}} {}", "Rome"),
    ],
)
def test_a_prompt_may_hold_braces(prompt, subject):
    fact = Fact.from_prompt(prompt, subject)
    assert fact.prompt == prompt
    assert prompt[fact.subject_start :].startswith(subject)
    assert Fact(fact.template, subject) == fact


def test_braces_of_the_text_are_doubled():
    fact = Fact("In {}, x = {{}} makes {{a}}", "Python")
    assert fact.prompt == "In Python, x = {} makes {a}"
    assert fact.template.format("Python") == fact.prompt
    assert Fact("set {{}}", "x").prompt == "set {x}", "one slot is the slot, in whatever braces"
    with pytest.raises(InvalidRequestError, match=r"holds 0 .* double the braces"):
        Fact("x = {{}} and {{}}", "Python")


@pytest.mark.parametrize(
    ("prompt", "subject", "difference"),
    [
        (
            "Cafe\u0301 de Flore is in",
            "Caf\u00e9 de Flore",
            "'Cafe\u0301 de Flore' there looks like it .* character 4 is 'é' "
            r"\(U\+00E9 LATIN SMALL LETTER E WITH ACUTE\), not .*COMBINING ACUTE ACCENT",
        ),
        ("The Eiffel\u00a0Tower is", "The Eiffel Tower", r"11 is ' ' .*NO-BREAK SPACE"),
        ("Hansel’s house is", "Hansel's house", "APOSTROPHE.*RIGHT SINGLE QUOTATION MARK"),
        ("the eiffel tower is", "The Eiffel Tower", "character 1 is 'T' .*; character 5 is 'E'"),
        ("The Eiffel  Tower is", "The Eiffel Tower", "character 12 is missing, not ' '"),
        ("The soft\u00adware is", "software", "SOFT HYPHEN"),
        ("The Space Needle is in", "Space Needles", "Did you mean 'Space Needle'?"),
    ],
)
def test_a_subject_that_only_looks_alike(prompt, subject, difference):
    with pytest.raises(InvalidRequestError, match=difference):
        Fact.from_prompt(prompt, subject)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("{} is", "Lou\ud800vre"), r"subject holds U\+D800 at character 4"),
        (("\udce9 {}", "x"), r"template holds U\+DCE9"),
    ],
)
def test_what_is_no_unicode_is_refused(values, message):
    with pytest.raises(InvalidRequestError, match=message) as caught:
        Fact(*values)
    str(caught.value).encode()  # it can be printed


def test_how_a_target_is_joined_is_kept_in_it():
    fact = Fact("{} is", "Rome", "x", " y", joint="none")
    assert (words_of(fact.target_new), words_of(fact.target_true)) == ("x", "y")
    assert Fact("{} is", "Rome", fact.target_new, fact.target_true) == fact
    assert Fact("{} is", "Rome", "x", joint="space").target_new == " x"
    with pytest.raises(InvalidRequestError, match="target_new is empty"):
        Fact("{} is", "Rome", "\u2060")


def test_wrong_types_are_refused():
    """In a process of its own, where the tests' type checks are not in front of it."""
    wrong = [
        (("{} is", "x", 5), {}, "The target_new is 5, of type int, not a text. Put it in quotes"),
        (("{} is", 5), {}, "The subject is 5"),
        ((None, "x"), {}, "The template is None"),
        (("{} is", None), {}, "The subject is None"),
        (("{} is", "x", "y"), {"joint": "tight"}, "joint='tight' must be 'space', 'none' or None"),
    ]
    code = f"""
from factlab.errors import InvalidRequestError
from factlab.facts import Fact
for values, named, message in {wrong!r}:
    try:
        Fact(*values, **named)
    except InvalidRequestError as error:
        if str(error).startswith(message):
            print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stdout.split() == ["refused"] * len(wrong), done.stderr


def test_a_fact_without_a_subject_is_a_whole_prompt():
    fact = Fact("Who wrote Hamlet? Answer:", "", target_new="Marlowe")
    assert (fact.prompt, fact.topic) == (fact.template, fact.template)
    assert fact.question == ("Who wrote Hamlet? Answer:", "")
    assert Fact("Who wrote it?", "  ") == Fact("Who wrote it?", "")
    assert Fact("x = {{}} makes", "").prompt == "x = {} makes"
    assert Fact("a {b} c", "").prompt == "a {b} c"
    assert Fact("{} is", "Rome").topic == "Rome"
    for template, subject, reason in (
        ("{} is in", "", "The subject is empty"),
        ("{} and {} are", "", "The subject is empty"),
        ("Rome is in", "Rome", "holds 0 .*A fact without a subject has an empty one"),
        ("", "", "The template is empty"),
    ):
        with pytest.raises(InvalidRequestError, match=reason):
            Fact(template, subject)
    with pytest.raises(InvalidRequestError, match="'Who\\?' has no subject, and one is needed"):
        _ = Fact("Who?", "").subject_start
