"""ROME: rank-one model editing (ROME paper, section 3.1).

Three steps, a file each: the key k* of the subject (`lookup`), the value v* that makes the model
say the new object (`value`), and the smallest change of W_proj that stores the pair (`rank_one`).

Several facts in one edit are the same done one after the other: all values are found for the model
as it is, and each pair is stored in the memory that the pairs before it have left. A later pair may
thus disturb an earlier one; EMMET stores all of them at once.

The original code averages k* over contexts for the direction of the change but divides by the key
of the bare prompt, which makes some edits explode. Here k* is the same vector everywhere (as in
r-ROME, arXiv 2403.07175); `legacy=True` brings the mismatch back for comparison.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.arguments import checked, listed
from factlab.data.fact_files import check_conflicts
from factlab.editing.background import Background
from factlab.editing.closed_form.anchor import anchored
from factlab.editing.closed_form.experts import only_largest, told_of_experts
from factlab.editing.closed_form.factors import update_of
from factlab.editing.closed_form.lookup import KeysAndOutputs, mean_keys
from factlab.editing.closed_form.rank_one import stored_in_turn
from factlab.editing.closed_form.value import DEFAULT_CLAMP, OptimisedValue
from factlab.editing.closed_form.values import values_of
from factlab.editing.configs import RomeConfig
from factlab.editing.contexts import context_weights
from factlab.editing.edit import BaseModelInfo, Edit, current_versions
from factlab.editing.method import Settled, succeeded
from factlab.editing.methods import METHODS
from factlab.editing.noised import NoisedSubjects
from factlab.editing.presets import one_layer, preset_of
from factlab.editing.remembered import Remembered
from factlab.editing.requests import value_requests
from factlab.editing.values.recipe import ValuePlan
from factlab.errors import EditError, FactlabError
from factlab.facts import Fact
from factlab.large_matrices import near
from factlab.models.experts import Mixture
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.stats.expert_moments import Moment
from factlab.stats.moments import SecondMoment
from factlab.wrapping import Context


@checked(several="fl.editing.rome_each or fl.edit_each")
def rome(
    lm: LanguageModel,
    fact: Fact,
    config: RomeConfig | None = None,
    background: Background | None = None,
    progress: ProgressCallback = silent,
) -> Edit:
    """Compute the edit that makes the model say `fact.target_new`.

    Args:
        lm: the model, left as it is.
        fact: with a `target_new`.
        config: see `RomeConfig`.
        background: statistics and contexts that are at hand; by default C comes from the cache, or
            is collected from text that the model writes (half a minute for the bundled model,
            once).
        progress: True for a bar, or a function that is told what is going on.

    Returns:
        A rank-one `Edit` of the layer's MLP output projection, or of each expert that the subject
        is sent to.

    Raises:
        InvalidRequestError: the fact has no new target, or the layer is out of range.
        StatisticsError: C is singular.
        EditError: the optimisation failed.

    Source: Meng et al. 2022, section 3.1 and equation 2.

    Examples:
        >>> edit = fl.rome(lm, fact)
        >>> [update.rank for update in edit.updates]
        [1]
        >>> with edit.applied(lm):
        ...     said = lm.generate(fact.prompt, max_new_tokens=5)
    """
    return METHODS["rome"].each(lm, [fact], config, background, progress)[0]


@checked()
def rome_each(
    lm: LanguageModel,
    facts: Fact | Sequence[Fact],
    config: RomeConfig | None = None,
    background: Background | None = None,
    progress: ProgressCallback = silent,
) -> list[Edit]:
    """Compute one edit per fact, each for the model as it is now; see `rome`."""
    return METHODS["rome"].each(lm, listed(facts), config, background, progress)


def settle(
    lm: LanguageModel,
    facts: Sequence[Fact],
    config: RomeConfig | None,
    background: Background,
    progress: ProgressCallback,
) -> list[Settled[RomeConfig] | FactlabError]:
    """The layer of every fact, and the clamp: the preset's unless it was set."""
    del background  # nothing of it is asked before edits are computed
    config, preset = config or RomeConfig(), preset_of(lm)
    value = config.value.clamped(preset.rome_clamp if preset else DEFAULT_CLAMP)
    return [
        place
        if isinstance(place, FactlabError)
        else Settled(
            config.model_copy(update={"layer": place.layers[0], "value": value}), place.source
        )
        for place in one_layer(lm, config.layer, facts, progress)
    ]


