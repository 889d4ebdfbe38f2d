"""Jobs: what was asked for, how far it is, and what came of it.

A job is a file in the workbench's folder from the moment it is asked for, so that its result is
there after a reload of the page and after the end of the server. One that was not finished when the
server ended says so. Results of older jobs are in their files alone. Of a cell of a picture that
somebody clicked on there is no file.
"""

import re
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import JsonValue

from factlab.config import Config
from factlab.documents import validated
from factlab.errors import FactlabError, InvalidRequestError, StorageError
from factlab.storage import read_json, write_json
from factlab.web.requests import AnyJob

State = Literal["waiting", "running", "done", "failed", "cancelled"]

ENDED: frozenset[State] = frozenset({"done", "failed", "cancelled"})
# Jobs that are listed after a restart; older ones can still be asked for by name.
_LISTED = 500
# Ended jobs whose results stay in memory.
_HELD = 50
_NAME = re.compile(r"[0-9a-f-]+", re.ASCII)
_LOST = "The server ended before this was finished. Ask again."


class JobCancelled(Exception):  # noqa: N818 - it is no error, and no library code may take it for one
    """Raised inside a job that is not wanted any more."""


class Progress(Config):
    """How far a job is.

    Attributes:
        label: what is being done.
        done: steps of it.
        total: in all.
    """

    label: str
    done: int
    total: int


class JobRecord(Config):
    """A job as it is told and kept.

    Attributes:
        id: sorts by time.
        request: what was asked for.
        state: of it.
        progress: while it is running.
        result: of a finished job; of one that is running, as much as there is.
        error: why it failed, a sentence.
        asked_s: when it was asked for, in seconds since 1970.
        seconds: that it ran.
    """

    id: str
    request: AnyJob
    state: State = "waiting"
    progress: Progress | None = None
    result: dict[str, JsonValue] | None = None
    error: str | None = None
    asked_s: float = 0.0
    seconds: float | None = None


@dataclass(slots=True)
class Job:
    """A job on its way.

    Attributes:
        record: as it is now.
        version: grows with every change.
        is_unwanted: somebody cancelled it.
        is_in_file: its result is in its file alone.
        began_s: on the monotonic clock.
    """

    record: JobRecord
    version: int = 0
    is_unwanted: bool = False
    is_in_file: bool = False
    began_s: float | None = None

    def change(self, **changes: Any) -> None:
        """Replace the record by one with some values changed."""
        self.record = self.record.model_copy(update=changes)
        self.version += 1

    def report(self, label: str, done: int, total: int) -> None:
        """How far it is; the library calls this all along.

        Raises:
            JobCancelled: it is not wanted any more.
        """
        if self.is_unwanted:
            raise JobCancelled
        self.change(progress=Progress(label=label, done=done, total=total))

    def show(self, result: dict[str, Any]) -> None:
        """As much of the result as there is.

        Raises:
            JobCancelled: it is not wanted any more.
        """
        if self.is_unwanted:
            raise JobCancelled
        self.change(result=result)


@dataclass(slots=True)
class Jobs:
    """All jobs of a workbench, in the order in which they were asked for.

    Attributes:
        folder: where they are kept, a file each.
    """

    folder: Path
    _jobs: dict[str, Job] = field(default_factory=dict[str, Job])
    _news: threading.Condition = field(default_factory=threading.Condition)

    @classmethod
    def open(cls, folder: Path) -> "Jobs":
        """The jobs that a folder keeps.

        Raises:
            StorageError: it cannot be read or written.
        """
        jobs = cls(folder)
        for path in sorted(folder.glob("*.json"))[-_LISTED:]:
            try:
                job = _left_in(path)
            except FactlabError:
                continue  # damaged, or of another version: the others are as good as before
            jobs._jobs[job.record.id] = job
        jobs._let_go()
        return jobs

    def __iter__(self) -> Iterator[Job]:
        return iter([*self._jobs.values()])

    def add(self, request: AnyJob) -> Job:
        """A new job, last in the row."""
        now_s = time.time()
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now_s))
        name = f"{stamp}-{int(now_s * 1e6) % 1_000_000:06}-{secrets.token_hex(2)}"
        job = Job(JobRecord(id=name, request=request, asked_s=now_s))
        self.keep(job)
        with self._news:
            self._jobs[name] = job
            self._news.notify_all()
        return job

    def keep(self, job: Job) -> None:
        """Write a job's file, if it has one.

        Raises:
            StorageError: it cannot be written.
        """
        if job.record.request.kind != "cell":
            write_json(self._file(job.record.id), job.record.model_dump(mode="json"))

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def named(self, name: str) -> Job:
        """The job of that name.

        Raises:
            StorageError: there is none.
        """
        job = self._jobs.get(name)
        if job is not None and not job.is_in_file:
            return job
        if _NAME.fullmatch(name) is None or not self._file(name).is_file():
            raise StorageError(f"There is no job '{name}'.")
        return _left_in(self._file(name))

    def result_of(self, name: str) -> tuple[AnyJob, dict[str, JsonValue]]:
        """What was asked for, and what came of it.

        Raises:
            StorageError: there is no such job.
            InvalidRequestError: it is not finished.
        """
        record = self.named(name).record
        if record.state != "done" or record.result is None:
            raise InvalidRequestError("This job has no result (yet).")
        return record.request, record.result

    def cancel(self, name: str) -> Job:
        """Do not go on with a job. One that runs stops at its next step."""
        job = self.named(name)
        job.is_unwanted = True
        with self._news:
            if job.record.state == "waiting":
                job.change(state="cancelled")
                self.keep(job)
            self._news.notify_all()
        return job

    def next(self, timeout_s: float) -> Job | None:
        """The first job that waits, now running; None if none comes in so many seconds."""
        with self._news:
            self._news.wait_for(lambda: self._waiting() is not None, timeout_s)
            job = self._waiting()
            if job is not None:
                job.began_s = time.monotonic()
                job.change(state="running")
            return job

    def _waiting(self) -> Job | None:
        return next((job for job in self._jobs.values() if job.record.state == "waiting"), None)

    def end(self, job: Job, state: State, **changes: Any) -> None:
        """Note how a job ended. Where there is no room for its file, it says so and is not lost."""
        began_s = time.monotonic() if job.began_s is None else job.began_s
        seconds = round(time.monotonic() - began_s, 3)
        job.change(state=state, progress=None, seconds=seconds, **changes)
        try:
            self.keep(job)
        except StorageError as error:
            told = f"{job.record.error} " if job.record.error else ""
            job.change(error=f"{told}This is gone when the server ends: {error}")
        else:
            self._let_go()

    def _let_go(self) -> None:
        """Hold the results of the newest jobs only."""
        ended = [job for job in self if job.record.state in ENDED and not job.is_in_file]
        for job in ended[:-_HELD]:
            if job.record.request.kind == "cell":
                del self._jobs[job.record.id]
            elif self._file(job.record.id).is_file():
                job.is_in_file, job.record = True, job.record.model_copy(update={"result": None})


def _left_in(file: Path) -> Job:
    """The job of a file; one that had not ended there is lost, since nobody is at it.

    Raises:
        StorageError: the file is damaged.
    """
    job = Job(validated(JobRecord, read_json(file), f"'{file}'", "Ask again."))
    if job.record.state not in ENDED:
        job.change(state="failed", error=_LOST, progress=None)
    return job
