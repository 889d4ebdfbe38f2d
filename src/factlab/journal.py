"""A folder in which a long run writes one record per case, so that it can be killed and go on.

    folder/
      run.json               what was asked for, and what was found out before the first case
      records-1-of-2.jsonl   one line per case that shard 1 of 2 has finished
      records-2-of-2.jsonl
      versions.jsonl         what it ran with: one line for each set of versions

A record is appended in one write and is on the disk before the next case begins. A line that a kill
cut short has no line break at its end; it is dropped and its case done again. The shards of a run
share a folder, or are merged into one. Other versions of torch do not make another run, but are
noted, for a report to say so. Records are never written through a link, which may lead to any file.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock

from factlab.appending import Line, append_line, check_no_link, read_lines
from factlab.config import without_retired
from factlab.destinations import check_new_folder, check_writable
from factlab.documents import JsonValue, NewerVersionError, check_format, newer
from factlab.errors import InvalidRequestError, StorageError
from factlab.record_files import RecordFiles, Writer, drop_cases
from factlab.shards import Shard
from factlab.storage import read_json, write_json

Versions = dict[str, str]

_VERSIONS = "versions.jsonl"

# A model's name is where it was loaded from. Its fingerprint says whether it is the same.
_LABELS = {"model.name"}
_HOW_TO_RESUME = "with --resume (in Python: resume=True)"


class Journal:
    """The records of one run.

    Args:
        folder: where they are.
        header: contents of `run.json`.

    Attributes:
        folder: as given.
        request: what was asked for.
        findings: what was found out before the first case.
        versions: every set of versions that it ran with, if it notes them.
    """

    def __init__(self, folder: Path, header: Line) -> None:
        request, findings = header.get("request"), header.get("findings")
        unknown = header.keys() - {"request", "findings"}
        if unknown:
            raise newer(f"'{folder / 'run.json'}'", f"it has an entry '{min(unknown)}'")
        if not isinstance(request, dict) or not isinstance(findings, dict):
            raise StorageError(f"'{folder / 'run.json'}' is damaged. Begin again in a new folder.")
        self.folder = folder
        self.request: Line = request
        self.findings: Line = findings
        self._files = RecordFiles(folder)
        self.versions: list[Versions] = []
        began_with = findings.get("versions")
        if isinstance(began_with, dict):
            self._add(_as_texts(began_with))
        for _, versions in read_lines(folder / _VERSIONS):
            self._add(_as_texts(versions))

    def _add(self, versions: Versions) -> bool:
        """Add a set of versions; whether it is new."""
        is_new = versions not in self.versions
        if is_new:
            self.versions.append(versions)
        return is_new

    @property
    def records(self) -> dict[int, Line]:
        """Every finished case by its number, whichever shard did it, as far as is known here."""
        return self._files.records

    @classmethod
    def load(cls, folder: Path) -> "Journal":
        """Read a run.

        Raises:
            StorageError: there is none, or a file is damaged.
        """
        if not (folder / "run.json").exists():
            raise StorageError(f"'{folder}' holds no run: there is no run.json in it.")
        return cls(folder, read_json(folder / "run.json"))

    @classmethod
    def open(
        cls,
        folder: Path,
        request: Line,
        find: Callable[[], Line],
        resume: bool,
        shard: Shard | None = None,
    ) -> "Journal":
        """Go on with the run in a folder, or begin one; several processes may do so at once.

        Args:
            folder: new, empty, or of this run.
            request: what is asked for.
            find: works out what is needed before the first case; called for a new run only.
            resume: whether a run that is there already may be gone on with.
            shard: of a part of a run another process may have begun it. Of those that take any
                part only one works out what is needed, and the others wait for it.

        Raises:
            StorageError: the folder holds another run or something else, or cannot be written.
        """
        header, shard = folder / "run.json", shard or Shard()
        resume = resume or shard.is_part
        if not _may_be_loaded(folder, resume):
            try:
                with _alone(folder) if shard.takes_any else nullcontext():
                    begun = cls._begin(folder, request, find)
            except OSError as error:
                raise StorageError(
                    f"Cannot write '{header}': {error.strerror or error}."
                ) from error
            if begun is not None:
                return begun
            if not resume:
                raise StorageError(
                    f"Another process has begun a run in '{folder}'. Resume it {_HOW_TO_RESUME}."
                )
        journal = cls.load(folder)
        journal.check_request(request)
        return journal

    @classmethod
    def _begin(cls, folder: Path, request: Line, find: Callable[[], Line]) -> "Journal | None":
        """Begin a run; None if another process has begun it meanwhile."""
        header = folder / "run.json"
        if header.exists():
            return None
        findings = find()
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".run.lock"):
            return None if header.exists() else cls.create(folder, request, findings)

    @classmethod
    def create(cls, folder: Path, request: Line, findings: Line) -> "Journal":
        """Begin a run in a new or empty folder."""
        header: Line = {"request": request, "findings": findings}
        write_json(folder / "run.json", header)
        return cls(folder, header)

    def extend(self, request: Line, findings: Line, again: Collection[int]) -> None:
        """Make this a run of more cases.

        Args:
            request: what is asked for now.
            findings: the same as before, with more cases.
            again: cases that are to be done again.

        Raises:
            StorageError: a file cannot be written or is a link, or another process is writing one.
        """
        with self._files.all_held() as paths:
            # Before the header says that there are more cases: a kill leaves a run either way.
            drop_cases(paths, lambda record: record.get("case") not in again)
            write_json(self.folder / "run.json", {"request": request, "findings": findings})

    def check_request(self, request: Line) -> None:
        """Refuse to go on with a run that was begun with other settings.

        Raises:
            StorageError: names what differs.
        """
        wanted = request.get("format")
        try:
            where = f"'{self.folder / 'run.json'}'"
            check_format(self.request.get("format"), str(wanted), where, "of such a run")
        except NewerVersionError:
            raise
        except StorageError:
            pass  # of another kind altogether, or none, which is said below
        old, new = (without_retired(each) for each in (self.request, request))
        difference = _first_difference(old, json.loads(json.dumps(new)))
        if difference is not None:
            raise StorageError(
                f"'{self.folder}' belongs to another run: {difference}. "
                "Choose another folder, or ask for the same again."
            )

    def cases(self, n_given: int) -> list[int]:
        """The numbers of the cases that the run is about.

        Args:
            n_given: how many were given to it.

        Raises:
            StorageError: `run.json` does not list them, or lists one that was not given.
        """
        return selected_cases(self.findings, n_given, f"'{self.folder / 'run.json'}'")

    @contextmanager
    def writing(self, shard: Shard, versions: Versions | None = None) -> Iterator[Writer]:
        """Append records of a shard; no other process may do so at the same time.

        Args:
            shard: which part.
            versions: of what makes the records, if the run is to note them.

        Raises:
            StorageError: another process is at it, or is doing parts of another size that have
                cases in common with this one; or the file cannot be written, or is a link.
        """
        check_no_link(self.folder / _VERSIONS)
        check_writable(self.folder / _VERSIONS)
        with self._files.writing(shard) as writer:
            if versions is not None:
                self.note(versions)
            yield writer

    def note(self, versions: Versions) -> None:
        """Keep that the run was gone on with in these versions, unless that is known.

        Raises:
            StorageError: it cannot be written.
        """
        if self._add(versions):
            append_line(self.folder / _VERSIONS, {**versions})


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """A block that one process at a time is in."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".begin.lock"):
        yield


