"""Compiling records of one's own files of facts and patterns, and the texts beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import model_validator

from factlab.arguments import checked
from factlab.config import Config
from factlab.data.compile import compile_counterfact, compile_references
from factlab.data.compile_zsre import compile_zsre
from factlab.data.fact_source import FactSource
from factlab.data.phrasing import load_about, load_any_phrasing, load_asides, load_phrasing
from factlab.data.record_files import record_hash, save_records
from factlab.data.records import Record, References
from factlab.data.reference_files import needed_references, references_beside, save_references
from factlab.data.relations import load_triples
from factlab.data.shipped import FOLDER
from factlab.data.wikidata import ENDPOINT, Wikidata
from factlab.errors import InvalidRequestError
from factlab.progress import ProgressCallback, silent


class BuildRequest(Config):
    """What to compile records of.

    Attributes:
        facts: tab-separated file with the columns relation, subject, object, and if wanted
            subject_id, object_id.
        patterns: tab-separated file with the columns relation, pattern ([X] is [Y]), and if wanted
            kind.
        zsre: questions in the way of zsRE; needs kinds.
        seed: of all draws.
        limit: no more records than this.
        asides: text file; one of its lines is put before each paraphrase.
        about: tab-separated file with the columns object, about; for references.
        wikidata: ask Wikidata for more subjects of objects with an object_id.
        endpoint: SPARQL endpoint to ask instead of Wikidata's.
    """

    facts: Path
    patterns: Path
    zsre: bool = False
    seed: int = 0
    limit: int | None = None
    asides: Path | None = None
    about: Path | None = None
    wikidata: bool = False
    endpoint: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "BuildRequest":
        if self.zsre and (self.wikidata or self.asides or self.about):
            raise InvalidRequestError("--zsre goes without --wikidata, --asides and --about.")
        if self.endpoint is not None and not self.wikidata:
            raise InvalidRequestError("--endpoint goes with --wikidata only.")
        return self


@dataclass(frozen=True, slots=True)
class BuiltRecords:
    """What was compiled.

    Attributes:
        records: of one benchmark.
        references: texts to compare written ones with; empty of questions.
        skipped: how many facts were left out, by the reason.
    """

    records: tuple[Record, ...]
    references: References
    skipped: Mapping[str, int]

    @property
    def n_references(self) -> int:
        """How many reference texts there are."""
        return sum(map(len, self.references.values()))

    def save(self, path: Path) -> None:
        """Write the records, and beside them the references.

        Raises:
            StorageError: a file cannot be written.
        """
        beside = references_beside(path)
        if self.references or beside.exists():
            save_references(self.references, beside)
        save_records(self.records, path)

    def to_json(self) -> dict[str, Any]:
        """How much there is, ready for JSON."""
        return {
            "n_records": len(self.records),
            "sha256": record_hash(self.records),
            "n_references": self.n_references,
            "skipped": dict(self.skipped),
        }


@checked()
def build_records(request: BuildRequest, progress: ProgressCallback = silent) -> BuiltRecords:
    """Compile records from facts and patterns, as CounterFact was.

    Args:
        request: which files, and how.
        progress: True for a bar, or a function that is told how far Wikidata has been asked.

    Raises:
        InvalidRequestError: the files do not suffice for a record, or have no identifiers to ask
            Wikidata for.
        StorageError: a file cannot be read, or the endpoint cannot be reached.
    """
    phrasing = load_any_phrasing(request.patterns, load_phrasing(FOLDER / "templates.tsv"))
    triples = load_triples(request.facts)
    sentences = load_asides(request.asides) if request.asides else ()
    passages = load_about(request.about) if request.about else {}
    if request.wikidata and not any(triple.object_id for triple in triples):
        raise InvalidRequestError(
            f"--wikidata needs identifiers, and '{request.facts}' has none. Add a column object_id "
            "with ids such as Q90."
        )
    references: References = {}
    if request.zsre:
        records = compile_zsre(triples, phrasing, request.seed, request.limit)
    else:
        source = Wikidata(request.endpoint or ENDPOINT) if request.wikidata else None
        records = compile_counterfact(
            triples, phrasing, request.seed, request.limit, sentences,
            None if source is None else source.names_with, progress,
        )  # fmt: skip
        needed = needed_references(records)
        references = compile_references(triples, phrasing, passages, needed)
    skipped = FactSource.of(triples, phrasing).skipped
    return BuiltRecords(tuple(records), references, dict(skipped))
