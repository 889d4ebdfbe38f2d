"""Defaults per model, each with its source.

A preset belongs to a family and a size, not to a file name, so that a fine-tuned or renamed
GPT-2 XL gets what GPT-2 XL gets.
"""

import logging
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from factlab.data.well_known import WELL_KNOWN
from factlab.facts import Fact
from factlab.models.decoder import Decoder
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback
from factlab.tracing.knowns import knows
from factlab.tracing.layers import recommend_layer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RomePreset:
    """Where and how strongly ROME edits one model.

    Attributes:
        model: the model that the values were found for.
        family: architecture, as in `factlab.architectures`.
        n_layers: of the model.
        d_model: of the model.
        layer: 0-based edit layer.
        clamp_factor: see `ValueConfig`.
        source: where the values are from.
    """

    model: str
    family: str
    n_layers: int
    d_model: int
    layer: int
    clamp_factor: float
    source: str


_MEASURED = "factlab, docs/bundled-model.md"
_ROME_CODE = "ROME code, hparams/ROME"
_MEMIT_CODE = "MEMIT code, hparams/ROME"
_EASYEDIT = "EasyEdit, hparams/ROME"

ROME_PRESETS: tuple[RomePreset, ...] = (
    RomePreset("SmolLM2-135M", "llama", 30, 576, 3, 4.0, _MEASURED),
    RomePreset("GPT-2 medium", "gpt2", 24, 1024, 8, 3.0, _ROME_CODE),
    RomePreset("GPT-2 large", "gpt2", 36, 1280, 12, 4.0, _ROME_CODE),
    RomePreset("GPT-2 XL", "gpt2", 48, 1600, 17, 4.0, _ROME_CODE),
    RomePreset("GPT-J 6B", "gptj", 28, 4096, 5, 4.0, _ROME_CODE),
    RomePreset("GPT-NeoX 20B", "gpt_neox", 44, 6144, 15, 4.0, _MEMIT_CODE),
    RomePreset("Llama 2 7B, Llama 3 8B", "llama", 32, 4096, 5, 4.0, _EASYEDIT),
    RomePreset("Mistral 7B", "mistral", 32, 4096, 5, 4.0, _EASYEDIT),
)  # fmt: skip


def rome_preset(lm: Decoder) -> RomePreset | None:
    """The preset of a model's family and size, if there is one."""
    shape = (lm.architecture.family, lm.n_layers, lm.d_model)
    for preset in ROME_PRESETS:
        if (preset.family, preset.n_layers, preset.d_model) == shape:
            return preset
    return None


# Recommendations by model, and the weights they were made for.
_made: WeakKeyDictionary[LanguageModel, tuple[str, int]] = WeakKeyDictionary()
_FACTS_TRACED = 10


def recommended_layer(lm: LanguageModel, fact: Fact, progress: ProgressCallback) -> tuple[int, str]:
    """For a model without a preset: the layer that causal traces recommend, and of what they are.

    Well-known facts are traced, once for a model; the fact itself if the model knows none.
    """
    reason = "causal traces of well-known facts"
    fingerprint, layer = _made.get(lm, ("", 0))
    if fingerprint != lm.live_fingerprint:
        if any(knows(lm, WELL_KNOWN)):
            layer = recommend_layer(lm, limit=_FACTS_TRACED, progress=progress).layer
            _made[lm] = lm.live_fingerprint, layer
        else:
            asked = Fact(fact.template, fact.subject)
            layer = recommend_layer(lm, [asked], progress=progress).layer
            reason = "causal trace of this fact"
        _log.warning(
            "No preset for %s: editing layer %d, by %s. "
            "Set the layer yourself to choose another.", lm.name, layer, reason,
        )  # fmt: skip
    return layer, reason
