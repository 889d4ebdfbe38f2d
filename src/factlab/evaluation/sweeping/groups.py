"""Which tokens of an averaged trace stand beside which looked-up token."""

from collections.abc import Mapping

from factlab.editing.configs import LookupToken

# The group of an averaged trace that each token belongs to.
GROUP_OF: Mapping[LookupToken, str] = {
    "first": "first subject token",
    "last": "last subject token",
    "first_after_last": "first subsequent token",
    "end": "last token",
}
