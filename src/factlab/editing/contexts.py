"""Contexts: texts put before a prompt, so that an edit does not depend on one exact wording.

ROME takes its key, and optimises its value, over the bare prompt and prompts that follow a little
text of the model's own (ROME paper, section 3.1 and appendix E.5). An edit that is to hold in a
chat too takes them over the prompt in the model's chat template as well.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.editing.context_config import ChatContexts, ContextConfig
from factlab.models.generation import generate_ids, start_token_id
from factlab.models.language_model import LanguageModel
from factlab.wrapping import ChatForms, Thinned, Wrapping


def sample_contexts(lm: LanguageModel, config: ContextConfig) -> list[str]:
    """Texts to put in front of a prompt; the first one is empty: the bare prompt itself.

    Raises:
        TokenizationError: there is no token that the model could begin a text with.
    """
    contexts = [""]
    for group, (count, length) in enumerate(config.groups):
        if count == 0:
            continue
        rows = [[start_token_id(lm)]] * count
        seed = config.seed * len(config.groups) + group
        sampled = generate_ids(lm, rows, length - 1, config.top_k, seed, may_end=False)
        texts = (str(lm.tokenizer.decode(ids, skip_special_tokens=True)) for ids in sampled)
        contexts += [f"{text}. " for text in texts]
    return contexts


def thinned(texts: Sequence[str], config: ContextConfig) -> list[str | Thinned]:
    """The bare prompt as it is, and other words of it left out behind each of the other texts."""
    if not config.left_out:
        return [*texts]
    first, *others = texts
    return [
        first,
        *(Thinned(text, config.left_out, config.seed + i) for i, text in enumerate(others)),
    ]


def chat_contexts(lm: LanguageModel, kind: ChatContexts | None) -> list[Wrapping | ChatForms]:
    """What the model's chat template puts around a prompt, in the ways that are asked for.

    Raises:
        InvalidRequestError: the tokenizer has no chat template, or it does not fit.
    """
    if kind is None:
        return []
    forms = lm.chat_forms()
    ways: dict[ChatContexts, list[Wrapping | ChatForms]] = {
        "fitting": [forms],
        "asked": [forms.asked],
        "begun": [forms.begun],
        "both": [forms.asked, forms.begun],
    }
    return ways[kind]


def context_weights(config: ContextConfig, n_contexts: int) -> Float[Tensor, " context"]:
    """How much each context counts in the mean key; the bare prompt is the first."""
    equal = torch.full((n_contexts,), 1 / n_contexts, dtype=torch.float64, device="cpu")
    if config.bare_weight is None or n_contexts == 1:
        return equal
    weights = torch.full_like(equal, (1 - config.bare_weight) / (n_contexts - 1))
    weights[0] = config.bare_weight
    return weights
