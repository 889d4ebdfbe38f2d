"""How people write: where a space goes between two texts, and where a word ends. No tokens here."""

import re
import unicodedata
from collections.abc import Iterator

from factlab.errors import InvalidRequestError

# Scripts that put no spaces between words, by the first words of their characters' names. Han, kana
# and the like are told by their width.
_UNSPACED = (
    "THAI ", "LAO ", "KHMER ", "MYANMAR ", "TIBETAN ", "JAVANESE ", "BALINESE ", "TAI ",
    "NEW TAI LUE ", "HALFWIDTH KATAKANA ",
)  # fmt: skip
_HANGUL = ("HANGUL ", "HALFWIDTH HANGUL ")
_LONGEST_SHOWN = 60  # characters
_QUOTES = "\"'`“”‟‘’‛«»‹›"
_INVISIBLE = "\u200b\u2060\ufeff"  # stand between characters that no space is to part
_CONTRACTED = re.compile(r"['’](?:s|re|ll|ve|m|d|t)\b")
# Articles and the like that French and Italian join to the next word: l'Italia, d'Ivoire.
_ELIDED = re.compile(
    r"(?:^|[\s(])(?:[cdjlmnst]|(?:jus|lors|puis)?qu|all|dall|dell|nell|sull|coll|un)['’]$",
    re.IGNORECASE,
)
# Korean particles; they follow a noun without a space and end the word.
_PARTICLES = re.compile(
    r"(?:은|는|이|가|을|를|의|에|도|만|와|과|랑|이랑|로|으로|에서|에게|부터|까지|보다|처럼|이다|입니다"
    r"|이었다|였다|이며|이고|에는|에서는|에서의|로는|으로는)(?![가-힣])"
)


def joined(prompt: str, continuation: str) -> str:
    """A prompt as it is, and what was written after it; a space that both have stands once.

    >>> joined("Rome is in ", " Italy.")
    'Rome is in Italy.'
    """
    return prompt + (continuation.removeprefix(" ") if prompt.endswith(" ") else continuation)


def behind(*texts: str) -> str:
    """Texts one after the other; a space between two of them where the first ends without any.

    >>> behind("Imagine that.", "", "Rome is in"), behind("So: ", "Rome is in")
    ('Imagine that. Rome is in', 'So: Rome is in')
    """
    whole = ""
    for text in texts:
        apart = whole and text and not whole[-1].isspace()
        whole += f" {text}" if apart else text
    return whole


