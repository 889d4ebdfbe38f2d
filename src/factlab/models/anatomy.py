"""Where the parts of each decoder layer are, as they are, layer by layer.

A layer adds two things to the residual stream: what its *mixer* takes from other tokens, and what
its *MLP* makes of the token itself. Three paths matter of each: the module whose output is added,
the plain matrix that writes it if there is one (W_proj of the ROME paper, whose input is the key),
and the experts if it is a mixture of them. The mixer is attention in most models. In others some
layers have linear attention, a state space or a convolution instead.

The table of families (`factlab.families`) says where the usual ones keep them. Where a layer of a
model does not fit its row, or there is no row, the layer's own modules show it, and the check at
load tells whether what was found is right.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from factlab.families import ARCHITECTURES, Architecture
from factlab.models.experts import Mixture, Shared
from factlab.projections import is_writer, widths_of

# What a mixer is called, by the name of its class; the first that fits.
_MIXERS = (
    ("recurrence", r"Rwkv|LSTM|RecurrentBlock|Rglru"),
    ("cross-attention", r"CrossAttention"),
    ("linear attention", r"Lightning|LinearAtt|DeltaNet|DeltaAttention|KDA|Gla|Retention"),
    ("state space", r"Mamba|SSM|Ssm|Mixer"),
    ("convolution", r"Conv"),
    ("attention", r"Att"),
)
_MIXER_NAMES = re.compile(
    r"attn|attention|mamba|mixer|conv$|temporal_block|time_mix|ssm|mlstm|slstm|linear_att|recurrent"
)
_MLP_NAMES = re.compile(
    r"(^|_)(mlp|ffn|ff|fc|fc2|feed_forward|moe|block_sparse_moe|channel_mix)(_|$)"
)
_ELSEWHERE = re.compile(r"encoder_att|cross_?att", re.IGNORECASE)
_MLP_CLASSES = re.compile(r"(MLP|Mlp|MoE|Moe|MOE|SparseMoeBlock|FeedForward|FFN)$")
# Whole layers inside a layer, and what only scales or adds.
_NO_PARTS = re.compile(r"DecoderLayer|HybridLayer|Connection|Gate$")


@dataclass(frozen=True, slots=True)
class Part:
    """One of the two things that a layer adds to the residual stream.

    Attributes:
        kind: what it is, in words: "attention", "state space", "MLP", "experts".
        output: path, inside the layer, of the module whose output is added.
        whole: path of the module that the part is; `output` may be its last matrix.
        projection: path of the plain matrix that writes it; None if there is none.
        experts: path of the container of experts; None if it is no mixture.
        adds_itself: whether a norm of its own comes behind the matrix, and so the part adds its
            result to the stream itself, as in BERT.
        mixture: how its experts are kept and called, if it has some that can be looked into.
        unread: why they cannot, if not.
        shared: the expert beside them that every token goes through, if there is one.
    """

    kind: str
    output: str
    whole: str
    projection: str | None = None
    experts: str | None = None
    adds_itself: bool = False
    mixture: Mixture | None = None
    unread: str = ""
    shared: Shared | None = None


@dataclass(frozen=True, slots=True)
class LayerParts:
    """What one layer adds to the residual stream; None where it has no such part, or several."""

    mixer: Part | None = None
    mlp: Part | None = None


Streams = Literal["first", "behind tokens"]


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Where a model keeps its parts.

    Attributes:
        family: its config's `model_type`.
        embed: path of the token embedding; empty if it has none that is plain.
        layers: path of the list of decoder layers; empty if none was found.
        parts: of each layer.
        skipped: layers that a text alone does not go through, as cross-attention to an image.
        streams: for a residual stream that is several side by side, whether their dimension comes
            before all others or behind the tokens'.
    """

    family: str
    embed: str
    layers: str
    parts: tuple[LayerParts, ...]
    skipped: frozenset[int] = frozenset()
    streams: Streams | None = None

    def with_parts(self, parts: Sequence[LayerParts]) -> "Anatomy":
        """The same with other parts."""
        return replace(self, parts=tuple(parts))


def anatomy_of(model: PreTrainedModel) -> Anatomy:
    """What the table and the structure of its modules say about a model."""
    family = str(model.config.model_type)
    row = ARCHITECTURES.get(family)
    embed = row.embed if row else _embedding_path(model)
    path = row.layers if row else _layers_path(model, embed)
    if not path or not _has(model, path):
        return Anatomy(family, embed if _has(model, embed) else "", "", ())
    layers = list(model.get_submodule(path).children())
    names = _Names(re.sub(r"For[A-Z].*|LMHead.*|Model$", "", type(model).__name__), _width(model))
    return Anatomy(family, embed, path, tuple(_parts(layer, row, names) for layer in layers))


@dataclass(frozen=True, slots=True)
class _Names:
    """What the modules of one model are told apart by.

    Attributes:
        prefix: with which the names of its classes begin; says nothing about any one of them.
        width: of the residual stream, if the config has it.
    """

    prefix: str
    width: int | None

    def mixer(self, module: nn.Module) -> str:
        """What a mixer is, in words."""
        whole = type(module).__name__
        own = whole.removeprefix(self.prefix)
        if re.search(_MIXERS[0][1], whole):
            return _MIXERS[0][0]
        return next(
            (kind for name in (own, whole) for kind, p in _MIXERS if re.search(p, name)), "mixer"
        )


