"""ROME: rank-one model editing (ROME paper, section 3.1).

Three steps, a file each: the key k* of the subject (`lookup`), the value v* that makes the model
say the new object (`value`), and the smallest change of W_proj that stores the pair (`rank_one`).

The original code averages k* over contexts for the direction of the change but divides by the key
of the bare prompt, which makes some edits explode. Here k* is the same vector everywhere (as in
r-ROME, arXiv 2403.07175); `legacy=True` brings the mismatch back for comparison.
"""

import logging

import torch
from pydantic import BaseModel, ConfigDict, Field

from factlab.editing.contexts import ContextConfig, sample_contexts
from factlab.editing.edit import BaseModelInfo, Edit, current_versions
from factlab.editing.lookup import keys_and_outputs, prompt_rows
from factlab.editing.presets import recommended_layer, rome_preset
from factlab.editing.rank_one import rank_one_factors
from factlab.editing.update import LowRankUpdate
from factlab.editing.value import ValueConfig, optimise_value
from factlab.errors import InvalidRequestError
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback, silent
from factlab.stats.moments import SecondMoment
from factlab.stats.store import StatsConfig, second_moments

_log = logging.getLogger(__name__)


class RomeConfig(BaseModel):
    """Settings of ROME.

    The defaults are those of the paper's code where paper and code agree with each other; the three
    that differ are `legacy`, `contexts.bare_weight` and `value.kl_position`, each described there.

    Attributes:
        layer: 0-based edit layer; by default the model's preset, or else the layer that a quick
            causal trace of the fact points to.
        value: optimisation of v*; its `clamp_factor` is the preset's unless you set it.
        contexts: texts before the prompt.
        stats: how much text to collect C from, if it is not at hand.
        legacy: the original code's mismatch of keys (and equal weights for all contexts).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: int | None = Field(default=None, ge=0)
    value: ValueConfig = ValueConfig()
    contexts: ContextConfig = ContextConfig()
    stats: StatsConfig = StatsConfig()
    legacy: bool = False


def rome(
    lm: LanguageModel,
    fact: Fact,
    config: RomeConfig | None = None,
    second_moment: SecondMoment | None = None,
    progress: ProgressCallback = silent,
) -> Edit:
    """Compute the edit that makes the model say `fact.target_new`.

    Args:
        lm: the model, left as it is.
        fact: with a `target_new`.
        config: see `RomeConfig`.
        second_moment: C of the edit layer; by default from the cache, or collected from text that
            the model writes (half a minute for the bundled model, once).
        progress: told what is going on.

    Returns:
        A rank-one `Edit` of the layer's MLP output projection.

    Raises:
        InvalidRequestError: the fact has no new target, or the layer is out of range.
        StatisticsError: C is singular.
        EditError: the optimisation failed.
    """
    config = config or RomeConfig()
    if fact.target_new is None:
        raise InvalidRequestError("The fact has no target_new: nothing to write.")
    resolved, layer, reason = _with_layer(lm, fact, config, progress)
    if second_moment is None:
        second_moment = second_moments(lm, [layer], config.stats, progress=progress)[layer]
    elif second_moment.layer != layer:
        raise InvalidRequestError(
            f"The statistics are of layer {second_moment.layer}, but the edit is at layer {layer}."
        )
    second_moment.check_model(lm)

    contexts = sample_contexts(lm, config.contexts)
    found = keys_and_outputs(lm, prompt_rows(lm, fact, contexts), layer)
    optimised = optimise_value(lm, fact, fact.target_new, contexts, layer, resolved.value, progress)
    keys, outputs = found.keys.cpu().double(), found.outputs.cpu().double()
    if config.legacy:
        direction, key, output = keys.mean(0), keys[0], outputs[0]
    else:
        weights = config.contexts.weights(len(keys))
        direction, key, output = None, weights @ keys, weights @ outputs
    value = output + optimised.delta
    left, right = rank_one_factors(key, value, output, second_moment, direction)

    precision = torch.promote_types(lm.dtype, torch.float32)
    update = LowRankUpdate(
        lm.mlp_weight_name(layer), lm.mlp_layout, left.to(precision), right.to(precision)
    )
    diagnostics = {
        "layer": layer,
        "layer_source": reason,
        "statistics": f"{second_moment.n_tokens} tokens, {second_moment.source}",
        "key_norm": float(key.norm()),
        "value_norm": float(value.norm()),
        "update_norm": update.norm,
        "weight_norm": float(lm.mlp_weight(layer).detach().double().norm()),
        **optimised.to_json(),
    }
    return Edit(
        method="rome",
        facts=(fact,),
        updates=(update,),
        base=BaseModelInfo.of(lm),
        config=resolved.model_dump(mode="json"),
        diagnostics=diagnostics,
        versions=current_versions(),
    )


def _with_layer(
    lm: LanguageModel, fact: Fact, config: RomeConfig, progress: ProgressCallback
) -> tuple[RomeConfig, int, str]:
    """Fill in what the config leaves to the model; also says where the layer is from."""
    preset = rome_preset(lm)
    value = config.value
    if preset is not None and "clamp_factor" not in value.model_fields_set:
        value = value.model_copy(update={"clamp_factor": preset.clamp_factor})
    if config.layer is not None:
        lm.layer(config.layer)
        layer, reason = config.layer, "chosen"
    elif preset is not None:
        layer, reason = preset.layer, f"preset of {preset.model} ({preset.source})"
    else:
        layer, reason = recommended_layer(lm, fact, progress)
    return config.model_copy(update={"layer": layer, "value": value}), layer, reason
