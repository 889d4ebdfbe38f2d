"""Where to edit a model: by its preset, or else by causal traces.

The presets themselves are in `preset_table`.
"""

import logging
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from factlab.data.well_known import WELL_KNOWN
from factlab.editing.preset_table import PRESETS, Preset
from factlab.errors import InvalidRequestError, nearest
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback
from factlab.tracing.knowns import knows
from factlab.tracing.layers import LayerChoice, recommend_layer

_log = logging.getLogger(__name__)


_XL = next(preset for preset in PRESETS if preset.model == "GPT-2 XL")


def preset_of(lm: LanguageModel) -> Preset | None:
    """The preset of a model's family and size, if there is one."""
    shape = (lm.architecture.family, lm.n_layers, lm.d_model)
    for preset in PRESETS:
        if (preset.family, preset.n_layers, preset.d_model) == shape:
            return preset
    return None


def beside_preset(choice: LayerChoice, preset: Preset | None) -> str:
    """In words: which layer is edited if none is chosen, and whether traces agree."""
    if preset is None:
        return (
            "There is no preset for this model: without --layer, `factlab edit` goes by traces of "
            "well-known facts in the same way."
        )
    agrees = "which is one of these" if preset.rome_layer in choice.candidates else (
        "which this contradicts; choose another with --layer"
    )  # fmt: skip
    return (
        f"Without --layer, `factlab edit` uses layer {preset.rome_layer}, the preset of "
        f"{preset.model} ({preset.rome_source}), {agrees}."
    )


# -- layers of models that are not listed ------------------------------------------------------

# Recommendations by model, and the weights they were made for.
_made: WeakKeyDictionary[LanguageModel, tuple[str, LayerChoice]] = WeakKeyDictionary()
_FACTS_TRACED = 10


def recommended_layers(
    lm: LanguageModel, fact: Fact, progress: ProgressCallback
) -> tuple[LayerChoice, str]:
    """For a model without a preset: what causal traces recommend, and of what they are.

    Well-known facts are traced, once for a model; the fact itself if the model knows none.
    """
    reason = "causal traces of well-known facts"
    fingerprint, choice = _made.get(lm, ("", None))
    if choice is None or fingerprint != lm.live_fingerprint:
        if any(knows(lm, WELL_KNOWN)):
            choice = recommend_layer(lm, limit=_FACTS_TRACED, progress=progress)
            _made[lm] = lm.live_fingerprint, choice
        else:
            asked = Fact(fact.template, fact.subject)
            choice = recommend_layer(lm, [asked], progress=progress)
            reason = "causal trace of this fact"
        _log.warning(
            "No preset for %s: layer %d (several layers: %s), by %s. "
            "Set the layer yourself to choose another.",
            lm.name, choice.layer, ", ".join(map(str, choice.memit_layers)), reason,
        )  # fmt: skip
    return choice, reason


# -- where to edit -----------------------------------------------------------------------------


def rome_layer(
    lm: LanguageModel, chosen: int | None, fact: Fact, progress: ProgressCallback
) -> tuple[int, str]:
    """The layer of a method that edits one, and where it is from.

    Raises:
        InvalidRequestError: the chosen layer is not in the model.
    """
    preset = preset_of(lm)
    if chosen is not None:
        lm.layer(chosen)
        return chosen, "chosen"
    if preset is not None:
        return preset.rome_layer, f"preset of {preset.model} ({preset.rome_source})"
    choice, source = recommended_layers(lm, fact, progress)
    return choice.layer, source


def memit_layers(
    lm: LanguageModel, chosen: Sequence[int] | None, fact: Fact, progress: ProgressCallback
) -> tuple[tuple[int, ...], str]:
    """The layers of a method that edits several, ascending, and where they are from.

    Raises:
        InvalidRequestError: a chosen layer is not in the model.
    """
    preset = preset_of(lm)
    if chosen is not None:
        for layer in chosen:
            lm.layer(layer)
        return tuple(sorted(set(chosen))), "chosen"
    if preset is not None and preset.memit_layers:
        return tuple(preset.memit_layers), f"preset of {preset.model} ({preset.memit_source})"
    choice, source = recommended_layers(lm, fact, progress)
    return choice.memit_layers, source


def fine_tune_place(
    lm: LanguageModel, method: str, chosen: int | None
) -> tuple[int, float | None, str]:
    """The layer of a fine-tuning method, its ε, and where the layer is from.

    Models that are not listed get GPT-2 XL's values, the layer at the same share of the depth.

    Raises:
        InvalidRequestError: the chosen layer is not in the model, or there is no such method.
    """
    preset = preset_of(lm)
    if method not in _XL.fine_tune:
        raise InvalidRequestError(
            f"Unknown fine-tuning method '{method}'.{nearest(method, _XL.fine_tune)} "
            f"Choose from {', '.join(_XL.fine_tune)}."
        )
    if preset is not None and method in preset.fine_tune:
        layer, epsilon = preset.fine_tune[method]
        source = f"preset of {preset.model} ({preset.fine_tune_source})"
    else:
        layer, epsilon = _XL.fine_tune[method]
        layer = round(layer / _XL.n_layers * lm.n_layers)
        source = f"{_XL.model}'s, at the same share of the depth"
    if chosen is not None:
        lm.layer(chosen)
        layer, source = chosen, "chosen"
    return layer, epsilon, source
