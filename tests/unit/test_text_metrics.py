"""Scores of texts against values worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factlab.errors import InvalidRequestError
from factlab.evaluation.measuring.generated_text import (
    Idf,
    consistency,
    essence_score,
    ngram_entropy_bits,
    perplexity,
    split_words,
    weighted_entropy_bits,
)

WORDS = st.sampled_from(["Paris", "is", "the", "capital", "of", "France", ",", "a", "x"])
TEXTS = st.lists(WORDS, max_size=30).map(" ".join)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The Eiffel Tower, in Rome.", ["The", "Eiffel", "Tower", ",", "in", "Rome", "."]),
        ("It's a well-known 3.14!", ["It", "'s", "a", "well-known", "3.14", "!"]),
        ("I don't, I can't", ["I", "do", "n't", ",", "I", "ca", "n't"]),
        ("at 10:30, 1,000 men", ["at", "10:30", ",", "1,000", "men"]),
        ("naïve São Paulo...", ["naïve", "São", "Paulo", "..."]),
        ("He left. She stayed.", ["He", "left", ".", "She", "stayed", "."]),
        ("Mr. Smith of the U.S. Navy left.", ["Mr.", "Smith", "of", "the", "U.S.", "Navy", "left", "."]),
        ("see http://a.org/b?c now", ["see", "http", ":", "//a.org/b", "?", "c", "now"]),
        ('"Yes," (he) said', ["``", "Yes", ",", "''", "(", "he", ")", "said"]),
        (" \n", []),
    ],
)  # fmt: skip
def test_words(text, words):
    """As NLTK has them, which the published scores are of."""
    assert split_words(text) == words


@pytest.mark.parametrize("text", ["It's 3.14 for $5, isn't it?", "Dots... and a@b.org: (so)"])
def test_a_single_sentence_has_the_words_of_nltks_own_function(text):
    from nltk.tokenize import word_tokenize

    assert split_words(text) == word_tokenize(text, preserve_line=True)


def test_entropy_of_contractions_and_dots_by_hand():
    """do n't do n't ... : pairs (do n't) twice, (n't do), (n't ...); triples all different."""
    pairs = 2 / 4 * 1 + 2 * (1 / 4 * 2)
    triples = math.log2(3)
    assert ngram_entropy_bits("don't don't ...", 2) == pytest.approx(pairs)
    assert ngram_entropy_bits("don't don't ...", 3) == pytest.approx(triples)
    assert weighted_entropy_bits(["don't don't ..."]) == pytest.approx(pairs / 3 + triples * 2 / 3)


def test_entropy_of_ngrams():
    assert ngram_entropy_bits("a b a b a", 2) == pytest.approx(1.0)  # ab ba ab ba
    # aba bab aba: 2/3 and 1/3
    expected = 2 / 3 * math.log2(1.5) + 1 / 3 * math.log2(3)
    assert ngram_entropy_bits("a b a b a", 3) == pytest.approx(expected)
    assert ngram_entropy_bits("a b c d e", 2) == pytest.approx(2.0)  # four, all different
    assert ngram_entropy_bits("go go go go", 2) == 0
    assert ngram_entropy_bits("one", 2) == 0
    assert ngram_entropy_bits("", 1) == 0
    with pytest.raises(InvalidRequestError, match="cannot have 0 words"):
        ngram_entropy_bits("a", 0)


def test_weighted_entropy():
    # H2 = 2 bits; H3 of three different ones = log2(3)
    one = (2 / 3 * 2 + 4 / 3 * math.log2(3)) / 2
    assert weighted_entropy_bits(["a b c d e"]) == pytest.approx(one)
    assert weighted_entropy_bits(["a b c d e", "go go go"]) == pytest.approx(one / 2)
    with pytest.raises(InvalidRequestError, match="no texts"):
        weighted_entropy_bits([])


def test_rarity_of_terms():
    idf = Idf.fit(["The cat sat", "the dog", "a bird"])
    assert idf.n_texts == 3
    assert idf.weights == {
        "the": pytest.approx(math.log(4 / 3) + 1),
        "cat": pytest.approx(math.log(2) + 1),
        "sat": pytest.approx(math.log(2) + 1),
        "dog": pytest.approx(math.log(2) + 1),
        "bird": pytest.approx(math.log(2) + 1),
    }  # "a" has one letter


def test_cosine_by_hand():
    idf = Idf.fit(["the cat", "the dog"])
    rare = math.log(3 / 2) + 1  # cat and dog; "the" has ln(3/3) + 1 = 1
    assert idf.vector("The, THE cat zebra") == {
        "the": pytest.approx(2 / math.hypot(2, rare)),
        "cat": pytest.approx(rare / math.hypot(2, rare)),
    }
    assert idf.cosine("the cat", "the dog") == pytest.approx(1 / (1 + rare**2))
    assert idf.cosine("cat cat", "cat") == pytest.approx(1)
    assert idf.cosine("cat", "dog") == 0
    assert idf.cosine("zebra", "dog") == 0
    assert consistency(idf, ["the", "cat"], ["the cat"]) == pytest.approx(1)


def test_nothing_to_compare():
    idf = Idf.fit(["the cat"])
    with pytest.raises(InvalidRequestError, match="no references"):
        consistency(idf, ["the"], [])
    with pytest.raises(InvalidRequestError, match="no generated texts"):
        consistency(idf, [], ["the"])
    with pytest.raises(InvalidRequestError, match="in the 1 text given"):
        Idf.fit(["a b"])


@given(st.lists(TEXTS, min_size=1), TEXTS, TEXTS)
def test_a_cosine_is_a_symmetric_share(collection, text, other):
    idf = Idf.fit(["the capital", *collection])
    assert 0 <= idf.cosine(text, other) <= 1
    assert idf.cosine(text, other) == idf.cosine(other, text)
    length = math.hypot(*idf.vector(text).values())
    assert length == pytest.approx(1) or not idf.vector(text)


@given(TEXTS, st.integers(1, 4))
def test_entropy_is_at_most_that_of_all_different(text, n):
    n_grams = len(split_words(text)) - n + 1
    assert 0 <= ngram_entropy_bits(text, n) <= math.log2(max(n_grams, 1)) + 1e-9


def test_perplexity_and_essence():
    assert perplexity(math.log(20)) == pytest.approx(20)
    assert math.isfinite(perplexity(1e6))
    assert essence_score(math.log(20), math.log(22)) == pytest.approx(0.6)
    assert essence_score(math.log(20), math.log(10)) == 1
    assert essence_score(math.log(20), math.log(100)) == 0