def compute(
    lm: LanguageModel,
    facts: Sequence[Fact],
    settled: Settled[RomeConfig],
    background: Background,
    progress: ProgressCallback,
) -> list[Edit | FactlabError]:
    """One edit per fact; values and keys of all of them are found in batches."""
    values, moment, contexts = _found(lm, facts, settled, background, progress)
    written = [
        fact for fact, value in zip(facts, values, strict=True) if isinstance(value, OptimisedValue)
    ]
    if not written:
        return [value for value in values if isinstance(value, FactlabError)]
    memory = _Memory.of(lm, written, settled, moment, contexts)
    edits: list[Edit | FactlabError] = []
    rows = iter(range(len(written)))
    for value in values:
        try:
            edits.append(
                value if isinstance(value, FactlabError) else memory.edit({next(rows): value})
            )
        except EditError as error:  # of experts that got too few tokens, too
            edits.append(error)
    return edits


def compute_together(
    lm: LanguageModel,
    facts: Sequence[Fact],
    settled: Settled[RomeConfig],
    background: Background,
    progress: ProgressCallback,
) -> Edit:
    """One edit in which facts are stored one after the other."""
    check_conflicts(facts)
    found, moment, contexts = _found(lm, facts, settled, background, progress)
    values = succeeded(found)
    return _Memory.of(lm, facts, settled, moment, contexts).edit(dict(enumerate(values)))


def _found(
    lm: LanguageModel,
    facts: Sequence[Fact],
    settled: Settled[RomeConfig],
    background: Background,
    progress: ProgressCallback,
) -> tuple[list[OptimisedValue | FactlabError], Moment, Sequence[Context]]:
    """v* of every fact, C, and the contexts of both."""
    config, (layer,) = settled.config, settled.config.edited_layers
    shared = config.experts == "shared" and lm.layers.is_mixed(layer)
    moment = background.second_moments(lm, [layer], config.stats, progress, shared)[layer]
    contexts = background.contexts(lm, config.contexts)
    requests, plan = value_requests(lm, facts, config.erase), ValuePlan.of(config)
    values = values_of(lm, requests, plan, contexts, background.values, progress)
    return values, moment, contexts


