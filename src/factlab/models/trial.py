"""One forward pass of a model with everything watched."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedModel

from factlab.errors import UnsupportedModelError
from factlab.hooks import Hook, attached
from factlab.models.accept import has_head
from factlab.models.anatomy import Anatomy
from factlab.models.engines.engine import first_argument, first_tensor
from factlab.models.probing import explained, probe_ids
from factlab.models.stored import device_of


@dataclass
class Probed:
    """What one forward pass showed.

    Attributes:
        logits: (pos, vocab).
        reported: the hidden states that the model itself reports, if it does.
        inputs: for each layer the states that entered it, once for each time that it ran.
        blocks: for each layer the states that left it.
        parts: by layer and path of a module inside it, the states that it gave.
        returns_tuple: whether layers return a tuple or a list that begins with their state.
    """

    logits: Tensor
    reported: Sequence[Tensor] | None
    inputs: list[list[Tensor]]
    blocks: list[list[Tensor]]
    parts: dict[tuple[int, str], list[Tensor]] = field(default_factory=dict)
    returns_tuple: bool = False


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


def speaking(model: PreTrainedModel, anatomy: Anatomy, ids: Tensor) -> tuple[Speaker, Probed]:
    """What can be called, and what one forward pass of it gave.

    Raises:
        UnsupportedModelError: neither the model nor a decoder in it can be called.
    """
    inner = [
        Speaker(module, name)
        for name, module in model.named_modules()
        if name and isinstance(module, PreTrainedModel) and has_head(module)
    ]
    first: UnsupportedModelError | None = None
    for speaker in (Speaker(model, ""), *inner):
        try:
            with explained(speaker.model, "be called as a decoder"):
                return speaker, _probe(speaker.model, model, anatomy, ids)
        except UnsupportedModelError as error:
            first = first or error
    raise first or RuntimeError("nothing was called")


def _probe(
    speaker: PreTrainedModel, model: PreTrainedModel, anatomy: Anatomy, ids: Tensor
) -> Probed:
    layers = list(model.get_submodule(anatomy.layers).children()) if anatomy.layers else []
    blocks: list[list[Tensor]] = [[] for _ in layers]
    inputs: list[list[Tensor]] = [[] for _ in layers]
    kinds: set[type] = set()
    parts: dict[tuple[int, str], list[Tensor]] = {}
    hooks = [Hook(layer, partial(_keep, blocks[i], kinds)) for i, layer in enumerate(layers)]
    hooks += [
        Hook(layer, partial(_keep_input, inputs[i]), before=True, with_kwargs=True)
        for i, layer in enumerate(layers)
    ]
    for i, each in enumerate(anatomy.parts):
        for part in (each.mixer, each.mlp):
            for path in {part.output, part.whole} if part else ():
                seen = parts.setdefault((i, path), [])
                hooks.append(Hook(layers[i].get_submodule(path), partial(_keep, seen, set())))
    with attached(hooks):
        said = speaker(input_ids=ids, output_hidden_states=True, use_cache=False)
    return Probed(
        said.logits[0],
        getattr(said, "hidden_states", None),
        inputs,
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


def _keep_input(
    seen: list[Tensor], _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    state = first_argument(args, kwargs)
    if state is not None:
        seen.append(state.detach().clone())


def ids_for(model: PreTrainedModel, anatomy: Anatomy) -> Tensor:
    """A short text that a model can read, (1, pos)."""
    n_tokens: int = model.config.get_text_config(decoder=True).vocab_size
    embedding = model.get_submodule(anatomy.embed) if anatomy.embed else None
    if not isinstance(embedding, nn.Embedding):
        return probe_ids(n_tokens, device_of(model))
    return probe_ids(min(n_tokens, embedding.num_embeddings), device_of(embedding))
