"""GET and POST with bounds that a server cannot stretch: on time in all, on size, and on hosts.

`urllib` waits for each piece of an answer as long as for the first, reads on for ever, and goes
wherever a server sends it.
"""

import functools
import http.client
import io
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

_PIECE_BYTES = 1 << 16


class TooLargeError(Exception):
    """An answer has more bytes than it may have."""


def get(url: str, headers: Mapping[str, str], timeout_s: float, most_bytes: int) -> bytes:
    """What a server answers, all of it.

    Args:
        url: http or https.
        headers: to send.
        timeout_s: for connecting and for the whole answer.
        most_bytes: of the answer.

    Raises:
        TooLargeError: the answer is larger.
        TimeoutError: it is not there in time.
        urllib.error.HTTPError: the server refuses, or sends us to another host.
        OSError: it cannot be reached.
        http.client.HTTPException: its answer is none, or is cut short.
    """
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - http or https
    return _answer(request, timeout_s, most_bytes)


def post(
    url: str, headers: Mapping[str, str], body: bytes, timeout_s: float, most_bytes: int
) -> bytes:
    """What a server answers to something that is sent to it; no other address gets it.

    Args:
        url: http or https.
        headers: to send.
        body: to send.
        timeout_s: for connecting, sending and the whole answer.
        most_bytes: of the answer.

    Raises:
        TooLargeError: the answer is larger.
        TimeoutError: it is not there in time.
        urllib.error.HTTPError: the server refuses, or sends us to another address.
        OSError: it cannot be reached.
        http.client.HTTPException: its answer is none, or is cut short.
    """
    request = urllib.request.Request(url, body, dict(headers), method="POST")  # noqa: S310 - as get
    return _answer(request, timeout_s, most_bytes)


def _answer(request: urllib.request.Request, timeout_s: float, most_bytes: int) -> bytes:
    deadline = time.monotonic() + timeout_s
    opener = urllib.request.build_opener(
        _Http(deadline), _Https(deadline), _SameHost(urllib.parse.urlsplit(request.full_url))
    )
    answer = io.BytesIO()
    with opener.open(request, timeout=timeout_s) as reply:
        length = reply.headers.get("Content-Length", "")
        while piece := reply.read1(_PIECE_BYTES):
            answer.write(piece)
            if answer.tell() > most_bytes:
                raise TooLargeError
    if length.isdecimal() and answer.tell() < int(length):
        raise http.client.IncompleteRead(b"", int(length) - answer.tell())
    return answer.getvalue()


class _Timed(io.RawIOBase):
    """Reads from a socket until a deadline, however slowly the bytes drip in."""

    def __init__(self, sock: Any, deadline: float) -> None:
        super().__init__()
        self._sock, self._deadline = sock, deadline
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._sock.settimeout(left_s)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    """Of which the headers too are read until the deadline only."""

    def __init__(self, sock: Any, *args: Any, deadline: float, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_Timed(sock, deadline))


def _timed(kind: Any, deadline: float, host: str, **kwargs: Any) -> Any:
    connection = kind(host, **kwargs)
    connection.response_class = functools.partial(_TimedResponse, deadline=deadline)
    return connection


class _Http(urllib.request.HTTPHandler):
    def __init__(self, deadline: float) -> None:
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: urllib.request.Request) -> Any:
        make: Any = functools.partial(_timed, http.client.HTTPConnection, self._deadline)
        return self.do_open(make, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, deadline: float) -> None:
        super().__init__()
        self._deadline = deadline

    def https_open(self, req: urllib.request.Request) -> Any:
        make: Any = functools.partial(_timed, http.client.HTTPSConnection, self._deadline)
        return self.do_open(make, req)


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows redirects of a GET within a host, and from http to https there."""

    def __init__(self, asked: urllib.parse.SplitResult) -> None:
        self._asked = asked

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        new = urllib.parse.urlsplit(newurl)
        secured = (self._asked.scheme, new.scheme) == ("http", "https")
        same = (new.scheme, new.netloc) == (self._asked.scheme, self._asked.netloc)
        if req.data is not None:
            raise urllib.error.HTTPError(
                req.full_url, code, f"it sends us to {newurl[:80]!r}", headers, fp
            )
        if not same and not (secured and new.hostname == self._asked.hostname):
            raise urllib.error.HTTPError(
                req.full_url, code, f"it sends us to another host, {newurl[:80]!r}", headers, fp
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)