@dataclass(frozen=True, slots=True)
class _Memory:
    """The layer's linear memory, where some facts look it up.

    Attributes:
        lm: the model, left as it is.
        base: the same, as edits name it.
        facts: that look it up.
        settled: settings of the edits.
        moment: C.
        lookups: k* and W k* by fact: of the bare prompt if `legacy`, means over contexts otherwise.
        means: the same of means over contexts.
        name: of W.
        weight_norm: ‖W‖.
    """

    lm: LanguageModel
    base: BaseModelInfo
    facts: Sequence[Fact]
    settled: Settled[RomeConfig]
    moment: Moment
    lookups: KeysAndOutputs
    means: KeysAndOutputs
    name: str
    weight_norm: float

    @classmethod
    def of(
        cls,
        lm: LanguageModel,
        facts: Sequence[Fact],
        settled: Settled[RomeConfig],
        moment: Moment,
        contexts: Sequence[Context],
    ) -> "_Memory":
        """Look the facts up."""
        config, layer, weighting = settled.config, moment.layer, settled.config.contexts
        if config.legacy:
            weighting = weighting.model_copy(update={"bare_weight": None})
        weights = context_weights(weighting, len(contexts))
        shared = isinstance(moment, SecondMoment) and moment.part == "shared"
        noised = NoisedSubjects(lm, config.subject_noise)
        asked = (config.lookup, shared, noised)
        with noised.present():
            means = mean_keys(lm, facts, contexts, layer, weights, *asked)
            lookups = means
            if config.legacy:
                only = torch.ones(1, dtype=torch.float64, device="cpu")
                lookups = mean_keys(lm, facts, [""], layer, only, *asked)
        name = lm.layers.shared_name(layer) if shared else lm.layers.memory_name(layer)
        norm = float(lm.layers.weight(name).detach().cpu().double().norm())
        base = BaseModelInfo.of(lm)
        return cls(lm, base, facts, settled, moment, lookups, means, name, norm)

    def edit(self, values: Mapping[int, OptimisedValue]) -> Edit:
        """The smallest changes after which the keys of some facts give their values.

        Args:
            values: δ by the fact's place, in the order in which to store them.

        Raises:
            EditError: no finite change does.
            StatisticsError: C is singular.
        """
        lm, moment, config = self.lm, self.moment, self.settled.config
        facts, rows = [self.facts[row] for row in values], [*values]
        deltas = torch.stack([value.delta.cpu().double() for value in values.values()])
        noised = NoisedSubjects(lm, config.subject_noise)
        with noised.present():
            found = anchored(
                lm, facts, deltas, moment.layer, config.norm_anchor, config.lookup, noised
            )
        keys, targets = self.lookups.keys[rows], self.lookups.outputs[rows] + found.deltas
        directions = self._directions(rows)
        kept = found.kept
        left, right = stored_in_turn(
            keys[kept], targets[kept], self.lookups.outputs[rows][kept], directions[kept]
        )
        mixture = self._mixture
        update = update_of(lm, self.name, mixture, left, right)
        told = [
            self._told(row, key, target, direction, value)
            for (row, value), key, target, direction in zip(
                values.items(), keys, targets, directions, strict=True
            )
        ]
        return Edit(
            method="rome",
            facts=tuple(facts),
            updates=(update,),
            base=self.base,
            config=config.model_dump(mode="json"),
            diagnostics={
                "layer": moment.layer,
                "layer_source": self.settled.source,
                "statistics": f"{moment.n_tokens} tokens, {moment.source}",
                "update_norm": update.norm,
                "weight_norm": self.weight_norm,
                **(told[0] if len(told) == 1 else {"facts": told}),
                **found.notes,
            },
            versions=current_versions(),
            remembered=(Remembered(tuple(facts), found.left),) if found.left else (),
        )

    @property
    def _mixture(self) -> Mixture | None:
        """The experts, unless it is a plain MLP or the one that every token goes through."""
        moment = self.moment
        return None if isinstance(moment, SecondMoment) else self.lm.layers.mixture(moment.layer)

    def _directions(self, rows: Sequence[int]) -> Float[Tensor, "fact d_mlp"]:
        """C⁻¹ k* of some facts, or the part of it that may be written along."""
        mixture = self._mixture
        with near(self.lm.device):
            directions = self.moment.solve(self.means.keys[rows])
        if mixture is None or self.settled.config.experts != "top":
            return directions
        keys = self.lookups.keys[rows]
        return torch.stack(
            [only_largest(mixture, *pair) for pair in zip(keys, directions, strict=True)]
        )

    def _told(
        self, row: int, key: Tensor, target: Tensor, direction: Tensor, value: OptimisedValue
    ) -> dict[str, Any]:
        """What there is to know about one fact's part of an edit."""
        mixture, weights, told = self._mixture, self.means.weights, dict[str, Any]()
        if mixture is not None:
            own = None if weights is None else weights[row]
            told["experts"] = told_of_experts(mixture, key, direction, own)
        norms = {"key_norm": float(key.norm()), "value_norm": float(target.norm())}
        return norms | told | value.to_json()
