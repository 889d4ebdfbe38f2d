"""Continuing texts with a key/value cache, many at once, reproducibly."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factlab.errors import InvalidRequestError, TokenizationError
from factlab.models import texts
from factlab.models.engines.engine import select_rows
from factlab.models.engines.kept import Recording
from factlab.models.reading import wide_logits
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
# Rows that keep a device busy while each grows by a token: on the CPU, and elsewhere.
_ENOUGH = (512, 4096)


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
    """Text of the new tokens. Decoded with what precedes them: some decoders drop a first space.

    It begins where the text differs from that of what precedes: the first new token may complete a
    character, or draw a sign to the word that it follows.
    """
    before, whole = _decoded(lm, row), _decoded(lm, [*row, *new])
    n_same = len(before)
    while not whole.startswith(before[:n_same]):
        n_same -= 1
    return whole[n_same:]


def _decoded(lm: "LanguageModel", ids: Sequence[int]) -> str:
    """The text as it is: a tokenizer's own settings may take spaces away before a full stop."""
    decode = lm.tokenizer.decode
    return str(decode([*ids], skip_special_tokens=True, clean_up_tokenization_spaces=False))


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
    is_done: Callable[[str], bool] | None = None,
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
        is_done: asked of a row's new text, decoded alone, behind each new token: whether the row
            ends with that token. By default EOS and `max_new_tokens` alone end a row.

    Returns:
        The new ids of each row, EOS excluded.
    """
    room = [max_new_tokens] * len(rows) if isinstance(max_new_tokens, int) else [*max_new_tokens]
    sampling = Sampling(sampling) if isinstance(sampling, int) else sampling
    if min(room, default=0) < 0:
        raise InvalidRequestError(f"max_new_tokens={max_new_tokens} must not be negative.")
    if not 0 <= seed < 2**32:
        raise InvalidRequestError(f"seed={seed} must be at least 0 and below 2**32.")
    asked = [i for i in range(len(rows)) if room[i]]
    for i in asked:
        texts.check_ids(lm, rows[i])
    texts.check_length(lm, max((len(rows[i]) + room[i] for i in asked), default=0))
    ends = eos_ids(lm)
    never = torch.tensor([] if may_end else sorted(ends), dtype=torch.long, device=lm.device)
    draws = [_uniform(seed, i if streams is None else streams[i], n) for i, n in enumerate(room)]
    drawing = _Drawing(sampling, ends, never, draws, is_done)

    new: list[list[int]] = [[] for _ in rows]
    batches = _batches(lm, rows, room, asked)
    n_steps = [max(room[i] for i in numbers) for numbers in batches]
    with lm.frozen():
        for done, numbers in enumerate(batches):
            tell = partial(_tell, progress, sum(n_steps[:done]), sum(n_steps))
            writing = _Writing(lm, rows, room, numbers, under or _plain)
            for i, ids in writing.written(drawing, tell).items():
                new[i] = ids
    return new


@dataclass(frozen=True, slots=True)
class _Drawing:
    """How the next token of a row is found.

    Attributes:
        sampling: how to choose.
        ends: tokens that end a row.
        never: tokens that are never drawn.
        draws: for each row a random number for each step.
        is_done: whether a row ends with a new text, if that matters.
    """

    sampling: Sampling
    ends: set[int]
    never: Int[Tensor, " never"]
    draws: Sequence[Float[Tensor, " _"]]
    is_done: Callable[[str], bool] | None

    def next_ids(
        self, logits: Float[Tensor, "batch vocab"], rows: Sequence[int], step: int
    ) -> list[int]:
        """The next token of each row; one that has drawn all its numbers is not looked at."""
        logits[:, self.never.to(logits.device)] = -torch.inf
        drawn = [self.draws[i][min(step, len(self.draws[i]) - 1)] for i in rows]
        return _choose(logits, self.sampling, torch.stack(drawn)).tolist()


class _Writing:
    """Rows that are continued together; make it inside `lm.frozen()`.

    Args:
        lm: the model.
        rows: all rows.
        room: most ids to add to each.
        numbers: of the rows that are continued.
        under: see `generate_ids`.
    """

    def __init__(
        self,
        lm: "LanguageModel",
        rows: Sequence[Sequence[int]],
        room: Sequence[int],
        numbers: Sequence[int],
        under: Callable[[Sequence[int]], AbstractContextManager[None]],
    ) -> None:
        self._lm, self._room, self._under = lm, room, under
        self._inside = list(numbers)  # rows that are in the batch
        self._open = set(numbers)  # those of them that go on
        self._new: dict[int, list[int]] = {i: [] for i in numbers}
        self._n_steps = max(room[i] for i in numbers)
        with under(numbers):
            self._last, self._batch, self._cache = _prefill(
                lm, [rows[i] for i in numbers], self._n_steps
            )

    def written(self, drawing: _Drawing, tell: Callable[[int], None]) -> dict[int, list[int]]:
        """The new ids of each row.

        Args:
            drawing: finds them.
            tell: called with the number of steps done.
        """
        for step in range(self._n_steps):
            logits = wide_logits(self._lm, self._last)
            # A row that is done stays in the batch for a while; what it draws is not looked at.
            chosen = drawing.next_ids(logits, self._inside, step)
            for i, token_id in zip(self._inside, chosen, strict=True):
                if i in self._open and not self._takes(i, token_id, drawing):
                    self._open.remove(i)
            tell(step + 1)
            if not self._open:
                break
            self._advance(
                chosen, [place for place, i in enumerate(self._inside) if i in self._open]
            )
        return self._new

    def _takes(self, i: int, token_id: int, drawing: _Drawing) -> bool:
        """Add a token to a row, unless it is none of it; whether the row goes on."""
        if token_id in drawing.ends:
            return False
        new = self._new[i]
        new.append(token_id)
        if len(new) == self._room[i]:
            return False
        return drawing.is_done is None or not drawing.is_done(_decoded(self._lm, new))

    def _advance(self, chosen: Sequence[int], still_open: Sequence[int]) -> None:
        """Run the new tokens, without most of the rows that are done."""
        batch = _extended(self._batch, chosen)
        if len(still_open) <= _CLEARED_AT * len(self._inside):
            batch = batch.rows(still_open)
            self._cache.keep(still_open)
            self._inside = [self._inside[place] for place in still_open]
        self._batch = batch
        with self._under(self._inside):
            frame = self._lm.frame(batch, self._cache, batch.width - 1)
            self._last = self._lm.run(frame)[:, -1]


def _batches(
    lm: "LanguageModel", rows: Sequence[Sequence[int]], room: Sequence[int], asked: Sequence[int]
) -> list[list[int]]:
    """Numbers of rows that are continued together: in equal parts, each of which memory holds."""
    if not asked:
        return []
    sizes = lm.budget.sizes
    longest, most = max(len(rows[i]) for i in asked), max(room[i] for i in asked)
    # Keys and values of the prompt are held twice while rows of different lengths are aligned.
    cached = (2 * longest + most) * sizes.cached
    in_passing = longest * (sizes.layer + 2 * sizes.state)
    at_once = lm.budget.limit(_ENOUGH, cached + in_passing + sizes.logits)
    n_batches = -(-len(asked) // at_once)
    in_order = sorted(asked, key=lambda i: len(rows[i])) if n_batches > 1 else list(asked)
    bounds = [len(asked) * i // n_batches for i in range(n_batches + 1)]
    return [in_order[a:b] for a, b in pairwise(bounds)]


def _tell(progress: ProgressCallback, n_done: int, n_steps: int, step: int) -> None:
    progress("generating", n_done + step, n_steps)


def _plain(_rows: Sequence[int]) -> AbstractContextManager[None]:
    """The model as it is, for all rows."""
    return nullcontext()


def _prefill(
    lm: "LanguageModel", rows: Sequence[Sequence[int]], room: int
) -> tuple[Float[Tensor, "batch d_model"], TokenBatch, Recording]:
    """Run the prompts; then line their ends up in one column, with room for new tokens behind."""
    lengths = [len(row) for row in rows]
    batch, width = pad(rows, lm.device), max(lengths)
    is_aligned = min(lengths) == width
    cache = lm.recording(width + room if is_aligned else width)
    hidden = lm.run(lm.frame(batch, cache))
    last = select_rows(hidden, torch.tensor(lengths, device=hidden.device) - 1)
    if not is_aligned:
        prefix = cache.prefix(lengths)
        cache = lm.recording(width + room)
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
    """The token at which the cumulative probability passes the draw, on the CPU.

    Sums over tokens are taken there too: on a GPU they may come out otherwise each time.
    """
    if sampling.top_k == 1:
        return logits.argmax(-1).cpu()
    ids = None
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        logits, ids = (chosen.cpu() for chosen in logits.topk(sampling.top_k))
    else:
        logits = logits.cpu()
        if sampling.top_p < 1:
            logits, ids = logits.sort(-1, descending=True)
    probs = logits.softmax(-1)
    if sampling.top_p < 1:
        # Those before which less than top_p has been reached: at least the first.
        probs = probs.where(probs.cumsum(-1) - probs < sampling.top_p, 0)
    cumulative = probs.cumsum(-1)
    place = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)
    place = place.clamp(max=logits.shape[-1] - 1)
    return (place if ids is None else ids.gather(1, place))[:, 0]


def _extended(batch: TokenBatch, chosen: Sequence[int]) -> TokenBatch:
    column = torch.tensor(chosen, device=batch.input_ids.device)[:, None]
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
