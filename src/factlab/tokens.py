"""The only file that reasons about tokenisation.

Texts are always tokenised whole and cut at character offsets, so a token that straddles a boundary
is never guessed at, special tokens never shift a position, and the subject's tokens are the ones it
has *in its sentence*. Padding is added here and nowhere else; the tokenizer's own settings for
padding and truncation are neither used nor changed.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from factlab.errors import InvalidRequestError, TokenizationError
from factlab.facts import JOINED, TokenSpan, words_of
from factlab.tokenizing import called
from factlab.vocabulary import dropped_part, unknown_places
from factlab.writing import check_text, short_repr, wants_space

# What tokenizers write for a space.
_SPACE_SIGNS = "▁Ġ "


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenised text: ids, and the half-open range of characters that each token stands for.

    A token that the tokenizer puts in front, such as BOS or a space, stands for no characters.

    Attributes:
        text: without the spaces at its end.
        ids: of its tokens.
        char_spans: of every token.
        n_prompt: how many tokens are the prompt's; the others are a target's.
        n_special: how many tokens at the start are not the text's own, such as BOS.
        unknown: positions of tokens that only say that the tokenizer does not know what is there.
        dropped: a part of the text that the tokenizer leaves away without notice, if there is one:
            then the ranges of characters are wrong.
    """

    text: str
    ids: tuple[int, ...]
    char_spans: tuple[tuple[int, int], ...]
    n_prompt: int
    n_special: int = 0
    unknown: tuple[int, ...] = ()
    dropped: str | None = None

    def __len__(self) -> int:
        return len(self.ids)


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, target: str | None = None) -> Tokens:
    """Tokenise a prompt, with what follows it, as the model expects the start of a document.

    With BOS if the model uses it; but a text that begins with a special token, as those made by a
    chat template do, brings its own. Whatever the tokenizer puts behind a text is dropped, since a
    prompt that is to be continued must stay open. Spaces at the end are dropped: before a
    continuation they would split off its leading space.

    Prompt and target are tokenised as one text. Between them goes a space where a writer would put
    one. A target that begins with white space brings its own joint; one that was given "none" has
    nothing before it (`facts.joined_by`). A token that straddles the boundary counts as the
    target's.

    Raises:
        TokenizationError: the prompt is empty, no text or not valid Unicode, the tokenizer does not
            report character offsets, the target becomes no token of its own, or has characters
            that the tokenizer has no token for.
        InvalidRequestError: the target is empty, or not valid Unicode.
    """
    if target is None:
        return _encoded(tokenizer, _checked_prompt(prompt))
    check_text(target, "target")
    if not words_of(target):
        raise InvalidRequestError("The target is empty. Give at least one word.")
    prompt = _checked_prompt(prompt)
    target = target.rstrip()
    joint = " " if wants_space(prompt, target) else ""
    target = target.removeprefix(JOINED)
    whole = _encoded(tokenizer, prompt + joint + target)
    _check_known(whole)
    n_prompt = _n_prompt(tokenizer, whole, len(prompt))
    if not any(b > a for a, b in whole.char_spans[:n_prompt]):
        raise TokenizationError(
            f"Target '{target}' merges with the whole of '{prompt}' into one token. Put more words "
            "before it, or a space between them: joint='space'."
        )
    if n_prompt == len(whole):
        raise TokenizationError(
            f"Target '{target}' becomes no token of its own after '{prompt}'. "
            "Choose a target that starts a new word."
        )
    unknown = next((i for i in whole.unknown if i >= n_prompt), None)
    if unknown is not None:
        start, stop = whole.char_spans[unknown]
        raise TokenizationError(
            f"Target '{target}' has '{whole.text[start:stop].strip()}', which the tokenizer has no "
            f"token for: '{tokenizer.convert_ids_to_tokens(whole.ids[unknown])}' stands in its "
            "place, as for all that is unknown. Choose a target in characters that the model knows."
        )
    return replace(whole, n_prompt=n_prompt)


def _n_prompt(tokenizer: PreTrainedTokenizerBase, whole: Tokens, n_chars: int) -> int:
    """How many tokens are those of a prompt of so many characters."""
    spans = whole.char_spans
    n_prompt = next((i for i, (_, stop) in enumerate(spans) if stop > n_chars), len(whole))
    # A token that was added, such as one that ends a turn, may take the spaces behind it as well.
    if n_prompt < len(whole) and spans[n_prompt][0] < n_chars:
        takes_spaces = whole.text[n_chars : spans[n_prompt][1]].isspace()
        if takes_spaces and whole.ids[n_prompt] in tokenizer.added_tokens_decoder:
            return n_prompt + 1
    # Some tokenizers give a space of its own no characters; behind the prompt it is the target's.
    while n_prompt and spans[n_prompt - 1] == (n_chars, n_chars):
        n_prompt -= 1
    return n_prompt


