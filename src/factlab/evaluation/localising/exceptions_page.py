"""The part of a report about facts that are not decided at their subject's last token."""

import math

from factlab.data.relation_names import relation_label
from factlab.errors import counted
from factlab.estimate import Estimate
from factlab.evaluation.localising.exceptions import CLEAR_GAP, Exceptions
from factlab.evaluation.reporting.formats import estimate_cell
from factlab.evaluation.reporting.page import Part, Table
from factlab.evaluation.scoring.association import Contrast

_NO = "—"
_SHOWN = 40
_PLACES = {"earlier": "earlier in the subject", "behind": "behind the subject", "last": "its last"}


def exceptions_part(found: Exceptions) -> Part:
    """Counts, what marks them, and the facts themselves."""
    tables = [marks_table(found), list_table(found)] if found.facts else []
    return Part("Facts that another token decides", exceptions_in_words(found), tables, [])


def exceptions_in_words(found: Exceptions) -> list[str]:
    """How many there are, and where they are decided."""
    if not found.facts:
        return ["No fact was traced of which something comes back."]
    n, clear = len(found.exceptions), sum(fact.gap > CLEAR_GAP for fact in found.exceptions)
    nothing = (
        f" Of {counted(found.n_nothing, 'more fact')} nothing comes back."
        if found.n_nothing
        else ""
    )
    return [
        f"{n} of {counted(len(found.facts), 'fact')} ({_percent(found.share)}) are decided at "
        f"another token than the subject's last: {found.count('earlier')} earlier in the subject, "
        f"{found.count('behind')} behind it. In {clear} of them the lead over the subject's last "
        f"token is more than {CLEAR_GAP:.0%} of what the noise took.{nothing}"
    ]


def marks_table(found: Exceptions) -> Table:
    """What exceptions have more often than other facts."""
    lines = [_line(one) for one in (*found.marks(), *found.relations())]
    heads = [
        "facts", "n", "exceptions", "share with", "share without", "odds ratio", "p",
    ]  # fmt: skip
    return Table(
        heads, lines, 1,
        "Share: of facts with the mark, and of all others, how many are exceptions, with Wilson's "
        "interval; ×100. Odds ratio: with a half added to every count. p: Fisher's exact test, of "
        "each line by itself. The more tokens a subject has, the more there are that may decide "
        "it.",
    )  # fmt: skip


def list_table(found: Exceptions) -> Table:
    """The exceptions, the clearest first."""
    shown = found.exceptions[:_SHOWN]
    lines = [
        [
            fact.prompt, fact.subject,
            relation_label(fact.relation_id) if fact.relation_id else _NO,
            _PLACES[fact.place or "last"], f"{fact.n_subject_tokens}", f"{fact.peak_token}",
            f"{fact.peak_share:.2f}", f"{fact.last_share:.2f}",
        ]
        for fact in shown
    ]  # fmt: skip
    more = len(found.exceptions) - len(shown)
    rest = f" {counted(more, 'more')} in the JSON document." if more else ""
    heads = [
        "prompt", "subject", "relation", "decided", "subject tokens", "token", "share there",
        "at the last",
    ]  # fmt: skip
    return Table(
        heads,
        lines,
        4,
        "token: counted from the subject's first, which is 0. Shares: of what the noise took, how "
        f"much restoring MLPs at that token brings back, at the best layer.{rest}",
    )


def _line(one: Contrast) -> list[str]:
    return [
        one.mark, f"{one.n_with}", f"{one.hits_with}", estimate_cell(one.share_with, 100.0, 0),
        estimate_cell(one.share_without, 100.0, 0), estimate_cell(one.odds_ratio, 1.0, 2),
        _p(one.p),
    ]  # fmt: skip


def _percent(estimate: Estimate) -> str:
    if not estimate.has_interval:
        return f"{estimate.mean:.0%}"
    low, high = estimate.interval
    return f"{estimate.mean:.0%}, interval {low:.0%} to {high:.0%}"


def _p(value: float) -> str:
    if math.isnan(value):
        return _NO
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
