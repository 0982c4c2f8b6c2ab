"""Serving over HTTP with uvicorn: deadlines on receipt, which it does not have, and a stop that drains."""

import asyncio
import gc
import logging
import socket
import sys
import time
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from steep.memory import return_freed_memory
from steep.server.config import ServerConfig
from steep.server.service import Service

SWITCH_S = 0.0005
"""How long the event loop keeps the interpreter when an engine has come back from a kernel: Python's 5 ms are half a
step, and the engine has a few lines to do before the next kernel."""
log = logging.getLogger("steep.server")


def run(app: FastAPI, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends it at once."""
    service: Service = app.state.service
    return_freed_memory()
    spare_garbage_collection()
    sys.setswitchinterval(SWITCH_S)
    try:
        Server(app, service).run([listener])
    finally:
        service.close()


def spare_garbage_collection() -> None:
    """What is there by now stays: a look through it, which is due now and then, stops all streams for 0.3 s. And a look
    at what is new is due twice for each ten requests, unless asked for less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


class Server(uvicorn.Server):
    def __init__(self, app: FastAPI, service: Service) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=with_deadline(service.config),
                ws="none",
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=2,
            )
        )
        self.service = service
        self.deadline: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.service.draining:
            super().handle_exit(sig, frame)
            return
        log.info("no new requests; %d answers are under way", len(self.service.live))
        self.deadline = time.monotonic() + self.service.config.drain_s
        self.service.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        if self.deadline is not None and (not self.service.live or time.monotonic() > self.deadline):
            for generation in [*self.service.live]:
                generation.cancel()
            self.should_exit = True
        return await super().on_tick(counter)


class Together:
    """A transport that writes at once what is written to it in one turn of the event loop: each write wakes the client,
    and lets the engine's thread take the interpreter.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts and not self._transport.is_closing():
            self._transport.write(b"".join(parts))


def with_deadline(config: ServerConfig) -> type[asyncio.Protocol]:
    """uvicorn's protocol, which would wait for ever for the rest of a request's head."""
    base: Any = AutoHTTPProtocol

    class Deadline(base):  # type: ignore[misc]
        timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self.transport = Together(transport, self.loop)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._stop()

        def _watch(self) -> None:
            waiting = self.cycle is None or self.cycle.response_complete
            if not waiting:
                self._stop()
            elif self.timer is None:
                self.timer = self.loop.call_later(config.headers_s, self.transport.close)

        def _stop(self) -> None:
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None

    return Deadline
