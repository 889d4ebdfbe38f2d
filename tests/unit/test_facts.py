import pytest

from factlab.errors import InvalidRequestError
from factlab.facts import Fact, TokenSpan


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
