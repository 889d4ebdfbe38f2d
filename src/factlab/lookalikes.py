"""Texts that look the same and are written with other characters."""

import difflib
import unicodedata

_SAME = {
    **dict.fromkeys("‘’‛′ʼ`´", "'"),
    **dict.fromkeys("“”„‟«»″", '"'),
    **dict.fromkeys("‐‑‒–—−", "-"),
}
_N_SHOWN = 3  # differences that a message lists


def lookalike(text: str, wanted: str) -> str | None:
    """The part of a text that looks like another one, but for accents, quotes, spaces or capitals.

    Returns:
        That part as it is written there; None if there is none.
    """
    folded, places = _folded(text)
    sought, _ = _folded(wanted)
    at = folded.find(sought) if sought else -1
    if at < 0:
        return None
    start, stop = places[at], places[at + len(sought) - 1] + 1
    while stop < len(text) and unicodedata.combining(text[stop]):
        stop += 1
    return text[start:stop]


def differences(one: str, other: str) -> str:
    """Where two texts that look alike differ, in words: the characters and their code points."""
    matcher = difflib.SequenceMatcher(None, one, other, autojunk=False)
    found = [
        f"character {i + 1} is {_named(one[i:j])}, not {_named(other[k:n])}"
        for kind, i, j, k, n in matcher.get_opcodes()
        if kind != "equal"
    ]
    more = f", and {len(found) - _N_SHOWN} more" if len(found) > _N_SHOWN else ""
    return "; ".join(found[:_N_SHOWN]) + more


def nearest_part(text: str, wanted: str) -> str:
    """A closing phrase for a message: ` Did you mean 'x'?`, x being words of the text."""
    words = text.split()
    length = len(wanted.split())
    parts = [
        " ".join(words[i : i + n]).strip(".,;:!?\"'")
        for n in range(max(1, length - 1), length + 2)
        for i in range(len(words) - n + 1)
    ]
    close = difflib.get_close_matches(wanted, parts, n=1, cutoff=0.75)
    return f" Did you mean '{close[0]}'?" if close else ""


def _folded(text: str) -> tuple[str, list[int]]:
    """A text in which what looks alike is the same, and the place in it of every character."""
    folded: list[str] = []
    places: list[int] = []
    for place, sign in enumerate(text):
        if unicodedata.category(sign) == "Cf":  # not to be seen at all
            continue
        plain = " " if sign.isspace() else _SAME.get(sign, sign)
        for letter in unicodedata.normalize("NFKD", plain).casefold():
            if letter == " " == (folded[-1] if folded else ""):
                continue  # several spaces look like one
            folded.append(letter)
            places.append(place)
    return "".join(folded), places


def _named(signs: str) -> str:
    if not signs:
        return "missing"
    each = (f"U+{ord(sign):04X} {unicodedata.name(sign, '')}".strip() for sign in signs[:_N_SHOWN])
    return f"{signs!r} ({', '.join(each)})"
