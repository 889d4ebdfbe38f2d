"""The tables of the report: R² in the form of the paper, and what stands beside it."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from factlab.editing.variants import VARIANT_NAMES
from factlab.evaluation.localising.explained import MAIN_SCORES, Explained, choices
from factlab.evaluation.localising.published import published_r2
from factlab.evaluation.reporting.page import Table
from factlab.evaluation.scoring.regression import Regression

if TYPE_CHECKING:
    from factlab.evaluation.localising.result import Localisation

_NO = "—"


def r2_table(study: "Localisation") -> Table:
    """Layer, trace, both and Δ of the rewrite score, with the published ones beside them."""
    widths = {one.label: (one.name, one.width) for one in study.config.methods}
    lines: list[list[str]] = []
    for one in study.explained("rewrite"):
        found, published = one.regression, published_r2(*widths[one.method], one.variant)
        beside = _NO
        if published is not None:
            beside = " / ".join(f"{value:.3f}" for value in published)
        lines.append([
            VARIANT_NAMES[one.variant], one.method, *_r2_cells(found),
            _number(found.adjusted_delta), _interval(found), _test(found), _p(found.shuffled_p),
            f"{found.n_rows:,}", f"{found.n_facts:,}", beside,
        ])  # fmt: skip
    heads = [
        "problem", "method", "R² layer", "R² effect", "R² both", "ΔR²", "ΔR² adjusted",
        "95 % interval of ΔR²", "F-test", "p by facts", "rows", "facts", "published",
    ]  # fmt: skip
    return Table(
        heads, lines, 2,
        "ΔR²: what the effect of the fact at the edited layer explains of the rewrite score beyond "
        "the layer. Interval: facts drawn again, the growth by chance taken off, so that it may "
        "reach below 0. F-test: as published; it takes rows of one fact for independent. p by "
        "facts: share of shuffles, facts given the effects of others, with as large a ΔR². "
        "Published: layer / effect / both / Δ for GPT-J on 652 facts (Hase et al. 2023).",
    )  # fmt: skip


def outcome_table(study: "Localisation") -> Table:
    """R² of the layer and ΔR² for every score."""
    scores = [
        score
        for score in MAIN_SCORES
        if any(one.regression.n_rows for one in study.explained(score))
    ]
    by_key = {(one.method, one.variant, one.score): one.regression for one in study.regressions}
    lines = [
        [
            VARIANT_NAMES[variant], method,
            *(_layer_and_delta(by_key[method, variant, score]) for score in scores),
        ]
        for variant in study.variants
        for method in study.methods
    ]  # fmt: skip
    return Table(
        ["problem", "method", *scores], lines, 2,
        "R² of the layer, and behind + ΔR² by the effect; a star where the interval of ΔR² over "
        "facts is above 0.",
    )  # fmt: skip


def robustness_table(study: "Localisation") -> Table:
    """The rewrite score on other effects."""
    main = study.explained("rewrite")
    groups: dict[tuple[str, str], list[Explained]] = {}
    for one in (*main, *study.robustness):
        groups.setdefault((one.effect, one.facts), []).append(one)
    lines = [[*key, *_summary(group)] for key, group in groups.items()]
    return Table(
        ["effect", "facts", "largest ΔR²", "of", "median ΔR²", "above 0", "facts in it"], lines, 2,
        "Of the rewrite score, over all methods and problems. Above 0: how many intervals of ΔR² "
        "over facts are. Concentrated: half of the peak in no more than a fifth of the layers.",
    )  # fmt: skip


def _summary(group: Sequence[Explained]) -> list[str]:
    made = [one for one in group if one.regression.can_be_made]
    if not made:
        return [_NO, _NO, _NO, _NO, f"{max(one.regression.n_facts for one in group)}"]
    largest = max(made, key=lambda one: one.regression.delta)
    deltas = sorted(one.regression.delta for one in made)
    above = sum(one.regression.delta_low > 0 for one in made)
    return [
        f"{largest.regression.delta:.3f}",
        f"{largest.method}, {VARIANT_NAMES[largest.variant]}",
        f"{deltas[len(deltas) // 2]:.3f}",
        f"{above} of {len(made)}",
        f"{max(one.regression.n_facts for one in made)}",
    ]


def choice_table(study: "Localisation") -> Table:
    """The best layer for all, beside each fact's own by its trace."""
    lines = [
        [
            VARIANT_NAMES[one.variant], one.method, f"{one.best_layer}", f"{one.best:.3f}",
            f"{one.by_trace:.3f}", f"{one.by_trace - one.best:+.3f}", f"{one.n_facts:,}",
        ]
        for one in choices(study)
    ]  # fmt: skip
    heads = ["problem", "method", "best layer", "score there", "score by trace", "", "facts"]
    return Table(
        heads, lines, 2,
        "Mean rewrite scores. By trace: every fact edited at the edited layer at which its own "
        "effect is largest.",
    )  # fmt: skip


# -- cells -------------------------------------------------------------------------------------


def _r2_cells(found: Regression) -> list[str]:
    return [*map(_number, (found.r2_layer, found.r2_effect, found.r2_both, found.delta))]


def _number(value: float) -> str:
    return _NO if math.isnan(value) else f"{value:.3f}"


def _interval(found: Regression) -> str:
    return f"{found.delta_low:.3f} to {found.delta_high:.3f}" if found.can_be_made else _NO


def _test(found: Regression) -> str:
    if not found.can_be_made:
        return _NO
    return f"F({found.f_df[0]}, {found.f_df[1]}) = {found.f:.2f}, p {_p(found.f_p)}"


def _p(value: float) -> str:
    if math.isnan(value):
        return _NO
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _layer_and_delta(found: Regression) -> str:
    if not found.can_be_made:
        return _NO
    star = "*" if found.delta_low > 0 else ""
    return f"{found.r2_layer:.3f} +{found.delta:.3f}{star}"