def _check_known(tokens: Tokens) -> None:
    """Refuse a text of which it is not known where its tokens are."""
    if tokens.dropped:
        raise TokenizationError(
            f"The tokenizer has no token for '{tokens.dropped}' in {short_repr(tokens.text)} and "
            "leaves it away without notice. Write the text in characters that the model knows."
        )


def _checked_prompt(text: str) -> str:
    """A prompt without the spaces at its end."""
    try:
        check_text(text, "prompt")
    except InvalidRequestError as error:
        raise TokenizationError(str(error)) from error
    text = text.rstrip(" ")
    if not text.strip():
        raise TokenizationError("The prompt is empty. Give at least one word.")
    return text


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str) -> Tokens:
    ids, spans, marks = called(tokenizer, text)
    added = [bool(mark) and a == b for mark, (a, b) in zip(marks, spans, strict=True)]
    start, stop = 0, len(ids)
    while stop and added[stop - 1]:
        stop -= 1
    while start < stop and added[start]:
        start += 1
    brings_its_own = start < stop and _is_special(tokenizer, text, ids[start], spans[start])
    n_special = 0 if brings_its_own else start
    first = start - n_special
    ids, spans = ids[first:stop], spans[first:stop]
    spans = list(_without_space(tokenizer, text, ids, spans))
    unknown = tuple(unknown_places(tokenizer, text, ids, spans))
    dropped = dropped_part(tokenizer, text)
    return Tokens(text, tuple(ids), tuple(spans), len(ids), n_special, unknown, dropped)


def _is_special(
    tokenizer: PreTrainedTokenizerBase, text: str, token_id: int, span: tuple[int, int]
) -> bool:
    """Whether a token of a text is a special token that is written out there."""
    piece = str(tokenizer.convert_ids_to_tokens(token_id))
    return (
        piece == text[span[0] : span[1]].strip()
        and piece.strip(_SPACE_SIGNS) != ""
        and piece != tokenizer.unk_token
        and tokenizer.decode([token_id], skip_special_tokens=True) == ""
    )


def _without_space(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    ids: Sequence[int],
    spans: Sequence[tuple[int, int]],
) -> Iterator[tuple[int, int]]:
    """Spans in which a space that the tokenizer put before a word stands for none of its letters.

    Offsets of a space token of its own may be those of the letter that follows.
    """
    for i, (a, b) in enumerate(spans):
        shares = i + 1 < len(spans) and b > a == spans[i + 1][0]
        if shares and text[a:b].strip():
            piece = str(tokenizer.convert_ids_to_tokens(ids[i]))
            if not piece.strip(_SPACE_SIGNS):
                yield a, a
                continue
        yield a, b


def span_of(tokens: Tokens, start: int, stop: int) -> TokenSpan:
    """The tokens that stand for any of the characters `start` to `stop`.

    A token's own range may begin with the space before the word, so only overlap counts.

    Raises:
        TokenizationError: no token overlaps that range.
    """
    inside = [i for i, (a, b) in enumerate(tokens.char_spans) if a < stop and b > start]
    if not inside:
        raise TokenizationError(
            f"No token of '{tokens.text}' stands for '{tokens.text[start:stop]}'. "
            "The tokenizer drops these characters; choose another subject."
        )
    return TokenSpan(inside[0], inside[-1] + 1)


def subject_span(tokens: Tokens, start: int, subject: str) -> TokenSpan:
    """The tokens of a subject that begins at character `start`, outer spaces aside.

    Raises:
        TokenizationError: the tokenizer knows nothing of it.
    """
    _check_known(tokens)
    lead = len(subject) - len(subject.lstrip())
    span = span_of(tokens, start + lead, start + len(subject.rstrip()))
    if {*range(*span)} <= {*tokens.unknown}:
        raise TokenizationError(
            f"The tokenizer has no token for anything in the subject '{subject}': what stands in "
            "its place stands for all that is unknown. Choose a subject in characters that the "
            "model knows."
        )
    return span


