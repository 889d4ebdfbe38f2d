"""The facts that come with factlab: general knowledge, in sentences written for it.

`builtin/` holds `facts.tsv`, `templates.tsv`, `objects.tsv` and `asides.txt`. Records are compiled
of them each time, with one seed, so that everyone has the same.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from factlab.data.compile import compile_counterfact, compile_references
from factlab.data.compile_zsre import compile_zsre
from factlab.data.phrasing import Phrasing, load_about, load_asides, load_phrasing
from factlab.data.records import Record, References
from factlab.data.relations import Triple, load_triples

BUILTIN_SEED = 0
FOLDER = Path(__file__).parent / "builtin"


def ordinary_passages() -> tuple[str, ...]:
    """Ordinary text: a few sentences about each of many things."""
    return tuple(Shipped.load().about.values())


@dataclass(frozen=True, slots=True)
class Shipped:
    """What records are compiled of.

    Attributes:
        triples: the facts.
        phrasing: words of each relation.
        about: a few sentences about objects.
        asides: unrelated sentences.
    """

    triples: tuple[Triple, ...]
    phrasing: dict[str, Phrasing]
    about: dict[str, str]
    asides: tuple[str, ...]

    @classmethod
    def load(cls, folder: Path | None = None) -> "Shipped":
        """Read the files; those of the package by default.

        Raises:
            StorageError: a file is missing or broken.
        """
        folder = FOLDER if folder is None else folder
        return cls(
            tuple(load_triples(folder / "facts.tsv")),
            load_phrasing(folder / "templates.tsv"),
            load_about(folder / "objects.tsv"),
            load_asides(folder / "asides.txt"),
        )

    def counterfact(self) -> list[Record]:
        """The built-in records in the way of CounterFact."""
        return compile_counterfact(self.triples, self.phrasing, BUILTIN_SEED, asides=self.asides)

    def zsre(self) -> list[Record]:
        """The built-in records in the way of zsRE."""
        return compile_zsre(self.triples, self.phrasing, BUILTIN_SEED)

    def references(self, needed: Collection[tuple[str, str]] | None = None) -> References:
        """Texts beside the records in the way of CounterFact."""
        return compile_references(self.triples, self.phrasing, self.about, needed)
