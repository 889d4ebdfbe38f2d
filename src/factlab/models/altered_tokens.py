"""Tokens whose embedding is another token's with something added to it.

Noise on some words of a prompt belongs to these words, wherever padding, alignment or a prefix that
is kept put them. So it is said by the words themselves: an altered token has an id of its own,
behind those of the vocabulary. Rows of ids with such tokens are batched, compared and run like any
others, while `present` has the token embedding know them.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from factlab.errors import UnsupportedModelError
from factlab.hooks import Hook, attached

if TYPE_CHECKING:
    from factlab.models.language_model import LanguageModel


class AlteredTokens:
    """Some altered tokens of a model.

    Args:
        lm: the model.

    Raises:
        UnsupportedModelError: its layers take more of a token than its embedding.
    """

    def __init__(self, lm: "LanguageModel") -> None:
        if lm.engine.takes_embedding:
            raise UnsupportedModelError(
                f"The layers of {lm.name} look tokens up a second time, so noise on their "
                "embeddings does not reach all of the model. Use another model."
            )
        self._lm, self._first = lm, lm.embedding.num_embeddings
        self._numbers: dict[tuple[int, bytes], int] = {}
        self._bases: list[int] = []
        self._added: list[Tensor] = []
        self._masks: list[tuple[Tensor, Tensor]] = []
        self._stacked: tuple[Tensor, Tensor] | None = None

    def ids(self, token_ids: Sequence[int], added: Float[Tensor, "token width"]) -> list[int]:
        """Ids of some tokens with something added to each; equal ones have one id."""
        found: list[int] = []
        for token_id, vector in zip(token_ids, added.float().cpu(), strict=True):
            key = token_id, vector.numpy().tobytes()
            if key not in self._numbers:
                self._numbers[key] = len(self._bases)
                self._bases.append(token_id)
                self._added.append(vector)
                self._stacked = None
            found.append(self._first + self._numbers[key])
        return found

    @contextmanager
    def present(self) -> Generator[None, None, None]:
        """A block in which the model's token embedding knows these tokens."""
        embedding = self._lm.embedding
        hooks = [Hook(embedding, self._to_bases, before=True), Hook(embedding, self._with_added)]
        with self._lm.lock, attached(hooks):
            yield

    @property
    def _tables(self) -> tuple[Tensor, Tensor]:
        """Of every altered token what it is made of, and what is added to that."""
        if self._stacked is None:
            device = self._lm.device
            bases = torch.tensor(self._bases, device=device)
            self._stacked = bases, torch.stack(self._added).to(device)
        return self._stacked

    def _to_bases(self, _module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The tokens that altered ones are made of."""
        numbers = args[0] - self._first
        is_altered = numbers >= 0
        self._masks.append((is_altered, numbers[is_altered]))
        if not len(self._masks[-1][1]):
            return args
        ids = args[0].clone()
        ids[is_altered] = self._tables[0][numbers[is_altered]]
        return ids, *args[1:]

    def _with_added(self, _module: nn.Module, _args: object, output: Tensor) -> Tensor:
        """Their embeddings with what is added to them."""
        is_altered, numbers = self._masks.pop()
        if not len(numbers):
            return output
        changed = output.clone()
        changed[is_altered] += self._tables[1][numbers].to(output)
        return changed
