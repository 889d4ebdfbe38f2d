"""The grid of the study: which edits there are of each fact, and the number of every row.

A fact has `n_rows` rows in a run: first its own, with traces and texts, then one for each layer,
method and variant, in this order. A *block* is all variants of one method at one layer, of some
facts: what is computed together, and done again as a whole if a kill cuts it short.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from factlab.editing.variants import Variant
from factlab.evaluation.localising.configs import LocalisationConfig, LocalisedMethod


class Cell(NamedTuple):
    """A method at a layer.

    Attributes:
        layer: in the middle of those that are edited.
        method: with its settings.
        first: number of its first row behind the fact's own.
    """

    layer: int
    method: LocalisedMethod
    first: int


@dataclass(frozen=True, slots=True)
class Grid:
    """What is done with every fact.

    Attributes:
        config: of the study.
        layers: that are edited.
        n_layers: of the model.
        variants: of every method.
    """

    config: LocalisationConfig
    layers: tuple[int, ...]
    n_layers: int
    variants: tuple[Variant, ...]

    @classmethod
    def of(cls, config: LocalisationConfig, n_layers: int) -> "Grid":
        """The grid of a study on a model of so many layers.

        Raises:
            InvalidRequestError: a layer is not there.
        """
        return cls(config, config.layers_of(n_layers), n_layers, config.variants)

    @property
    def cells(self) -> Iterator[Cell]:
        """Every method at every layer."""
        first = 1
        for layer in self.layers:
            for method in self.config.methods:
                yield Cell(layer, method, first)
                first += len(self.variants)

    @property
    def n_rows(self) -> int:
        """Rows of one fact, its own included."""
        return 1 + len(self.layers) * len(self.config.methods) * len(self.variants)

    @property
    def first_layers(self) -> list[int]:
        """The layers at which edits begin."""
        return sorted({self.edited_layers(cell)[0] for cell in self.cells})

    def edited_layers(self, cell: Cell) -> tuple[int, ...]:
        """The layers that an edit of a cell changes."""
        return cell.method.layers(cell.layer, self.n_layers)

    def fact_case(self, place: int) -> int:
        """Number of a fact's own row."""
        return place * self.n_rows

    def cases(self, place: int, cell: Cell) -> list[int]:
        """Numbers of a fact's rows in a cell, variant by variant."""
        start = self.fact_case(place) + cell.first
        return list(range(start, start + len(self.variants)))

    def cases_in_turn(self, places: Sequence[int]) -> list[int]:
        """Numbers of all rows of some facts that are done together, in the order of the work."""
        edits = (self.cases(place, cell) for cell in self.cells for place in places)
        return [*map(self.fact_case, places), *chain.from_iterable(edits)]