def selected_cases(findings: Mapping[str, JsonValue], n_given: int, where: str) -> list[int]:
    """The cases that were selected before the first one; see `Journal.cases`."""
    cases = findings.get("cases")
    if not isinstance(cases, list):
        raise StorageError(f"{where} is damaged: it does not list its cases. Begin again.")
    wrong = [case for case in cases if type(case) is not int or not 0 <= case < n_given]
    if wrong or len({*cases}) < len(cases):
        what = f"{wrong[0]!r} among its cases" if wrong else "a case twice"
        raise StorageError(
            f"{where} is damaged: it has {what}, of {n_given} that were given. Begin again in a "
            "new folder."
        )
    return cases


def merge(folders: Sequence[Path], out: Path) -> Journal:
    """Put the records of several folders of one run together.

    Args:
        folders: each with a part of the run.
        out: a new folder; or one of earlier parts, which those that are new are added to.

    Raises:
        InvalidRequestError: there are no folders.
        StorageError: they are not of one run, or `out` holds something else.
    """
    if not folders:
        raise InvalidRequestError("There is nothing to merge. Name at least one folder.")
    journals = [Journal.load(folder) for folder in folders]
    first = journals[0]
    if (out / "run.json").exists():
        merged = Journal.load(out)
        journals.append(merged)
    else:
        check_new(out)
        merged = None
    for other in journals[1:]:
        other.check_request(first.request)
        difference = _first_difference(_selected(first), _selected(other))
        if difference is not None:
            raise StorageError(
                f"'{other.folder}' and '{first.folder}' worked out different things before their "
                f"first case, though the same was asked for: {difference}. Run both on the same "
                "kind of machine."
            )
    merged = merged or Journal.create(out, first.request, first.findings)
    records = {case: record for journal in journals for case, record in journal.records.items()}
    with merged.writing(Shard()) as writer:
        writer.replace(records)
    for versions in (v for journal in journals for v in journal.versions):
        merged.note(versions)
    return merged