def _parts(layer: nn.Module, row: Architecture | None, names: _Names) -> LayerParts:
    """The parts of one layer: where the table says, or else where its modules show."""
    mixers, mlps = _children(layer)
    mixer = _one([_mixer(name, child, names) for name, child in mixers])
    mlp = _one([_mlp(name, child, names.width) for name, child in mlps])
    if row and _plain(layer, row.attn_out):
        mixer = Part("attention", row.attn_out, row.attn_out, row.attn_out)
    if row and _plain(layer, row.mlp_out):
        mlp = Part("MLP", row.mlp_out, row.mlp_out, row.mlp_out)
    return LayerParts(mixer, mlp)


def _one(parts: Sequence[Part]) -> Part | None:
    """The part, if there is just one: two side by side have no output of their own."""
    return parts[0] if len(parts) == 1 else None


def _children(
    layer: nn.Module,
) -> tuple[list[tuple[str, nn.Module]], list[tuple[str, nn.Module]]]:
    """The modules of a layer that mix tokens, and those that work on each alone."""
    mixers: list[tuple[str, nn.Module]] = []
    mlps: list[tuple[str, nn.Module]] = []
    for name, child in _direct(layer):
        kind = type(child).__name__
        if isinstance(child, nn.ModuleList) or "Norm" in kind or _NO_PARTS.search(kind):
            continue
        if _MLP_NAMES.search(name) or _MLP_CLASSES.search(kind):
            mlps.append((name, child))
        elif _MIXER_NAMES.search(name) and not re.search(r"norm$|scale|gate$", name):
            mixers.append((name, child))
    # A decoder that can look at an encoder has attention for that too; a text alone leaves it out.
    alone = [(name, child) for name, child in mixers if not _ELSEWHERE.search(name)]
    mixers = alone or mixers
    # OPT and its like have the MLP's two matrices as children of the layer itself.
    if mlps and all(is_writer(child) for _, child in mlps):
        mlps = mlps[-1:]
    return mixers, mlps


def _direct(layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children of a layer; in place of a wrapper with norms around a part, those of that."""
    for name, child in layer.named_children():
        inside = list(child.named_children()) if "Norm" in type(child).__name__ else []
        yield from ((_joined(name, inner), module) for inner, module in inside)
        if not inside:
            yield name, child


def _mixer(name: str, child: nn.Module, names: _Names) -> Part:
    kind = names.mixer(child)
    last = _last_writer(child, names.width)
    if kind == "attention" and last is not None:
        path = _joined(name, last)
        return Part(kind, path, name, path, adds_itself=_has_norm_beside(child, last))
    return Part(kind, name, name)


def _mlp(name: str, child: nn.Module, width: int | None) -> Part:
    experts = [path for path, _ in child.named_modules() if path.rpartition(".")[2] == "experts"]
    if experts:
        return Part("experts", name, name, experts=_joined(name, experts[0]))
    last = _last_writer(child, width)
    if last is None:
        return Part("MLP", name, name)
    return Part("MLP", _joined(name, last), name, _joined(name, last))


def _has_norm_beside(module: nn.Module, path: str) -> bool:
    """Whether a norm stands beside a projection, in a module of their own."""
    parent = path.rpartition(".")[0]
    if not parent:
        return False
    inside = module.get_submodule(parent).named_children()
    return any(name.endswith("LayerNorm") for name, _ in inside)


def _last_writer(module: nn.Module, width: int | None) -> str | None:
    """The last matrix product inside a module that ends at the width of the residual stream."""
    names = [
        name
        for name, inner in module.named_modules()
        if (widths := widths_of(inner)) is not None and width in {None, widths[0]}
    ]
    return names[-1] if names else None


def _embedding_path(model: PreTrainedModel) -> str:
    try:
        embed = model.get_input_embeddings()
    except NotImplementedError:  # transformers does not know where this family keeps it
        return ""
    if not isinstance(embed, nn.Embedding):
        return ""
    return next((name for name, module in model.named_modules() if module is embed), "")


def _layers_path(model: PreTrainedModel, embed: str) -> str:
    """The list of modules that is as long as the config says, nearest to the token embedding.

    A model that also sees has a second list.
    """
    config = model.config.get_text_config(decoder=True)
    n_layers = getattr(config, "num_hidden_layers", None)
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers and name
    }
    if not lists:  # or the one that stands beside the token embedding
        beside = embed.rpartition(".")[0]
        lists = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.ModuleList) and name.rpartition(".")[0] == beside and module
        }
    if not lists:
        return ""
    # Of those that share as much of their path with the embedding, the one nearest to the top.
    return max(lists, key=lambda name: (_n_shared(name, embed), -name.count(".")))


def _n_shared(path: str, other: str) -> int:
    """How many modules two paths go through together."""
    pairs = zip(path.split("."), other.split("."), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _width(model: PreTrainedModel) -> int | None:
    """Width of the residual stream, as the config has it."""
    config = model.config.get_text_config(decoder=True)
    width = getattr(config, "hidden_size", None)
    return width if isinstance(width, int) else None


def _plain(layer: nn.Module, path: str) -> bool:
    return _has(layer, path) and is_writer(layer.get_submodule(path))


def _has(root: nn.Module, path: str) -> bool:
    try:
        root.get_submodule(path)
    except AttributeError:
        return False
    return bool(path)


def _joined(*names: str) -> str:
    return ".".join(name for name in names if name)
