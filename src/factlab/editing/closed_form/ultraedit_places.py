"""Which matrices UltraEdit writes to, and how far it goes.

| | known models | others |
|---|---|---|
| matrices | the model's preset | the bundled model's parts, at the same share of the depth |
| η | the model's preset | as large beside what the matrices give out as in the bundled model |
"""

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from factlab.continuations import Continuation
from factlab.data.well_known import WELL_KNOWN
from factlab.editing.closed_form.answer_states import AnswerStates
from factlab.editing.gradients import Matrix
from factlab.editing.preset_table import ULTRAEDIT_PRESETS, UltraEditPreset
from factlab.editing.ultraedit_config import MlpPart, UltraEditConfig
from factlab.errors import InvalidRequestError, TokenizationError, UnsupportedModelError
from factlab.models.language_model import LanguageModel
from factlab.progress import ProgressCallback

_BUNDLED = ULTRAEDIT_PRESETS[0]
_FACTS_ASKED = 20
# How large η ‖ĥ‖² ĝ is beside the output of a matrix, entry by entry, where no preset says η.
STEP = 0.2


class Matrices(NamedTuple):
    """What is written to.

    Attributes:
        weights: parameter names, in the order of the layers.
        layers: that have one, ascending.
        source: where they are from, in words.
    """

    weights: tuple[str, ...]
    layers: tuple[int, ...]
    source: str


def places(lm: LanguageModel, config: UltraEditConfig) -> Matrices:
    """The matrices of a model that settings say, or else its preset, or the rule.

    Raises:
        InvalidRequestError: a layer is not in the model, or a matrix is no projection of an MLP.
        UnsupportedModelError: an MLP has no such projection, or it is not plain.
    """
    if config.weights is not None:
        return _listed(lm, config.weights, config.layers)
    preset = ultraedit_preset_of(lm)
    by_part: dict[MlpPart, tuple[int, ...]]
    if config.layers is not None:
        wanted: Sequence[MlpPart] = config.parts or [*(preset or _BUNDLED).layers]
        layers = tuple(sorted(set(config.layers)))
        for layer in layers:
            lm.layer(layer)
        names = [name for i in layers for name in _projections(lm, i, wanted, bool(config.parts))]
        return Matrices(tuple(names), layers, "chosen")
    if preset is not None:
        by_part = {part: tuple(some) for part, some in preset.layers.items()}
        source = f"preset of {preset.model} ({preset.source})"
    else:
        by_part = _at_the_same_depth(lm)
        source = f"{_BUNDLED.model}'s, at the same share of the depth"
    if config.parts is not None:
        every = tuple(sorted({i for some in by_part.values() for i in some}))
        by_part = {part: by_part.get(part, every) for part in config.parts}
    names: list[str] = []
    layers = tuple(sorted({i for some in by_part.values() for i in some}))
    for layer in layers:
        here: list[MlpPart] = [part for part, some in by_part.items() if layer in some]
        names += _projections(lm, layer, here, bool(config.parts) or preset is not None)
    return Matrices(tuple(names), layers, source)


def ultraedit_preset_of(lm: LanguageModel) -> UltraEditPreset | None:
    """The preset of a model's family and size, if there is one."""
    shape = (lm.family, lm.n_layers, lm.d_model)
    for preset in ULTRAEDIT_PRESETS:
        if (preset.family, preset.n_layers, preset.d_model) == shape:
            return preset
    return None


def learning_rate(
    lm: LanguageModel, matrices: Sequence[Matrix], progress: ProgressCallback
) -> float:
    """η of a model: its preset's, or by what the matrices give out for well-known facts.

    Raises:
        InvalidRequestError: there is no preset, and the tokenizer knows none of these facts.
    """
    preset = ultraedit_preset_of(lm)
    if preset is not None:
        return preset.learning_rate
    return rate_by_outputs(lm, matrices, progress)


def rate_by_outputs(
    lm: LanguageModel, matrices: Sequence[Matrix], progress: ProgressCallback
) -> float:
    """η that is to a model's outputs what the bundled model's is to its own.

    η ‖ĥ‖² ĝ is about η d_in in every entry, so η goes with the size of an entry of the output over
    d_in: the mean over matrices, at the answers of well-known facts on the unedited model.

    Raises:
        InvalidRequestError: the tokenizer knows none of these facts.
    """
    names = tuple(matrix.weight_name for matrix in matrices)
    work_out = partial(_by_outputs, lm, matrices, progress)
    return lm.recall.of(("ultraedit", names), lm.identity.now(), work_out)


