"""Contexts: texts put before a prompt, so that an edit does not depend on one exact wording.

ROME takes its key, and optimises its value, over the bare prompt and prompts that follow a little
text of the model's own (ROME paper, section 3.1 and appendix E.5).
"""

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

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
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: tuple[tuple[NonNegativeInt, PositiveInt], ...] = ((10, 5), (10, 10))
    top_k: PositiveInt = 5
    seed: int = 0


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
