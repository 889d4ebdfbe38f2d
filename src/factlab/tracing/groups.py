"""What a token is to its fact: the groups by which effects of many facts are averaged."""

from typing import Literal

from factlab.errors import InvalidRequestError, nearest
from factlab.facts import TokenSpan

Pooling = Literal["facts", "tokens"]

POOLED: dict[Pooling, str] = {
    "facts": "every fact counts once, its tokens averaged first",
    "tokens": "every token counts once, as in the paper's notebook",
}

GROUPS = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first subsequent token",
    "further tokens",
    "last token",
)
LAST_SUBJECT, LAST = GROUPS.index("last subject token"), GROUPS.index("last token")


def group_positions(span: TokenSpan, n_tokens: int) -> list[range]:
    """The positions of each of the six `GROUPS` in a prompt."""
    last = n_tokens - 1
    return [
        range(span.start, span.start + 1),
        range(span.start + 1, span.last),
        range(span.last, span.last + 1),
        range(span.stop, min(span.stop + 1, last)),
        range(span.stop + 1, last),
        range(last, n_tokens),
    ]


def pooling_named(name: str) -> Pooling:
    """A way to pool tokens by its name.

    Raises:
        InvalidRequestError: there is none; names those that there are.
    """
    for pooling in POOLED:
        if pooling == name:
            return pooling
    raise InvalidRequestError(
        f"There is no pooling '{name}'.{nearest(name, POOLED)} Choose from {', '.join(POOLED)}."
    )
