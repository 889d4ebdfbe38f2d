"""Going on with a run: whether its texts would stay of one kind, and on more records than before.

What a record's own edit does to it does not depend on how many others there are. So a run of the
first 10 records of a data set becomes one of the first 100 without doing the 10 again; only where
all edits go into one model, more of them make another model.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from factlab.data.record_files import record_hash
from factlab.data.records import Record
from factlab.errors import StorageError, counted
from factlab.journal import Journal, Line


def check_streams(folder: Path, request: Line) -> None:
    """Refuse to go on with a run whose texts were drawn from other random numbers.

    Does nothing if there is no run, or if no texts are asked for. A report of the run as it is can
    still be made.

    Args:
        folder: of the run.
        request: what is asked for now.

    Raises:
        StorageError: another version of factlab, which draws otherwise, began it.
    """
    now = request["generation"]
    if not isinstance(now, dict) or not (folder / "run.json").exists():
        return
    before = Journal.load(folder).request.get("generation")
    if isinstance(before, dict) and before.get("streams") != now.get("streams"):
        raise StorageError(
            f"'{folder}' was begun by a version of factlab that draws other texts from the same "
            "seed, so the rest of its texts would not fit the first. Begin again in a new folder, "
            "or go on with that version; a report can be made of what is there."
        )


def extend_run(
    folder: Path,
    request: Line,
    records: Sequence[Record],
    look_at: Callable[[int], tuple[list[int], dict[str, str]]],
    batch_size: int,
) -> None:
    """Make the run in a folder one of more records, if that is what is asked for.

    Does nothing if there is no run, if it has as many records, or if something else differs too:
    the caller then refuses to go on with it. The records of the last block, if that was not full,
    are done again, since all records of a block are measured together: what comes of it is what a
    run of all records would have found.

    Args:
        folder: of the run.
        request: what is asked for now.
        records: all that are asked for now.
        look_at: which records from a place on can be used, and why the others cannot.
        batch_size: records in a block.

    Raises:
        StorageError: the run is of other records, or its edits are all in one model; or a file
            cannot be written, or another process is at it.
    """
    if not (folder / "run.json").exists():
        return
    journal = Journal.load(folder)
    n_before, sha256 = _records_of(journal.request)
    data = request["data"]
    if not isinstance(data, dict) or n_before is None or n_before >= len(records):
        return
    as_before: Line = {**request, "data": {**data, "n_records": n_before, "sha256": sha256}}
    journal.check_request(as_before)
    if request["mode"] != "each":
        raise StorageError(
            f"'{folder}' is a run of {counted(n_before, 'record')} with all edits in one "
            f"model, and {len(records)} edits would make another model. Choose another folder."
        )
    if record_hash(records[:n_before]) != sha256:
        raise StorageError(
            f"'{folder}' is a run of {counted(n_before, 'record')}, which are not the first ones "
            f"of the {len(records)} asked for now. Ask for the same data, offset and seed, or "
            "choose another folder."
        )
    cases, unusable = look_at(n_before)
    old_cases, before = journal.cases(n_before), journal.findings.get("unusable")
    old_unusable = before if isinstance(before, dict) else {}
    cut_short = old_cases[len(old_cases) // batch_size * batch_size :] if cases else []
    findings: Line = {
        **journal.findings,
        "cases": [*old_cases, *cases],
        "unusable": {**old_unusable, **unusable},
    }
    journal.extend(json.loads(json.dumps(request)), findings, cut_short)


def _records_of(request: Line) -> tuple[int | None, str]:
    """How many records a run has, and their hash."""
    data = request.get("data")
    if not isinstance(data, dict):
        return None, ""
    count, sha256 = data.get("n_records"), data.get("sha256")
    return (count if isinstance(count, int) else None), str(sha256)