def absent_shards(folders: Sequence[Path]) -> list[Shard]:
    """Numbered shards of which some folders hold no record, going by the others."""
    names = (path.stem for folder in folders for path in folder.glob("records-*-of-*.jsonl"))
    found = {Shard.parse(name.removeprefix("records-").replace("-of-", "/")) for name in names}
    totals = {shard.total for shard in found}
    if len(totals) != 1:
        return []
    (total,) = totals
    every = (Shard(number, total) for number in range(1, total + 1))
    return [shard for shard in every if shard not in found]


def _selected(journal: Journal) -> Line:
    """What was found out before the first case; not with which versions."""
    selected = {name: value for name, value in journal.findings.items() if name != "versions"}
    return {name: without_retired(value) for name, value in selected.items()}


def check_new(folder: Path) -> None:
    """Refuse a folder in which there is something already; locks of a run do not count.

    Raises:
        StorageError: it is a file, or not empty, or cannot be made.
    """
    has_run = (folder / "run.json").exists()
    instead = f"Resume it {_HOW_TO_RESUME}" if has_run else "Empty it"
    check_new_folder(folder, hidden_may_stay=True, instead=instead)


def check_run_folder(folder: Path, resume: bool) -> None:
    """Refuse a folder in which no run can be begun or gone on with, before a model is loaded.

    Args:
        folder: where the run is to be.
        resume: whether a run that is there already may be gone on with.

    Raises:
        StorageError: it holds something else, or a damaged run, or cannot be made.
    """
    if _may_be_loaded(folder, resume):
        Journal.load(folder)


def _may_be_loaded(folder: Path, resume: bool) -> bool:
    """Whether there is a run to go on with; if not, one can be begun.

    Raises:
        StorageError: neither.
    """
    header = folder / "run.json"
    if resume and header.exists():
        return True
    try:
        check_new(folder)
    except StorageError:
        if resume and header.exists():  # another process has begun it since it was looked for
            return True
        raise
    return False


def _as_texts(versions: Line) -> Versions:
    return {name: str(version) for name, version in versions.items()}


def _first_difference(old: JsonValue, new: JsonValue, name: str = "") -> str | None:
    """Where two JSON values differ, in words; None where they do not."""
    if name in _LABELS:
        return None
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            inside = f"{name}.{key}" if name else key
            found = _first_difference(old.get(key), new.get(key), inside)
            if found is not None:
                return found
        return None
    if old == new:
        return None
    return f"its {name} is {json.dumps(old)[:60]}, not {json.dumps(new)[:60]}"
