"""`ValueSource`: where values that were optimised before come from."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from factlab.editing.configs import ContextConfig
from factlab.editing.values.recipe import Asked, ValueRecipe
from factlab.editing.values.stored import StoredValue
from factlab.errors import FactlabError
from factlab.wrapping import Context

if TYPE_CHECKING:
    from factlab.models.language_model import LanguageModel


@runtime_checkable
class ValueSource(Protocol):
    """Values by what they depend on: a cache, or a folder that somebody filled before."""

    def contexts(self, lm: "LanguageModel", config: ContextConfig) -> list[Context] | None:
        """The texts that its values are optimised over; None if it leaves them open."""
        ...

    def has_values_of(self, lm: "LanguageModel") -> bool:
        """Whether to ask it for values of a model as it is now.

        Raises:
            FactlabError: it has none, and nothing may be optimised instead.
        """
        ...

    def find(
        self, recipe: ValueRecipe, asked: Sequence[Asked]
    ) -> list[StoredValue | FactlabError | None]:
        """For each its value, or why there is none; None if it is to be optimised.

        Raises:
            FactlabError: its values are for something else, and nothing may be optimised instead.
        """
        ...

    def keep(self, recipe: ValueRecipe, values: Sequence[tuple[Asked, StoredValue]]) -> None:
        """Take values that were optimised."""
        ...
