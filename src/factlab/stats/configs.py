"""How much text statistics are collected from; nothing here needs PyTorch."""

from typing import TYPE_CHECKING

from pydantic import Field, PositiveFloat

from factlab.config import Config

if TYPE_CHECKING:
    from factlab.models.language_model import LanguageModel


class StatsConfig(Config):
    """How much text to collect second moments from.

    The rank of C is at most the number of keys, so the budget is a multiple of their width.
    Between two and ten times d_mlp is enough (arXiv 2506.04226).
    """

    tokens_per_dim: PositiveFloat = 8.0
    row_length: int = Field(default=128, ge=8)
    seed: int = Field(default=0, ge=0, lt=2**32)

    def n_tokens(self, lm: "LanguageModel") -> int:
        """The budget for a model."""
        return round(self.tokens_per_dim * lm.d_mlp)
