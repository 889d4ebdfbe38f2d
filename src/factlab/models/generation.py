"""Continuing texts with a key/value cache, many at once, reproducibly."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factlab.errors import InvalidRequestError, TokenizationError
from factlab.models import texts
from factlab.models.cache import Prefix, RecordingCache
from factlab.models.reading import wide_logits
from factlab.models.replay import select_rows
from factlab.progress import ProgressCallback, silent
from factlab.tokens import TokenBatch, pad, start_token_ids
from factlab.writing import check_texts

if TYPE_CHECKING:
    from factlab.models.language_model import LanguageModel

# How a row's random numbers follow from seed and row. A run that was begun with another number
# cannot go on with this one: half of its texts would be others than those of an unbroken run.
STREAMS = 2
# When no more than this share of the rows in a batch is still open, the others leave it.
_CLEARED_AT = 0.75


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        top_k: sample among this many most probable tokens; 1 is greedy, 0 is all of them.
        temperature: logits are divided by it; below 1 the probable becomes more so.
        top_p: sample among the most probable tokens that together have this probability.

    Raises:
        InvalidRequestError: a number is out of range.
    """

    top_k: int = 1
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.top_k < 0:
            raise InvalidRequestError(f"top_k={self.top_k} must not be negative; 0 is all tokens.")
        if not 0 < self.temperature < float("inf"):
            raise InvalidRequestError(
                f"temperature={self.temperature} must be more than 0. For the most probable token "
                "each time, use top_k=1."
            )
        if not 0 < self.top_p <= 1:
            raise InvalidRequestError(f"top_p={self.top_p} must be more than 0 and at most 1.")

    @classmethod
    def of(cls, top_k: int | None, temperature: float, top_p: float) -> "Sampling":
        """Greedy if nothing else is asked for: `top_k` is 1, or 0 with a temperature or top_p."""
        if top_k is None:
            top_k = 1 if temperature == 1 == top_p else 0
        return cls(top_k, temperature, top_p)


def continue_texts(
    lm: "LanguageModel", prompts: Sequence[str], max_new_tokens: int, sampling: Sampling, seed: int
) -> list[str]:
    """What the model writes after each prompt, the prompt itself not included.

    Spaces at the end of a prompt make no difference: the continuation brings its own.
    """
    check_texts(prompts, "prompts")
    rows = [lm.encode(prompt).ids for prompt in prompts]
    continued = generate_ids(lm, rows, max_new_tokens, sampling, seed)
    return [decode_continuation(lm, row, new) for row, new in zip(rows, continued, strict=True)]


def decode_continuation(lm: "LanguageModel", row: Sequence[int], new: Sequence[int]) -> str:
    """Text of the new tokens. Decoded with what precedes them: some decoders drop a first space."""
    before = str(lm.tokenizer.decode(list(row), skip_special_tokens=True))
    whole = str(lm.tokenizer.decode([*row, *new], skip_special_tokens=True))
    return whole[len(before) :]


@torch.no_grad()
def generate_ids(
    lm: "LanguageModel",
    rows: Sequence[Sequence[int]],
    max_new_tokens: int | Sequence[int],
    sampling: Sampling | int,
    seed: int,
    progress: ProgressCallback = silent,
    may_end: bool = True,
    streams: Sequence[int] | None = None,
    under: Callable[[Sequence[int]], AbstractContextManager[None]] | None = None,
) -> list[list[int]]:
    """Continue rows of token ids.

    Args:
        lm: the model.
        rows: ids to continue, of any lengths.
        max_new_tokens: most ids to add, to every row or to each.
        sampling: how to choose; a number is its `top_k`.
        seed: row i draws its numbers from stream (seed, i), whatever else is in the batch.
        progress: called with the number of steps done.
        may_end: whether EOS ends a row; otherwise it is never drawn.
        streams: numbers of the rows' streams, instead of their places in `rows`.
        under: from the numbers of the rows that are in a forward pass, the block that it runs in;
            rows that have ended leave.

    Returns:
        The new ids of each row, EOS excluded.
    """
    room = [max_new_tokens] * len(rows) if isinstance(max_new_tokens, int) else [*max_new_tokens]
    sampling = Sampling(sampling) if isinstance(sampling, int) else sampling
    if min(room, default=0) < 0:
        raise InvalidRequestError(f"max_new_tokens={max_new_tokens} must not be negative.")
    if not 0 <= seed < 2**32:
        raise InvalidRequestError(f"seed={seed} must be at least 0 and below 2**32.")
    new: list[list[int]] = [[] for _ in rows]
    inside = [i for i in range(len(rows)) if room[i]]  # rows that are in the batch
    if not inside:
        return new
    for i in inside:
        texts.check_ids(lm, rows[i])
    texts.check_length(lm, max(len(rows[i]) + room[i] for i in inside))
    ends = eos_ids(lm)
    never = torch.tensor([] if may_end else sorted(ends), dtype=torch.long, device="cpu")
    draws = [_uniform(seed, i if streams is None else streams[i], n) for i, n in enumerate(room)]

    under = under or _plain
    n_steps = max(room)
    with lm.frozen():
        with under(inside):
            last, batch, cache = _prefill(lm, [rows[i] for i in inside], n_steps)
        for step in range(n_steps):
            logits = wide_logits(lm, last).cpu()
            logits[:, never] = -torch.inf
            # A row that is done stays in the batch for a while; what it draws is not looked at.
            drawn = torch.stack([draws[i][min(step, room[i] - 1)] for i in inside])
            chosen = _choose(logits, sampling, drawn)
            still_open: list[int] = []
            for place, (i, token_id) in enumerate(zip(inside, chosen.tolist(), strict=True)):
                if len(new[i]) == step < room[i] and token_id not in ends:
                    new[i].append(token_id)
                    if len(new[i]) < room[i]:
                        still_open.append(place)
            progress("generating", step + 1, n_steps)
            if not still_open:
                break
            batch = _extended(batch, chosen)
            if len(still_open) <= _CLEARED_AT * len(inside):
                batch = batch.rows(still_open)
                cache.keep(still_open)
                inside = [inside[place] for place in still_open]
            with under(inside):
                last = lm.run(lm.frame(batch, cache, batch.width - 1))[:, -1]
    return new


