"""Writing facts over several layers (MEMIT paper, section 4.3 and algorithm 1).

For every fact a change δ of the state that leaves the top layer L at the subject's last token is
found first. It is then brought about from below: each layer l takes an equal share of what is still
missing, as a change of its MLP output projection,

    R_l = (z − h^L) / (number of layers left),     ΔW_l = R_lᵀ D_l

where the rows of R and D belong to facts. The *dual keys* D decide what else changes: D kᵢ should
be 1 at the fact's own entry. How they are found is what MEMIT, EMMET and AlphaEdit differ in: by
what a change is measured (`metric`), and how dual keys follow from keys and that. Keys and h^L are
taken anew at every layer, on the model as changed so far. The keys stay with the edit, for later
edits of a sequence to leave alone (`protection`).

| paper | here |
|---|---|
| z_i, h_i^L | `deltas` is z − h on the unedited model |
| K₁, R | `keys` (fact, d_mlp), `residuals` (fact, d_model) |
| k_i | half the bare prompt's key, half the mean of those behind contexts |
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.data.fact_files import check_conflicts
from factlab.editing.background import Background
from factlab.editing.closed_form.anchor import Anchored, anchored
from factlab.editing.closed_form.factors import update_of
from factlab.editing.closed_form.value import DEFAULT_CLAMP, OptimisedValue
from factlab.editing.closed_form.values import values_of
from factlab.editing.closed_form.waiting import WaitingFacts
from factlab.editing.configs import LayerwiseConfig
from factlab.editing.contexts import context_weights
from factlab.editing.edit import BaseModelInfo, Edit, current_versions
from factlab.editing.method import FAULTS, Settled
from factlab.editing.metric import Keys, Metric
from factlab.editing.noised import NoisedSubjects
from factlab.editing.preset_table import Preset
from factlab.editing.presets import one_layer, preset_of, several_layers
from factlab.editing.protection import Protection, Question, keys_name
from factlab.editing.remembered import Remembered, remembered_on
from factlab.editing.requests import value_requests
from factlab.editing.values.recipe import ValuePlan
from factlab.editing.values.source import ValueSource
from factlab.errors import FactlabError
from factlab.facts import Fact
from factlab.large_matrices import near
from factlab.models.changes.carried import Carried, as_changed, carrying
from factlab.models.changes.change import Change
from factlab.models.language_model import LanguageModel
from factlab.precision import wide
from factlab.progress import ProgressCallback
from factlab.stats.expert_moments import Moment
from factlab.wrapping import Context

# ‖δ‖ at a layer's output is kept below this share of the state's norm (MEMIT's code).
LAYER_CLAMP = 0.75

Config = TypeVar("Config", bound=LayerwiseConfig)


def as_it_is(config: Config, preset: Preset | None) -> Config:
    """Settings of which the preset has none."""
    del preset
    return config


@dataclass(frozen=True, slots=True)
class LayerwiseMethod(Generic[Config]):
    """A closed form that writes facts over layers.

    Attributes:
        name: of the method.
        config: its settings.
        metric: from the second moment of a layer's keys, the settings, and the keys that the first
            edit of a sequence writes at, by what changes of the layer are measured.
        duals: from keys, metric and settings to dual keys.
        default_layers: where to edit if nobody says: several layers, as MEMIT does, or ROME's one.
        completed: fills in settings of its own that the preset has.
    """

    name: str
    config: type[Config]
    metric: Callable[[Moment, Config, Keys], Metric]
    duals: Callable[[Keys, Metric, Config], Keys]
    default_layers: Literal["several", "one"] = "several"
    completed: Callable[[Config, Preset | None], Config] = as_it_is

    def settle(
        self,
        lm: LanguageModel,
        facts: Sequence[Fact],
        config: Config | None,
        background: Background,
        progress: ProgressCallback,
    ) -> list[Settled[Config] | FactlabError]:
        """Layers and clamp of every fact."""
        del background  # nothing of it is asked before edits are computed
        preset = preset_of(lm)
        config = self.completed(config or self.config(), preset)
        if self.default_layers == "one":
            clamp = preset.rome_clamp if preset else DEFAULT_CLAMP
        else:
            clamp = preset.memit_clamp if preset else LAYER_CLAMP
        if config.layers is None and self.default_layers == "one":
            places = one_layer(lm, None, facts, progress)
        else:
            places = several_layers(lm, config.layers, facts, progress)
        value = config.value.clamped(clamp)
        return [
            place
            if isinstance(place, FactlabError)
            else Settled(
                config.model_copy(update={"layers": place.layers, "value": value}), place.source
            )
            for place in places
        ]

    def compute(
        self,
        lm: LanguageModel,
        facts: Sequence[Fact],
        settled: Settled[Config],
        background: Background,
        progress: ProgressCallback,
    ) -> list[Edit | FactlabError]:
        """One edit per fact; the δ of all of them are found in batches."""
        writer = self._writer(lm, settled, background, progress)
        edits: list[Edit | FactlabError] = []
        for fact, value in zip(facts, writer.values(facts), strict=True):
            progress("writing", len(edits), len(facts))
            try:
                edits.append(
                    value if isinstance(value, FactlabError) else writer.edit([fact], [value])
                )
            except FAULTS as error:
                edits.append(error)
        progress("writing", len(facts), len(facts))
        return edits

    def compute_together(
        self,
        lm: LanguageModel,
        facts: Sequence[Fact],
        settled: Settled[Config],
        background: Background,
        progress: ProgressCallback,
    ) -> Edit:
        """One edit with all facts."""
        check_conflicts(facts)
        writer = self._writer(lm, settled, background, progress)
        values: list[OptimisedValue] = []
        for value in writer.values(facts):
            if isinstance(value, FactlabError):
                raise value
            values.append(value)
        progress("writing", 0, 1)
        edit = writer.edit(facts, values)
        progress("writing", 1, 1)
        return edit

    def _writer(
        self,
        lm: LanguageModel,
        settled: Settled[Config],
        background: Background,
        progress: ProgressCallback,
    ) -> "_Writer":
        config = settled.config
        moments = background.second_moments(lm, config.edited_layers, config.stats, progress)
        return _Writer(
            lm=lm,
            base=BaseModelInfo.of(lm),
            method=self.name,
            config=config,
            source=settled.source,
            contexts=background.contexts(lm, config.contexts),
            closed_form=_ClosedForm(
                self, config, moments,
                remembered_on(lm) if config.remember else (), background.protection,
            ),
            values_from=background.values,
            progress=progress,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _ClosedForm:
    """From keys at a layer to dual keys.

    Attributes:
        method: whose closed form it is.
        config: with nothing left open.
        moments: C of each layer.
        past: what earlier edits left.
        protection: of the keys among that.
    """

    method: LayerwiseMethod[Any]
    config: LayerwiseConfig
    moments: Mapping[int, Moment]
    past: Sequence[Remembered]
    protection: Protection

    def duals(self, layer: int, keys: Keys, questions: Sequence[Question]) -> Keys:
        """Dual keys of the facts that answer some questions."""
        base = partial(self.method.metric, self.moments[layer], self.config)
        metric = (
            self.protection.metric(
                (self.method.name, self.config), layer, base, keys, self.past, questions
            )
            if self.past
            else base(keys)
        )
        return self.method.duals(keys, metric, self.config)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Writer:
    """Writes facts that are settled alike.

    Attributes:
        lm: the model, left as it is.
        base: the same, as edits name it.
        method: its name.
        config: with nothing left open.
        source: where the layers are from.
        contexts: texts before the prompts.
        closed_form: from keys to dual keys.
        values_from: where values that were optimised before come from.
        progress: told what is going on.
    """

    lm: LanguageModel
    base: BaseModelInfo
    method: str
    config: LayerwiseConfig
    source: str
    contexts: Sequence[Context]
    closed_form: _ClosedForm
    values_from: ValueSource | None
    progress: ProgressCallback

    def values(self, facts: Sequence[Fact]) -> list[OptimisedValue | FactlabError]:
        """δ of every fact at the output of the top layer."""
        requests = value_requests(self.lm, facts, self.config.erase)
        plan = ValuePlan.of(self.config)
        return values_of(self.lm, requests, plan, self.contexts, self.values_from, self.progress)

    def edit(self, facts: Sequence[Fact], values: Sequence[OptimisedValue]) -> Edit:
        """One edit with some facts."""
        layers = self.config.edited_layers
        weights = context_weights(self.config.contexts, len(self.contexts))
        noised = NoisedSubjects(self.lm, self.config.subject_noise)
        deltas = torch.stack([value.delta.cpu().double() for value in values])
        with noised.present():
            found = anchored(
                self.lm, facts, deltas, layers[-1], self.config.norm_anchor, "last", noised
            )
            kept = [facts[place] for place in found.kept]
            with torch.no_grad(), self.lm.frozen():
                rows = WaitingFacts(self.lm, kept, self.contexts, weights, layers[0], noised)
            # A fact that is written anew is not protected from it.
            duals = partial(self.closed_form.duals, questions=[fact.question for fact in kept])
            written = _write(self.lm, rows, found.deltas[found.kept], layers, duals)
        left = found.left
        if self.config.remember:
            left = left | {name: _spread(keys, found) for name, keys in written.keys.items()}
        return Edit(
            method=self.method,
            facts=tuple(facts),
            updates=tuple(written.updates),
            base=self.base,
            config=self.config.model_dump(mode="json"),
            diagnostics={
                "layers": [*layers],
                "layer_source": self.source,
                "update_norms": [update.norm for update in written.updates],
                "missing_shares": written.missing_shares,
                **_of_values(values),
                **found.notes,
            },
            versions=current_versions(),
            remembered=(Remembered(tuple(facts), left),) if left else (),
        )


def _spread(keys: Float[Tensor, "kept d_mlp"], found: Anchored) -> Float[Tensor, "fact d_mlp"]:
    """A key for every fact: 0, which protects nothing, of those that are not written."""
    spread = keys.new_zeros(len(found.deltas), keys.shape[1])
    spread[found.kept] = keys
    return spread


def _of_values(values: Sequence[OptimisedValue]) -> dict[str, Any]:
    if len(values) == 1:
        return values[0].to_json()
    return {
        "steps": [len(value.history) for value in values],
        "target_prob_before": [value.target_prob_before for value in values],
        "target_prob": [value.target_prob for value in values],
    }


class _Written(NamedTuple):
    """What was done to the layers.

    Attributes:
        updates: of the layers.
        missing_shares: how much of δ was missing before each of them, and at the end.
        keys: that the facts were written at, as they are remembered.
    """

    updates: list[Change]
    missing_shares: list[float]
    keys: dict[str, Tensor]


@torch.no_grad()
def _write(
    lm: LanguageModel,
    rows: WaitingFacts,
    deltas: Float[Tensor, "fact d_model"],
    layers: Sequence[int],
    duals: Callable[[int, Keys], Keys],
) -> _Written:
    """Bring δ about, layer by layer."""
    written = _Written([], [1.0], {})
    changed: dict[str, Carried] = {}
    with lm.frozen(), near(lm.device):
        start = rows.outputs(layers[-1])
        missing = deltas
        for done, layer in enumerate(layers):
            residuals = missing / (len(layers) - done)
            with carrying(lm, changed, None):
                keys = rows.keys()
            name, mixture = lm.layers.memory_name(layer), lm.layers.mixture(layer)
            update = update_of(lm, name, mixture, residuals.T, duals(layer, keys))
            written.updates.append(update)
            written.keys[keys_name(layer)] = keys.to(wide(lm.dtype))
            changed[update.weight_name] = as_changed(lm, update)
            with carrying(lm, changed, None):
                missing = start + deltas - rows.outputs(layers[-1])
                if layer != layers[-1]:
                    rows.advance(layers[done + 1])
            written.missing_shares.append(float(missing.norm() / deltas.norm().clamp(min=1e-30)))
    return written
