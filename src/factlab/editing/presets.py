"""Where to edit a model: where one says, by its preset, or else by causal traces.

The presets themselves are in `preset_table`. Where a model has none, well-known facts are traced,
once for the model; if it knows none of them, every fact is edited where its own trace points to.
Either way a fact's layers depend on the fact and the model alone, without the edits that are on it.
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from factlab.data.well_known import WELL_KNOWN
from factlab.editing.method import FAULTS
from factlab.editing.preset_table import PRESETS, Preset
from factlab.errors import FactlabError
from factlab.facts import Fact
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback
from factlab.tracing.knowns import knows
from factlab.tracing.layers import LayerChoice, recommend_layer

_log = logging.getLogger(__name__)

_XL = next(preset for preset in PRESETS if preset.model == "GPT-2 XL")
_FACTS_TRACED = 10


def preset_of(lm: LanguageModel) -> Preset | None:
    """The preset of a model's family and size, if there is one."""
    shape = (lm.family, lm.n_layers, lm.d_model)
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


class Place(NamedTuple):
    """Where a fact is edited.

    Attributes:
        layers: 0-based, ascending.
        source: where they are from, in words.
    """

    layers: tuple[int, ...]
    source: str


Places = list[Place | FactlabError]


def one_layer(
    lm: LanguageModel, chosen: int | None, facts: Sequence[Fact], progress: ProgressCallback
) -> Places:
    """The layer at which each fact is edited by a method that edits one.

    Raises:
        InvalidRequestError: the chosen layer is not in the model.
    """
    preset = preset_of(lm)
    if chosen is not None:
        lm.layer(chosen)
        return [Place((chosen,), "chosen")] * len(facts)
    if preset is not None:
        source = f"preset of {preset.model} ({preset.rome_source})"
        return [Place((preset.rome_layer,), source)] * len(facts)
    return [
        found if isinstance(found, FactlabError) else Place((found[0].layer,), found[1])
        for found in _recommended(lm, facts, progress)
    ]


def several_layers(
    lm: LanguageModel,
    chosen: Sequence[int] | None,
    facts: Sequence[Fact],
    progress: ProgressCallback,
) -> Places:
    """The layers at which each fact is edited by a method that edits several.

    Raises:
        InvalidRequestError: a chosen layer is not in the model.
    """
    preset = preset_of(lm)
    if chosen is not None:
        for layer in chosen:
            lm.layer(layer)
        return [Place(tuple(sorted(set(chosen))), "chosen")] * len(facts)
    if preset is not None and preset.memit_layers:
        source = f"preset of {preset.model} ({preset.memit_source})"
        return [Place(tuple(preset.memit_layers), source)] * len(facts)
    return [
        found if isinstance(found, FactlabError) else Place(found[0].memit_layers, found[1])
        for found in _recommended(lm, facts, progress)
    ]


def tuned_layer(lm: LanguageModel, method: str, chosen: int | None) -> tuple[Place, float | None]:
    """The layer of a fine-tuning method, and its ε.

    Models that are not listed get GPT-2 XL's values, the layer at the same share of the depth.

    Raises:
        InvalidRequestError: the chosen layer is not in the model.
    """
    preset = preset_of(lm)
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
    return Place((layer,), source), epsilon


# -- layers of models that are not listed ------------------------------------------------------


def _recommended(
    lm: LanguageModel, facts: Sequence[Fact], progress: ProgressCallback
) -> list[tuple[LayerChoice, str] | FactlabError]:
    """For each fact what causal traces recommend, and of what they are."""
    identity = lm.identity.now()
    common = lm.recall.of("layers", identity, partial(_of_well_known, lm, progress))
    if common is not None:
        return [(common, "causal traces of well-known facts")] * len(facts)
    found: list[tuple[LayerChoice, str] | FactlabError] = []
    for done, fact in enumerate(facts):
        if len(facts) > 1:
            progress("tracing facts to find their layers", done, len(facts))
        asked = Fact(fact.template, fact.subject)
        try:
            choice = lm.recall.of(
                ("layers", asked), identity, partial(_of_fact, lm, asked, progress)
            )
            found.append((choice, "causal trace of this fact"))
        except FAULTS as error:
            found.append(error)
    return found


def _of_well_known(lm: LanguageModel, progress: ProgressCallback) -> LayerChoice | None:
    """What traces of well-known facts recommend; None if the model knows none of them."""
    with lm.patches.lifted():
        if not any(knows(lm, WELL_KNOWN)):
            return None
        choice = recommend_layer(lm, limit=_FACTS_TRACED, progress=progress)
    _tell(lm, choice, "causal traces of well-known facts")
    return choice


def _of_fact(lm: LanguageModel, asked: Fact, progress: ProgressCallback) -> LayerChoice:
    with lm.patches.lifted():
        choice = recommend_layer(lm, [asked], progress=progress)
    _tell(lm, choice, f"a causal trace of '{asked.prompt}'")
    return choice


def _tell(lm: LanguageModel, choice: LayerChoice, reason: str) -> None:
    _log.warning(
        "No preset for %s: layer %d (several layers: %s), by %s. Set the layer yourself to choose "
        "another.",
        lm.name, choice.layer, ", ".join(map(str, choice.memit_layers)), reason,
    )  # fmt: skip
