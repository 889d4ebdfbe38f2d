"""What is found out when a model is loaded, so that a wrong path shows then and not in a result.

* it is causal: what comes later changes nothing before it;
* every part is where it was looked for, and its states have the shapes they should; what is not is
  left out, with the reason;
* the states that hooks see are the ones that the model itself reports as hidden states;
* which engine gives the model's own logits, from the first layer and from the middle of a text on;
* no weight is NaN or infinite.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from factlab.errors import ModelLoadError, UnsupportedModelError
from factlab.hooks import Hook, attached
from factlab.models.accept import foreign_layers
from factlab.models.anatomy import Anatomy, LayerParts, Part, anatomy_of
from factlab.models.engines.engine import Engine, first_tensor
from factlab.models.engines.plain import PlainPasses
from factlab.models.engines.replay import Replay
from factlab.models.engines.shell import Shell
from factlab.models.engines.states import StatesReplay
from factlab.models.examine_experts import with_mixtures
from factlab.models.probing import LENGTH, close, explained, probe_ids, probing
from factlab.projections import layout_of
from factlab.tokens import pad


@dataclass(frozen=True, slots=True)
class Examined:
    """What is known of a model after it was tried out.

    Attributes:
        anatomy: where its parts are, those left out that are not what they seemed.
        engine: runs it.
        d_model: width of what leaves a layer.
        n_cached: numbers that are kept of a token for those to come, all layers together.
        lacking: why parts were left out, or the whole list of layers.
    """

    anatomy: Anatomy
    engine: Engine
    d_model: int
    n_cached: int
    lacking: tuple[str, ...]


@dataclass
class _Probed:
    """One forward pass with everything watched."""

    logits: Tensor
    reported: Sequence[Tensor] | None
    blocks: list[list[Tensor]]
    parts: dict[tuple[int, str], list[Tensor]] = field(default_factory=dict)
    returns_tuple: bool = False


def check_finite(model: PreTrainedModel) -> None:
    """Refuse weights that are not numbers.

    Raises:
        ModelLoadError: names the first such weight.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not torch.isfinite(parameter).all():
            raise ModelLoadError(
                f"Weight '{name}' has NaN or infinite entries. "
                "Download or convert the checkpoint again."
            )


def examine(model: PreTrainedModel) -> Examined:
    """Try a model out.

    Raises:
        UnsupportedModelError: it cannot even be asked: its forward pass fails, or it is no decoder.
    """
    check_finite(model)
    for _, layer in foreign_layers(model):
        layout_of(layer)  # says what to do about an adapter
    anatomy = anatomy_of(model)
    ids = _ids(model, anatomy)
    with probing(model):
        speaker, probed = _speaking(model, anatomy, ids)
        _check_causal(speaker.model, ids, probed.logits)
        anatomy, lacking = _checked_layers(model, anatomy, probed)
        anatomy, more = _checked_parts(anatomy, probed)
        anatomy = with_mixtures(anatomy, model, speaker.model, ids)
        engine, n_cached, why = _engine(model, speaker, anatomy, ids, probed)
    states = [seen[0] for seen in probed.blocks if seen] if anatomy.layers else []
    d_model = states[0].shape[-1] if states else _head_width(model)
    return Examined(anatomy, engine, d_model, n_cached, (*lacking, *more, *why))


def _ids(model: PreTrainedModel, anatomy: Anatomy) -> Tensor:
    weight = next(model.parameters())
    n_tokens = model.config.get_text_config(decoder=True).vocab_size
    if anatomy.embed:
        weight = model.get_submodule(anatomy.embed).weight
        n_tokens = min(n_tokens, len(weight))
    return probe_ids(n_tokens, weight.device)


def _head_width(model: PreTrainedModel) -> int:
    head = model.get_output_embeddings()
    return int(getattr(head, "in_features", 0)) or int(head.weight.shape[-1])


class Speaker(NamedTuple):
    """The model that is called: the whole, or the decoder in it where the whole needs an image.

    Attributes:
        model: with a language model head.
        path: where it is in the whole; empty if it is the whole.
    """

    model: PreTrainedModel
    path: str

    def inside(self, path: str) -> str:
        """A path in the whole, as seen from here."""
        return path.removeprefix(f"{self.path}.") if self.path else path


def _speaking(model: PreTrainedModel, anatomy: Anatomy, ids: Tensor) -> tuple[Speaker, _Probed]:
    """What can be called, and what one forward pass of it gave.

    Raises:
        UnsupportedModelError: neither the model nor a decoder in it can be called.
    """
    inner = [
        Speaker(module, name)
        for name, module in model.named_modules()
        if name and isinstance(module, PreTrainedModel) and _has_head(module)
    ]
    first: UnsupportedModelError | None = None
    for speaker in (Speaker(model, ""), *inner):
        try:
            with explained(speaker.model, "be called as a decoder"):
                return speaker, _probe(speaker.model, model, anatomy, ids)
        except UnsupportedModelError as error:
            first = first or error
    raise first or RuntimeError("nothing was called")


def _has_head(model: PreTrainedModel) -> bool:
    try:
        return isinstance(model.get_output_embeddings(), nn.Module)
    except NotImplementedError:
        return False


