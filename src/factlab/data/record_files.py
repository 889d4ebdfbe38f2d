"""`load_records`: benchmark records by name or from a file, as many as are wanted."""

import hashlib
import json
import logging
import random
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from types import ModuleType

from factlab.arguments import checked
from factlab.data import counterfact, zsre
from factlab.data.fact_files import load_fact_records
from factlab.data.hub_files import PREFIX, hub_values
from factlab.data.json_lines import read_values
from factlab.data.layouts.choice import check_same, layout_of
from factlab.data.layouts.uniedit import is_entry
from factlab.data.left_out import LeftOut
from factlab.data.published import published_file
from factlab.data.records import Record, as_records
from factlab.data.shipped import Shipped
from factlab.errors import FactlabError, InvalidRequestError, StorageError, counted, nearest
from factlab.progress import ProgressCallback, silent
from factlab.storage import write_text

BUILTIN = ("builtin", "builtin-zsre")
PUBLISHED_RECORDS = ("counterfact", "multi-counterfact", "zsre")
SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz", ".csv", ".tsv", ".toml")
_TABLES = (".csv", ".tsv", ".toml")

_log = logging.getLogger(__name__)


@checked()
def load_records(
    source: str | Path,
    offset: int = 0,
    limit: int | None = None,
    relation: str | None = None,
    seed: int | None = None,
    progress: ProgressCallback = silent,
    one_per_subject: bool = False,
) -> list[Record]:
    """Records of a benchmark: those of a relation, shuffled, from an offset, up to a limit.

    Without a seed, reading stops when there are enough.

    Args:
        source: `builtin` or `builtin-zsre`; `counterfact`, `multi-counterfact` or `zsre`, which are
            downloaded once; `hf:owner/dataset`, with `:file` if wanted; a file in a published
            layout (.json, .jsonl, either with .gz), those of KnowEdit, MQuAKE, RippleEdits, QAEdit,
            WikiBigEdit and UniEdit among them; or a file of facts (.csv, .tsv, .toml, .json,
            .jsonl; see `load_fact_records`). What of it cannot be a record is left out, and how
            much that is, and why, is logged.
        offset: leave out so many first.
        limit: no more than this many.
        relation: those of this relation only, such as P36.
        seed: shuffle before `offset` and `limit` are counted.
        progress: True for a bar, or a function that is called while a file is downloaded.
        one_per_subject: leave out all records about a subject but the first, before `offset` and
            `limit` are counted: of several facts about one subject the keys are much alike.

    Raises:
        InvalidRequestError: there is no such source, a number is out of range, or nothing is left;
            says what left nothing.
        StorageError: the source cannot be read, or a record in it is wrong; names the line, the
            record and the field.

    Examples:
        >>> records = fl.load_records("builtin", limit=3, seed=1)
        >>> records[0].fact.target_new is not None
        True
    """
    if offset < 0 or (limit is not None and limit < 1):
        raise InvalidRequestError(
            f"offset={offset} and limit={limit}: the first must be at least 0, the second 1."
        )
    seen: Counter[str] = Counter()
    with closing(_records(source, progress)) as records:
        wanted = _of_relation(records, relation, seen)
        if seed is not None:
            wanted = _shuffled(wanted, seed)
        if one_per_subject:
            wanted = _one_per_subject(wanted)
        kept = list(islice(wanted, offset, None if limit is None else offset + limit))
    if not kept:
        raise InvalidRequestError(_why_empty(source, relation, offset, seen, one_per_subject))
    return kept


@checked()
def save_records(records: Sequence[Record], path: str | Path) -> None:
    """Write records of one benchmark in its published layout, one per line of a JSON array.

    Records that have more than the layout of zsRE holds, such as several paraphrases or ripple
    queries, are written in that of CounterFact; both say what they add to it.

    Raises:
        StorageError: the file cannot be written.
        InvalidRequestError: there are none, they are of two benchmarks, or a record has more than
            the layout holds.
    """
    records = as_records(records)
    benchmarks = {record.benchmark for record in records}
    if len(benchmarks) != 1:
        raise InvalidRequestError(
            f"A file holds records of one benchmark; these are of {len(benchmarks)}."
        )
    as_zsre = benchmarks == {"zsre"} and all(_is_kept(zsre, record) for record in records)
    layout = zsre if as_zsre else counterfact
    if not as_zsre:
        lost = next((record for record in records if not _is_kept(counterfact, record)), None)
        if lost is not None:
            raise InvalidRequestError(
                f"Record {lost.case_id} would not be read back as it is: a record in a file has a "
                "new target other than the true one, no empty prompts, and as many answers as "
                "neighborhood prompts, or none."
            )
    rows = ",\n".join(json.dumps(layout.to_json(r), ensure_ascii=False) for r in records)
    write_text(Path(path), f"[\n{rows}\n]\n")


