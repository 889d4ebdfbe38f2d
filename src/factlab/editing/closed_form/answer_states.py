"""Inputs and gradients of projections at the places where a fact's answer is predicted.

Of a text “prompt answer” the loss is the cross-entropy of the answer's tokens, Σ −log P, each
token's own whatever batch it is in. It is read at the prompt's last token and at all tokens of the
answer but its last, and nothing left of these has a part in their gradients: a token acts only on
those behind it. So

* the prompt goes through the model once without gradients, and its keys and values are kept;
* the places that are read go up to the lowest projection without gradients too;
* from there on they run forward and backward; logits are worked out at these places only.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from factlab.continuations import Continuation
from factlab.editing.closed_form.aligned_rows import SharedContexts, left_of_lookup
from factlab.editing.gradients import Matrix, TokenStates, states_and_gradients
from factlab.models.engines.engine import Frame, Hidden
from factlab.models.language_model import LanguageModel
from factlab.models.reading import Reads, token_logprobs, wide_logits
from factlab.precision import wide
from factlab.progress import ProgressCallback
from factlab.tokens import groups, pad

# Tokens of a prompt that cost as much as one that is run forward and backward.
_LEFT = 8.0


class AnswerStates:
    """Inputs and gradients of some projections, at the answers' places of some texts.

    Args:
        lm: the model.
        rows: the texts, each read from its prompt's last token on.
        matrices: the projections.
        first: the lowest layer that has one.
        progress: told how many texts are done.

    Attributes:
        counts: of each text, the places that are read.
    """

    @torch.no_grad()
    def __init__(
        self,
        lm: LanguageModel,
        rows: Sequence[Continuation],
        matrices: Sequence[Matrix],
        first: int,
        progress: ProgressCallback,
    ) -> None:
        self.counts = [len(row.reads) for row in rows]
        self._starts = [0, *torch.tensor(self.counts, device="cpu").cumsum(0).tolist()]
        dtype = wide(lm.dtype)
        self._found = {
            matrix.weight_name: TokenStates(
                *(
                    torch.empty(self._starts[-1], width, dtype=dtype, device="cpu")
                    for width in (matrix.d_in, matrix.d_out)
                )
            )
            for matrix in matrices
        }
        costs = [len(row.reads) + row.lookup / _LEFT for row in rows]
        limit = lm.budget.gradient_tokens(read=1.0, left=_LEFT, share=0.5)
        done = 0
        with lm.frozen():
            for numbers in groups(costs, limit):
                progress("taking gradients", done, len(rows))
                self._fill(numbers, _of_batch(lm, [rows[i] for i in numbers], matrices, first))
                done += len(numbers)
        progress("taking gradients", done, len(rows))

    def _fill(self, numbers: Sequence[int], batch: Mapping[str, TokenStates]) -> None:
        places = torch.cat(
            [torch.arange(self._starts[i], self._starts[i + 1], device="cpu") for i in numbers]
        )
        for name, found in self._found.items():
            for all_of_them, some in zip(found, batch[name], strict=True):
                all_of_them[places] = some.to(all_of_them)

    def n_places(self, number: int | None = None) -> int:
        """How many places of a text, or of all texts, are read."""
        return sum(self.counts) if number is None else self.counts[number]

    def of(self, weight_name: str, number: int | None = None) -> TokenStates:
        """What a projection has at the places of a text, or of all texts, one after the other.

        Returns:
            Tensors (place, width), on the CPU in at least float32.
        """
        start, stop = (0, None) if number is None else self._starts[number : number + 2]
        inputs, grads = self._found[weight_name]
        return TokenStates(inputs[start:stop], grads[start:stop])


def _of_batch(
    lm: LanguageModel, rows: Sequence[Continuation], matrices: Sequence[Matrix], first: int
) -> dict[str, TokenStates]:
    """States at the places of some rows that go through the model together."""
    starts = [row.lookup for row in rows]
    left = left_of_lookup(lm, rows, SharedContexts([0] * len(rows), None))
    frame = lm.frame(pad([row.inputs for row in rows], lm.device, align=starts), left, max(starts))
    entry = lm.run(frame, stop=first)
    reads = Reads.of(rows, origins=starts)
    found = states_and_gradients(
        lm, matrices, len(rows), partial(_total_nll, lm, frame, entry, first, reads)
    )
    return {
        name: TokenStates(reads.states(states.inputs), reads.states(states.grads))
        for name, states in found.items()
    }


def _total_nll(
    lm: LanguageModel, frame: Frame, entry: Hidden, first: int, reads: Reads
) -> Float[Tensor, ""]:
    """Σ −log P over all tokens that should come at the reads."""
    hidden = lm.run(frame, entry, first=first)
    return -token_logprobs(wide_logits(lm, reads.states(hidden)), reads.ids).sum()
