"""Scores of generated texts: fluency, consistency with references, and perplexity.

Sources: ROME paper, section 3.3 (GE, RS); Hase et al. 2023, section 3.4 (essence).

    symbol   here                    meaning
    H_n      ngram_entropy_bits      Shannon entropy of a text's word n-grams
    GE       weighted_entropy_bits   ½·(⅔·H₂ + 4⁄3·H₃), mean over texts; low where a text repeats
                                     itself
    RS       consistency             cosine between the TF-IDF of texts and that of references

Words are those of NLTK, as in the published code, which cuts a text into sentences and each of them
into words. The latter needs no data. For the former the published code has Punkt with parameters
that were learned from English newspapers, which are a download; here it is Punkt with a list of
abbreviations, to which dotted letters ("U.S.") are added. The two differ where an abbreviation is
not among them. To keep whole texts in one line would spare Punkt, but every full stop inside would
then stay at its word, which the published code's do not.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from factlab.errors import InvalidRequestError, counted
from factlab.sentences import ABBREVIATIONS

_DOTTED = re.compile(r"\b(?:[^\W\d_]\.)+[^\W\d_](?=\.)")
_TERM = re.compile(r"\b\w\w+\b")  # the token pattern of scikit-learn's TfidfVectorizer
_LARGEST_EXPONENT = 700.0  # exp of more is no float
_WORST_RISE = 5.0  # in perplexity, from which the essence of a subject counts as lost


def split_words(text: str) -> list[str]:
    """Split a text into words, numbers and punctuation as NLTK does; capitals are kept.

    A sentence's full stop is a word of its own, that of an abbreviation is not; contractions are
    two words ("do", "n't"), dots in a row and an address behind its colon are one.
    """
    # It takes half a second to import, and only written texts need it.
    from nltk.tokenize import NLTKWordTokenizer  # noqa: PLC0415
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer  # noqa: PLC0415

    known = PunktParameters()
    known.abbrev_types.update(ABBREVIATIONS)
    known.abbrev_types.update(each.lower() for each in _DOTTED.findall(text))
    sentences, words = PunktSentenceTokenizer(known).tokenize(text), NLTKWordTokenizer()
    return [word for sentence in sentences for word in words.tokenize(sentence)]


def ngram_entropy_bits(text: str, n: int) -> float:
    """Shannon entropy of the word n-grams of a text.

    Args:
        text: any; of fewer than `n` words it has no n-grams, and 0 bits.
        n: words in an n-gram, at least 1.

    Raises:
        InvalidRequestError: `n` is less than 1.
    """
    if n < 1:
        raise InvalidRequestError(f"An n-gram cannot have {n} words. Give 1 or more.")
    return _entropy_bits(split_words(text), n)


def weighted_entropy_bits(texts: Sequence[str]) -> float:
    """GE, the published score of fluency, in bits; tables show 100 times as much.

    Raises:
        InvalidRequestError: there are no texts.
    """
    if not texts:
        raise InvalidRequestError("There are no texts to take the entropy of. Generate one first.")
    entropies = [
        (2 / 3 * _entropy_bits(words, 2) + 4 / 3 * _entropy_bits(words, 3)) / 2
        for words in map(split_words, texts)
    ]
    return math.fsum(entropies) / len(entropies)


def _entropy_bits(words: Sequence[str], n: int) -> float:
    counts = Counter(zip(*(words[start:] for start in range(n)), strict=False))
    total = counts.total()
    return math.fsum(count / total * math.log2(total / count) for count in counts.values())


@dataclass(frozen=True, slots=True)
class Idf:
    """How rare terms are in a collection of texts, as scikit-learn's vectoriser has it by default.

    A term is two or more letters, digits or underscores in lower case. Of a term in `d` of `n`
    texts the weight is ln((1 + n) / (1 + d)) + 1. Terms that the collection lacks do not count.

    Attributes:
        n_texts: texts in the collection.
        weights: of every term of the collection.
    """

    n_texts: int
    weights: Mapping[str, float]

    @classmethod
    def fit(cls, texts: Iterable[str]) -> "Idf":
        """Count in how many texts each term occurs.

        Raises:
            InvalidRequestError: there is not a single term.
        """
        n_texts, found = 0, Counter[str]()
        for text in texts:
            n_texts += 1
            found.update(set(_terms(text)))
        if not found:
            raise InvalidRequestError(
                f"Cannot weight terms: no word of two letters is in the {counted(n_texts, 'text')} "
                "given. Give the reference texts of the data set."
            )
        weights = {term: math.log((1 + n_texts) / (1 + count)) + 1 for term, count in found.items()}
        return cls(n_texts, weights)

    def vector(self, text: str) -> dict[str, float]:
        """TF-IDF of a text, of length 1; empty if it has no term of the collection."""
        counts = Counter(term for term in _terms(text) if term in self.weights)
        weighted = {term: count * self.weights[term] for term, count in counts.items()}
        length = math.hypot(*weighted.values())
        return {term: value / length for term, value in weighted.items()}

    def cosine(self, text: str, other: str) -> float:
        """Cosine between the TF-IDF vectors of two texts, 0–1; 0 if either is empty."""
        first, second = self.vector(text), self.vector(other)
        shared = math.fsum(value * second[term] for term, value in first.items() if term in second)
        return min(shared, 1.0)


def consistency(idf: Idf, texts: Sequence[str], references: Sequence[str]) -> float:
    """RS: cosine between all generated texts joined and all references joined, 0–1.

    Raises:
        InvalidRequestError: there are no texts or no references.
    """
    if not texts or not references:
        missing = "references" if texts else "generated texts"
        raise InvalidRequestError(f"Cannot compare texts: there are no {missing}.")
    return idf.cosine(" ".join(texts), " ".join(references))


def perplexity(nll: float) -> float:
    """Of a text, from its mean negative log-probability in nats per token."""
    return math.exp(min(nll, _LARGEST_EXPONENT))


def essence_score(nll_before: float, nll_after: float) -> float:
    """How much of a subject's essence an edit leaves, 0–1; after Hase et al., section 3.4.

    One minus a fifth of the rise in perplexity on texts about the subject, no rise counting below 0
    or above 5. Theirs are texts that the unedited model wrote, of whose perplexities the mean is
    taken, first tokens counted (`problem_scores`). These are reference texts, all in one
    perplexity, of the tokens that something predicts: the two are not to be compared.
    """
    rise = perplexity(nll_after) - perplexity(nll_before)
    return 1 - min(max(rise, 0.0), _WORST_RISE) / _WORST_RISE


def _terms(text: str) -> list[str]:
    return _TERM.findall(text.lower())
