"""Whatever a client asks, it is told the answer."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor

import pytest
from workbench import workbench

from factlab.web.app import create_app
from factlab.web.guard import Guard


def run(asked: Coroutine[object, object, None]) -> None:
    """In a thread of its own: other tests of pages have a loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, asked).result()


@pytest.mark.parametrize(
    ("method", "path", "host", "status"),
    [
        ("POST", "/api/jobs", b"evil.example", 403),
        ("POST", "/api/nothing", b"localhost", 404),
        ("POST", "/api/state", b"localhost", 405),
    ],
)
def test_a_request_is_read_before_it_is_answered(make_model, tmp_path, method, path, host, status):
    """Else the connection is reset while its client still sends, and the answer is lost."""
    body = [
        {"type": "http.request", "body": b"[1, ", "more_body": True},
        {"type": "http.request", "body": b"2]", "more_body": False},
    ]
    told = []

    async def receive():
        return body.pop(0) if body else {"type": "http.disconnect"}

    async def send(message):
        assert not body
        told.append(message)

    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(),
        "query_string": b"", "headers": [(b"host", host), (b"content-length", b"6")],
        "scheme": "http", "http_version": "1.1", "root_path": "", "client": None, "server": None,
    }  # fmt: skip
    with workbench(tmp_path / "bench", make_model("gpt2")) as bench:
        run(Guard(create_app(bench.worker))(scope, receive, send))
    assert told[0]["status"] == status


async def never(_scope, _receive, _send):
    raise AssertionError("was asked")


def test_a_body_without_an_end_is_not_read_to_it():
    async def receive():
        return {"type": "http.request", "body": bytes(2**20), "more_body": True}

    told = []

    async def send(message):
        told.append(message)

    scope = {"type": "http", "path": "/", "headers": [(b"host", b"evil.example")]}
    run(Guard(never)(scope, receive, send))
    assert told[0]["status"] == 403


def test_a_server_for_everybody_goes_by_any_name_to_those_who_have_the_token():
    told = []

    async def inner(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        told.append(message.get("status"))

    for token in (b"Bearer secret", b"Bearer wrong"):
        headers = [(b"host", b"192.168.1.5:7575"), (b"authorization", token)]
        scope = {"type": "http", "path": "/api/state", "headers": headers}
        run(Guard(inner, None, "secret")(scope, receive, send))
    assert [status for status in told if status] == [200, 401]
