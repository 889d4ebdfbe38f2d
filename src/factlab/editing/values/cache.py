"""`ValueCache`: values in one SQLite file, of which those not used for longest make room.

The file lies in the cache folder and has a bound.

Whatever is wrong with the file costs time, never an edit: an entry that is damaged is optimised
again, a file that is damaged is set aside, and one that cannot be written stays as it is. The file
is opened for each call, so that several processes and threads may use it at once.
"""

import logging
import math
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from factlab.appending import file_id
from factlab.editing.configs import ContextConfig
from factlab.editing.values.recipe import Asked, ValueRecipe
from factlab.editing.values.stored import StoredValue
from factlab.errors import FactlabError, InvalidRequestError, StorageError
from factlab.storage import cache_dir

if TYPE_CHECKING:
    from factlab.models.language_model import LanguageModel

_NAME, _VARIABLE = "values-1.sqlite3", "FACTLAB_VALUES_MIB"
_DEFAULT_MIB = 256.0
_PATIENCE_S = 10.0  # while another process writes
_PARTS = 16  # in so many parts the cache is emptied
# Error codes of SQLite: no database; a damaged one; one with other tables than ours.
_DAMAGES = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR}
_TABLES = (
    "CREATE TABLE IF NOT EXISTS value (key TEXT PRIMARY KEY, header TEXT NOT NULL, "
    "numbers BLOB NOT NULL, sha256 TEXT NOT NULL, used INTEGER NOT NULL)",
    "CREATE INDEX IF NOT EXISTS by_use ON value (used)",
)
_Row = tuple[str, str, bytes, str]  # key, header, numbers, digest
_Found = tuple[str, object, object, object]  # the same, with whatever is in a damaged file

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ValueCache:
    """Values of earlier edits.

    Attributes:
        path: of the file.
        mib: its bound.

    Examples:
        >>> background = fl.editing.Background(values=fl.editing.ValueCache.default())
        >>> edit = fl.rome(lm, fact, background=background)
        >>> edit = fl.rome(lm, fact, background=fl.editing.Background(values=None))  # without
    """

    path: Path
    mib: int | float = _DEFAULT_MIB

    @classmethod
    def default(cls) -> "ValueCache | None":
        """The one in the cache folder; None if `FACTLAB_VALUES_MIB`, its bound in MiB, is 0.

        Raises:
            InvalidRequestError: the variable is not a number.
        """
        said = os.environ.get(_VARIABLE) or str(_DEFAULT_MIB)
        try:
            mib = float(said)
        except ValueError:
            mib = math.nan
        if not 0 <= mib < math.inf:
            raise InvalidRequestError(
                f"{_VARIABLE} is {said[:40]!r}, not a number of MiB. Set it to one, such as 256, "
                "or to 0 to keep no values."
            )
        return cls(cache_dir() / _NAME, mib) if mib else None

    # -- as a source ------------------------------------------------------------------------

    def contexts(self, lm: "LanguageModel", config: ContextConfig) -> None:
        """Nothing: texts are those of the model at hand."""

    def has_values_of(self, lm: "LanguageModel") -> bool:
        """Whether the model is without edits: on an edited one, next to nothing is asked twice."""
        return not lm.patches.active

    def find(
        self, recipe: ValueRecipe, asked: Sequence[Asked]
    ) -> list[StoredValue | FactlabError | None]:
        """For each its value, if it is there."""
        clamp, keys = recipe.plan.value.clamp_factor, [recipe.key(each) for each in asked]
        if file_id(self.path) is None:
            return [None] * len(keys)
        names = [name for key in keys for name in (key, _bounded(key, clamp))]
        found: dict[str, StoredValue] = {}
        for name, *parts in self._tried(partial(_rows, names=names), []):
            try:
                found[name] = StoredValue.of_parts(name, *parts)
            except StorageError as error:
                _log.info("%s It is optimised again.", error)
        values = [
            free if (free := found.get(key)) is not None and free.stays_clear_of(clamp)
            else found.get(_bounded(key, clamp))
            for key in keys
        ]  # fmt: skip
        if found:
            self._tried(partial(_touch, names=[*found]), None)
        return [*values]

    def keep(self, recipe: ValueRecipe, values: Sequence[tuple[Asked, StoredValue]]) -> None:
        """Put values into the file, and those that were not used for longest out of it."""
        rows: list[_Row] = []
        for one, value in values:
            key = recipe.key(one)
            name = key if value.stays_clear_of(value.clamp) else _bounded(key, value.clamp)
            try:
                rows.append((name, value.header(), value.numbers, value.digest(name)))
            except ValueError:  # it holds a number that JSON lacks
                continue
        if not rows:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            _log.info("No values are kept: %s.", error)
            return
        self._tried(partial(_put, rows=rows, limit=int(self.mib * 2**20)), None)

    # -- the file ---------------------------------------------------------------------------

    def _tried(self, act: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """What comes of an act on the database; the other, if something is wrong with it."""
        file = file_id(self.path)
        try:
            with closing(sqlite3.connect(self.path, _PATIENCE_S, isolation_level=None)) as database:
                # A power cut may damage the file; that is not worth waiting for the disk each time.
                database.execute("PRAGMA synchronous = OFF")
                return act(database)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGES:
                self._set_aside(file, error)
            else:  # locked for long, not writable, a full disk
                _log.info("The cache of values, '%s', was not used: %s.", self.path, error)
            return otherwise

    def _set_aside(self, file: tuple[int, int] | None, error: sqlite3.Error) -> None:
        """Give the damaged file another name, unless another process has done it already."""
        if file is None or file_id(self.path) != file:
            return
        aside = self.path.with_name(f"{self.path.name}.damaged")
        try:
            self.path.replace(aside)
            # What a kill left of the old file would be taken for a part of the new one.
            self.path.with_name(f"{self.path.name}-journal").unlink(missing_ok=True)
        except OSError as refused:
            _log.info("The cache of values cannot be set aside: %s.", refused)
            return
        _log.warning(
            "The cache of values was damaged (%s). It is set aside as '%s', and begun anew.",
            error, aside,
        )  # fmt: skip


def _bounded(key: str, clamp: float | None) -> str:
    """The name of a value that is the right one with this bound of δ only."""
    return f"{key} {clamp}"


def _rows(database: sqlite3.Connection, names: Sequence[str]) -> list[_Found]:
    """Entries of some names; none if the file has just been made."""
    if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'value'").fetchone():
        return []
    wanted = "SELECT key, header, numbers, sha256 FROM value WHERE key = ?"
    found = (database.execute(wanted, [name]).fetchone() for name in names)
    return [row for row in found if row is not None]


def _touch(database: sqlite3.Connection, names: Sequence[str]) -> None:
    """Note that entries were used just now."""
    database.execute("BEGIN IMMEDIATE")
    now = time.time_ns()
    database.executemany("UPDATE value SET used = ? WHERE key = ?", [(now, n) for n in names])
    database.execute("COMMIT")


def _put(database: sqlite3.Connection, rows: Sequence[_Row], limit: int) -> None:
    """Write entries, and let go of others as long as the file is longer than so many bytes."""
    database.execute("PRAGMA auto_vacuum = FULL")
    database.execute("BEGIN IMMEDIATE")
    for statement in _TABLES:
        database.execute(statement)
    now = time.time_ns()
    database.executemany(
        "INSERT OR REPLACE INTO value VALUES (?, ?, ?, ?, ?)", [(*row, now) for row in rows]
    )
    while _n_bytes(database) > limit:
        (count,) = database.execute("SELECT COUNT(*) FROM value").fetchone()
        if not count:
            break
        database.execute(
            "DELETE FROM value WHERE key IN (SELECT key FROM value ORDER BY used, key LIMIT ?)",
            [-(-count // _PARTS)],
        )
    database.execute("COMMIT")


def _n_bytes(database: sqlite3.Connection) -> int:
    """Of the file, without the pages that are free."""
    sizes = ("page_count", "freelist_count", "page_size")
    n_pages, n_free, each = (
        int(database.execute(f"PRAGMA {name}").fetchone()[0]) for name in sizes
    )
    return (n_pages - n_free) * each
