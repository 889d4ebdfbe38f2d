"""ROME: rank-one model editing (ROME paper, section 3.1).

Three steps, a file each: the key k* of the subject (`lookup`), the value v* that makes the model
say the new object (`value`), and the smallest change of W_proj that stores the pair (`rank_one`).

The original code averages k* over contexts for the direction of the change but divides by the key
of the bare prompt, which makes some edits explode. Here k* is the same vector everywhere (as in
r-ROME, arXiv 2403.07175); `legacy=True` brings the mismatch back for comparison.
"""

from collections.abc import Sequence

import torch

from factlab.arguments import checked, listed
from factlab.editing.background import Background
from factlab.editing.closed_form.contexts import context_weights
from factlab.editing.closed_form.lookup import mean_keys
from factlab.editing.closed_form.rank_one import rank_one_factors
from factlab.editing.closed_form.value import DEFAULT_CLAMP, optimise_values
from factlab.editing.configs import RomeConfig
from factlab.editing.edit import BaseModelInfo, Edit, current_versions
from factlab.editing.presets import preset_of, rome_layer
from factlab.editing.requests import value_requests
from factlab.facts import Fact
from factlab.hooks import Site, Stream
from factlab.models.changes.update import LowRankUpdate
from factlab.models.language_model import LanguageModel
from factlab.precision import wide
from factlab.progress import ProgressCallback, silent


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
        A rank-one `Edit` of the layer's MLP output projection.

    Raises:
        InvalidRequestError: the fact has no new target, or the layer is out of range.
        StatisticsError: C is singular.
        EditError: the optimisation failed.
    """
    return rome_each(lm, [fact], config, background, progress)[0]


@checked()
def rome_each(
    lm: LanguageModel,
    facts: Fact | Sequence[Fact],
    config: RomeConfig | None = None,
    background: Background | None = None,
    progress: ProgressCallback = silent,
) -> list[Edit]:
    """Compute one edit per fact, each for the model as it is now; see `rome`."""
    facts = listed(facts)
    config = config or RomeConfig()
    background = background or Background()
    requests = value_requests(lm, facts, config.erase)
    layer, reason = rome_layer(lm, config.layer, facts[0], progress)
    resolved = _settled(lm, config, layer)
    moment = background.second_moments(lm, [layer], config.stats, progress)[layer]
    contexts = background.contexts(lm, config.contexts)
    values = optimise_values(
        lm, requests, contexts, Site(layer, Stream.MLP), resolved.value, progress, config.lookup
    )
    weighting = config.contexts
    if config.legacy:
        weighting = weighting.model_copy(update={"bare_weight": None})
    weights, lookup = context_weights(weighting, len(contexts)), config.lookup
    found = mean_keys(lm, facts, contexts, layer, weights, lookup)
    only = torch.ones(1, dtype=torch.float64, device="cpu")
    bare = mean_keys(lm, facts, [""], layer, only, lookup) if config.legacy else found

    directions = moment.solve(found.keys)
    precision = wide(lm.dtype)
    weight_norm = float(lm.mlp_weight(layer).detach().cpu().double().norm())
    base, edits = BaseModelInfo.of(lm), list[Edit]()
    for i, (fact, value) in enumerate(zip(facts, values, strict=True)):
        key, output = bare.keys[i], bare.outputs[i]
        left, right = rank_one_factors(key, output + value.delta, output, directions[i])
        update = LowRankUpdate(
            lm.mlp_weight_name(layer), lm.mlp_layout, left.to(precision), right.to(precision)
        )
        diagnostics = {
            "layer": layer,
            "layer_source": reason,
            "statistics": f"{moment.n_tokens} tokens, {moment.source}",
            "key_norm": float(key.norm()),
            "value_norm": float((output + value.delta).norm()),
            "update_norm": update.norm,
            "weight_norm": weight_norm,
            **value.to_json(),
        }
        edits.append(
            Edit(
                method="rome",
                facts=(fact,),
                updates=(update,),
                base=base,
                config=resolved.model_dump(mode="json"),
                diagnostics=diagnostics,
                versions=current_versions(),
            )
        )
    return edits


def _settled(lm: LanguageModel, config: RomeConfig, layer: int) -> RomeConfig:
    """The config with its layer, and the preset's clamp unless it was set."""
    preset, value = preset_of(lm), config.value
    if value.clamp_factor is None:
        clamp = preset.rome_clamp if preset else DEFAULT_CLAMP
        value = value.model_copy(update={"clamp_factor": clamp})
    return config.model_copy(update={"layer": layer, "value": value})
