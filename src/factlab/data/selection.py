"""`RecordsRequest`: which records of which benchmark, and the texts that go with them."""

from pathlib import Path

from pydantic import NonNegativeInt, PositiveInt

from factlab.config import Config
from factlab.data.record_files import load_records
from factlab.data.records import Record, References
from factlab.data.reference_files import load_references, needed_references, references_beside
from factlab.progress import ProgressCallback, silent


class RecordsRequest(Config):
    """Which records; see `load_records`.

    Attributes:
        source: name of a data set, or a file.
        offset: leave out so many first.
        limit: no more than this many.
        relation: of this relation only, such as P36.
        seed: shuffle before offset and limit are counted.
        one_per_subject: of each subject the first record only.
        references: texts to compare written ones with: `builtin`, `attribute-snippets` or a file;
            by default those that come with the records.
    """

    source: str = "builtin"
    offset: NonNegativeInt = 0
    limit: PositiveInt | None = None
    relation: str | None = None
    seed: int | None = None
    one_per_subject: bool = False
    references: str | None = None

    @property
    def name(self) -> str:
        """What to call the records in reports."""
        return Path(self.source).name

    def load(self, progress: ProgressCallback = silent) -> list[Record]:
        """The records.

        Raises:
            InvalidRequestError: there is no such source, or nothing is left of it.
            StorageError: it cannot be read, or a record in it is wrong.
        """
        return self._loaded(self.offset, self.limit, progress)

    def every(self, progress: ProgressCallback = silent) -> list[Record]:
        """The records before any are counted off; errors as for `load`."""
        return self._loaded(0, None, progress)

    def _loaded(self, offset: int, limit: int | None, progress: ProgressCallback) -> list[Record]:
        return load_records(
            self.source, offset, limit, self.relation, self.seed, progress,
            one_per_subject=self.one_per_subject,
        )  # fmt: skip

    def load_references(self, progress: ProgressCallback = silent) -> References:
        """The texts that were asked for, or come with the records; none if there are none.

        Those for all records of the source, however few are taken of it: how rare a word is, and
        so every score of consistency, must not depend on that.

        Args:
            progress: told while a file is downloaded.

        Raises:
            InvalidRequestError: there is no such source.
            StorageError: it cannot be read, or an entry is wrong.
        """
        source, beside = self.references, references_beside(Path(self.source))
        if source is None and self.source == "builtin":
            source = "builtin"
        elif source is None and self.source.endswith(".json") and beside.exists():
            source = str(beside)
        if source is None:
            return {}
        needed = None
        if source != "builtin":
            needed = needed_references(load_records(self.source, progress=progress))
        return load_references(source, needed, progress)
