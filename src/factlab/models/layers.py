"""The decoder layers of a model: their modules, by the place of a state, and their matrices."""

from collections.abc import Iterable, Iterator
from functools import cached_property

import torch
from torch import nn
from transformers import PreTrainedModel

from factlab.errors import InvalidRequestError, UnsupportedModelError
from factlab.families import Layout
from factlab.hooks import Site, Stream
from factlab.models.anatomy import Anatomy, LayerParts, Part, Streams
from factlab.models.experts import Mixture, Shared
from factlab.models.stored import device_of, float_type
from factlab.projections import (
    is_plain,
    is_projection,
    is_writer,
    matrix_of,
    orientation_of,
    widths_of,
)


class Layers:
    """The decoder layers of one model.

    Args:
        model: the model.
        anatomy: where its parts are.
        d_model: width of what leaves a layer.
        name: of the model, for errors.
    """

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy, d_model: int, name: str) -> None:
        self._model, self.name = model, name
        self.anatomy, self.d_model = anatomy, d_model
        path = anatomy.layers
        self._layers = list(model.get_submodule(path).children()) if path else []

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[LayerParts]:
        return iter(self.anatomy.parts)

    @property
    def embedding(self) -> nn.Embedding:
        """The token embedding.

        Raises:
            UnsupportedModelError: there is none that is plain.
        """
        module = self._model.get_submodule(self.anatomy.embed) if self.anatomy.embed else None
        if not isinstance(module, nn.Embedding):
            raise UnsupportedModelError(f"{self.name} has no plain token embedding.")
        return module

    @property
    def streams(self) -> Streams | None:
        """Where the dimension of several residual streams is; None if there is one stream."""
        return self.anatomy.streams

    @property
    def dtype(self) -> torch.dtype:
        """Float type of the weights."""
        return float_type(self._model)

    def layer(self, index: int) -> nn.Module:
        """The decoder layer with this 0-based index.

        Raises:
            InvalidRequestError: there is no such layer.
        """
        if not 0 <= index < len(self):
            raise InvalidRequestError(
                f"Layer {index} is out of range: {self.name} has layers 0 to {len(self) - 1}."
            )
        return self._layers[index]

    @property
    def mixer(self) -> str:
        """What mixes tokens, in words: "attention", or "linear attention or attention"."""
        kinds = [parts.mixer.kind for parts in self.anatomy.parts if parts.mixer is not None]
        return " or ".join(dict.fromkeys(kinds)) or "none"

    @property
    def part_names(self) -> dict[str, str]:
        """What mixers and MLPs are, in words, by the kinds of a trace: "attn" and "mlp"."""
        kinds = [parts.mlp.kind for parts in self.anatomy.parts if parts.mlp is not None]
        return {"attn": self.mixer, "mlp": " or ".join(dict.fromkeys(kinds)) or "none"}

    def part(self, site: Site) -> Part | None:
        """The part of a layer whose output is the state at `site`, if the layer has it."""
        self.layer(site.layer)
        parts = self.anatomy.parts[site.layer]
        return parts.mixer if site.stream is Stream.ATTN else parts.mlp

    def has(self, site: Site) -> bool:
        """Whether there is a state at `site`."""
        if site.stream is Stream.EMBED:
            return bool(self.anatomy.embed)
        if site.stream is Stream.BLOCK:
            return site.layer not in self.anatomy.skipped
        part = self.part(site)
        return part is not None and (
            site.stream is not Stream.MLP_HIDDEN or part.projection is not None
        )

    def module(self, site: Site) -> nn.Module:
        """The module whose output (for `MLP_HIDDEN`: input) is the state at `site`.

        Raises:
            UnsupportedModelError: the layer has no such part.
        """
        if site.stream is Stream.EMBED:
            return self.embedding
        layer = self.layer(site.layer)
        if site.stream is Stream.BLOCK:
            return layer
        part = self.part(site)
        if part is None:
            what = "mixer" if site.stream is Stream.ATTN else "MLP"
            raise UnsupportedModelError(
                f"Layer {site.layer} of {self.name} has no {what} whose output can be told from "
                "the rest."
            )
        if site.stream is Stream.MLP_HIDDEN:
            return layer.get_submodule(self._projection(site.layer))
        return layer.get_submodule(part.output)

    def mlp_weight_name(self, layer: int) -> str:
        """Parameter name of the layer's MLP output projection (W_proj of the ROME paper).

        Raises:
            InvalidRequestError: there is no such layer.
            UnsupportedModelError: its MLP is not written by one plain matrix.
        """
        self.layer(layer)
        return f"{self.anatomy.layers}.{layer}.{self._projection(layer)}.weight"

    def is_dense(self, layer: int) -> bool:
        """Whether the layer's MLP is written by one matrix: a plain one, or one that multiplies."""
        part = self.anatomy.parts[layer].mlp
        if part is None or part.projection is None:
            return False
        return is_writer(self._layers[layer].get_submodule(part.projection))

    def is_plain(self, layer: int) -> bool:
        """Whether that matrix is a plain tensor of floats, which an edit can write into."""
        return self.is_dense(layer) and is_plain(self.module(Site(layer, Stream.MLP_HIDDEN)))

    def mlp_weight(self, layer: int) -> torch.Tensor:
        """The layer's MLP output projection, in its own layout.

        Of one that is not plain, a copy of the matrix that it stands for, read off its outputs.
        """
        name = self.mlp_weight_name(layer)
        return self.weight(name)

    def weight(self, name: str) -> torch.Tensor:
        """The weight of a projection by its parameter name, plain or not; see `mlp_weight`."""
        path, _, own = name.rpartition(".")
        module = self._model.get_submodule(path)
        if own != "weight" or is_plain(module) or not is_writer(module):
            return self._model.get_parameter(name)
        matrix = matrix_of(module, device_of(module), self.dtype)
        return matrix if orientation_of(module) == "out_in" else matrix.T.contiguous()

    def layout(self, name: str) -> Layout:
        """Orientation of a projection by its parameter name, plain or not."""
        return orientation_of(self._model.get_submodule(name.removesuffix(".weight")))

    def mixture(self, layer: int) -> Mixture | None:
        """The layer's experts as one linear memory, if it has some that can be looked into."""
        part = self.part(Site(layer, Stream.MLP))
        return None if part is None else part.mixture

    def is_mixed(self, layer: int) -> bool:
        """Whether the layer's MLP is a mixture of experts, of whatever kind."""
        part = self.part(Site(layer, Stream.MLP))
        return part is not None and part.experts is not None

    def shared(self, layer: int) -> Shared:
        """The expert of a mixture that every token goes through.

        Raises:
            UnsupportedModelError: there is none.
        """
        part = self.part(Site(layer, Stream.MLP))
        if part is None or part.shared is None:
            able = [i for i, each in enumerate(self) if each.mlp is not None and each.mlp.shared]
            where = f"layers {', '.join(map(str, able))} have" if able else "no layer has"
            raise UnsupportedModelError(
                f"Layer {layer} of {self.name} has no expert that every token goes through and "
                f"whose weight is known; {where} one. Edit the 'active' experts instead."
            )
        return part.shared

    def shared_name(self, layer: int) -> str:
        """Parameter name of the last matrix of that expert.

        Raises:
            UnsupportedModelError: there is none.
        """
        return f"{self.anatomy.layers}.{layer}.{self.shared(layer).projection}.weight"

    def memory_name(self, layer: int) -> str:
        """Parameter name of what closed forms write to: a matrix, or those of all experts.

        Raises:
            InvalidRequestError: there is no such layer.
            UnsupportedModelError: the layer has no such memory.
        """
        mixture = self.mixture(layer)
        if mixture is None:
            return self.mlp_weight_name(layer)
        return f"{self.anatomy.layers}.{layer}.{mixture.weight}"

    def is_memory(self, layer: int) -> bool:
        """Whether closed forms can write to the layer."""
        return self.is_dense(layer) or self.mixture(layer) is not None

    def d_mlp(self, layer: int) -> int:
        """Length of a key: width of the MLP's hidden layer, of all experts' side by side."""
        mixture = self.mixture(layer)
        return self._d_dense(layer) if mixture is None else mixture.width

    def d_shared(self, layer: int) -> int:
        """Width of the hidden layer of the expert that every token goes through.

        Raises:
            UnsupportedModelError: there is none.
        """
        return self._model.get_parameter(self.shared_name(layer)).shape[1]  # of an nn.Linear

    def _d_dense(self, layer: int) -> int:
        name = self.mlp_weight_name(layer)
        widths = widths_of(self._model.get_submodule(name.removesuffix(".weight")))
        if widths is None:
            raise UnsupportedModelError(f"'{name}' of {self.name} is of no matrix product.")
        return widths[1]

    @property
    def one_d_mlp(self) -> int:
        """The same, if all layers agree.

        Raises:
            UnsupportedModelError: they do not, or some have no such MLP.
        """
        widths = [self._d_dense(layer) for layer in range(len(self))]
        for layer, width in enumerate(widths):
            if width != widths[0]:
                raise UnsupportedModelError(
                    f"The layers of {self.name} differ in width: the MLP of layer 0 has a hidden "
                    f"layer of {widths[0]}, that of layer {layer} of {width}."
                )
        if not widths:
            raise UnsupportedModelError(f"{self.name} has no decoder layers that were found.")
        return widths[0]

    def mlp_inputs(self, layer: int) -> list[str]:
        """Parameter names of the MLP's input projections: those beside its output projection.

        An MLP has one, or if it is gated two, unless they are stored as one matrix.

        Raises:
            UnsupportedModelError: there are none that are plain.
        """
        parent, _, out = self._projection(layer).rpartition(".")
        inside = self.layer(layer).get_submodule(parent).named_children()
        return self._plain(layer, parent, inside, out, "input projections of the MLP")

    def attention_inputs(self, layer: int) -> list[str]:
        """Parameter names of attention's input projections: those beside its output projection.

        Raises:
            UnsupportedModelError: there are none, or the layer has no attention.
        """
        part = self.part(Site(layer, Stream.ATTN))
        if part is None or part.projection is None:
            kind = "no mixer" if part is None else part.kind
            raise UnsupportedModelError(
                f"Layer {layer} of {self.name} has {kind}, not attention with plain projections."
            )
        parent, _, out = part.projection.rpartition(".")
        inside = self.layer(layer).get_submodule(parent).named_modules()
        return self._plain(layer, parent, inside, out, "input projections of attention")

    def _plain(
        self,
        layer: int,
        parent: str,
        inside: Iterable[tuple[str, nn.Module]],
        out: str,
        what: str,
    ) -> list[str]:
        """Weights of all plain projections inside a module of a layer but one."""
        found = [
            ".".join(filter(None, (self.anatomy.layers, str(layer), parent, name, "weight")))
            for name, module in inside
            if is_projection(module) and name != out
        ]
        if not found:
            raise UnsupportedModelError(
                f"Layer {layer} of {self.name} has no plain {what} in '{parent}'."
            )
        return found

    @property
    def mlp_layout(self) -> Layout:
        """Orientation of MLP output projections, the same in all layers that have one.

        Raises:
            UnsupportedModelError: no layer has one.
        """
        dense = next((i for i in range(len(self)) if self.is_dense(i)), 0)
        return orientation_of(self.module(Site(dense, Stream.MLP_HIDDEN)))

    @cached_property
    def n_tokens(self) -> int:
        """How many tokens there are logits of."""
        head = self._model.get_output_embeddings()
        weight = getattr(head, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.ndim == 2:
            return weight.shape[0]
        return self._model.config.get_text_config(decoder=True).vocab_size

    @cached_property
    def widest(self) -> int:
        """An upper estimate of the width inside an MLP, where it cannot be read off."""
        dense = [self.d_mlp(i) for i in range(len(self)) if self.is_dense(i)]
        return max([*dense, 4 * self.d_model]) if len(dense) < len(self) else max(dense)

    def _projection(self, layer: int) -> str:
        part = self.anatomy.parts[layer].mlp
        if part is None:
            reason = "has no MLP of its own"
        elif part.experts is not None:
            why = f" ({part.unread})" if part.unread else ""
            reason = f"has a mixture of experts, not one MLP{why}"
        elif part.projection is None:
            reason = f"has an MLP ('{part.whole}') that is not written by one plain matrix"
        else:
            return part.projection
        dense = [i for i in range(len(self)) if self.is_dense(i)]
        able = f"Layers that have one: {', '.join(map(str, dense))}." if dense else "No layer has."
        raise UnsupportedModelError(f"Layer {layer} of {self.name} {reason}. {able}")
