"""Every kind of tokenizer with every kind of text, held against transformers' own encoding.

Where the pieces of a text are, is worked out a second time from the bytes that each stands for,
with no use of the character offsets that the library reports.
"""

import unicodedata
from itertools import accumulate, pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_kinds import KINDS, Kind
from tokenizers import decoders

from factlab.continuations import continuation_of
from factlab.errors import TokenizationError
from factlab.facts import Fact, TokenSpan
from factlab.models.generation import decode_continuation
from factlab.tokens import Tokens, encode, subject_span
from factlab.writing import wants_space

CASES = (
    ("{} is located in the city of", "The Eiffel Tower", "Paris"),
    ("In the city, {} is in", "The Space Needle", "Seattle"),
    ("It is  {}  in", "Rome", "Paris"),
    ("They love {}", "Björk", ", who"),
    ("The piano is {}", "José", "'s"),
    ("The piano is {}", "José", "."),
    ("Paris, yes Paris, and {} again is in", "Paris", "France"),
    ("It was built in {} and is", "1962", "12345"),
    ("It is {} or", "1234567", "90"),
    ("Where is {}?\nIt is", "Paris", "\nRome"),
    ("Where is {}?\n", "Paris", "Rome"),
    ("{}는 프랑스", "에펠탑", "파리에"),
    ("프랑스의 수도{}에서", "파리", "서울"),
    ("대한민국의 수도는 {}", "서울", "이다"),
    ("{}ตั้งอยู่ในกรุง", "หอไอเฟล", "ปารีส"),
    ("เมืองหลวงของ{}คือ", "ประเทศไทย", "กรุงเทพ"),
    ("{}位于法国的首都", "埃菲尔铁塔", "巴黎"),
    ("中国的首都是{}", "北京", "，东京"),
    ("{}在", "东京", "日本"),
    ("{} タワー is", "東京", "Rome"),
    ("{} في مدينة", "برج إيفل", "باريس"),
    ("{} يَسْكُنُ فِي", "مُحَمَّدٌ", "القَاهِرَةِ"),
    ("I love {} and", "🍕", "👩🏽\u200d🚀"),
    ("{} I love", "👩🏽\u200d🚀", "🍕"),
    ("The {} is", "cafe\u0301", "e\u0301toile"),
    ("The {}", "cafe", "\u0301"),
)
KNOWING = [kind for kind in KINDS if kind.knows_all and kind.keeps == "all"]
WORDS = st.sampled_from(
    [
        *("The", "Tower", "in", "1962", "12", ",", ".", "'s", "(“", "é", "e\u0301", "ö", "🍕"),
        *("에펠탑", "는", "파리", "ที่", "กรุงเทพ", "ห", "巴黎", "的", "北京", "，", "東"),
        *("مدينة", "مُحَ", "👩🏽\u200d🚀"),
    ]
)
_BYTE_OF = {
    sign: byte
    for byte, sign in enumerate(
        chr(b) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174 else "" for b in range(256)
    )
    if sign
}
# GPT-2 writes the other bytes, in their order, as the signs from U+0100 on.
_BYTE_OF |= {
    chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in _BYTE_OF.values())
}


