"""The one thread that owns the model: it loads it and does one job after the other."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from factlab.errors import FactlabError
from factlab.models.language_model import LanguageModel
from factlab.web.documents import model_document
from factlab.web.jobs import Job, JobCancelled, Jobs
from factlab.web.shelf import Shelf, Stack
from factlab.web.tasks import Tasks

_LOOKS_EVERY_S = 0.5


@dataclass(slots=True)
class Worker:
    """Does jobs.

    Attributes:
        jobs: to do.
        shelf: of saved edits.
        load: gives the model; called once, in the worker's thread.
        model: what the page needs to know of it; None until it is loaded.
        stack: the edits that are on it; None until then.
        error: why it could not be loaded.
    """

    jobs: Jobs
    shelf: Shelf
    load: Callable[[], LanguageModel]
    model: dict[str, Any] | None = None
    stack: Stack | None = None
    error: str | None = None
    _is_over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Load the model and begin."""
        self._thread = threading.Thread(target=self._run, name="factlab-worker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Cancel what runs, and wait until the model is as it was."""
        self._is_over.set()
        for job in self.jobs:
            if job.record.state == "running":
                job.is_unwanted = True
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            lm = self.load()
            self.model = model_document(lm)
        except FactlabError as error:
            self.error = str(error)
            return
        except Exception as error:  # whatever it is, the page has to say it
            self.error = f"The model could not be loaded: {type(error).__name__}: {error}"
            return
        self.stack = Stack(lm, self.shelf)
        tasks = Tasks(lm, self.shelf, self.stack)
        try:
            while not self._is_over.is_set():
                job = self.jobs.next(_LOOKS_EVERY_S)
                if job is not None:
                    self._do(tasks, job)
        except Exception as error:  # nothing more will be done, and the page has to say so
            self.error = f"The workbench broke off: {type(error).__name__}: {error}"
        finally:
            self.stack.clear()

    def _do(self, tasks: Tasks, job: Job) -> None:
        try:
            result = tasks.do(job)
        except JobCancelled:
            self.jobs.end(job, "cancelled", result=None)
        except FactlabError as error:
            self.jobs.end(job, "failed", error=str(error), result=None)
        except Exception as error:  # one job's bug must not end the others
            told = f"Unexpected {type(error).__name__}: {error}. This is a bug in factlab."
            self.jobs.end(job, "failed", error=told, result=None)
        else:
            self.jobs.end(job, "done", result=result)