def _is_kept(layout: ModuleType, record: Record) -> bool:
    """Whether a record comes back from a layout as it is."""
    try:
        return layout.from_json(layout.to_json(record), "") == record
    except FactlabError:
        return False


def record_hash(records: Iterable[Record]) -> str:
    """SHA-256 of the records as JSON with sorted keys: the same for the same records in order."""
    digest = hashlib.sha256()
    for record in records:
        text = json.dumps(record.to_json(), sort_keys=True, ensure_ascii=False)
        digest.update(text.encode() + b"\n")
    return digest.hexdigest()


def is_file_name(source: str | Path) -> bool:
    """Whether a source is meant as a file, not as a name."""
    return isinstance(source, Path) or source.endswith(SUFFIXES) or Path(source).exists()


def _records(source: str | Path, progress: ProgressCallback) -> Generator[Record, None, None]:
    """All records of a source, one after another."""
    if isinstance(source, str) and source in BUILTIN:
        shipped = Shipped.load()
        yield from shipped.zsre() if source == "builtin-zsre" else shipped.counterfact()
    elif isinstance(source, str) and source.startswith(PREFIX):
        yield from _parsed(hub_values(source), source)
    elif isinstance(source, str) and source in PUBLISHED_RECORDS:
        yield from _parsed(_lines(published_file(source, progress)), source)
    elif is_file_name(source) and Path(source).suffix.lower() in _TABLES:
        yield from load_fact_records(source)
    elif is_file_name(source):
        yield from _parsed(_lines(Path(source)), source)
    else:
        names = (*BUILTIN, *PUBLISHED_RECORDS)
        raise InvalidRequestError(
            f"No data set is called '{source}', and it is no file. There are {', '.join(names)}, "
            f"hf:owner/dataset, and files that end with {', '.join(SUFFIXES)}."
            f"{nearest(str(source), names)}"
        )


def _lines(path: Path) -> Iterator[tuple[str, object]]:
    with closing(read_values(path, is_entry)) as values:
        for line, value in values:
            yield f"Line {line} of '{path}'", value


def _parsed(values: Iterator[tuple[str, object]], source: str | Path) -> Iterator[Record]:
    """Records in the layout of the first one; at the end it is said what was left out of them."""
    left_out = LeftOut()
    try:
        yield from _numbered(_read(values, left_out), source)
    finally:
        if left_out:
            said = str(left_out).replace(f" of '{source}'", "")
            _log.warning("Of '%s' was left out: %s.", source, said)


def _read(values: Iterator[tuple[str, object]], left_out: LeftOut) -> Iterator[tuple[str, Record]]:
    first = next(values, None)
    if first is None:
        return
    layout = layout_of(first[1], first[0])
    for index, (where, value) in enumerate(chain([first], values)):
        try:
            record = layout.read(value, where, index, left_out)
        except StorageError:
            check_same(value, where, layout)
            raise
        if record is not None:
            yield where, record


def _numbered(records: Iterator[tuple[str, Record]], source: str | Path) -> Iterator[Record]:
    """Records, each with a number of its own."""
    places: dict[int, str] = {}
    for where, record in records:
        if record.case_id in places:
            raise StorageError(
                f"{where}: case_id {record.case_id} was used before: {places[record.case_id]}. "
                "Give every record its own."
            )
        places[record.case_id] = where.removesuffix(f" of '{source}'").lower()
        yield record


def _of_relation(
    records: Iterator[Record], relation: str | None, seen: Counter[str]
) -> Iterator[Record]:
    for record in records:
        seen[record.relation_id] += 1
        if relation is None or record.relation_id == relation:
            yield record


def _shuffled(records: Iterator[Record], seed: int) -> Iterator[Record]:
    order = list(records)
    random.Random(seed).shuffle(order)  # noqa: S311 - not a secret
    return iter(order)


def _one_per_subject(records: Iterator[Record]) -> Iterator[Record]:
    seen: set[str] = set()
    for record in records:
        if record.fact.subject not in seen:
            seen.add(record.fact.subject)
            yield record


def _why_empty(
    source: str | Path,
    relation: str | None,
    offset: int,
    seen: Counter[str],
    one_per_subject: bool,
) -> str:
    total = seen.total()
    if not total:
        return f"'{source}' holds no records."
    if relation is not None and not seen[relation]:
        known = sorted(filter(None, seen))
        there = f"There are {', '.join(known)}." if known else "They do not say their relation."
        return (
            f"'{source}' has {counted(total, 'record')}, none of relation '{relation}'. {there}"
            f"{nearest(relation, known)}"
        )
    left = total if relation is None else seen[relation]
    of = "" if relation is None else f" with relation '{relation}'"
    if one_per_subject:
        return (
            f"Offset {offset} leaves nothing of '{source}'{of}, one record of each subject. "
            "Choose a smaller offset."
        )
    return (
        f"Offset {offset} leaves nothing of the {counted(left, 'record')} of '{source}'{of}. "
        f"Choose an offset below {left}."
    )
