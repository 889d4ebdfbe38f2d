"""A web server in the test's own process."""

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.message import Message

Reply = tuple[int, dict[str, str], bytes]


@contextmanager
def serving(reply: Callable[[str, Message], Reply]) -> Iterator[str]:
    """Answer each GET with `reply(path, headers)`; yields the address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = reply(self.path, self.headers)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with served_by(Handler) as address:
        yield address


@contextmanager
def serving_posts(reply: Callable[[str, Message, bytes], Reply]) -> Iterator[str]:
    """Answer each POST with `reply(path, headers, body)`; yields the address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, headers, answer = reply(self.path, self.headers, body)
            with suppress(OSError):  # the client may have gone
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(answer))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

        def log_message(self, *args):
            pass

    with served_by(Handler) as address:
        yield address


@contextmanager
def served_by(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run a server on a free port; yields its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{web.server_port}"
        finally:
            web.shutdown()
            thread.join()
