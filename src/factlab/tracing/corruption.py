"""Corrupting the subject by noise on its token embeddings (ROME paper, section 2.1, app. B.1)."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, PositiveFloat
from torch import Tensor

from factlab.errors import InvalidRequestError
from factlab.facts import Fact, TokenSpan
from factlab.models.decoder import Decoder


class GaussianNoise(BaseModel):
    """ε = ν·N(0, 1), added to the embedding of every subject token.

    Attributes:
        sigmas: ν as a multiple of σ, the standard deviation of subject-token embeddings.
        level: ν itself; when given, `sigmas` is not used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sigmas: PositiveFloat = 3.0
    level: PositiveFloat | None = None

    @classmethod
    def parse(cls, text: str) -> "GaussianNoise":
        """Read `3s` as 3 σ and `0.35` as ν = 0.35.

        Raises:
            InvalidRequestError: it is neither.
        """
        try:
            number = float(text.removesuffix("s"))
            return cls(sigmas=number) if text.endswith("s") else cls(level=number)
        except ValueError as error:
            raise InvalidRequestError(
                f"Noise '{text}' is not understood. Write a multiple of σ such as 3s, "
                "or the level ν itself such as 0.35; it must be positive."
            ) from error

    def resolve(self, sigma: Callable[[], float]) -> float:
        """ν, given a way to find σ."""
        return self.level if self.level is not None else self.sigmas * sigma()


@torch.no_grad()
def embedding_sigma(lm: Decoder, facts: Sequence[Fact]) -> float:
    """σ: standard deviation of all entries of the embeddings of the facts' subject tokens."""
    ids: list[int] = []
    for fact in facts:
        tokens, span = lm.encode_fact(fact)
        ids += tokens.ids[span.start : span.stop]
    return float(lm.embedding(torch.tensor(ids, device=lm.device)).float().std())


def draw_noise(
    samples: int, n_subject_tokens: int, width: int, level: float, seed: int
) -> Float[Tensor, "sample subject_token width"]:
    """The noise of every sample: always float32 from a CPU generator, so the same everywhere."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return level * torch.randn(samples, n_subject_tokens, width, generator=generator)


def add_at(
    noise: Float[Tensor, "sample subject_token width"], span: TokenSpan
) -> Callable[[Tensor], Tensor]:
    """An intervention on the embeddings that adds row i's noise to the subject tokens of row i."""

    def function(embedded: Tensor) -> Tensor:
        corrupted = embedded.clone()
        corrupted[:, span.start : span.stop] += noise.to(embedded)
        return corrupted

    return function