def _probe(
    speaker: PreTrainedModel, model: PreTrainedModel, anatomy: Anatomy, ids: Tensor
) -> _Probed:
    layers = list(model.get_submodule(anatomy.layers).children()) if anatomy.layers else []
    blocks: list[list[Tensor]] = [[] for _ in layers]
    kinds: set[type] = set()
    parts: dict[tuple[int, str], list[Tensor]] = {}
    hooks = [Hook(layer, partial(_keep, blocks[i], kinds)) for i, layer in enumerate(layers)]
    for i, each in enumerate(anatomy.parts):
        for part in (each.mixer, each.mlp):
            for path in {part.output, part.whole} if part else ():
                seen = parts.setdefault((i, path), [])
                hooks.append(Hook(layers[i].get_submodule(path), partial(_keep, seen, set())))
    with attached(hooks):
        said = speaker(input_ids=ids, output_hidden_states=True, use_cache=False)
    return _Probed(
        said.logits[0],
        getattr(said, "hidden_states", None),
        blocks,
        parts,
        returns_tuple=bool(kinds & {tuple, list}),
    )


def _keep(
    seen: list[Tensor], kinds: set[type], _module: nn.Module, _args: object, output: Any
) -> None:
    state = first_tensor(output)
    kinds.add(type(output))
    if isinstance(state, Tensor):
        seen.append(state.detach().clone())


def _check_causal(model: PreTrainedModel, ids: Tensor, logits: Tensor) -> None:
    """Refuse a model whose logits depend on what comes later."""
    other = ids.clone()
    other[0, -1] = ids[0, 0]
    name = type(model).__name__
    if logits.ndim != 2 or len(logits) != ids.shape[1]:
        raise UnsupportedModelError(
            f"{name} gives logits of shape {tuple(logits.shape)} for {ids.shape[1]} tokens, not a "
            "distribution over the vocabulary for each of them."
        )
    again = model(input_ids=other, use_cache=False).logits[0]
    if not close(again[:-1], logits[:-1]):
        raise UnsupportedModelError(
            f"{name} is no decoder: what it says after the first tokens of a text depends on the "
            "last one. Load a causal language model."
        )


def _checked_layers(
    model: PreTrainedModel, anatomy: Anatomy, probed: _Probed
) -> tuple[Anatomy, tuple[str, ...]]:
    """The anatomy, without its layers if these are not what the model runs one after the other."""
    none = replace(anatomy, layers="", parts=())
    name = type(model).__name__
    if not anatomy.embed:
        return none, (f"{name} has no plain token embedding",)
    if not anatomy.layers:
        return none, (f"the structure of {name} does not show a list of its decoder layers",)
    for index, seen in enumerate(probed.blocks):
        if len(seen) > 1:
            return none, (f"layer {index} of {name} runs {len(seen)} times in one pass",)
        if seen and seen[0].shape[-3:-1] != (1, LENGTH):
            shape = tuple(seen[0].shape)
            return none, (f"layers of {name} give states of shape {shape}, not one for each token",)
    skipped = frozenset(i for i, seen in enumerate(probed.blocks) if not seen)
    if len(skipped) == len(probed.blocks):
        return none, (f"none of the modules at '{anatomy.layers}' of {name} gives a state",)
    states = [seen[0] for seen in probed.blocks if seen]
    wrong = _unlike_reported(states, probed.reported or ())
    if wrong is not None:
        return none, (
            f"the output of layer {wrong} at '{anatomy.layers}' is not the hidden state that "
            f"{name} reports for it",
        )
    return replace(anatomy, skipped=skipped), ()


def _unlike_reported(states: Sequence[Tensor], reported: Sequence[Tensor]) -> int | None:
    """The first layer whose output is not what the model reports for it, if it reports any.

    Some families report what enters each layer and what leaves the last, some what leaves each. The
    last is after the final norm in most, so it is left out.
    """
    if len(reported) != len(states) + 1:
        return None
    found = [
        next((i for i, s in enumerate(states[:-1]) if not close(s, hidden[i])), None)
        for hidden in (reported[1:], reported)
    ]
    return None if None in found else found[0]


def _checked_parts(anatomy: Anatomy, probed: _Probed) -> tuple[Anatomy, tuple[str, ...]]:
    """The anatomy, without parts whose output is not what a layer adds."""
    parts: list[LayerParts] = []
    lacking: list[str] = []
    for i, each in enumerate(anatomy.parts):
        if i in anatomy.skipped:
            parts.append(LayerParts())
            continue
        width = probed.blocks[i][0].shape[-1]
        check = partial(_checked, probed, i, width, lacking)
        parts.append(LayerParts(check(each.mixer), check(each.mlp)))
    return anatomy.with_parts(parts), tuple(lacking)


