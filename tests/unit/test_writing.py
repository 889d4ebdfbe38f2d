"""Spaces between texts, ends of words, and texts that are no texts."""

import pytest

from factlab.errors import InvalidRequestError
from factlab.writing import check_text, check_texts, find_words, says, wants_space

KOREAN, THAI, KHMER = "프랑스의 수도는", "เมืองหลวงคือ", "អ្នកគឺ"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("It is in", "Rome"),
        (KOREAN, "파리"),
        (KOREAN, "Paris"),
        ("The Japanese word for cat is", "猫"),
        ("I love", "🍕"),
        ("I love 🍕", "pizza"),
        ("Answer:", "Rome"),
        ("The dogs'", "home"),
        ("'Rome'", "is"),
        ('He said "hello"', "then"),
        ("„Wort“", "ist"),
        ("He said", '"Rome"'),
        ("It is in", "(northern) Italy"),
        ("It runs on", ".NET"),
        ("It is", "-5 degrees"),
        ("Rome -", "Paris"),
        ("Rome /", "Paris"),
        ("x =", "5"),
        ("It costs 5 €", "a day"),
        ("The format is", "%s"),
    ],
)
def test_a_writer_puts_a_space(before, after):
    assert wants_space(before, after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("It is in\n", "Rome"),
        ("It is in", " Rome"),
        ("首都は", "東京"),
        ("首都は", "Paris"),
        ("这家公司是 Apple", "公司"),
        (THAI, "ปารีส"),
        (KHMER, "ប៉ារីស"),
        ("答案：", "Paris"),
        ('{"capital": "', "Paris"),
        ('{"capital":"', "Paris"),
        ("print('", "Paris"),
        ("The capital (", "Paris"),
        ("The capital “", "Paris"),
        ("Die Hauptstadt „", "Rom"),
        ("It costs $", "5"),
        ("It is -", "5"),
        ("Version #", "5"),
        ("x=", "5"),
        ("and/", "or"),
        ("Franco-", "Prussian"),
        ("all of l'", "Italie"),
        ("nell’", "Italia"),
        ("He lives in Rome", ", Italy"),
        ("He lives in Rome", "."),
        ("He lives in Rome", "'s suburbs"),
        ("He lives in Rome", ") and"),
        ("He lives in Rome", "-based firms"),
        ("20", "°C"),
        ("cafe", "\u0301"),
        ("word", "\u2060joined"),
    ],
)
def test_a_writer_puts_none(before, after):
    assert not wants_space(before, after)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Rome", "Rome"),
        ("Rome.", "Rome"),
        ("Rome's oldest", "Rome"),
        ("Rome-based", "Rome"),
        ("3.", "3"),
        ("C++ and", "C++"),
        ("巴黎的", "巴黎"),
        ("파리에 있다", "파리"),
        ("the Eiffel Tower in", "the Eiffel Tower"),
    ],
)
def test_words_that_are_said(text, words):
    assert says(text, words)
    assert find_words(f"It is {text}", words) == 6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Russian", "Russia"),
        ("Indiana", "India"),
        ("1969", "196"),
        ("3.14", "3"),
        ("Romeo", "Rome"),
        ("Austria-Hungary", "Austria"),
        ("Cafe\u0301", "Cafe"),
        ("인도네시아", "인도"),
        ("Paris", "Rome"),
        ("", "Rome"),
        ("Rome", ""),
    ],
)
def test_words_that_are_not_said(text, words):
    assert not says(text, words)


def test_words_are_found_where_they_stand_alone():
    assert find_words("Syracuse, Romeo, and Rome", "Rome") == 21
    assert find_words("arome", "rome") is None
    assert find_words("在巴黎的", "巴黎") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (5, "The target is 5, of type int, not a text. Put it in quotes: '5'."),
        (None, "The target is None"),
        (["a"], "of type list, not a text. Give a text"),
        ([{"role": "user", "content": "a"}], r"go to LanguageModel.chat\(\)"),
        ("caf\udce9 is", r"holds U\+DCE9 at character 4 \(near 'caf\\udce9 is'\)"),
    ],
)
def test_what_is_no_text(text, message):
    with pytest.raises(InvalidRequestError, match=message) as caught:
        check_text(text, "target")
    str(caught.value).encode()  # a message can be printed


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("The Space", r"prompts are a single text, 'The Space', not a list. .*: \['The Space'\]"),
        (5, "prompts are a int, not a list"),
        (["a", 5], "text number 2 of the prompts is 5"),
        (["a\ud800"], r"text number 1 of the prompts holds U\+D800"),
    ],
)
def test_what_is_no_list_of_texts(texts, message):
    with pytest.raises(InvalidRequestError, match=message):
        check_texts(texts, "prompts")