def layer_of(lm: LanguageModel, weight_name: str) -> int:
    """The layer that a projection of an MLP is in.

    Raises:
        InvalidRequestError: it is none.
    """
    stem = f"{lm.layers.anatomy.layers}."
    number = weight_name.removeprefix(stem).partition(".")[0]
    if weight_name.startswith(stem) and number.isdecimal() and int(number) < lm.n_layers:
        layer = int(number)
        if weight_name in (*lm.layers.mlp_inputs(layer), lm.mlp_weight_name(layer)):
            return layer
    known = ", ".join([*lm.layers.mlp_inputs(0), lm.mlp_weight_name(0)])
    raise InvalidRequestError(
        f"'{weight_name}' is no projection of an MLP of {lm.name}. Those of layer 0 are {known}."
    )


def _listed(lm: LanguageModel, weights: Sequence[str], layers: tuple[int, ...] | None) -> Matrices:
    """Matrices by their names."""
    found = {name: layer_of(lm, name) for name in weights}
    of_them = tuple(sorted({*found.values()}))
    if layers is not None and tuple(sorted({*layers})) != of_them:
        raise InvalidRequestError(
            f"The weights are of layers {', '.join(map(str, of_them))}, and layers says "
            f"{', '.join(map(str, layers))}. Give one of the two."
        )
    return Matrices(tuple(sorted(found, key=lambda name: found[name])), of_them, "chosen")


def _at_the_same_depth(lm: LanguageModel) -> dict[MlpPart, tuple[int, ...]]:
    """The bundled model's layers among those that can be written, at the same share of them."""
    able = [layer for layer in range(lm.n_layers) if lm.layers.is_plain(layer)]
    if not able:
        lm.mlp_weight_name(0)  # an error that says what there is
    return {
        part: tuple(
            sorted({able[int(i / _BUNDLED.n_layers * len(able))] for i in _BUNDLED.layers[part]})
        )
        for part in _BUNDLED.layers
    }


def _projections(
    lm: LanguageModel, layer: int, parts: Sequence[MlpPart], are_chosen: bool
) -> list[str]:
    """Parameter names of parts of an MLP.

    Raises:
        UnsupportedModelError: there is no such part, and it was asked for.
    """
    inputs = lm.layers.mlp_inputs(layer) if {"gate", "up"} & {*parts} else []
    gates = [name for name in inputs if _is_gate(name)] if len(inputs) > 1 else []
    by_part: dict[MlpPart, list[str]] = {
        "gate": gates,
        "up": [name for name in inputs if name not in gates],
        "down": [lm.mlp_weight_name(layer)],
    }
    if "gate" in parts and not gates and are_chosen:
        raise UnsupportedModelError(
            f"The MLP of layer {layer} of {lm.name} has no matrix for its gate alone. Its 'up' is "
            f"{', '.join(inputs)}."
        )
    return [name for part in parts for name in by_part[part]]


def _is_gate(weight_name: str) -> bool:
    own = weight_name.split(".")[-2]
    return "gate" in own or own == "w1"


def _by_outputs(lm: LanguageModel, matrices: Sequence[Matrix], progress: ProgressCallback) -> float:
    rows: list[Continuation] = []
    for fact in WELL_KNOWN[:_FACTS_ASKED]:
        with contextlib.suppress(TokenizationError):  # of a vocabulary that is no natural language
            rows.append(lm.continuation(fact.prompt, fact.target_true))
    if not rows:
        raise InvalidRequestError(
            f"The tokenizer of {lm.name} knows none of the facts by which learning_rate is set. "
            "Set it yourself."
        )
    first = min(layer_of(lm, matrix.weight_name) for matrix in matrices)
    with lm.patches.lifted():
        states = AnswerStates(lm, rows, matrices, first, progress)
        sizes: list[float] = []
        for name, layout, d_in, _ in matrices:
            weight = lm.layers.weight(name).detach().cpu().double()
            out_in = weight if layout == "out_in" else weight.T
            outputs = states.of(name).inputs.cpu().double() @ out_in.T
            sizes.append(float(outputs.square().mean().sqrt()) / d_in)
    return STEP * sum(sizes) / len(sizes)