def _checked(
    probed: _Probed, layer: int, width: int, lacking: list[str], part: Part | None
) -> Part | None:
    """A part as it turned out to be."""
    if part is None:
        return None
    outputs, wholes = probed.parts[layer, part.output], probed.parts[layer, part.whole]
    if not _fits(outputs, width) or not _fits(wholes, width):
        lacking.append(f"'{part.whole}' of layer {layer} does not give one state for each token")
        return None
    if not close(outputs[0].view_as(wholes[0]), wholes[0]):
        if part.adds_itself:  # the whole's output is the stream with the part's in it
            return part
        # Something comes behind the matrix, such as a gate: what is added is the whole's output.
        return replace(part, output=part.whole, projection=None)
    return part


def _fits(seen: Sequence[Tensor], width: int) -> bool:
    return len(seen) == 1 and seen[0].shape[-1] == width and seen[0].numel() == width * LENGTH


def _engine(
    model: PreTrainedModel, speaker: Speaker, anatomy: Anatomy, ids: Tensor, probed: _Probed
) -> tuple[Engine, int, tuple[str, ...]]:
    """The fastest engine that gives the model's own logits, and why no faster one does."""
    layers = list(model.get_submodule(anatomy.layers).children()) if anatomy.layers else []
    if any(seen[0].ndim != 3 for seen in probed.blocks if seen):
        layers = []  # several streams side by side: nothing that we could put in their place
    runs = [i for i in range(len(layers)) if i not in anatomy.skipped]
    makers: list[Callable[[], Engine]] = []
    if layers:
        paths = speaker.inside(anatomy.layers), speaker.inside(anatomy.embed)
        shell = partial(Shell, speaker.model, *paths, probed.returns_tuple, runs[0])
        makers += [lambda: Replay(layers, shell()), lambda: StatesReplay(layers, shell())]
        makers += [
            partial(PlainPasses, speaker.model, layers, runs, bare) for bare in (False, True)
        ]
    makers += [partial(PlainPasses, speaker.model, [], [], bare) for bare in (False, True)]
    reasons: list[str] = []
    for make in makers:
        try:
            with explained(model, "be run layer by layer"):
                engine = make()
                n_cached = _check_engine(engine, ids, probed.logits)
                engine.takes_embedding = _takes_embedding(model, anatomy, engine, ids)
                return engine, n_cached, tuple(dict.fromkeys(reasons))
        except UnsupportedModelError as error:
            reasons.append(str(error).removesuffix("."))
    raise UnsupportedModelError(f"{reasons[-1]}. This model cannot be asked anything.")


def _check_engine(engine: Engine, ids: Tensor, expected: Tensor) -> int:
    """Compare what an engine gives with the model's own logits.

    Returns:
        How many numbers are kept of a token, all layers together.

    Raises:
        UnsupportedModelError: the logits differ.
    """
    row = ids[0].tolist()
    batch, middle = pad([row], ids.device), LENGTH // 2
    compare: list[tuple[str, Tensor, Tensor]] = []
    if not engine.n_layers:
        compare.append(("whole", engine.readout(engine.run(engine.frame(batch))[0]), expected))
        n_cached = 0
    else:
        record = engine.recording(LENGTH)
        whole = engine.run(engine.frame(batch, record))[0]
        prefix = record.prefix(middle)
        right = engine.run(engine.frame(batch, prefix, middle))[0]
        # A frame of its own each time: nothing may be left over from the layers below.
        half, last = engine.n_layers // 2, engine.n_layers - 1
        below = engine.run(engine.frame(batch), stop=half)
        below = engine.run(engine.frame(batch), below, first=half, stop=last)
        above = engine.run(engine.frame(batch), below, first=last)[0]
        compare += [
            ("whole", engine.readout(whole), expected),
            ("from its middle on", engine.readout(right), expected[middle:]),
            ("from a layer on", engine.readout(above), expected),
        ]
        if engine.name != Replay.name:  # which puts rows that are padded on the left in order
            padded = pad([row, row], ids.device, align=[middle, 1])
            both = record.prefix([middle, 1], rows=[0, 0])
            shifted = engine.run(engine.frame(padded, both, middle))[1, : LENGTH - 1]
            compare.append(("beside another", engine.readout(shifted), expected[1:]))
        n_cached = sum(x.numel() for kept in record.kept for x in kept) // LENGTH
    for what, logits, reference in compare:
        if not close(logits, reference):
            raise UnsupportedModelError(
                f"Running a text {what} by {engine.name} does not give the model's own logits; its "
                "forward pass does more than call its layers in order."
            )
    return n_cached


def _takes_embedding(model: PreTrainedModel, anatomy: Anatomy, engine: Engine, ids: Tensor) -> bool:
    """Whether what layers are called with, besides their state, depends on the embedding."""
    batch = pad([ids[0].tolist()], ids.device)
    doubled = Hook(model.get_submodule(anatomy.embed), _doubled) if anatomy.embed else None
    if doubled is None or not engine.steps:
        return False
    plain = list(_tensors(engine.frame(batch).calls))
    with attached([doubled]):
        other = list(_tensors(engine.frame(batch).calls))
    return len(plain) != len(other) or any(
        a.shape != b.shape or not torch.equal(a, b) for a, b in zip(plain, other, strict=True)
    )


def _doubled(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
    return 2 * output


def _tensors(value: object) -> Iterator[Tensor]:
    """All tensors in nested arguments."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
