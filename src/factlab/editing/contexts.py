"""Contexts: texts put before a prompt, so that an edit does not depend on one exact wording.

ROME takes its key, and optimises its value, over the bare prompt and prompts that follow a little
text of the model's own (ROME paper, section 3.1 and appendix E.5).
"""

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt
from torch import Tensor

from factlab.models.decoder import Decoder
from factlab.models.generation import generate_ids
from factlab.tokens import start_token_id


class ContextConfig(BaseModel):
    """Which texts to sample.

    Attributes:
        groups: (how many, tokens of each) pairs; the start token counts as one of them, as in the
            paper's code.
        top_k: sample among this many most probable tokens.
        seed: of the sampling.
        bare_weight: share of the bare prompt in the mean key, the rest going to the others in equal
            parts; None gives every context the same weight, as the ROME paper does. Where a
            tokenizer puts no BOS in front, a subject that opens the bare prompt has a key of its
            own (see docs/bundled-model.md), and one part in 21 does not reach it. One half is what
            MEMIT's code uses.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: tuple[tuple[NonNegativeInt, PositiveInt], ...] = ((3, 5), (2, 10))
    top_k: PositiveInt = 5
    seed: int = 0
    bare_weight: float | None = Field(default=0.5, ge=0, le=1)

    @classmethod
    def published_rome(cls) -> "ContextConfig":
        """The bare prompt and twenty others, all alike (ROME paper, appendix E.5)."""
        return cls(groups=((10, 5), (10, 10)), bare_weight=None)

    def weights(self, n_contexts: int) -> Float[Tensor, " context"]:
        """How much each context counts in the mean key; the bare prompt is the first."""
        equal = torch.full((n_contexts,), 1 / n_contexts, dtype=torch.float64)
        if self.bare_weight is None or n_contexts == 1:
            return equal
        weights = torch.full_like(equal, (1 - self.bare_weight) / (n_contexts - 1))
        weights[0] = self.bare_weight
        return weights


def sample_contexts(lm: Decoder, config: ContextConfig) -> list[str]:
    """Texts to put in front of a prompt; the first one is empty: the bare prompt itself."""
    contexts = [""]
    start = start_token_id(lm.tokenizer)
    for group, (count, length) in enumerate(config.groups):
        if count == 0:
            continue
        rows = [[start]] * count
        seed = config.seed * len(config.groups) + group
        sampled = generate_ids(lm, rows, length - 1, config.top_k, seed, may_end=False)
        texts = (str(lm.tokenizer.decode(ids, skip_special_tokens=True)) for ids in sampled)
        contexts += [f"{text}. " for text in texts]
    return contexts
