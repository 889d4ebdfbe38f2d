"""Where an answer ends, against what a reader would say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factlab.sentences import answer_end, answer_of, is_answer

PIECES = st.sampled_from(
    ["Rome", " ", ".", "\n", "D.C.", "St.", "!", "It", "1", "3.14", "。", '"', "the"]
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" Rome. It is in Italy.", "Rome."),
        (" Rome, Italy\nQ: Where", "Rome, Italy"),
        (" Rome! Yes", "Rome!"),
        (' "Rome." He said so', '"Rome."'),
        (" in (St. Peter's) Rome.) And", "in (St. Peter's) Rome.)"),
        (" Washington D.C. It lies", "Washington D.C."),
        (" Washington D.C. is a city. It", "Washington D.C. is a city."),
        (" J. R. R. Tolkien wrote it. The", "J. R. R. Tolkien wrote it."),
        (" St. Louis, Missouri. The", "St. Louis, Missouri."),
        (" about 3.14 of them. The", "about 3.14 of them."),
        (" in 1969. Then", "in 1969."),
        ("1. Paris is one. 2.", "1. Paris is one."),
        ("\n\nRome\nParis", "Rome"),
        ("\r\n Rome", None),
        (" Rome", None),
        (" Rome.", None),
        (" Washington D.C. ", None),
        (" Washington D.C. I", None),
        (" Washington D.C. It", None),
        ("", None),
        (" \n ", None),
        ("ローマです。イタリア", "ローマです。"),
        (" Well... yes", "Well..."),
    ],
)
def test_ends(text, answer):
    assert is_answer(text) == (answer is not None)
    assert answer_of(text) == (text.strip() if answer is None else answer)


@given(st.lists(PIECES, max_size=12).map("".join), st.lists(PIECES, max_size=6).map("".join))
def test_an_end_that_is_found_stays(text, more):
    """So a row may leave its batch: what it would have gone on with does not change the answer."""
    end = answer_end(text)
    if end is not None:
        assert answer_end(text + more) == end