def special_around(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """How many special tokens a tokenizer puts before a text, and how many behind it.

    Raises:
        TokenizationError: it does not report character offsets.
    """
    _, spans, marks = called(tokenizer, "a")
    own = [i for i, (a, b) in enumerate(spans) if not marks[i] or b > a]
    return (own[0], len(marks) - 1 - own[-1]) if own else (len(marks), 0)


def start_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens from which a model may begin a text of its own, the best first."""
    ids = (
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.cls_token_id,
        tokenizer.sep_token_id,
    )
    return [token_id for token_id in ids if isinstance(token_id, int)]


def context_place(tokenizer: PreTrainedTokenizerBase, tokens: Tokens, subject_start: int) -> int:
    """Where in a prompt a context goes that is put before it: at which character.

    That is its start, but in a chat the start of what the user says: behind the last special token
    before the subject, and behind the rest of its line, which names the speaker.

    Args:
        tokenizer: that the prompt was tokenised with.
        tokens: of the prompt.
        subject_start: the character at which the subject begins.
    """
    place = 0
    for token_id, span in zip(tokens.ids, tokens.char_spans, strict=True):
        if _is_special(tokenizer, tokens.text, token_id, span) and span[1] <= subject_start:
            place = span[1]
        elif place == 0:  # only a text that begins with a special token brings them all
            break
    line = re.compile(r"[^\n]*\n\s*").match(tokens.text, place, subject_start) if place else None
    return line.end() if line else place


def begins_special(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether a text begins with a special token that is written out, as that of a chat does."""
    found = _encoded(tokenizer, text)
    own = zip(found.ids[found.n_special :], found.char_spans[found.n_special :], strict=True)
    first = next(own, None)
    return first is not None and _is_special(tokenizer, text, *first)


def shown(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Each token as text, for tables and axes; parts of a character show as a replacement sign."""
    return [str(tokenizer.decode([token_id])) for token_id in ids]


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Rows of token ids, padded to one width.

    Attributes:
        input_ids: (batch, pos).
        is_token: (batch, pos), False where a row is padded.
        pads_left: whether any row is padded on its left. Padding on the right needs no mask, since
            a causal model never looks there; padding on the left does.
    """

    input_ids: Int[Tensor, "batch pos"]
    is_token: Bool[Tensor, "batch pos"]
    pads_left: bool

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.input_ids.shape[0]

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.input_ids.shape[1]

    def rows(self, numbers: Sequence[int]) -> "TokenBatch":
        """Some of the rows, in columns as they are."""
        index = torch.tensor(numbers, device=self.input_ids.device)
        return TokenBatch(self.input_ids[index], self.is_token[index], self.pads_left)

    @property
    def _left_padding(self) -> Int[Tensor, "batch 1"]:
        return (self.is_token.long().cumsum(1) == 0).sum(1, keepdim=True)

    @property
    def attention_mask(self) -> Int[Tensor, "batch pos"] | None:
        """1 except for padding on the left; None where there is none.

        Padding on the right may look at itself: nothing real ever looks at it, and a row of
        attention that sees nothing at all would be NaN.
        """
        if not self.pads_left:
            return None
        places = torch.arange(self.width, device=self.input_ids.device)
        return (places[None] >= self._left_padding).long()

    @property
    def position_ids(self) -> Int[Tensor, "batch pos"]:
        """Each token's place in its own row, counted on through padding on the right.

        Padding on the left counts as place 0.
        """
        places = torch.arange(self.width, device=self.input_ids.device)
        return (places[None] - self._left_padding).clamp(min=0)


def groups(
    costs: Sequence[float] | Sequence[int], limit: int, enough: int | None = None
) -> list[list[int]]:
    """Numbers of rows that go into a batch together: of similar cost, such as their width.

    Args:
        costs: of every row. Padded to the widest, all rows of a batch cost what the last one does.
        limit: most that a batch may cost, unless a single row costs more.
        enough: a batch that costs so much takes no rows that are wider than those it has: more
            would go into padding than is gained by a larger batch. By default only the limit ends
            a batch.
    """
    found: list[list[int]] = []
    for number in sorted(range(len(costs)), key=lambda number: costs[number]):
        if found:
            n_rows, widest = len(found[-1]), costs[found[-1][-1]]
            fits = (n_rows + 1) * costs[number] <= limit
            if fits and (enough is None or costs[number] == widest or n_rows * widest < enough):
                found[-1].append(number)
                continue
        found.append([number])
    return found


def pad(
    rows: Sequence[Sequence[int]],
    device: torch.device | str = "cpu",
    align: Sequence[int] | None = None,
) -> TokenBatch:
    """Pad rows to one width.

    Args:
        rows: token ids of each row; at least one token each.
        device: where the batch goes.
        align: for each row the position that is to land in one common column. Without it every row
            starts in column 0 (padding on the right); with each row's length, every row ends in
            the last column (padding on the left).
    """
    starts = [0] * len(rows) if align is None else [max(align) - at for at in align]
    width = max(start + len(row) for start, row in zip(starts, rows, strict=True))
    input_ids = torch.zeros(len(rows), width, dtype=torch.long, device="cpu")
    is_token = torch.zeros(len(rows), width, dtype=torch.bool, device="cpu")
    for i, (start, row) in enumerate(zip(starts, rows, strict=True)):
        input_ids[i, start : start + len(row)] = torch.tensor(row, dtype=torch.long, device="cpu")
        is_token[i, start : start + len(row)] = True
    return TokenBatch(input_ids.to(device), is_token.to(device), pads_left=any(starts))
