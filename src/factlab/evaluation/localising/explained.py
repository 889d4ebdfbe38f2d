"""How much of the scores layers explain, and how much more the traces do: the study's regressions.

One regression for each method, problem and score. Its robustness, as in the paper: effects of other
windows, effects at the subject's last token alone, and facts whose effect is in few layers.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from factlab.editing.variants import Variant
from factlab.evaluation.localising.rows import FactRow
from factlab.evaluation.scoring.regression import N_DRAWS, Observation, Regression, regress

if TYPE_CHECKING:
    from factlab.evaluation.localising.result import Localisation

MAIN_SCORES = ("rewrite", "paraphrase", "neighborhood", "essence", "overall")
# A fact's effect is concentrated if no more than this share of layers have half of its peak.
CONCENTRATED = 0.2


@dataclass(frozen=True, slots=True)
class Explained:
    """A regression and what it is of.

    Attributes:
        method: its label.
        variant: the problem.
        score: that is explained.
        effect: which effect explains it, in words.
        facts: which facts, in words.
        regression: what came out.
    """

    method: str
    variant: Variant
    score: str
    effect: str
    facts: str
    regression: Regression

    def row(self) -> dict[str, Any]:
        """Everything in one dictionary; None where there is no number."""
        return {
            "method": self.method, "variant": self.variant, "score": self.score,
            "effect": self.effect, "facts": self.facts, **self.regression.to_json(),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Look:
    """A way to look at effects.

    Attributes:
        window: of the MLPs.
        last_subject: at the subject's last token alone.
        concentrated: of the facts whose effect is in few layers.
    """

    window: int
    last_subject: bool = False
    concentrated: bool = False

    @property
    def effect(self) -> str:
        """In words."""
        where = "the subject's last token" if self.last_subject else "the best token"
        return f"window {self.window}, {where}"

    @property
    def facts(self) -> str:
        """In words."""
        return "concentrated" if self.concentrated else "all"

    def takes(self, fact: FactRow) -> bool:
        """Whether it looks at a fact."""
        return not self.concentrated or is_concentrated(fact, self.window)


def explained(
    study: "Localisation", scores: Sequence[str] = MAIN_SCORES, n_draws: int = N_DRAWS
) -> list[Explained]:
    """The regressions on the effects of the main window, of all facts."""
    look = _Look(study.window)
    return [*_explained(study, look, scores, n_draws)]


def robustness(study: "Localisation", n_draws: int = N_DRAWS) -> list[Explained]:
    """The rewrite score again, looked at in other ways."""
    looks = [_Look(window) for window in study.windows if window != study.window]
    looks += [_Look(study.window, last_subject=True), _Look(study.window, concentrated=True)]
    return [one for look in looks for one in _explained(study, look, ("rewrite",), n_draws)]


def is_concentrated(fact: FactRow, window: int) -> bool:
    """Whether few layers have half of a fact's largest effect."""
    shares = [share or 0.0 for share in fact.effects[window].by_layer]
    peak = max(shares)
    n_high = sum(share >= peak / 2 for share in shares)
    return peak > 0 and n_high <= max(1, CONCENTRATED * len(shares))


def observations(
    study: "Localisation", method: str, variant: str, score: str, look: "_Look | None" = None
) -> list[Observation]:
    """The rows of a regression; by default on the effects of the main window, of all facts."""
    look = look or _Look(study.window)
    return [
        Observation(
            place, layer, study.facts[place].effect(look.window, layer, look.last_subject), value
        )
        for place, layer, value in study.values(method, variant, score)
        if look.takes(study.facts[place])
    ]


def _explained(
    study: "Localisation", look: _Look, scores: Sequence[str], n_draws: int
) -> Iterator[Explained]:
    for score in scores:
        for variant in study.variants:
            for method in study.methods:
                rows = observations(study, method, variant, score, look)
                found = regress(rows, n_draws)
                yield Explained(method, variant, score, look.effect, look.facts, found)


@dataclass(frozen=True, slots=True)
class Choice:
    """What comes of choosing a layer by traces.

    Attributes:
        method: its label.
        variant: the problem.
        best_layer: the edited layer with the highest mean score.
        best: that score.
        by_trace: mean score where every fact is edited at the edited layer with its largest effect.
        n_facts: with a score at every edited layer, and an effect.
    """

    method: str
    variant: Variant
    best_layer: int
    best: float
    by_trace: float
    n_facts: int


def choices(study: "Localisation", score: str = "rewrite") -> list[Choice]:
    """For each method and problem the best layer for all facts, and each fact's own by trace."""
    found: list[Choice] = []
    for variant in study.variants:
        for method in study.methods:
            by_fact: dict[int, dict[int, Observation]] = {}
            for row in observations(study, method, variant, score):
                if not math.isnan(row.effect):
                    by_fact.setdefault(row.fact, {})[row.layer] = row
            whole = [rows for rows in by_fact.values() if len(rows) == len(study.layers)]
            if not whole:
                continue
            means = {
                layer: math.fsum(rows[layer].score for rows in whole) / len(whole)
                for layer in study.layers
            }
            best, highest = max(means.items(), key=itemgetter(1))
            own = [max(rows.values(), key=lambda row: row.effect).score for rows in whole]
            found.append(
                Choice(method, variant, best, highest, math.fsum(own) / len(own), len(whole))
            )
    return found
