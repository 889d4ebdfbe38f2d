"""Characters that a tokenizer has no token for: whether anything stands in their place."""

from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase

_BYTES = tuple(pre_tokenizers.ByteLevel.alphabet())


def unknown_places(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    ids: Sequence[int],
    spans: Sequence[tuple[int, int]],
) -> Iterator[int]:
    """Which tokens of a text only say that the tokenizer does not know what stands there.

    One that is written out in the text, as "<unk>" itself may be, is known.
    """
    unknown = tokenizer.unk_token_id
    core = getattr(tokenizer, "backend_tokenizer", None)
    if unknown is None and isinstance(core, Tokenizer):  # not named, and used all the same
        unknown = core.token_to_id(getattr(core.model, "unk_token", None) or "")
    if unknown not in ids:
        return
    for i, (token_id, (a, b)) in enumerate(zip(ids, spans, strict=True)):
        if token_id == unknown and a < b:
            piece = str(tokenizer.convert_ids_to_tokens(token_id))
            if text[a:b].strip() != piece:
                yield i


def dropped_part(tokenizer: PreTrainedTokenizerBase, text: str) -> str | None:
    """A character of a text, or the word around it, that becomes nothing; None if there is none.

    BPE with neither a token for what is unknown nor one for each byte leaves such characters away
    without notice, and the offsets that it gives for those that follow are wrong.
    """
    core = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(core, Tokenizer) or not isinstance(model := core.model, models.BPE):
        return None
    if model.unk_token or model.byte_fallback:
        return None
    if all(core.token_to_id(sign) is not None for sign in _BYTES):
        return None
    for token in core.get_added_tokens_decoder().values():
        text = text.replace(token.content, "")
    if core.normalizer is not None:
        text = core.normalizer.normalize_str(text)
    words = [(text, (0, len(text)))]
    if core.pre_tokenizer is not None:
        words = core.pre_tokenizer.pre_tokenize_str(text)
    inside, end = model.continuing_subword_prefix or "", model.end_of_word_suffix or ""
    for word, (a, b) in words:
        for sign in word:
            written = (sign, inside + sign, sign + end, inside + sign + end)
            if all(core.token_to_id(piece) is None for piece in written):
                # Byte-level tokenizers write bytes as other signs, which nobody would know again.
                return sign if sign in text else text[a:b].strip()
    return None
