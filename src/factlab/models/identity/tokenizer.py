"""What a tokenizer makes of text, as a digest."""

import hashlib
import json
from typing import Any

from transformers import PreTrainedTokenizerBase

from factlab.models.identity.computation import without_unset

VERSION = 1
# Settings of a single call, which each call of factlab sets for itself.
_OF_A_CALL = {"padding", "truncation"}
_PROBE = "In 1889, the Eiffel  Tower était à Paris."


class TokenizerDigest:
    """SHA-256 of a tokenizer: its vocabulary and rules, and the tokens it puts around a text.

    Reading them takes a moment for large vocabularies, so it is done again only when the tokenizer
    has another length, other special tokens, or reads a sentence in another way.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._seen: tuple[Any, ...] | None = None
        self._digest = ""

    def __call__(self) -> str:
        """The digest of the tokenizer as it is now."""
        tokenizer: Any = self._tokenizer  # a fast one, which the class of both kinds does not say
        seen = (
            len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id,
            tuple(tokenizer(_PROBE)["input_ids"]),
        )  # fmt: skip
        if seen != self._seen:
            rules = json.loads(tokenizer.backend_tokenizer.to_str())
            rules = {name: value for name, value in rules.items() if name not in _OF_A_CALL}
            whole = [VERSION, without_unset(rules), *seen[1:]]
            text = json.dumps(whole, sort_keys=True, ensure_ascii=False)
            self._digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
            self._seen = seen
        return self._digest
