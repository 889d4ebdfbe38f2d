"""A server that never ends, drips, or sends one elsewhere, is left in time."""

import http.server
import json
import threading
from contextlib import contextmanager, suppress

import pytest

from factlab.data.wikidata import Named, Wikidata
from factlab.errors import StorageError

ROW = '{"results":{"bindings":[{"item":{"value":"http://www.wikidata.org/entity/Q%d"},"label":{"value":%s}}]}}'


@contextmanager
def answering(answer):
    """A server whose `answer(handler)` writes what it likes; yields the address."""
    leave = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.close_connection = True
            with suppress(OSError):  # the client goes away
                answer(self, leave)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        web.daemon_threads = True
        thread = threading.Thread(target=web.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{web.server_port}/sparql"
        finally:
            leave.set()
            web.shutdown()
            thread.join()


def ask(address, tmp_path, timeout_s=30.0):
    client = Wikidata(
        address, tmp_path / "kept", min_interval_s=0.0, timeout_s=timeout_s, retries=1, sleep=lambda _: None
    )  # fmt: skip
    return client.subjects_with("P1", "Q2")


def endless(handler, leave):
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while not leave.is_set():
        handler.wfile.write(b"100000\r\n" + b"A" * (1 << 20) + b"\r\n")


def dripping(handler, leave):
    handler.send_response(200)
    handler.send_header("Content-Length", "100000000")
    handler.end_headers()
    while not leave.wait(0.01):
        handler.wfile.write(b" ")


def dripping_headers(handler, leave):
    while not leave.wait(0.01):
        handler.wfile.write(b"X")


def body(text: bytes):
    def answer(handler, _leave):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    return answer


def redirect(place: str):
    def answer(handler, leave):
        if "landed" in handler.path:
            body((ROW % (1, '"x"')).encode())(handler, leave)
            return
        handler.send_response(302)
        handler.send_header("Location", place)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@pytest.mark.parametrize("answer", [dripping, dripping_headers])
def test_a_server_that_drips_is_given_up(answer, tmp_path):
    with answering(answer) as address, pytest.raises(StorageError, match=r"no answer within 0.2 s"):
        ask(address, tmp_path, timeout_s=0.2)


def test_a_server_that_never_ends_is_given_up(tmp_path):
    with answering(endless) as address, pytest.raises(StorageError, match="more than 16 MiB"):
        ask(address, tmp_path)


@pytest.mark.parametrize(
    "place", ["http://127.0.0.2:1/landed", "//127.0.0.2/landed", "ftp://127.0.0.1/landed"]
)
def test_no_other_host_is_asked(place, tmp_path):
    with answering(redirect(place)) as address, pytest.raises(StorageError, match="another host"):
        ask(address, tmp_path)


def test_the_same_host_may_send_on(tmp_path):
    with answering(redirect("/landed")) as address:
        assert ask(address, tmp_path) == [Named("Q1", "x")]


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 200_000,
        (ROW % (1, '"\\ud800"')).encode(),
        (ROW % (1, "NaN")).encode(),
        b"\xff",
        b'{"results": {"bindings": 5}}',
    ],
)
def test_an_answer_of_another_kind_is_one_sentence(text, tmp_path):
    with (
        answering(body(text)) as address,
        pytest.raises(StorageError, match="Check that the address is that of a SPARQL endpoint"),
    ):
        ask(address, tmp_path)
    assert not (tmp_path / "kept").exists()


def test_names_that_are_none_are_left_out(tmp_path):
    rows = [json.loads(ROW % (1, name))["results"]["bindings"][0] for name in ('"\\u0000"', '" "', '"x"')]  # fmt: skip
    text = json.dumps({"results": {"bindings": rows}}).encode()
    with answering(body(text)) as address:
        assert ask(address, tmp_path) == [Named("Q1", "x")]