def piece_bytes(tokenizer, token_id: int) -> bytes:
    """What a token stands for."""
    piece = tokenizer.convert_ids_to_tokens(token_id)
    if isinstance(tokenizer.backend_tokenizer.decoder, decoders.ByteLevel):
        return bytes(_BYTE_OF[sign] for sign in piece)
    if piece.startswith("<0x"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("▁", " ").encode()


def places(kind: Kind, tokens: Tokens) -> list[tuple[int, int]] | None:
    """The bytes of the text that each token stands for; None if they are others than the text's."""
    pieces = [piece_bytes(kind.tokenizer, i) for i in tokens.ids[tokens.n_special :]]
    written, text = b"".join(pieces), tokens.text.encode()
    if written not in (text, b" " + text):
        return None
    stops = list(accumulate(map(len, pieces), initial=len(text) - len(written)))
    return [(0, 0)] * tokens.n_special + list(pairwise(stops))


def folded(text: str) -> str:
    """A text without what a tokenizer may leave away: spaces, marks and capitals."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(c for c in plain if unicodedata.category(c)[0] not in "MZC")


def check(kind: Kind, fact: Fact) -> str:
    """Hold a fact's tokens against transformers' own; returns what came of it."""
    tokenizer, prompt, target = kind.tokenizer, fact.prompt.rstrip(" "), fact.target_new
    joint = " " if wants_space(prompt, target) else ""
    right = tokenizer(prompt + joint + target)["input_ids"]
    try:
        whole = encode(tokenizer, prompt, target)
        span = subject_span(whole, fact.subject_start, fact.subject)
    except TokenizationError as error:
        return refused(kind, right, str(error))
    assert whole.text == prompt + joint + target
    assert list(whole.ids) == right[: len(whole)]
    assert tokenizer.decode(right[len(whole) :], skip_special_tokens=True) == ""
    assert {*whole.ids[: whole.n_special]} <= {*tokenizer.all_special_ids}
    alone = encode(tokenizer, prompt).ids
    n_prompt, where = whole.n_prompt, places(kind, whole)
    straddles = whole.char_spans[n_prompt][0] < len(prompt)
    # The first GPT has other tokens for the end of a word than for its inside.
    assert alone == whole.ids[:n_prompt] or straddles or (kind.name == "gpt1" and not joint)
    new = decode_continuation(
        SimpleNamespace(tokenizer=tokenizer), whole.ids[:n_prompt], whole.ids[n_prompt:]
    )
    if where is None:
        check_roughly(kind, whole, fact, span)
        assert folded(new).endswith(folded(target))
    else:
        bytes_before = len(prompt[: fact.subject_start].encode())
        bounds = bytes_before, bytes_before + len(fact.subject.encode())
        inside = [i for i, (a, b) in enumerate(where) if a < bounds[1] and b > bounds[0]]
        assert span == (inside[0], inside[-1] + 1)
        assert n_prompt == sum(b <= len(prompt.encode()) for _, b in where)
        shown = folded if kind.keeps == "spaces" else str
        assert shown(new) == shown(joint + target) or straddles
        assert shown(new).endswith(shown(target))
    if span.last >= n_prompt:
        with pytest.raises(TokenizationError, match=r"subject and the target merge.*joint='space'"):
            continuation_of(whole, span)
        return "merged"
    made = continuation_of(whole, span)
    assert made.ids == whole.ids
    assert made.lookup == span.last
    return "exact" if where is not None else "rough"


def refused(kind: Kind, right: list[int], message: str) -> str:
    """Whether a refusal is right, from transformers' own ids."""
    if "merges with the whole of" in message:
        assert message.endswith("or a space between them: joint='space'.")
        return "merged"
    if "becomes no token of its own" in message or "drops these characters" in message:
        assert kind.keeps != "all"  # such as an accent, which joins the letter or is lost
        return "lost"
    assert "has no token for" in message
    assert not kind.knows_all
    assert kind.name == "characters" or kind.tokenizer.unk_token_id in right
    return "unknown"


def check_roughly(kind: Kind, whole: Tokens, fact: Fact, span: TokenSpan) -> None:
    """A subject's tokens, where the tokenizer keeps less than the text."""
    end = fact.subject_start + len(fact.subject)
    assert whole.char_spans[span.last][0] < end
    assert whole.char_spans[span.start][1] > fact.subject_start
    outside = [*whole.char_spans[whole.n_special : span.start], *whole.char_spans[span.stop :]]
    assert not any(a < end and b > fact.subject_start for a, b in outside)
    if kind.tokenizer.unk_token_id not in whole.ids:
        said = folded(kind.tokenizer.decode(list(whole.ids[span.start : span.stop])))
        assert folded(fact.subject) in said


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_texts_of_every_kind(kind):
    came = [check(kind, Fact(*case)) for case in CASES]
    assert came.count("exact") + came.count("rough") >= 12
    assert came.count("exact") >= 18 or kind not in KNOWING or "merging" in kind.name
    assert "unknown" not in came or not kind.knows_all


@settings(max_examples=200)
@given(
    kind=st.sampled_from(KNOWING),
    before=st.lists(WORDS, max_size=4),
    subject=st.lists(WORDS, min_size=1, max_size=3),
    after=st.lists(WORDS, max_size=3),
    target=st.lists(WORDS, min_size=1, max_size=3),
    gap=st.sampled_from(["", " "]),
)
def test_any_words_in_any_order(kind, before, subject, after, target, gap):
    template = gap.join([*before, "{}", *after])
    check(kind, Fact(template, gap.join(subject), gap.join(target)))
