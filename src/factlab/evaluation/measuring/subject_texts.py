"""Texts that a model writes about subjects, whose perplexity tells what an edit leaves of them.

Source: Hase et al. 2023, section 3.4 (essence), and its code.
"""

from collections.abc import Sequence

from factlab.models.generation import decode_continuation, generate_ids
from factlab.models.language_model import LanguageModel
from factlab.writing import joined

_TOP_K = 5  # as published


def essence_prompt(subject: str) -> str:
    """What a text about a subject begins with."""
    return f"{subject} is a"


def subject_texts(
    lm: LanguageModel,
    subjects: Sequence[str],
    streams: Sequence[int],
    n_texts: int,
    n_tokens: int,
    seed: int,
) -> list[tuple[str, ...]]:
    """Have a model write about subjects.

    Args:
        lm: the model.
        subjects: what the texts are about.
        streams: a number for each subject, which its random numbers follow from.
        n_texts: about each.
        n_tokens: most tokens of a text, its beginning included.
        seed: of all.

    Returns:
        The texts about each subject, "{subject} is a" included.

    Raises:
        TokenizationError: a subject cannot be tokenised, or is too long.
    """
    if n_texts == 0:
        return [()] * len(subjects)
    prompts = [essence_prompt(subject) for subject in subjects]
    rows = [lm.encode(prompt).ids for prompt in prompts]
    limit = min(n_tokens, lm.context_length or n_tokens)
    room = [max(1, limit - len(row)) for row in rows for _ in range(n_texts)]
    numbers = [stream * n_texts + number for stream in streams for number in range(n_texts)]
    every = [row for row in rows for _ in range(n_texts)]
    new = generate_ids(lm, every, room, _TOP_K, seed, streams=numbers)
    texts = [
        joined(prompts[i // n_texts], decode_continuation(lm, row, ids))
        for i, (row, ids) in enumerate(zip(every, new, strict=True))
    ]
    return [tuple(texts[i : i + n_texts]) for i in range(0, len(texts), n_texts)]
