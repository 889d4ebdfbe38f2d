"""`LanguageModel`: the noun that everything else takes as its first argument."""

import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from factlab import tokens
from factlab.continuations import Continuation
from factlab.facts import Fact, Joint, LookupToken, joined_by
from factlab.families import Layout
from factlab.hooks import Site
from factlab.models import chat as conversation
from factlab.models import freezing, generation, scoring, texts
from factlab.models.accept import check_model, check_tokenizer
from factlab.models.anatomy import Streams
from factlab.models.budget import Budget, MemoryLimit, Sizes
from factlab.models.changes.board import PatchBoard
from factlab.models.check import examine
from factlab.models.engines.engine import Columns, Frame, Hidden
from factlab.models.engines.kept import Prefix, Recording
from factlab.models.identity.identity import Identifier
from factlab.models.ladder import abilities_of
from factlab.models.layers import Layers
from factlab.models.recall import Recall
from factlab.models.stored import device_of
from factlab.projections import layout_of
from factlab.wrapping import ChatForms
from factlab.writing import check_text, check_texts, joined


class LanguageModel:
    """A Hugging Face causal language model with everything factlab knows about its structure.

    Works on objects you already have. They are used, never changed, except by an edit that you
    apply; undoing it restores the weights to the bit.

    Threads may share it. Each method, and each function that is given it, has it to itself while
    others wait; so does a block in which an edit is applied or states are replaced. `with lm.lock:`
    keeps others out for several calls. Long runs, such as an evaluation, let them in between steps.
    Code that calls `lm.model` takes the lock by itself. A block that waits for another thread,
    which waits for the model, never ends.

    Args:
        model: a decoder loaded with transformers, in any float dtype, on any device or several.
        tokenizer: its fast tokenizer. Where it has tokens that the model has no embedding for, that
            is logged; a text with one of them is refused.
        name: what to call it in reports; the config's own name by default.
        memory_gib: see the attribute.

    Attributes:
        memory_gib: GiB that may be used besides the weights; by default half of what is free where
            the model is. It may be set at any time, to None for the default: the size of every
            batch follows from it, and no result but by rounding.

    Raises:
        InvalidRequestError: the model is none, or the tokenizer is none or has no offsets; or the
            memory is not above 0.
        UnsupportedModelError: a part was not found where the family keeps it, or the model is
            wrapped, quantised, without a head, or of layers that differ, or the replay engine
            does not reproduce the model's own forward pass.
        ModelLoadError: a weight is NaN or infinite.

    Examples:
        >>> mine = fl.LanguageModel(lm.model, lm.tokenizer, name="mine")
        >>> (score,) = mine.score(["The Eiffel Tower is in"], ["Paris"])
        >>> 0 <= score.prob <= 1
        True
    """

    memory_gib: MemoryLimit = MemoryLimit()

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str | None = None,
        memory_gib: int | float | None = None,
    ) -> None:
        self.memory_gib = memory_gib
        check_model(model)
        check_tokenizer(tokenizer)
        self.lock, self.recall = threading.RLock(), Recall()
        self.model = model
        self.tokenizer = tokenizer
        self.name = name or str(getattr(model.config, "name_or_path", "")) or type(model).__name__
        found = examine(model)
        self.engine, self._n_cached = found.engine, found.n_cached
        self.layers = Layers(model, found.anatomy, found.d_model, self.name)
        self.abilities = abilities_of(self.layers, found)
        self.patches = PatchBoard(model, self.lock)
        originals, carried = self.patches.originals, self.patches.carried
        self.identity = Identifier(model, tokenizer, originals, carried, self.lock)
        texts.warn_of_unknown_tokens(self)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.name!r}, family={self.family!r}, "
            f"n_layers={self.n_layers}, d_model={self.d_model}, "
            f"dtype={self.dtype}, device={str(self.device)!r})"
        )

    # -- dimensions -------------------------------------------------------------------------

    @property
    def family(self) -> str:
        """What its config calls its architecture."""
        return self.layers.anatomy.family

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.layers.d_model

    @property
    def d_mlp(self) -> int:
        """Width of the MLP's hidden layer: the length of a key.

        Raises:
            UnsupportedModelError: not every layer has an MLP with a plain matrix, or their widths
                differ; `lm.layers.d_mlp(layer)` is that of one layer.
        """
        return self.layers.one_d_mlp

    @property
    def context_length(self) -> int | None:
        """Longest sequence the model takes, if its config says."""
        return texts.context_length(self.model.config)

    @property
    def device(self) -> torch.device:
        """Where the token embedding is, and so where inputs go."""
        return device_of(self.embedding)

    @property
    def dtype(self) -> torch.dtype:
        """Float type of the weights."""
        return self.layers.dtype

    # -- parts ------------------------------------------------------------------------------

    @property
    def embedding(self) -> nn.Embedding:
        """The token embedding."""
        return self.layers.embedding

    def layer(self, index: int) -> nn.Module:
        """The decoder layer with this 0-based index; see `Layers.layer`."""
        return self.layers.layer(index)

    def module(self, site: Site) -> nn.Module:
        """The module whose output (for `MLP_HIDDEN`: input) is the state at `site`."""
        return self.layers.module(site)

    def mlp_weight_name(self, layer: int) -> str:
        """Parameter name of the layer's MLP output projection (W_proj of the ROME paper)."""
        return self.layers.mlp_weight_name(layer)

    def mlp_weight(self, layer: int) -> Tensor:
        """That parameter, in the layer's own layout; of a quantised one what it stands for."""
        return self.layers.mlp_weight(layer)

    @property
    def mlp_layout(self) -> Layout:
        """Orientation of MLP output projections: `out_in` (nn.Linear) or `in_out` (Conv1D)."""
        return self.layers.mlp_layout

    def layout_of(self, weight_name: str) -> Layout:
        """Orientation of a projection's weight."""
        return layout_of(self.model.get_submodule(weight_name.removesuffix(".weight")))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights, any applied edits taken off, and of what is computed with them.

        Entries of the config that change nothing that is computed, such as `pad_token_id`, are no
        part of it. It is made anew whenever bits have changed, in whatever way; see
        `models/identity/`.
        """
        return self.identity.now().fingerprint

    @property
    def live_fingerprint(self) -> str:
        """The same of the weights as they are now, applied edits included."""
        return self.identity.now(live=True).fingerprint

    @contextmanager
    def alone(self) -> Generator[None, None, None]:
        """A block in which other threads wait, and what the model is, is looked up only once."""
        with self.lock, self.identity.steady():
            yield

    # -- running ----------------------------------------------------------------------------

    @property
    def budget(self) -> Budget:
        """How many tokens go through the model at once; follows from `memory_gib`."""
        return Budget(self.memory_gib, Sizes.of(self, self._n_cached), self.device.type == "cpu")

    def frozen(self) -> AbstractContextManager[None]:
        """Evaluation mode and no gradients of weights inside the block; see `freezing.frozen`."""
        return freezing.frozen(self)

    @property
    def columns(self) -> Columns:
        """Which columns of what runs just now hooks see."""
        return self.engine.columns

    @property
    def streams(self) -> Streams | None:
        """Where the dimension of several residual streams is; None if there is one stream."""
        return self.layers.streams

    def recording(self, capacity: int) -> Recording:
        """A record of at most so many tokens, to be filled while layers run; see `Engine`."""
        return self.engine.recording(capacity)

    def frame(
        self,
        batch: tokens.TokenBatch,
        left: Recording | Prefix | None = None,
        start: int = 0,
        rows: int | None = None,
    ) -> Frame:
        """Make columns `start` onwards of a batch ready to enter the layers; see `Engine.frame`."""
        return self.engine.frame(batch, left, start, rows)

    def step(self, frame: Frame, hidden: Hidden, layer: int) -> Hidden:
        """Run one layer."""
        return self.engine.step(frame, hidden, layer)

    def run(
        self, frame: Frame, hidden: Hidden | None = None, first: int = 0, stop: int | None = None
    ) -> Hidden:
        """Run layers `first` up to, not including, `stop`; see `Engine.run`."""
        return self.engine.run(frame, hidden, first, stop)

    def readout(self, hidden: Float[Tensor, "n d_model"]) -> Float[Tensor, "n vocab"]:
        """Logits of states that leave the last layer."""
        return self.engine.readout(hidden)

    # -- text -------------------------------------------------------------------------------

    def encode(self, text: str) -> tokens.Tokens:
        """Tokenise a prompt and check that it fits; see `texts.encode`."""
        return texts.encode(self, text)

    def continuation(
        self, prompt: str, target: str | None = None, first_token: bool = False
    ) -> Continuation:
        """Tokenise a prompt and what follows it as one text; see `texts.continuation`."""
        return texts.continuation(self, prompt, target, first_token)

    def fact_continuation(
        self,
        fact: Fact,
        target: str | None = None,
        lookup: LookupToken = "last",
        first_token: bool = False,
    ) -> Continuation:
        """The same of a fact's prompt, with its subject's tokens; see `texts.fact_continuation`."""
        return texts.fact_continuation(self, fact, target, lookup, first_token)

    def next_token_probs(self, prompts: Sequence[str]) -> Float[Tensor, "batch vocab"]:
        """Distribution of the next token after each prompt, on the CPU in at least float32."""
        return scoring.next_token_probs(self, prompts)

    def top_tokens(self, prompt: str, k: int = 10) -> list[tuple[str, float]]:
        """The k most probable next tokens, as text, with their probabilities."""
        return scoring.top_tokens(self, prompt, k)

    def score(
        self, prompts: Sequence[str], targets: Sequence[str], joint: Joint | None = None
    ) -> list[scoring.ContinuationScore]:
        """Log-probability of each target after its prompt, token by token.

        Args:
            prompts: texts.
            targets: one for each prompt.
            joint: what goes between prompt and target: "space" or "none"; by default a space where
                a writer would put one, or the white space that the target begins with.

        Raises:
            InvalidRequestError: the lists differ in length, or a text is empty or too long.
        """
        check_texts(targets, "targets")
        joined = [joined_by(target, joint) for target in targets]
        return scoring.score(self, prompts, joined)

    def generate(
        self,
        prompt: str,
        max_new_tokens: int = 50,
        top_k: int | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        return_full_text: bool = True,
        chat: bool = False,
    ) -> str:
        """Continue a prompt; see `generate_batch`. Returns prompt and continuation."""
        check_text(prompt, "prompt")
        return self.generate_batch(
            [prompt], max_new_tokens, top_k, seed, temperature, top_p, return_full_text, chat
        )[0]

    def generate_batch(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 50,
        top_k: int | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        return_full_text: bool = True,
        chat: bool = False,
    ) -> list[str]:
        """Continue prompts with a key/value cache, each until it ends or is long enough.

        Args:
            prompts: texts to continue.
            max_new_tokens: most tokens to add to each.
            top_k: sample among this many most probable tokens; 1 is greedy, 0 is all of them. By
                default 1, or with a temperature or `top_p` 0.
            seed: of the sampling. Row i draws from its own stream, so that a row's text does not
                depend on which other rows are in the batch.
            temperature: logits are divided by it before a token is drawn.
            top_p: sample among the most probable tokens that together have this probability.
            return_full_text: whether to put the prompt, as it was given, before its continuation.
            chat: ask in the model's chat template, each prompt in its form (`chat_forms`).

        Returns:
            For each prompt it and its continuation, a space that both have standing once; or the
            continuation alone, which begins with a space where a new word begins.

        Raises:
            InvalidRequestError: prompts are no list of texts, a number is out of range, or there
                is no fitting chat template.
        """
        sampling = generation.Sampling.of(top_k, temperature, top_p)
        go_on = conversation.continue_in_chat if chat else generation.continue_texts
        written = go_on(self, prompts, max_new_tokens, sampling, seed)
        if not return_full_text:
            return written
        return [joined(*pair) for pair in zip(prompts, written, strict=True)]

    def chat_prompt(self, messages: str | Sequence[Mapping[str, str]]) -> str:
        """What a model that was trained on conversations reads before it answers.

        It ends where the answer begins: it can be the prompt of a `Fact`, with `{}` in a message.

        Args:
            messages: each with `role` (user, assistant or system) and `content`; a text is one
                message of the user's.

        Raises:
            InvalidRequestError: there is no chat template, or it does not take these messages, or
                leaves one out.
        """
        return conversation.chat_prompt(self, messages)

    def chat_forms(self) -> ChatForms:
        """What the chat template puts around a prompt: asked by the user, or begun as an answer.

        Raises:
            InvalidRequestError: there is none, or it fails or alters what the user says.
        """
        return conversation.chat_forms(self)

    def chat(
        self,
        messages: str | Sequence[Mapping[str, str]],
        max_new_tokens: int = 200,
        top_k: int | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> str:
        """Answer the last message of a conversation; the answer is without the template's tags.

        Args:
            messages: see `chat_prompt`.
            max_new_tokens: most tokens of the answer.
            top_k: see `generate_batch`, as for the others.
            seed: of the sampling.
            temperature: of the sampling.
            top_p: of the sampling.
        """
        sampling = generation.Sampling.of(top_k, temperature, top_p)
        return conversation.answer(self, messages, max_new_tokens, sampling, seed)
