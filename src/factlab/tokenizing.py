"""A tokenizer is called: as transformers would have it encode a text, and left as it was."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from factlab.errors import TokenizationError
from factlab.interrupts import undone
from factlab.writing import short_repr


def called(
    tokenizer: PreTrainedTokenizerBase, text: str
) -> tuple[list[int], list[tuple[int, int]], list[int]]:
    """The ids of a text, the characters that each stands for, and which ones a template put there.

    Raises:
        TokenizationError: the tokenizer does not report character offsets, or fails.
    """
    if not tokenizer.is_fast:
        raise TokenizationError(
            f"Tokenizer {type(tokenizer).__name__} does not report character offsets. "
            "Load the model with its fast tokenizer (tokenizer.json)."
        )
    try:
        with _settings_kept(tokenizer):
            encoding = tokenizer(
                text,
                padding=False,
                truncation=False,
                return_offsets_mapping=True,
                return_special_tokens_mask=True,
                verbose=False,
            )
    except Exception as error:  # the library `tokenizers` has no class of its own for them
        raise TokenizationError(
            f"Tokenizer {type(tokenizer).__name__} does not take {short_repr(text)}: {error}. "
            "Write the text in characters that the model knows, or load the tokenizer that belongs "
            "to the model."
        ) from error
    ids: list[int] = list(encoding["input_ids"])
    spans: list[tuple[int, int]] = [(int(a), int(b)) for a, b in encoding["offset_mapping"]]
    return ids, spans, list(encoding["special_tokens_mask"])


@contextmanager
def _settings_kept(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Transformers switches a tokenizer's own truncation and padding off, and leaves them off."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    truncation, padding = getattr(backend, "truncation", None), getattr(backend, "padding", None)
    with undone(partial(_set, backend, truncation, padding)):
        yield


def _set(backend: Any, truncation: Mapping[str, Any] | None, padding: Any) -> None:
    if truncation is not None:
        backend.enable_truncation(**truncation)
    if padding is not None:
        backend.enable_padding(**padding)
