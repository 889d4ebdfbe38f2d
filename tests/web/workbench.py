"""A workbench on a tiny model, in this process, on a free port of this machine."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

import factlab as fl
from factlab.web.app import create_app
from factlab.web.folders import Folders
from factlab.web.guard import LOOPBACK, Guard
from factlab.web.jobs import ENDED, Jobs
from factlab.web.serving import Address
from factlab.web.shelf import Shelf
from factlab.web.worker import Worker

PROMPT, SUBJECT = "The Space Needle is in the city of", "The Space Needle"
TRACE = {"kind": "trace", "prompt": PROMPT, "subject": SUBJECT, "config": {"samples": 2}}
FACT = {
    "template": "{} is in the city of", "subject": SUBJECT, "target_new": "Rome",
    "target_true": "Seattle", "paraphrases": ["To see the Space Needle, go to"],
    "neighbours": ["The Louvre is in the city of"],
}  # fmt: skip
EDIT = {
    "kind": "edit", "fact": FACT, "n_tokens": 4,
    "method": {"name": "ft", "layer": 1, "settings": {"steps": 3}},
}  # fmt: skip


class Bench:
    """A server and a way to ask it.

    Attributes:
        url: where it is.
        lm: its model.
        worker: what does its jobs.
    """

    def __init__(self, port: int, lm: fl.LanguageModel, worker: Worker) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.lm, self.worker = lm, worker

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        """Status and document."""
        request = urllib.request.Request(
            f"{self.url}{path}", None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json", **headers}, method=method,
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def begin(self, request: object) -> str:
        """Ask for a job; its name."""
        status, job = self.ask("POST", "/api/jobs", request)
        assert status == 202, job
        return job["id"]

    def ended(self, name: str) -> dict[str, Any]:
        """A job at its end."""
        return self.when(name, lambda job: job["state"] in ENDED)

    def when(self, name: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """A job when something is so."""
        while not is_so(job := self.ask("GET", f"/api/jobs/{name}")[1]):
            time.sleep(0.02)
        return job

    def done(self, request: object) -> dict[str, Any]:
        """What comes of a job."""
        job = self.ended(self.begin(request))
        assert job["state"] == "done", job["error"]
        return job["result"]


@contextmanager
def workbench(
    folder: Path, lm: fl.LanguageModel, token: str | None = None, port: int = 0
) -> Iterator[Bench]:
    """A block in which a workbench serves; it shows the runs beside its own folder."""
    shelf = Shelf(folder / "edits", folder / "fresh", folder / "exports")
    worker = Worker(Jobs.open(folder / "jobs"), shelf, lambda: lm)
    app = Guard(create_app(worker, Folders([folder.parent / "runs"])), LOOPBACK, token)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    with Address(port=port).bound() as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        worker.start()
        try:
            yield Bench(listener.getsockname()[1], lm, worker)
        finally:
            server.should_exit = True
            worker.stop()
            thread.join()


def evaluated(lm: fl.LanguageModel, folder: Path, steps: int = 2, n_records: int = 3) -> None:
    """An evaluation of a few records in a folder."""
    config = fl.editing.FineTuneConfig(layer=1, steps=steps)
    measure = fl.evaluation.MeasureConfig(n_generated=0)
    records = fl.load_records("builtin", limit=n_records)
    fl.evaluate(lm, records, "ft", folder, config, measure=measure)
