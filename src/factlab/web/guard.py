"""Who may ask the server.

A page of another site can make a browser send requests to this machine. So a request must name the
server by an address that is its own (`Host`; names that were re-bound to this machine are not), and
come from its own page where it says where it comes from (`Origin`). Beyond this machine a token is
needed besides, which the printed address carries behind its `#`: browsers send that to nobody.
"""

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
# Nothing but the page's own files and this server; no page may put it into a frame.
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
# Of a request that is refused without a look at it; whoever sends more may lose the answer.
_MOST_SKIPPED = 2**24  # bytes


@dataclass(frozen=True, slots=True)
class Guard:
    """Refuses requests that must not be answered.

    Attributes:
        inner: what answers the others.
        hosts: names of the server, without ports; None if any will do, since there is a token.
        token: without which nothing is computed; None if there is no need of one.
    """

    inner: Application
    hosts: frozenset[str] | None = field(default=LOOPBACK)
    token: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or say why not."""
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        request = _Request(receive)
        answer = _Answer(send, request)
        refusal = self._refusal(scope)
        if refusal is None:
            await self.inner(scope, request, answer)
            return
        status, sentence = refusal
        body = json.dumps({"error": sentence}).encode()
        headers = [(b"content-type", b"application/json")]
        await answer({"type": "http.response.start", "status": status, "headers": headers})
        await answer({"type": "http.response.body", "body": body})

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        given = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        host = given.get("host", "")
        if self.hosts is not None and _without_port(host) not in self.hosts:
            return 403, f"This server does not go by the name '{host}'."
        origin = given.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return 403, "Pages of other sites may not ask this server."
        if self.token is not None and scope["path"].startswith("/api/"):
            kind, _, token = given.get("authorization", "").partition(" ")
            if kind != "Bearer" or not hmac.compare_digest(token.encode(), self.token.encode()):
                return 401, "This server wants a token. Open the address that it printed."
        return None


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


@dataclass(slots=True)
class _Request:
    """What a client sends."""

    receive: Receive
    is_over: bool = False

    async def __call__(self) -> Message:
        message = await self.receive()
        self.is_over = not message.get("more_body", False)
        return message

    async def skip(self) -> None:
        """Take the rest of it, for nothing."""
        n_bytes = 0
        while not self.is_over and n_bytes < _MOST_SKIPPED:
            n_bytes += len((await self()).get("body", b""))


@dataclass(frozen=True, slots=True)
class _Answer:
    """What it is told, after all of its request has been taken.

    To close a connection in which something is unread is to reset it, and the answer may be lost.
    """

    send: Send
    request: _Request

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self.request.skip()
            message["headers"] = [*message.get("headers", ()), *_HEADERS]
        await self.send(message)
