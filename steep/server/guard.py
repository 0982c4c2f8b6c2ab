"""What every request passes first: who asks, from where, how much, and how long it may take to arrive."""

import asyncio
import hmac
import ipaddress
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steep.server.built import Built
from steep.server.config import ServerConfig
from steep.server.errors import ApiError, refused

OPEN = Built("chat").paths | {"/health"}
"""What needs no key: whatever watches the server must be able to ask, and the chat page asks its reader for the key."""
log = logging.getLogger("steep.server")


class Guard:
    def __init__(self, app: ASGIApp, config: ServerConfig, count: Callable[[str, int], None]) -> None:
        self.app, self.config = app, config
        self.count = count
        """Called with the route and the status of each request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        begun = False

        async def counted_send(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                route = scope.get("route")
                self.count(route.path if route is not None else "none", message["status"])
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._admit(scope["path"], headers)
            body = await self._body(headers, receive)
        except ApiError as error:
            response = error.response({"connection": "close"})  # the rest of the body is not read
            await response(scope, receive, counted_send)
            return
        try:
            await self.app(scope, _replayed(body, receive), counted_send)
        except Exception:
            if begun:
                raise
            log.exception("%s %r failed", scope["method"], scope["path"])
            response = ApiError(500, "something went wrong in the server; its log says what").response()
            await response(scope, receive, counted_send)

    def _admit(self, path: str, headers: Mapping[str, str]) -> None:
        host = headers.get("host", "")
        if not self._is_own(host):
            raise refused(f"this server is not called {host!r}: name the host with --allow-host", code="unknown_host")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host and not {origin, "*"} & {*self.config.cors}:
            raise ApiError(403, f"pages of {origin!r} may not call: allow them with --cors", code="unknown_origin")
        if self.config.api_key is None or path in OPEN:
            return
        given = headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(given, f"Bearer {self.config.api_key}".encode()):
            raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")

    def _is_own(self, host: str) -> bool:
        name = re.sub(r":\d*$", "", host).lower()
        return name in self.config.hosts or _is_address(name.removeprefix("[").removesuffix("]"))

    async def _body(self, headers: Mapping[str, str], receive: Receive) -> bytes:
        most = self.config.max_body_bytes
        parts: list[bytes] = []
        size = int(headers.get("content-length", 0))
        try:
            async with asyncio.timeout(self.config.body_s):
                more = True
                while more:
                    if size > most:
                        raise ApiError(413, f"the body has more than {most} bytes", code="body_too_large")
                    message = await receive()
                    parts.append(message.get("body", b""))
                    more = message.get("more_body", False)
                    size = max(size, sum(map(len, parts)))
        except TimeoutError:
            raise ApiError(408, f"the body was not there within {self.config.body_s:g} s", code="timeout") from None
        return b"".join(parts)


@lru_cache(maxsize=64)
def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _replayed(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """`receive` with the body once more in front."""
    first = True

    async def replay() -> Message:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay
