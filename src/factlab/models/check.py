"""What is found out when a model is loaded, so that a wrong path shows then and not in a result.

* it is causal: what comes later changes nothing before it;
* every part is where it was looked for, and its states have the shapes they should; what is not is
  left out, with the reason;
* the states that hooks see are the ones that the model itself reports as hidden states;
* keys that layers share are shared without a cache too;
* which engine gives the model's own logits, from the first layer and from the middle of a text on;
* no weight is NaN or infinite.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from factlab.errors import UnsupportedModelError
from factlab.families import ARCHITECTURES
from factlab.models.accept import foreign_layers
from factlab.models.anatomy import Anatomy, LayerParts, Part, anatomy_of
from factlab.models.engine_choice import choose_engine
from factlab.models.engines.engine import Engine
from factlab.models.examine_experts import with_mixtures
from factlab.models.probing import LENGTH, close, explained, probing
from factlab.models.quiet import quiet_transformers
from factlab.models.trial import Probed, ids_for, speaking
from factlab.models.weights import check_finite, checked_carriers, why_no_gradient
from factlab.projections import layout_of


@dataclass(frozen=True, slots=True)
class Examined:
    """What is known of a model after it was tried out.

    Attributes:
        anatomy: where its parts are, those left out that are not what they seemed.
        engine: runs it.
        d_model: width of what leaves a layer.
        n_cached: numbers that are kept of a token for those to come, all layers together.
        lacking: why parts were left out, or the whole list of layers.
        ungraded: why gradients do not go through it, if they do not.
    """

    anatomy: Anatomy
    engine: Engine
    d_model: int
    n_cached: int
    lacking: tuple[str, ...]
    ungraded: str = ""


def examine(model: PreTrainedModel) -> Examined:
    """Try a model out.

    Raises:
        UnsupportedModelError: it cannot even be asked: its forward pass fails, or it is no decoder.
    """
    check_finite(model)
    anatomy = anatomy_of(model)
    for layer in _around_projections(model):
        layout_of(layer)  # says what to do about an adapter
    ids = ids_for(model, anatomy)
    with probing(model), quiet_transformers():
        speaker, probed = speaking(model, anatomy, ids)
        _check_logits(speaker.model, ids, probed.logits)
        _check_shared_keys(speaker.model, ids, probed.logits)
        anatomy, lacking = _checked_layers(model, anatomy, probed)
        anatomy, more = _checked_parts(anatomy, probed)
        anatomy = with_mixtures(anatomy, model, speaker.model, ids)
        anatomy, unlike = checked_carriers(model, anatomy)
        try:
            engine, n_cached, why = choose_engine(speaker, model, anatomy, ids, probed)
        except UnsupportedModelError:
            _check_causal(speaker.model, ids, probed.logits)  # the usual reason, if it is that
            raise
        ungraded = why_no_gradient(model, speaker.model, anatomy, ids)
    states = [seen[0] for seen in probed.blocks if seen] if anatomy.layers else []
    d_model = states[0].shape[-1] if states else _head_width(model)
    lacking = (*lacking, *more, *unlike, *why)
    return Examined(anatomy, engine, d_model, n_cached, lacking, ungraded)


def _around_projections(model: PreTrainedModel) -> Iterator[nn.Module]:
    """Layers of an adapter library in the place of matrices that are read and edited."""
    row = ARCHITECTURES.get(str(model.config.model_type))
    ends = (row.attn_out, row.mlp_out) if row else ()
    for name, layer in foreign_layers(model):
        if name.endswith(ends):
            yield layer


def _head_width(model: PreTrainedModel) -> int:
    head = model.get_output_embeddings()
    weight = getattr(head, "weight", None)
    return weight.shape[-1] if isinstance(weight, Tensor) else 0


def _check_logits(model: PreTrainedModel, ids: Tensor, logits: Tensor) -> None:
    if logits.ndim != 2 or len(logits) != ids.shape[1]:
        raise UnsupportedModelError(
            f"{type(model).__name__} gives logits of shape {tuple(logits.shape)} for "
            f"{ids.shape[1]} tokens, not a distribution over the vocabulary for each of them."
        )


def _check_shared_keys(model: PreTrainedModel, ids: Tensor, logits: Tensor) -> None:
    """Refuse a model whose layers share keys through a cache alone: our passes have none.

    transformers ran Gemma 3n and Gemma 4 so for a while: without a cache, layers that should read
    the keys of others made their own, with weights that were never trained.
    """
    if not getattr(model.config.get_text_config(decoder=True), "num_kv_shared_layers", 0):
        return
    with explained(model, "be called with a cache"):
        cached = model(input_ids=ids, use_cache=True).logits[0]
    if not close(cached, logits):
        raise UnsupportedModelError(
            f"{type(model).__name__} says something else with a cache of keys than without one: "
            f"transformers {transformers.__version__} shares keys between its layers wrongly. "
            "Install a newer transformers."
        )


def _check_causal(model: PreTrainedModel, ids: Tensor, logits: Tensor) -> None:
    """Refuse a model whose logits depend on what comes later."""
    other = ids.clone()
    other[0, -1] = ids[0, 0]
    if close(model(input_ids=other, use_cache=False).logits[0, :-1], logits[:-1]):
        return
    name = type(model).__name__
    if not close(model(input_ids=ids, use_cache=False).logits[0], logits):
        raise UnsupportedModelError(
            f"{name} says something else each time it is called with the same text."
        )
    raise UnsupportedModelError(
        f"{name} is no decoder: what it says after the first tokens of a text depends on the last "
        "one. Load a causal language model."
    )


def _checked_layers(
    model: PreTrainedModel, anatomy: Anatomy, probed: Probed
) -> tuple[Anatomy, tuple[str, ...]]:
    """The anatomy, without its layers if these are not what the model runs one after the other."""
    wrong = _fault_of_layers(type(model).__name__, anatomy, probed)
    if wrong is not None:
        return replace(anatomy, layers="", parts=()), (wrong,)
    skipped = frozenset(i for i, seen in enumerate(probed.blocks) if not seen)
    state = next(seen[0] for seen in probed.blocks if seen)
    streams = None
    if state.ndim == 4:
        streams = "behind tokens" if state.shape[:2] == (1, LENGTH) else "first"
    return replace(anatomy, skipped=skipped, streams=streams), ()


def _fault_of_layers(name: str, anatomy: Anatomy, probed: Probed) -> str | None:
    """Why what was found are not the layers of a model, in words; None if they are."""
    if not anatomy.embed:
        return f"{name} has no plain token embedding"
    if not anatomy.layers:
        return f"the structure of {name} does not show a list of its decoder layers"
    states = [seen[0] for seen in probed.blocks if seen]
    odd = next((i for i, seen in enumerate(probed.blocks) if len(seen) > 1), None)
    if odd is not None:
        said = f"layer {odd} of {name} runs {len(probed.blocks[odd])} times in one pass"
    elif not states:
        said = f"none of the modules at '{anatomy.layers}' of {name} gives a state"
    elif shapes := [tuple(state.shape) for state in states if not _one_each(state)]:
        said = f"layers of {name} give states of shape {shapes[0]}, not one for each token"
    elif (wrong := _unlike_reported(states, probed.reported or ())) is not None:
        said = (
            f"the output of layer {wrong} at '{anatomy.layers}' is not the hidden state that "
            f"{name} reports for it"
        )
    else:
        return None
    return said


def _one_each(state: Tensor) -> bool:
    """Whether a layer's state is one for each token, or several streams side by side."""
    shape = state.shape
    if state.ndim == 4:
        return (1, LENGTH) in (shape[:2], shape[1:3])
    return state.ndim == 3 and shape[:2] == (1, LENGTH)


def _unlike_reported(states: Sequence[Tensor], reported: Sequence[Tensor]) -> int | None:
    """The first layer whose output is not what the model reports for it, if it reports any.

    Some families report what enters each layer and what leaves the last, some what leaves each. The
    last is after the final norm in most, so it is left out.
    """
    if len(reported) != len(states) + 1:
        return None
    found = [
        next((i for i, s in enumerate(states[:-1]) if not _is_reported(s, hidden[i])), None)
        for hidden in (reported[1:], reported)
    ]
    return None if None in found else max(i for i in found if i is not None)


def _is_reported(state: Tensor, hidden: Tensor) -> bool:
    """Whether a layer's output is what is reported for it; RWKV halves some on their way on."""
    return close(state, hidden) or close(state, 2 * hidden)


def _checked_parts(anatomy: Anatomy, probed: Probed) -> tuple[Anatomy, tuple[str, ...]]:
    """The anatomy, without parts whose output is not what a layer adds."""
    parts: list[LayerParts] = []
    lacking: list[str] = []
    for i, each in enumerate(anatomy.parts):
        if i in anatomy.skipped:
            parts.append(LayerParts())
            continue
        width = probed.blocks[i][0].shape[-1]
        # What a part's whole may give besides what the part adds: the stream as it was before.
        stream = [state for state in probed.inputs[i] if state.ndim == 3]
        mixer = _checked(probed, i, width, lacking, each.mixer, stream)
        if mixer is not None:
            mixed = probed.parts[i, mixer.output][0].view(1, LENGTH, -1)
            stream += [state + mixed for state in stream]
        mlp = _checked(probed, i, width, lacking, each.mlp, stream)
        parts.append(LayerParts(mixer, mlp))
    return anatomy.with_parts(parts), tuple(lacking)


def _checked(
    probed: Probed,
    layer: int,
    width: int,
    lacking: list[str],
    part: Part | None,
    stream: Sequence[Tensor],
) -> Part | None:
    """A part as it turned out to be."""
    if part is None:
        return None
    outputs, wholes = probed.parts[layer, part.output], probed.parts[layer, part.whole]
    if not _fits(outputs, width) or not _fits(wholes, width):
        lacking.append(f"'{part.whole}' of layer {layer} does not give one state for each token")
        return None
    output, whole = outputs[0].view_as(wholes[0]), wholes[0]
    if not close(output, whole):
        if part.adds_itself or any(close((whole - output).view_as(x), x) for x in stream):
            return part  # the whole gives the stream with the part's result in it
        # Something comes behind the matrix, such as a gate: what is added is the whole's output.
        return replace(part, output=part.whole, projection=None)
    return part


def _fits(seen: Sequence[Tensor], width: int) -> bool:
    return len(seen) == 1 and seen[0].shape[-1] == width and seen[0].numel() == width * LENGTH
