"""`LanguageModel`: the noun that everything else takes as its first argument."""

import logging
from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from factlab import tokens
from factlab.facts import Joint, joined_by
from factlab.models import chat, generation, scoring
from factlab.models.check import check_replay
from factlab.models.decoder import Decoder
from factlab.writing import check_text, check_texts

_log = logging.getLogger(__name__)
_N_SHOWN = 5  # tokens that a message lists


class LanguageModel(Decoder):
    """A Hugging Face causal language model with everything factlab knows about its structure.

    Works on objects you already have. They are used, never changed, except by an edit that you
    apply; undoing it restores the weights to the bit.

    Args:
        model: a decoder loaded with transformers, in any float dtype, on any device or several.
        tokenizer: its fast tokenizer. Where it has tokens that the model has no embedding for, that
            is logged; a text with one of them is refused.
        name: what to call it in reports; the config's own name by default.

    Raises:
        InvalidRequestError: the model is none, or the tokenizer is none or has no offsets.
        UnsupportedModelError: a part was not found where the family keeps it, or the model is
            wrapped, quantised, without a head, or of layers that differ, or the replay engine
            does not reproduce the model's own forward pass.
        ModelLoadError: a weight is NaN or infinite.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str | None = None,
    ) -> None:
        super().__init__(model, tokenizer, name)
        check_replay(self)
        _warn_of_unknown_tokens(self)

    def next_token_probs(
        self, prompts: Sequence[str], batch_size: int = 32
    ) -> Float[Tensor, "batch vocab"]:
        """Distribution of the next token after each prompt, float32 on the CPU.

        Raises:
            InvalidRequestError: prompts are no list of texts, or there are none.
        """
        return scoring.next_token_probs(self, prompts, batch_size)

    def top_tokens(self, prompt: str, k: int = 10) -> list[tuple[str, float]]:
        """The k most probable next tokens, as text, with their probabilities."""
        check_text(prompt, "prompt")
        every = self.next_token_probs([prompt])[0]
        probs, ids = every.topk(min(k, len(every)))
        texts = tokens.shown(self.tokenizer, ids.tolist())
        return list(zip(texts, probs.tolist(), strict=True))

    def score(
        self,
        prompts: Sequence[str],
        targets: Sequence[str],
        batch_size: int = 32,
        joint: Joint | None = None,
    ) -> list[scoring.Continuation]:
        """Log-probability of each target after its prompt, token by token.

        Args:
            prompts: texts.
            targets: one for each prompt.
            batch_size: how many pairs go through the model at once.
            joint: what goes between prompt and target: "space" or "none"; by default a space where
                a writer would put one, or the white space that the target begins with.

        Raises:
            InvalidRequestError: the lists are no lists of texts, differ in length, or a text is
                empty or too long.
        """
        check_texts(targets, "targets")
        joined = [joined_by(target, joint) for target in targets]
        return scoring.score(self, prompts, joined, batch_size)

    def generate(
        self,
        prompt: str,
        max_new_tokens: int = 50,
        top_k: int | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> str:
        """Continue a prompt; see `generate_batch`. Returns prompt and continuation."""
        check_text(prompt, "prompt")
        return self.generate_batch([prompt], max_new_tokens, top_k, seed, temperature, top_p)[0]

    def generate_batch(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 50,
        top_k: int | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
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

        Returns:
            For each prompt the prompt itself followed by its continuation.

        Raises:
            InvalidRequestError: prompts are no list of texts, or a number is out of range.
        """
        sampling = generation.Sampling.of(top_k, temperature, top_p)
        return generation.generate_text(self, prompts, max_new_tokens, sampling, seed)

    def chat_prompt(self, messages: str | Sequence[Mapping[str, str]]) -> str:
        """What a model that was trained on conversations reads before it answers.

        The text ends where the answer begins, so it can be the prompt of a `Fact`, with `{}` in a
        message, as well as of `top_tokens` and `score`.

        Args:
            messages: each with `role` (user, assistant or system) and `content`; a text is one
                message of the user's.

        Raises:
            InvalidRequestError: the tokenizer has no chat template, or it does not take these
                messages.
        """
        return chat.chat_prompt(self, messages)

    def chat(
        self,
        messages: str | Sequence[Mapping[str, str]],
        max_new_tokens: int = 200,
        top_k: int | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> str:
        """Answer the last message of a conversation.

        Args:
            messages: see `chat_prompt`.
            max_new_tokens: most tokens of the answer.
            top_k: see `generate_batch`, as for the others.
            seed: of the sampling.
            temperature: of the sampling.
            top_p: of the sampling.

        Returns:
            The answer alone, without the template's tags.

        Raises:
            InvalidRequestError: as for `chat_prompt` and `generate_batch`.
        """
        sampling = generation.Sampling.of(top_k, temperature, top_p)
        return chat.answer(self, messages, max_new_tokens, sampling, seed)


def _warn_of_unknown_tokens(lm: LanguageModel) -> None:
    n_rows = lm.embedding.num_embeddings
    if len(lm.tokenizer) <= n_rows:  # as far as ids are consecutive
        return
    unknown = sorted((i, text) for text, i in lm.tokenizer.get_vocab().items() if i >= n_rows)
    if unknown:
        listed = ", ".join(f"{text!r} (id {i})" for i, text in unknown[:_N_SHOWN])
        more = ", ..." if len(unknown) > _N_SHOWN else ""
        _log.warning(
            "%s has embeddings for %d tokens; its tokenizer has %d more: %s%s. Texts with them are "
            "refused. If they were added, call model.resize_token_embeddings(%d) and train them.",
            lm.name, n_rows, len(unknown), listed, more, unknown[-1][0] + 1,
        )  # fmt: skip