def short_repr(value: object) -> str:
    """A value as Python writes it, cut off where it is too long for a sentence."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def check_text(text: object, what: str) -> None:
    """Refuse what is no text that can be stored and tokenised.

    Args:
        text: what was given.
        what: its name in the message, such as "prompt".

    Raises:
        InvalidRequestError: it is no `str`, or holds half of a surrogate pair.
    """
    if not isinstance(text, str):
        advice = "Give a text."
        if isinstance(text, int | float):
            advice = f"Put it in quotes: '{text}'."
        elif isinstance(text, list) and text and isinstance(text[0], dict):
            advice = "Messages of a conversation go to LanguageModel.chat()."
        raise InvalidRequestError(
            f"The {what} is {short_repr(text)}, of type {type(text).__name__}, not a text. {advice}"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = ascii(text[max(0, error.start - 10) : error.end + 10])
        raise InvalidRequestError(
            f"The {what} holds U+{ord(text[error.start]):04X} at character {error.start + 1} "
            f"(near {shown}): half of a surrogate pair, which is no character. Its source was not "
            "UTF-8, or was cut in two; write the text again."
        ) from error


def check_texts(texts: object, what: str) -> None:
    """Refuse what is not a list of texts.

    Args:
        texts: what was given.
        what: its name in the message, such as "prompts".

    Raises:
        InvalidRequestError: it is a single text, or no list of texts.
    """
    if isinstance(texts, str):
        shown = repr(texts if len(texts) <= 40 else f"{texts[:37]}...")
        raise InvalidRequestError(
            f"The {what} are a single text, {shown}, not a list. Put it in brackets: [{shown}]."
        )
    if not isinstance(texts, list | tuple):
        raise InvalidRequestError(
            f"The {what} are a {type(texts).__name__}, not a list of texts. Give a list."
        )
    for i, text in enumerate(texts):
        check_text(text, f"text number {i + 1} of the {what}")


def wants_space(before: str, after: str) -> bool:
    """Whether a writer would put a space between two texts, neither of them empty."""
    last, first = before[-1], after[0]
    if last.isspace() or first.isspace() or {last, first} & {*_INVISIBLE}:
        return False
    if unicodedata.category(first)[0] == "M" or _opens(before) or _closes(after):
        return False
    if _is_unspaced(last):
        return False
    # A Chinese word in an English sentence stands between spaces; in a Chinese one it does not.
    if _is_unspaced(first) and any(map(_is_unspaced, before)):
        return False
    return not _is_attached(before, after)


def says(text: str, words: str) -> bool:
    """Whether a text begins with some words, and the last of them ends there.

    "Russian" does not say "Russia", nor "1969" "196".
    """
    return bool(words) and text.startswith(words) and _ends_before(words, text[len(words) :])


def find_words(text: str, words: str, any_case: bool = False) -> int | None:
    """Where some words first stand in a text as words of their own; None if they do not.

    Args:
        text: to look in.
        words: to look for.
        any_case: whether large and small letters are alike.
    """
    for at in _places(text, words, any_case):
        begins = at == 0 or not words[:1].isalnum() or _is_unspaced(words[0])
        if (begins or not _goes_on(text[at - 1])) and _ends_before(words, text[at + len(words) :]):
            return at
    return None


def _places(text: str, words: str, any_case: bool) -> Iterator[int]:
    """Everywhere that some words stand in a text, as parts of words too."""
    # Very few letters become two when they are made small; then capitals do matter.
    lower, wanted = text.lower(), words.lower()
    if any_case and len(lower) == len(text) and len(wanted) == len(words):
        text, words = lower, wanted
    at = text.find(words)
    while at >= 0:
        yield at
        at = text.find(words, at + 1)


def _is_unspaced(sign: str) -> bool:
    """Whether a character is of a script, or a full-width sign, that words are not parted in."""
    if sign < "\u0e00":
        return False
    name = unicodedata.name(sign, "")
    if name.startswith(_UNSPACED):
        return True
    is_wide = unicodedata.east_asian_width(sign) in "WF"
    return is_wide and unicodedata.category(sign) != "So" and not name.startswith(_HANGUL)


def _goes_on(sign: str) -> bool:
    """Whether a character belongs to a word."""
    return sign.isalnum() or sign == "_"


def _begins_word(before: str) -> bool:
    """Whether the last sign stands where a word begins."""
    return (
        len(before) == 1 or before[-2].isspace() or unicodedata.category(before[-2]) in ("Ps", "Pi")
    )


def _opens(before: str) -> bool:
    """Whether the last sign is an opening bracket or quote."""
    last, rest = before[-1], before[:-1]
    if unicodedata.category(last) == "Ps":
        return True
    if last not in _QUOTES:
        return False
    if last in '"`':
        return rest.count(last) % 2 == 0  # its partner is missing
    return (
        not rest
        or rest[-1].isspace()
        or rest[-1] in "=:/"
        or unicodedata.category(rest[-1]) in ("Ps", "Pd")
        or (rest[-1] in _QUOTES and _opens(rest))
    )


def _closes(after: str) -> bool:
    """Whether the first sign ends something: a closing bracket or quote, a comma, a full stop."""
    first = after[0]
    if unicodedata.category(first) == "Pe" or first == "°" or _CONTRACTED.match(after):
        return True
    return first in f",.;:!?…%‰{_QUOTES}" and not after[1:2].isalnum()


def _is_attached(before: str, after: str) -> bool:
    """Whether a sign at the end of the one or the start of the other takes no space there."""
    last, first = before[-1], after[0]
    if last in "\\_" or first == "_":
        return True
    if unicodedata.category(last) == "Sc" or (last in "+-−±" and _begins_word(before)):
        return first.isdigit()
    if last in "#@":
        return _begins_word(before) and first.isalnum()
    if last in "/=" or unicodedata.category(last) == "Pd":
        return not _begins_word(before)
    if unicodedata.category(first) == "Pd":
        return after[1:2].isalpha()
    return bool(_ELIDED.search(before))


def _ends_before(words: str, rest: str) -> bool:
    """Whether the last word of some is complete, given what follows it."""
    last, following = words[-1], rest[:1]
    if unicodedata.category(following or " ")[0] == "M":
        return False
    if not following or not _goes_on(last) or _is_unspaced(last):
        return True  # a sign ends a word; scripts without spaces do not tell
    if last.isdigit() and re.match(r"[.,]\d", rest):
        return False
    if unicodedata.name(last, "").startswith(_HANGUL) and _PARTICLES.match(rest):
        return True
    # Austria-Hungary is not Austria; a Rome-based firm is in Rome.
    is_longer_name = following in "-‐‑" and rest[1:2].isupper()
    return not is_longer_name and (not _goes_on(following) or _is_unspaced(following))
