"""How much text statistics are collected from; nothing here needs PyTorch."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, PositiveFloat, model_validator

from factlab.config import Config
from factlab.errors import InvalidRequestError, StorageError
from factlab.words import NumberList

if TYPE_CHECKING:
    from factlab.models.language_model import LanguageModel


class StatsConfig(Config):
    """How much text to collect second moments from.

    The rank of C is at most the number of keys, so the budget is a multiple of their width.
    Between two and ten times d_mlp is enough (arXiv 2506.04226). An expert has keys of the tokens
    alone that are sent to it: of E experts of which each token meets n, E / n times as many tokens
    are read, so that it gets as many as an MLP of its width would. On average: routers have their
    favourites, and the rarest get less.
    """

    tokens_per_dim: PositiveFloat = 8.0
    row_length: int = Field(default=128, ge=8)
    seed: int = Field(default=0, ge=0, lt=2**32)

    def n_tokens(self, lm: "LanguageModel", layers: Sequence[int], shared: bool = False) -> int:
        """The budget for some layers of a model: the largest of any of them.

        Args:
            lm: the model.
            layers: 0-based.
            shared: of mixtures, for the expert that every token goes through.
        """
        of = lm.layers.d_shared if shared else partial(_dimensions, lm)
        return max(round(self.tokens_per_dim * of(layer)) for layer in layers)


def _dimensions(lm: "LanguageModel", layer: int) -> int | float:
    """Width of a layer's keys; of experts, of so many as are not met by a token for one that is."""
    mixture = lm.layers.mixture(layer)
    if mixture is None:
        return lm.layers.d_mlp(layer)
    return mixture.d_expert * mixture.n_experts / mixture.n_chosen


class TextSource(Config):
    """Where ordinary text is to come from; without any of these the model writes its own.

    Attributes:
        text: a UTF-8 text file, or a folder of them.
        dataset: name of a Hugging Face data set.
        dataset_config: its configuration.
    """

    text: Path | None = None
    dataset: str | None = None
    dataset_config: str | None = None

    @model_validator(mode="after")
    def _one(self) -> "TextSource":
        if self.text is not None and self.dataset is not None:
            raise InvalidRequestError("Give --text or --dataset, not both.")
        return self

    def check(self) -> None:
        """Refuse a file or folder that is not there, before a model is loaded.

        Raises:
            StorageError: there is none.
        """
        if self.text is not None and not self.text.exists():
            raise StorageError(f"There is no file or folder '{self.text}'. Check --text.")


class StatisticsRequest(Config):
    """Which second moments to collect.

    Attributes:
        layers: 0-based; by default the layer that the model's preset edits.
        config: how much text.
        source: which text.
        recompute: collect again what the cache has.
    """

    layers: NumberList = ()
    config: StatsConfig = StatsConfig()
    source: TextSource = TextSource()
    recompute: bool = False
