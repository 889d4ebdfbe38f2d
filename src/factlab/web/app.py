"""Addresses of the server, and what answers them; see the package for the page.

| address | answer |
|---|---|
| `GET /` and `/static/…` | the page |
| `GET /api/state` | the model, the edits on it, and whether it is loaded |
| `GET /api/examples` | facts to begin with |
| `GET /api/methods` | editing methods and their settings |
| `POST /api/jobs` | a new job |
| `GET /api/jobs`, `/api/jobs/ID` | all jobs, one job |
| `GET /api/jobs/ID/events` | one job again whenever it changes (server-sent events) |
| `DELETE /api/jobs/ID` | cancel it |
| `GET /api/edits`, `POST /api/edits` | saved edits; save one |
| `GET /api/folders` | runs, studies and traces that may be looked at |
| `GET /api/report?run=…` | tables of evaluations side by side |
| `GET /api/records?run=…&score=…` | one score of every record |
| `GET /api/records/N?run=…` | one record: what each run's model said |
| `GET /api/view?name=…` | anything else of these folders |
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles

from factlab.documents import check_unicode, described
from factlab.errors import FactlabError, InvalidRequestError, StorageError
from factlab.pages.inlined import STATIC
from factlab.web.folders import Folders
from factlab.web.jobs import ENDED, Job, JobRecord
from factlab.web.offers import examples, methods
from factlab.web.requests import AnyJob, SaveEdit
from factlab.web.worker import Worker

Names = Annotated[list[str], Query()]

_LOOKS_EVERY_S = 0.1
# So that whatever stands between browser and server does not take a quiet stream for a dead one.
_SPEAKS_EVERY = 100


def create_app(worker: Worker, folders: Folders | None = None) -> FastAPI:
    """The application over a worker, and over folders that may be looked at."""
    app = FastAPI(title="factlab", openapi_url=None, docs_url=None, redoc_url=None)
    app.add_exception_handler(FactlabError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    _add_page(app)
    _add_state(app, worker)
    _add_jobs(app, worker)
    _add_edits(app, worker)
    _add_folders(app, folders or Folders(()))
    return app


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    status = 404 if isinstance(error, StorageError) else 422
    return JSONResponse({"error": _sayable(str(error))}, status)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": _sayable(described(error))}, 422)


def _sayable(text: str) -> str:
    """A sentence as UTF-8 has it: it may quote half of a surrogate pair that somebody sent."""
    return text.encode("utf-8", "backslashreplace").decode()


def _add_page(app: FastAPI) -> None:
    @app.get("/")
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    app.mount("/static", StaticFiles(directory=STATIC), name="static")


def _add_state(app: FastAPI, worker: Worker) -> None:
    @app.get("/api/state")
    async def state() -> dict[str, Any]:
        on = [] if worker.stack is None else [*worker.stack.on]
        return {"model": worker.model, "error": worker.error, "on": on}

    @app.get("/api/examples")
    def offered_examples() -> list[dict[str, Any]]:
        return examples()

    @app.get("/api/methods")
    def offered_methods() -> list[dict[str, Any]]:
        return methods()


def _add_jobs(app: FastAPI, worker: Worker) -> None:
    jobs = worker.jobs

    @app.get("/api/jobs")
    async def listed() -> list[dict[str, Any]]:
        return [_told(job.record, whole=False) for job in jobs]

    @app.post("/api/jobs", status_code=202)
    def begin(request: AnyJob) -> dict[str, Any]:
        check_unicode(request.model_dump(), "What was asked for")
        request.check()
        if worker.error is not None:
            raise InvalidRequestError(worker.error)
        return _told(jobs.add(request).record)

    @app.get("/api/jobs/{name}")
    async def one(name: str) -> dict[str, Any]:
        return _told(jobs.named(name).record)

    @app.get("/api/jobs/{name}/events")
    async def events(name: str) -> StreamingResponse:
        return StreamingResponse(_events(jobs.named(name)), media_type="text/event-stream")

    @app.delete("/api/jobs/{name}")
    def cancel(name: str) -> dict[str, Any]:
        return _told(jobs.cancel(name).record)


def _add_edits(app: FastAPI, worker: Worker) -> None:
    @app.get("/api/edits")
    def listed() -> list[dict[str, Any]]:
        return worker.shelf.listed()

    @app.post("/api/edits", status_code=201)
    def save(request: SaveEdit) -> dict[str, Any]:
        check_unicode(request.name, "The name")
        worker.shelf.keep(request.job, request.name)
        return {"name": request.name}


def _add_folders(app: FastAPI, folders: Folders) -> None:
    @app.get("/api/folders")
    def listed() -> list[dict[str, Any]]:
        return folders.listed()

    @app.get("/api/report")
    def made(run: Names) -> dict[str, Any]:
        return folders.report(run)

    @app.get("/api/records")
    def records(run: Names, score: str) -> dict[str, Any]:
        return folders.records(run, score)

    @app.get("/api/records/{case}")
    def record(case: int, run: Names) -> list[dict[str, Any]]:
        return folders.record(run, case)

    @app.get("/api/view")
    def view(name: str) -> dict[str, Any]:
        return folders.view(name)


def _told(record: JobRecord, whole: bool = True) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude=None if whole else {"result"})


async def _events(job: Job) -> AsyncIterator[str]:
    """A job whenever it has changed, until it has ended."""
    told, quiet = -1, 0
    while True:
        version, record = job.version, job.record
        if version != told:
            told, quiet = version, 0
            yield f"data: {json.dumps(_told(record))}\n\n"
            if record.state in ENDED:
                return
        elif quiet == _SPEAKS_EVERY:
            quiet = 0
            yield ": still there\n\n"
        quiet += 1
        await asyncio.sleep(_LOOKS_EVERY_S)
