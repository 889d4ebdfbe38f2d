"""`Decoder`: a causal decoder and its tokenizer, where its parts are, and how to run them."""

import hashlib
import json
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

from factlab import tokens
from factlab.architectures import architecture_of, attention_inputs, layout_of
from factlab.errors import InvalidRequestError, TokenizationError
from factlab.facts import Fact, TokenSpan
from factlab.families import Architecture, Layout
from factlab.hooks import Site, Stream
from factlab.models.accept import check_model, check_tokenizer
from factlab.models.changes.board import PatchBoard
from factlab.models.check import check_finite, check_structure, resolve
from factlab.models.products import fast_products
from factlab.models.replay import Frame, Hidden, Shell

# Config entries that say how a model was loaded or saved, not what it computes.
_NOT_THE_MODEL = {
    "_name_or_path", "architectures", "dtype", "output_attentions", "output_hidden_states",
    "quantization_config", "return_dict", "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip


class Decoder:
    """The structural half of a `LanguageModel`: parts, dimensions, and the replay engine.

    Args:
        model: a decoder loaded with transformers, in any float dtype, on any device or several.
        tokenizer: its fast tokenizer.
        name: what to call it in reports; the config's own name by default.

    Raises:
        InvalidRequestError: the model is none, or the tokenizer is none or has no offsets.
        UnsupportedModelError: a part was not found where the family keeps it, or the model is
            wrapped, quantised, without a head, or of layers that differ.
        ModelLoadError: a weight is NaN or infinite.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str | None = None,
    ) -> None:
        check_model(model)
        check_tokenizer(tokenizer)
        self.model = model
        self.tokenizer = tokenizer
        self.name = name or str(getattr(model.config, "name_or_path", "")) or type(model).__name__
        self.architecture: Architecture = architecture_of(model)
        check_finite(model)
        returns_tuple = check_structure(model, self.architecture)
        self.patches = PatchBoard(model)
        self.shell = Shell(model, self.architecture, returns_tuple)
        self._layers = list(model.get_submodule(self.architecture.layers).children())
        # By name: a tensor (the weight, or its original under an edit), how often it had changed
        # when its digest was made, and the digest.
        self._digests: dict[str, list[tuple[weakref.ref[Tensor], int, bytes]]] = {}

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, family={self.architecture.family!r}, "
            f"n_layers={self.n_layers}, d_model={self.d_model}, d_mlp={self.d_mlp}, "
            f"dtype={self.dtype}, device={str(self.device)!r})"
        )

    # -- dimensions -------------------------------------------------------------------------

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return len(self._layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self._mlp_shape(0)[0]

    @property
    def d_mlp(self) -> int:
        """Width of the MLP's hidden layer: the length of a key."""
        return self._mlp_shape(0)[1]

    @property
    def context_length(self) -> int | None:
        """Longest sequence the model takes, if its config says."""
        config = self.model.config.get_text_config(decoder=True)
        length = getattr(config, "max_position_embeddings", None)
        return length if isinstance(length, int) else None

    @property
    def device(self) -> torch.device:
        """Where the token embedding is, and so where inputs go."""
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Float type of the weights."""
        return self.mlp_weight(0).dtype

    def _mlp_shape(self, layer: int) -> tuple[int, int]:
        """(d_model, d_mlp), whatever the layout."""
        shape = tuple(self.mlp_weight(layer).shape)
        return (shape[0], shape[1]) if self.mlp_layout == "out_in" else (shape[1], shape[0])

    # -- parts ------------------------------------------------------------------------------

    @property
    def embedding(self) -> nn.Embedding:
        """The token embedding."""
        return resolve(self.model, self.architecture.embed, nn.Embedding)

    def layer(self, index: int) -> nn.Module:
        """The decoder layer with this 0-based index.

        Raises:
            InvalidRequestError: there is no such layer.
        """
        if not 0 <= index < self.n_layers:
            raise InvalidRequestError(
                f"Layer {index} is out of range: {self.name} has layers 0 to {self.n_layers - 1}."
            )
        return self._layers[index]

    def module(self, site: Site) -> nn.Module:
        """The module whose output (for `MLP_HIDDEN`: input) is the state at `site`."""
        if site.stream is Stream.EMBED:
            return self.embedding
        layer = self.layer(site.layer)
        if site.stream is Stream.BLOCK:
            return layer
        path = (
            self.architecture.attn_out if site.stream is Stream.ATTN else self.architecture.mlp_out
        )
        return layer.get_submodule(path)

    def mlp_weight_name(self, layer: int) -> str:
        """Parameter name of the layer's MLP output projection (W_proj of the ROME paper)."""
        self.layer(layer)
        return f"{self.architecture.layers}.{layer}.{self.architecture.mlp_out}.weight"

    def mlp_weight(self, layer: int) -> nn.Parameter:
        """That parameter, in the layer's own layout."""
        return self.model.get_parameter(self.mlp_weight_name(layer))

    def attn_weight_names(self, layer: int) -> list[str]:
        """Parameter names of the projections that read into a layer's attention (q, k, v)."""
        inside = attention_inputs(self.layer(layer), self.architecture)
        return [f"{self.architecture.layers}.{layer}.{path}.weight" for path in inside]

    def layout_of(self, weight_name: str) -> Layout:
        """Orientation of a projection's weight."""
        return layout_of(self.model.get_submodule(weight_name.removesuffix(".weight")))

    @property
    def mlp_layout(self) -> Layout:
        """Orientation of MLP output projections: `out_in` (nn.Linear) or `in_out` (Conv1D)."""
        return layout_of(self.module(Site(0, Stream.MLP)))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of config and weights, any applied edits taken off: what this model *is*.

        Values are rounded to bfloat16 first, so that a checkpoint has the same fingerprint loaded
        in float32 and in bfloat16 (in float16 only if it was stored in 16 bits).
        """
        return self._digest(self.patches.originals())

    @property
    def live_fingerprint(self) -> str:
        """The same of the weights as they are now, applied edits included."""
        return self._digest({})

    def _digest(self, instead: dict[str, Tensor]) -> str:
        config = self.model.config.to_dict()
        settings = {k: v for k, v in config.items() if k not in _NOT_THE_MODEL}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        for name, parameter in sorted(self.model.named_parameters()):
            digest.update(self._weight_digest(name, instead.get(name, parameter)))
        return digest.hexdigest()

    def _weight_digest(self, name: str, weight: Tensor) -> bytes:
        """Of one weight; made anew only when the weight has changed."""
        version = -1 if weight.is_inference() else weight._version
        known = [entry for entry in self._digests.get(name, []) if entry[0]() is not None]
        for tensor, at, digest in known:
            if tensor() is weight and at == version != -1:
                return digest
        made = hashlib.sha256(f"{name} {tuple(weight.shape)}\n".encode())
        rounded = weight.detach().to(torch.bfloat16).contiguous().view(torch.int16)
        made.update(rounded.cpu().numpy().data)
        others = [entry for entry in known if entry[0]() is not weight]
        self._digests[name] = [*others, (weakref.ref(weight), version, made.digest())]
        return made.digest()

    # -- running ----------------------------------------------------------------------------

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Evaluation mode, no parameter gradients, fast products inside the block; as before after.

        Gradients still flow through the model to tensors that ask for them.
        """
        modes = [(module, module.training) for module in self.model.modules()]
        flags = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        try:
            for module, _ in modes:
                module.training = False
            for parameter, _ in flags:
                parameter.requires_grad = False
            with fast_products(module for module, _ in modes):
                yield
        finally:
            for module, training in modes:
                module.training = training
            for parameter, requires_grad in flags:
                parameter.requires_grad = requires_grad

    def frame(
        self,
        batch: tokens.TokenBatch,
        cache: Cache | None = None,
        start: int = 0,
        rows: int | None = None,
    ) -> Frame:
        """Make columns `start` onwards of a batch ready to enter the layers; see `Shell.frame`."""
        return self.shell.frame(batch, cache, start, rows)

    def step(self, frame: Frame, hidden: Hidden, layer: int) -> Hidden:
        """Run one layer."""
        args, kwargs = frame.calls[layer]
        output = self._layers[layer](hidden, *args, **kwargs)
        return output[0] if isinstance(output, tuple) else output

    def run(
        self, frame: Frame, hidden: Hidden | None = None, first: int = 0, stop: int | None = None
    ) -> Hidden:
        """Run layers `first` up to, not including, `stop`.

        Args:
            frame: what `frame()` returned.
            hidden: input of layer `first`; the frame's own entry by default.
            first: first layer to run.
            stop: layer to stop before; all the rest by default.
        """
        state = frame.entry if hidden is None else hidden
        for layer in range(first, self.n_layers if stop is None else stop):
            state = self.step(frame, state, layer)
        return state

    def readout(self, hidden: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocab"]:
        """Logits of states that leave the last layer."""
        return self.shell.readout(hidden)

    # -- text -------------------------------------------------------------------------------

    def tokenise(self, text: str) -> tokens.Tokens:
        """Tokenise a text of any length.

        Raises:
            TokenizationError: it is empty, or has a token that the model has no embedding for.
        """
        return self._known(tokens.encode(self.tokenizer, text))

    def encode(self, text: str) -> tokens.Tokens:
        """Tokenise a prompt and check that it fits.

        Raises:
            TokenizationError: as `tokenise`, or it is longer than the model's context.
        """
        return self._fitting(self.tokenise(text))

    def encode_fact(self, fact: Fact) -> tuple[tokens.Tokens, TokenSpan]:
        """Tokenise a fact's prompt, find its subject, and check that it fits."""
        encoded, span = tokens.encode_fact(self.tokenizer, fact)
        return self._fitting(self._known(encoded)), span

    def encode_continuation(self, prompt: str, target: str) -> tuple[tokens.Tokens, int]:
        """Tokenise a prompt and what follows it; see `tokens.encode_continuation`."""
        whole, n_prompt = tokens.encode_continuation(self.tokenizer, prompt, target)
        return self._known(whole), n_prompt

    def check_length(self, n_tokens: int) -> None:
        """Refuse what the model cannot take.

        Raises:
            TokenizationError: more tokens than the context holds.
        """
        limit = self.context_length
        if limit is not None and n_tokens > limit:
            raise TokenizationError(
                f"The text has {n_tokens} tokens but {self.name} takes at most {limit}. Shorten it."
            )

    def check_ids(self, ids: Sequence[int]) -> None:
        """Refuse tokens that the model has no embedding for.

        Raises:
            TokenizationError: an id is not one of the embedding's rows.
        """
        n_rows = self.embedding.num_embeddings
        if ids and (max(ids) >= n_rows or min(ids) < 0):
            unknown = next(i for i in ids if not 0 <= i < n_rows)
            raise TokenizationError(
                f"Token {tokens.shown(self.tokenizer, [unknown])[0]!r} has the id {unknown}, but "
                f"{self.name} has embeddings for the ids below {n_rows} only. Use the tokenizer "
                "that belongs to the model; if tokens were added to it, call "
                f"model.resize_token_embeddings({max(len(self.tokenizer), unknown + 1)}) and train "
                "them."
            )

    def _known(self, encoded: tokens.Tokens) -> tokens.Tokens:
        self.check_ids(encoded.ids)
        return encoded

    def room_behind(self, prompts: Sequence[str], wanted: int) -> int:
        """How many tokens fit behind the longest of some prompts, but no more than are wanted.

        For lengths that nobody asked for. At least 1: a prompt that fills the context is refused
        where it is continued.
        """
        limit = self.context_length
        if limit is None:
            return wanted
        longest = max((len(self.encode(prompt)) for prompt in prompts), default=0)
        return max(1, min(wanted, limit - longest))

    def _fitting(self, encoded: tokens.Tokens) -> tokens.Tokens:
        self.check_length(len(encoded))
        return encoded
