"""Defaults per model, each with its source.

A preset belongs to a family and a size, not to a file name, so that a fine-tuned or renamed
GPT-2 XL gets what GPT-2 XL gets. A model that is not listed gets its layers from causal traces.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from factlab.data.well_known import WELL_KNOWN
from factlab.errors import InvalidRequestError, nearest
from factlab.facts import Fact
from factlab.models.decoder import Decoder
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback
from factlab.tracing.knowns import knows
from factlab.tracing.layers import LayerChoice, recommend_layer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Preset:
    """Where and how strongly the methods edit one model.

    Attributes:
        model: the model that the values were found for.
        family: architecture, as in `factlab.architectures`.
        n_layers: of the model.
        d_model: of the model.
        rome_layer: 0-based.
        rome_clamp: see `ValueConfig.clamp_factor`.
        rome_source: where these are from.
        memit_layers: 0-based, ascending; empty if unknown.
        memit_weight: λ of MEMIT.
        memit_clamp: see `ValueConfig.clamp_factor`.
        memit_source: where these are from.
        fine_tune: layer and ε of FT, FT+L and AttnEdit by method; ε is None without a bound.
        fine_tune_source: where these are from.
    """

    model: str
    family: str
    n_layers: int
    d_model: int
    rome_layer: int
    rome_clamp: float
    rome_source: str
    memit_layers: range = range(0)
    memit_weight: float = 15_000.0
    memit_clamp: float = 0.75
    memit_source: str = ""
    fine_tune: Mapping[str, tuple[int, float | None]] = field(default_factory=dict)
    fine_tune_source: str = ""


_MEASURED = "factlab, docs/editing.md"
_ROME_CODE, _MEMIT_CODE, _EASYEDIT = "ROME code", "MEMIT code", "EasyEdit"

PRESETS: tuple[Preset, ...] = (
    Preset(
        "SmolLM2-135M", "llama", 30, 576, 3, 4.0, _MEASURED,
        range(4), 2_000.0, 0.75, _MEASURED,
        {"ft": (1, None), "ft+l": (0, 2e-3), "attn": (15, 5e-3)}, _MEASURED,
    ),
    Preset(
        "GPT-2 medium", "gpt2", 24, 1024, 8, 3.0, _ROME_CODE,
        fine_tune={"ft+l": (0, 2e-3)}, fine_tune_source="ROME paper, E.1",
    ),
    Preset(
        "GPT-2 large", "gpt2", 36, 1280, 12, 4.0, _ROME_CODE,
        fine_tune={"ft+l": (0, 1e-3)}, fine_tune_source="ROME paper, E.1",
    ),
    Preset(
        "GPT-2 XL", "gpt2", 48, 1600, 17, 4.0, _ROME_CODE,
        range(13, 18), 20_000.0, 0.75, _MEMIT_CODE,
        {"ft": (1, None), "ft+l": (0, 5e-4), "attn": (33, 1e-3)}, "ROME paper, E.1 and I",
    ),
    Preset(
        "GPT-J 6B", "gptj", 28, 4096, 5, 4.0, _ROME_CODE,
        range(3, 9), 15_000.0, 0.75, _MEMIT_CODE,
        {"ft": (21, None), "ft+l": (0, 5e-5)}, "ROME paper, E.1",
    ),
    Preset(
        "GPT-NeoX 20B", "gpt_neox", 44, 6144, 15, 4.0, _MEMIT_CODE,
        range(6, 11), 15_000.0, 0.75, "MEMIT paper; its weight is not published, GPT-J's is used",
    ),
    Preset(
        "Llama 2 7B, Llama 3 8B", "llama", 32, 4096, 5, 4.0, _EASYEDIT,
        range(4, 9), 15_000.0, 4.0, _EASYEDIT,
    ),
    Preset("Mistral 7B", "mistral", 32, 4096, 5, 4.0, _EASYEDIT),
)  # fmt: skip


_XL = next(preset for preset in PRESETS if preset.model == "GPT-2 XL")


def preset_of(lm: Decoder) -> Preset | None:
    """The preset of a model's family and size, if there is one."""
    shape = (lm.architecture.family, lm.n_layers, lm.d_model)
    for preset in PRESETS:
        if (preset.family, preset.n_layers, preset.d_model) == shape:
            return preset
    return None


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
