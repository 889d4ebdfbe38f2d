"""What becomes of the facts of each turn while others are written."""

from collections.abc import Iterator, Sequence

from factlab.data.records import Record
from factlab.evaluation.measuring.rows import Row
from factlab.evaluation.running.saved_run import Run
from factlab.evaluation.studies.points import Point
from factlab.evaluation.studies.stations import Station, stations_of

N_GROUPS = 10


def forgetting_points(
    label: str, run: Run, records: Sequence[Record], turn: int
) -> Iterator[Point]:
    """Scores of the facts of each turn: right after it, at later measurements, and at the end.

    Turns are put together so that there are no more than `N_GROUPS` of them.

    Args:
        label: of the method.
        run: a sequence; nothing comes of one that is unfinished.
        records: of the run, in the order in which they were written.
        turn: facts of an edit.
    """
    stations = stations_of(run)
    if run.n_missing or not stations:
        return
    end = stations[-1]
    size = turn * -(-len(end.rows) // (turn * N_GROUPS))
    if size >= len(end.rows):
        return
    written = _in_order(end.rows, records)
    for start in range(0, len(written), size):
        group = written[start : start + size]
        last = start + len(group)
        place = {"method": label, "written": last, "first": start + 1, "last": last}
        yield end.point(place | {"measured": "right after"}, group, "right_after")
        for station in stations:
            if station.n > last or station is end:
                when = {
                    "written": station.n, "measured": "at the end" if station is end else "later",
                }  # fmt: skip
                yield station.point(place | when, _of_same_records(station, group))


def _in_order(rows: Sequence[Row], records: Sequence[Record]) -> list[Row]:
    """Rows in the order in which their facts were written."""
    by_fact = {_fact(row): row for row in rows}
    keys = [(one.case_id, one.fact.prompt, one.fact.target_new) for one in records]
    return [by_fact[key] for key in keys if key in by_fact]


def _of_same_records(station: Station, group: Sequence[Row]) -> list[Row]:
    wanted = {_fact(row) for row in group}
    return [row for row in station.rows if _fact(row) in wanted]


def _fact(row: Row) -> tuple[int, str, str | None]:
    return row.case_id, row.prompt, row.target_new
