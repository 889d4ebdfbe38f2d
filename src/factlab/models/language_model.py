"""`LanguageModel`: the noun that everything else takes as its first argument."""

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from factlab import tokens
from factlab.models import generation, scoring
from factlab.models.check import check_replay
from factlab.models.decoder import Decoder


class LanguageModel(Decoder):
    """A Hugging Face causal language model with everything factlab knows about its structure.

    Works on objects you already have. They are used, never changed, except by an edit that you
    apply; undoing it restores the weights to the bit.

    Args:
        model: a decoder loaded with transformers, in any float dtype, on any device or several.
        tokenizer: its fast tokenizer.
        name: what to call it in reports; the config's own name by default.

    Raises:
        UnsupportedModelError: a part was not found where the family keeps it, or the replay engine
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

    def next_token_probs(
        self, prompts: list[str], batch_size: int = 32
    ) -> Float[Tensor, "batch vocab"]:
        """Distribution of the next token after each prompt, float32 on the CPU."""
        return scoring.next_token_probs(self, prompts, batch_size)

    def top_tokens(self, prompt: str, k: int = 10) -> list[tuple[str, float]]:
        """The k most probable next tokens, as text, with their probabilities."""
        every = self.next_token_probs([prompt])[0]
        probs, ids = every.topk(min(k, len(every)))
        texts = tokens.shown(self.tokenizer, ids.tolist())
        return list(zip(texts, probs.tolist(), strict=True))

    def score(
        self, prompts: list[str], targets: list[str], batch_size: int = 32
    ) -> list[scoring.Continuation]:
        """Log-probability of each target after its prompt, token by token."""
        return scoring.score(self, prompts, targets, batch_size)

    def generate(self, prompt: str, max_new_tokens: int = 50, top_k: int = 1, seed: int = 0) -> str:
        """Continue a prompt; see `generate_batch`. Returns prompt and continuation."""
        return self.generate_batch([prompt], max_new_tokens, top_k, seed)[0]

    def generate_batch(
        self, prompts: list[str], max_new_tokens: int = 50, top_k: int = 1, seed: int = 0
    ) -> list[str]:
        """Continue prompts with a key/value cache, each until it ends or is long enough.

        Args:
            prompts: texts to continue.
            max_new_tokens: most tokens to add to each.
            top_k: sample among this many most probable tokens; 1 is greedy, 0 is all of them.
            seed: of the sampling. Row i draws from its own stream, so that a row's text does not
                depend on which other rows are in the batch.

        Returns:
            For each prompt the prompt itself followed by its continuation.
        """
        return generation.generate_text(self, prompts, max_new_tokens, top_k, seed)
