"""Where an answer ends that a model writes by itself: with its first sentence or line. No tokens.

A sentence ends behind `.`, `!` or `?`, and what closes a quotation or bracket there, if white space
follows; behind `。`, `！` and `？` in any case. A full stop does not end one

- behind a single letter, or one of `ABBREVIATIONS`: "Washington D.C. is", "St. Louis", unless the
  next word is one that begins sentences and little else (`_OPENERS`): "Washington D.C. It is";
- behind a number of one or two digits that the answer begins with: "1. Paris".

A line ends at a line break that something stands before: an answer that begins on a new line is
not empty.
"""

import re

ABBREVIATIONS = frozenset({
    "ave", "blvd", "bros", "capt", "co", "col", "corp", "dept", "dr", "e.g", "etc", "ft", "gen",
    "gov", "hon", "i.e", "inc", "jr", "lt", "ltd", "mr", "mrs", "ms", "mt", "pres", "prof", "rep",
    "rev", "sen", "sgt", "sr", "st", "ste", "vs",
})  # fmt: skip
_OPENERS = frozenset({
    "A", "After", "Although", "An", "And", "As", "At", "Before", "But", "For", "He", "Her", "His",
    "However", "If", "In", "It", "Its", "On", "She", "Since", "That", "The", "Their", "There",
    "These", "They", "This", "Those", "We", "When", "While", "With", "You",
})  # fmt: skip
_STOP = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？]")
_LAST_WORD = re.compile(r"[^\W\d_]+(?:\.[^\W\d_]+)*$")
_NEXT_WORD = re.compile(r"\s+(\w+)(?=\W)")
_ITEM = re.compile(r"\d{1,2}")


def answer_end(text: str) -> int | None:
    """Where the answer that a text begins with ends; None if it may go on.

    What is found in a text is found in every longer one too, so it can be asked while one grows.

    >>> text = " Washington D.C. It lies on the Potomac."
    >>> text[: answer_end(text)]
    ' Washington D.C.'
    >>> answer_end(" St. Louis, on the Mississippi") is None
    True
    """
    start = len(text) - len(text.lstrip())
    line = text.find("\n", start)
    ends = (stop.end() for stop in _STOP.finditer(text, start) if _is_end(text, start, stop))
    sentence = next(ends, None)
    if line < 0 or (sentence is not None and sentence < line):
        return sentence
    return line


def is_answer(text: str) -> bool:
    """Whether a text holds a whole answer, so that nobody needs to go on with it."""
    return answer_end(text) is not None


def answer_of(text: str) -> str:
    """The answer that a text begins with, without outer spaces; all of it if it has no end."""
    return text[: answer_end(text)].strip()


def _is_end(text: str, start: int, stop: re.Match[str]) -> bool:
    """Whether signs that may end a sentence do."""
    if stop[0] != ".":
        return True
    before = text[start : stop.start()]
    if _ITEM.fullmatch(before):
        return False
    word = _LAST_WORD.search(before)
    if word is None:
        return True
    is_initial = len(word[0].rpartition(".")[2]) == 1
    if not is_initial and word[0].lower() not in ABBREVIATIONS:
        return True
    following = _NEXT_WORD.match(text, stop.end())
    return following is not None and following[1] in _OPENERS
