"""Texts at the input of the first block that is edited.

Whatever an editor does, nothing below that block changes: the states that enter it are worked out
once for every text of a training, and only the last blocks run again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factlab.editing.trained.configs import MAX_BATCH_TOKENS
from factlab.models.language_model import LanguageModel
from factlab.models.replay import Frame, Hidden
from factlab.progress import ProgressCallback, silent
from factlab.tokens import groups, pad


@dataclass(frozen=True, slots=True)
class Reading:
    """A text, and where the model's next token is looked at.

    Attributes:
        ids: the tokens that go in.
        reads: positions whose next token is looked at.
        wanted: the token that should come there; empty where only a change matters.
    """

    ids: tuple[int, ...]
    reads: tuple[int, ...]
    wanted: tuple[int, ...] = ()

    @classmethod
    def of(cls, lm: LanguageModel, prompt: str, target: str | None = None) -> "Reading":
        """A prompt with its target, or read at its end.

        Raises:
            TokenizationError: the model cannot take it.
            InvalidRequestError: the target is empty.
        """
        if target is None:
            ids = lm.encode(prompt).ids
            return cls(ids, (len(ids) - 1,))
        whole, n_prompt = lm.encode_continuation(prompt, target)
        lm.check_length(len(whole))
        # The last token of the target is never an input.
        reads = tuple(range(n_prompt - 1, len(whole) - 1))
        return cls(whole.ids[:-1], reads, whole.ids[n_prompt:])

    @property
    def whole(self) -> tuple[int, ...]:
        """All tokens, the last one of the target included."""
        return (*self.ids, *self.wanted[-1:])

    def unasked(self) -> "Reading":
        """The same places, with nothing wanted there."""
        return Reading(self.ids, self.reads)


@dataclass(frozen=True, slots=True)
class State:
    """What the unedited model makes of a text.

    Attributes:
        entry: what enters the first block that is edited, (pos, d_model).
        final: what leaves the last block where the text is read, (read, d_model).
    """

    entry: Float[Tensor, "pos d_model"]
    final: Float[Tensor, "read d_model"]


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Texts ready to enter the first block that is edited.

    Attributes:
        readings: the texts.
        frame: what the blocks need besides the states.
        entry: the states, padded on the right.
        first: the block they enter.
        is_token: False where a row is padded.
        final: what leaves the last block of the unedited model at each read, row by row.
        rows: the row of each read.
        columns: its position.
        wanted: the token that should come there; none if nothing is wanted.
    """

    readings: tuple[Reading, ...]
    frame: Frame
    entry: Hidden
    first: int
    is_token: Tensor
    final: Float[Tensor, "read d_model"]
    rows: Int[Tensor, " read"]
    columns: Int[Tensor, " read"]
    wanted: Int[Tensor, " wanted"]

    def logits(self, lm: LanguageModel) -> Float[Tensor, "read vocab"]:
        """Run the last blocks; what comes next at each read, in at least float32."""
        hidden = lm.run(self.frame, self.entry, first=self.first)
        rows, columns = self.rows.to(hidden.device), self.columns.to(hidden.device)
        return _wide(lm.readout(hidden[rows, columns]))

    def unedited_logits(self, lm: LanguageModel) -> Float[Tensor, "read vocab"]:
        """The same of the unedited model; no block runs for it."""
        return _wide(lm.readout(self.final))


class States:
    """States of texts, kept if they fit into memory, else made anew for each batch.

    Either way they depend on the texts and their order alone, so that a training that was
    interrupted goes on with the same numbers.

    Args:
        lm: the unedited model.
        first: the first block that is edited.
        readings: all texts that will be asked for.
        memory_gib: keep the states if all of them take no more.
        max_batch_tokens: tokens that run together.
        progress: told how far it is.
    """

    def __init__(
        self,
        lm: LanguageModel,
        first: int,
        readings: Iterable[Reading] = (),
        memory_gib: float = 0.0,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        progress: ProgressCallback = silent,
    ) -> None:
        self._lm, self._first, self._max_tokens = lm, first, max_batch_tokens
        self._kept: dict[Reading, State] = {}
        unique = list(dict.fromkeys(readings))
        n_states = sum(len(reading.ids) + len(reading.reads) for reading in unique)
        if n_states * lm.d_model * lm.dtype.itemsize <= memory_gib * 2**30:
            self._kept = self._made(unique, progress)

    def batch(self, readings: Sequence[Reading]) -> RowBatch:
        """Put texts side by side."""
        missing = [r for r in dict.fromkeys(readings) if r not in self._kept]
        made = self._made(missing, silent) if missing else {}
        states = [self._kept.get(reading) or made[reading] for reading in readings]
        batch = pad([reading.ids for reading in readings], self._lm.device)
        entry = states[0].entry.new_zeros(batch.n_rows, batch.width, states[0].entry.shape[1])
        for row, state in enumerate(states):
            entry[row, : len(state.entry)] = state.entry
        places = [(i, at) for i, reading in enumerate(readings) for at in reading.reads]
        rows, columns = torch.tensor(places, device="cpu").T
        with torch.no_grad():
            frame = self._lm.frame(batch)
        return RowBatch(
            tuple(readings), frame, entry, self._first, batch.is_token.to(entry.device),
            torch.cat([state.final for state in states]), rows, columns,
            torch.tensor([i for r in readings for i in r.wanted], dtype=torch.long, device="cpu"),
        )  # fmt: skip

    @torch.no_grad()
    def _made(
        self, readings: Sequence[Reading], progress: ProgressCallback
    ) -> dict[Reading, State]:
        lm, found = self._lm, dict[Reading, State]()
        costs = [len(reading.ids) for reading in readings]
        with lm.frozen():
            for numbers in groups(costs, self._max_tokens):
                some = [readings[i] for i in numbers]
                frame = lm.frame(pad([reading.ids for reading in some], lm.device))
                entry = lm.run(frame, stop=self._first)
                last = lm.run(frame, entry, first=self._first)
                for row, reading in enumerate(some):
                    final = last[row, list(reading.reads)]
                    found[reading] = State(entry[row, : len(reading.ids)].clone(), final)
                progress("running what stays the same", len(found), len(readings))
        return found


def _wide(logits: Float[Tensor, "read vocab"]) -> Float[Tensor, "read vocab"]:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
