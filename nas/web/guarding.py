"""Who may ask, and how much: hosts, origins, the token, lengths; headers of every answer.

Plain ASGI, in front of everything, so that nothing is parsed for whoever is refused.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any

from nas.web.problems import Problem, answer

if TYPE_CHECKING:
    from nas.web.state import State

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

COOKIE = "nas_session"
SESSION_S = 7 * 86_400
MOST_BODY, MOST_QUERY = 8 * 2**20, 16 * 2**10
_TOO_LONG = f"a body has at most {MOST_BODY:,} bytes; send less at a time"
_SAFE = ("GET", "HEAD", "OPTIONS")
_OPEN = ("/healthz", "/readyz", "/api/v1/session")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class Token:
    """The token of a server, and cookies that show that somebody knew it.

    Args:
        text: of the token.
    """

    def __init__(self, text: str) -> None:
        self._text = text.encode()

    def fits(self, given: str) -> bool:
        """Whether this is the token; takes as long whatever it is."""
        return hmac.compare_digest(hashlib.sha256(given.encode()).digest(), hashlib.sha256(self._text).digest())

    def cookie(self, now: float | None = None) -> str:
        """A value that is worth the token for a week."""
        end = str(int((time.time() if now is None else now) + SESSION_S))
        return f"{end}.{self._sign(end)}"

    def honours(self, cookie: str) -> bool:
        """Whether `cookie` gave this value and the week is not over."""
        end, _, signature = cookie.partition(".")
        if not (end.isascii() and end.isdecimal() and len(end) < 15 and signature.isascii()):
            return False
        return hmac.compare_digest(signature, self._sign(end)) and int(end) > time.time()

    def _sign(self, end: str) -> str:
        return hmac.new(self._text, f"session {end}".encode(), hashlib.sha256).hexdigest()


class Guard:
    """The application behind a check of every request.

    Args:
        app: that is asked where nothing is wrong.
        state: of the server; counts answers.
        token: that requests must show; None where only this machine can reach the server.
        prefix: of the path, under which a proxy shows the server without taking it away.
    """

    def __init__(self, app: Any, state: State, token: Token | None, prefix: str) -> None:
        self._app, self._state, self._token, self._prefix = app, state, token, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._prefix and scope["path"].startswith(f"{self._prefix}/"):
            scope = {**scope, "path": scope["path"][len(self._prefix) :], "raw_path": None}
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        problem = self._refused(scope, headers)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._state.requests.labels(scope["method"], str(message["status"])).inc()
                given = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *given]
            await send(message)

        if problem is None and scope["method"] not in _SAFE:
            body = await _body(receive)
            if body is None:
                problem = Problem(413, _TOO_LONG)
            else:
                receive = _again(body, receive)
        if problem is not None:
            await answer(problem)(scope, receive, sending)
            return
        await self._app(scope, receive, sending)

    def _refused(self, scope: Scope, headers: dict[str, str]) -> Problem | None:
        """What is wrong with a request."""
        if len(scope.get("query_string", b"")) > MOST_QUERY:
            return Problem(414, f"the query has more than {MOST_QUERY:,} bytes; ask for less at a time")
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdecimal() or int(length[:19]) > MOST_BODY:
            return Problem(413, _TOO_LONG)
        host = headers.get("host", "")
        if self._token is None and _name(host) not in LOOPBACK:
            return Problem(403, f"host {host[:100]!r} is none of this server, which answers to localhost alone")
        if scope["method"] not in _SAFE:
            return self._refused_write(scope, headers, host)
        return self._unknown(scope, headers)

    def _refused_write(self, scope: Scope, headers: dict[str, str], host: str) -> Problem | None:
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return Problem(403, f"origin {origin[:100]!r} is another site; open the server's own page")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return Problem(403, "another site sent this request; open the server's own page")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        if has_body and kind != "application/json":
            return Problem(415, "a body is JSON: send it with Content-Type: application/json")
        problem = self._unknown(scope, headers)
        if problem is None and self._state.read_only and scope["path"] != "/api/v1/session":
            return Problem(403, "this server only reads (--read-only)")
        return problem

    def _unknown(self, scope: Scope, headers: dict[str, str]) -> Problem | None:
        """Whoever does not show the token may have the page, which asks for it, and nothing of the database."""
        path = scope["path"]
        is_open = path in _OPEN or not (path.startswith("/api/") or path == "/metrics")
        if self._token is None or is_open or self.shows(headers):
            return None
        return Problem(
            401,
            "a token is needed: Authorization: Bearer TOKEN, or log in on the page",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def shows(self, headers: dict[str, str]) -> bool:
        """Whether a request shows the token, or a cookie that is worth it."""
        assert self._token is not None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self._token.fits(given.strip())
        try:
            kept = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return kept is not None and self._token.honours(kept.value)


async def _body(receive: Receive) -> bytes | None:
    """The whole body, counted as it comes, since not every client says its length; None where it is too long."""
    parts: list[bytes] = []
    got = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        got += len(parts[-1])
        if got > MOST_BODY:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """What gives a body that was read already, and then what comes."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _name(host: str) -> str:
    """A host without its port."""
    return host.rpartition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
