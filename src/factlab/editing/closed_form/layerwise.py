"""Writing many facts over several layers (MEMIT paper, section 4.3 and algorithm 1).

For every fact a change δ of the state that leaves the top layer L at the subject's last token is
found first. It is then brought about from below: each layer l takes an equal share of what is still
missing, as a change of its MLP output projection,

    R_l = (z − h^L) / (number of layers left),     ΔW_l = R_lᵀ D_l

where the rows of R and D belong to facts. The *dual keys* D decide what else changes: D kᵢ should
be 1 at the fact's own entry. How they are found is what MEMIT, EMMET and AlphaEdit differ in; each
has a file. Keys and h^L are taken anew at every layer, on the model as changed so far.

| paper | here |
|---|---|
| z_i, h_i^L | `deltas` is z − h on the unedited model |
| K₁, R | `keys` (fact, d_mlp), `residuals` (fact, d_model) |
| k_i | half the bare prompt's key, half the mean of those behind contexts |
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.continuations import Continuation
from factlab.data.fact_files import check_conflicts
from factlab.editing.background import Background
from factlab.editing.closed_form.contexts import context_weights
from factlab.editing.closed_form.lookup import BATCH_TOKENS, prompt_rows, up_to_lookup
from factlab.editing.closed_form.value import OptimisedValue, optimise_values
from factlab.editing.configs import LayerwiseConfig
from factlab.editing.edit import BaseModelInfo, Edit, current_versions
from factlab.editing.requests import value_requests
from factlab.facts import Fact
from factlab.hooks import Site, Stream, record
from factlab.models.changes.carried import substituted
from factlab.models.changes.change import Change
from factlab.models.changes.update import DenseUpdate, LowRankUpdate
from factlab.models.language_model import LanguageModel
from factlab.precision import wide
from factlab.progress import ProgressCallback
from factlab.tokens import groups, pad

Keys = Float[Tensor, "fact d_mlp"]
# From the layer and the keys there: the dual keys.
DualKeys = Callable[[int, Keys], Keys]


# ‖δ‖ at a layer's output is kept below this share of the state's norm (MEMIT's code).
LAYER_CLAMP = 0.75

Config = TypeVar("Config", bound=LayerwiseConfig)


def settled(config: Config, layers: tuple[int, ...], clamp: float) -> Config:
    """A config with its layers, and with a clamp unless it has one."""
    value = config.value
    if value.clamp_factor is None:
        value = value.model_copy(update={"clamp_factor": clamp})
    return config.model_copy(update={"layers": layers, "value": value})


def write_facts(
    lm: LanguageModel,
    facts: Sequence[Fact],
    method: str,
    config: LayerwiseConfig,
    source: str,
    background: Background,
    dual_keys: DualKeys,
    together: bool,
    progress: ProgressCallback,
) -> list[Edit]:
    """One edit with all facts, or one for each.

    Args:
        lm: the model, left as it is.
        facts: what to write.
        method: its name.
        config: with its layers filled in.
        source: where the layers are from.
        background: contexts.
        dual_keys: the method's closed form.
        together: whether all facts go into one edit.
        progress: told what is going on.

    Raises:
        InvalidRequestError: facts contradict each other, or one has nothing to write.
        EditError: the optimisation failed.
    """
    requests = value_requests(lm, facts, config.erase)
    if together:
        check_conflicts(facts)
    layers = list(config.layers or ())
    contexts = background.contexts(lm, config.contexts)
    weights = context_weights(config.contexts, len(contexts))
    top = Site(layers[-1], Stream.BLOCK)
    values = optimise_values(lm, requests, contexts, top, config.value, progress)
    base, edits = BaseModelInfo.of(lm), list[Edit]()
    for numbers in [range(len(facts))] if together else [[i] for i in range(len(facts))]:
        progress("writing", len(edits), 1 if together else len(facts))
        chosen = [facts[i] for i in numbers]
        deltas = torch.stack([values[i].delta.cpu().double() for i in numbers])
        rows = _Rows(lm, chosen, contexts, weights, layers[0])
        updates, shares = _write(lm, rows, deltas, layers, dual_keys)
        edits.append(
            Edit(
                method=method,
                facts=tuple(chosen),
                updates=tuple(updates),
                base=base,
                config=config.model_dump(mode="json"),
                diagnostics={
                    "layers": layers,
                    "layer_source": source,
                    "update_norms": [update.norm for update in updates],
                    "missing_shares": shares,
                    **_of_values([values[i] for i in numbers]),
                },
                versions=current_versions(),
            )
        )
    progress("writing", len(edits), len(edits))
    return edits


def _of_values(values: Sequence[OptimisedValue]) -> dict[str, Any]:
    if len(values) == 1:
        return values[0].to_json()
    return {
        "steps": [len(value.history) for value in values],
        "target_prob_before": [value.target_prob_before for value in values],
        "target_prob": [value.target_prob for value in values],
    }


@torch.no_grad()
def _write(
    lm: LanguageModel,
    rows: "_Rows",
    deltas: Float[Tensor, "fact d_model"],
    layers: Sequence[int],
    dual_keys: DualKeys,
) -> tuple[list[Change], list[float]]:
    """The updates, layer by layer, and how much of δ was missing before each and at the end."""
    updates: list[Change] = []
    changed: dict[str, Tensor] = {}
    with lm.frozen():
        start = rows.outputs(layers[0], layers[-1])
        missing = deltas
        shares = [1.0]
        for done, layer in enumerate(layers):
            residuals = missing / (len(layers) - done)
            with substituted(lm, changed):
                duals = dual_keys(layer, rows.keys(layer))
            update = _update(lm, layer, residuals, duals)
            updates.append(update)
            changed[update.weight_name] = update.patched(lm.mlp_weight(layer))
            with substituted(lm, changed):
                missing = start + deltas - rows.outputs(layer, layers[-1])
                if layer != layers[-1]:
                    rows.advance(layer, layers[done + 1])
            shares.append(float(missing.norm() / deltas.norm().clamp(min=1e-30)))
    return updates, shares


def _update(
    lm: LanguageModel, layer: int, residuals: Float[Tensor, "fact d_model"], duals: Keys
) -> Change:
    """Rᵀ D, thin while there are fewer facts than dimensions."""
    name, precision = lm.mlp_weight_name(layer), wide(lm.dtype)
    if len(duals) < residuals.shape[1]:
        left, right = residuals.T.contiguous(), duals
        return LowRankUpdate(name, lm.mlp_layout, left.to(precision), right.to(precision))
    return DenseUpdate(name, lm.mlp_layout, (residuals.T @ duals).to(precision))


class _Rows:
    """Every fact behind every context, waiting at the input of a layer.

    Only bare prompts go on to the top layer, where the rest of δ is measured.
    """

    def __init__(
        self,
        lm: LanguageModel,
        facts: Sequence[Fact],
        contexts: Sequence[str],
        weights: Float[Tensor, " context"],
        layer: int,
    ) -> None:
        self._weights = weights
        by_fact = [prompt_rows(lm, fact, contexts) for fact in facts]
        bare = [rows[0] for rows in by_fact]
        behind = [row for rows in by_fact for row in rows[1:]]
        with torch.no_grad(), lm.frozen():
            self._bare = _Waiting(lm, bare, layer)
            self._behind = _Waiting(lm, behind, layer) if behind else None

    def keys(self, layer: int) -> Keys:
        """Mean keys at the layer where the rows are."""
        site = Site(layer, Stream.MLP_HIDDEN)
        keys = self._weights[0] * self._bare.at_lookup(site)
        if self._behind is not None:
            each = self._behind.at_lookup(site).unflatten(0, (len(keys), -1))
            keys = keys + torch.einsum("c,fcd->fd", self._weights[1:], each)
        return keys

    def outputs(self, layer: int, top: int) -> Float[Tensor, "fact d_model"]:
        """h^L of the bare prompts, run up from the layer where they are."""
        return self._bare.at_lookup(Site(top, Stream.BLOCK), layer)

    def advance(self, layer: int, to: int) -> None:
        """Run all rows from one layer to another and leave them there."""
        for waiting in (self._bare, self._behind):
            if waiting is not None:
                waiting.advance(layer, to)


class _Waiting:
    """Rows of texts up to their lookup tokens, in batches, at the input of a layer."""

    def __init__(self, lm: LanguageModel, rows: Sequence[Continuation], layer: int) -> None:
        self._lm, self._rows = lm, rows
        texts = [up_to_lookup(row) for row in rows]
        self._batches = groups([len(ids) for ids in texts], BATCH_TOKENS)
        self._frames = [
            lm.frame(pad([texts[i] for i in numbers], lm.device)) for numbers in self._batches
        ]
        self._states = [lm.run(frame, stop=layer) for frame in self._frames]

    def at_lookup(self, site: Site, layer: int | None = None) -> Float[Tensor, "row width"]:
        """States at a site, float64 on the CPU; the rows stay where they are."""
        found: dict[int, Tensor] = {}
        first = site.layer if layer is None else layer
        with record(self._lm, [site]) as states:
            for numbers, frame, state in zip(
                self._batches, self._frames, self._states, strict=True
            ):
                self._lm.run(frame, state, first=first, stop=site.layer + 1)
                positions = torch.tensor([self._rows[i].lookup for i in numbers], device="cpu")
                at = states[site][torch.arange(len(numbers), device="cpu"), positions]
                found |= zip(numbers, at.cpu().double(), strict=True)
        return torch.stack([found[i] for i in range(len(self._rows))])

    def advance(self, layer: int, to: int) -> None:
        """Run the rows further up."""
        self._states = [
            self._lm.run(frame, state, first=layer, stop=to)
            for frame, state in zip(self._frames, self._states, strict=True)
        ]