def _plain(_rows: Sequence[int]) -> AbstractContextManager[None]:
    """The model as it is, for all rows."""
    return nullcontext()


def _prefill(
    lm: "LanguageModel", rows: Sequence[Sequence[int]], room: int
) -> tuple[Float[Tensor, "batch d_model"], TokenBatch, RecordingCache]:
    """Run the prompts; then line their ends up in one column, with room for new tokens behind."""
    lengths = [len(row) for row in rows]
    batch, width = pad(rows, lm.device), max(lengths)
    cache = RecordingCache(lm.n_layers, width + room)
    hidden = lm.run(lm.frame(batch, cache))
    last = select_rows(hidden, torch.tensor(lengths, device=hidden.device) - 1)
    if min(lengths) < width:
        prefix = Prefix.of(cache, lengths)
        cache = RecordingCache(lm.n_layers, width + room)
        cache.begin_with(prefix)
    return last, pad(rows, lm.device, align=lengths), cache


def _uniform(seed: int, stream: int, n: int) -> Float[Tensor, " n"]:
    """Numbers from 0 to 1; other ones for every pair of seed and stream."""
    digest = hashlib.sha256(f"{seed} {stream}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") % 2**63)
    return torch.rand(n, generator=generator, dtype=torch.float32, device="cpu")


def _choose(
    logits: Float[Tensor, "batch vocab"], sampling: Sampling, draws: Float[Tensor, " batch"]
) -> Int[Tensor, " batch"]:
    """The token at which the cumulative probability passes the draw."""
    if sampling.top_k == 1:
        return logits.argmax(-1)
    ids = None
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        logits, ids = logits.topk(sampling.top_k)
    elif sampling.top_p < 1:
        logits, ids = logits.sort(-1, descending=True)
    probs = logits.softmax(-1)
    if sampling.top_p < 1:
        # Those before which less than top_p has been reached: at least the first.
        probs = probs.where(probs.cumsum(-1) - probs < sampling.top_p, 0)
    cumulative = probs.cumsum(-1)
    place = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)
    place = place.clamp(max=logits.shape[-1] - 1)
    return (place if ids is None else ids.gather(1, place))[:, 0]


def _extended(batch: TokenBatch, chosen: Int[Tensor, " batch"]) -> TokenBatch:
    column = chosen.to(batch.input_ids.device)[:, None]
    ids = torch.cat([batch.input_ids, column], 1)
    is_token = torch.cat([batch.is_token, torch.ones_like(column, dtype=torch.bool)], 1)
    return TokenBatch(ids, is_token, batch.pads_left)


def eos_ids(lm: "LanguageModel") -> set[int]:
    """Tokens that end a text, by the model's generation config and the tokenizer.

    An id that the model has no embedding for, such as GPT-2's in a smaller vocabulary, is none.
    """
    configured = getattr(lm.model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    every = (*ids, lm.tokenizer.eos_token_id)
    return {i for i in every if isinstance(i, int) and _has_embedding(lm, i)}


def start_token_id(lm: "LanguageModel") -> int:
    """The token from which a model samples text of its own: BOS, or else EOS or the like.

    Raises:
        TokenizationError: neither tokenizer nor model has one.
    """
    configured = [
        getattr(config, name, None)
        for config in (lm.model.generation_config, lm.model.config)
        for name in ("bos_token_id", "eos_token_id")
    ]
    for token_id in (*start_token_ids(lm.tokenizer), *configured):
        if isinstance(token_id, int) and _has_embedding(lm, token_id):
            return token_id
    raise TokenizationError(
        "Neither the tokenizer nor the model has a BOS or EOS token that the model has an "
        "embedding for, so the model cannot be sampled from its start. Set tokenizer.bos_token; "
        "or pass a text corpus for the statistics, and ContextConfig(groups=()) for an edit."
    )


def _has_embedding(lm: "LanguageModel", token_id: int) -> bool:
    return 0 <= token_id < lm.embedding.num_embeddings


@torch.no_grad()
def cache_bytes_per_token(lm: "LanguageModel") -> int:
    """Memory that the keys and values of one token take, all layers together."""
    cache = RecordingCache(lm.n_layers, 1)
    with lm.frozen():
        lm.run(lm.frame(pad([[0]], lm.device), cache))
    return sum(x.numel() * x.element_size() for pair in cache.keys_values for x in pair)
