"""Server-sent events."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import Response
from pydantic_core import to_json
from starlette.types import Message, Receive, Scope, Send

SILENCE_S = 15.0
"""After so long without a word, proxies begin to take a server for dead."""
COMMENT = b": \n\n"
"""What every client passes over."""


class EventStream(Response):
    """Chunks as they come, and comments in between, where nothing else is said for long. The head goes with the first,
    which wakes the client once and not twice.
    """

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self.chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head: Message = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        begun, said_s = False, time.monotonic()

        async def say(chunk: bytes, more: bool = True) -> None:
            nonlocal begun, said_s
            said_s = time.monotonic()
            if not begun:
                begun = True
                await send(head)
            await send({"type": "http.response.body", "body": chunk, "more_body": more})

        async def break_silence() -> None:
            while True:
                await asyncio.sleep(said_s + SILENCE_S - time.monotonic())
                if time.monotonic() >= said_s + SILENCE_S:
                    await say(COMMENT)

        silence = asyncio.create_task(break_silence())
        try:
            async for chunk in self.chunks:
                if chunk:
                    await say(chunk)
        finally:
            silence.cancel()
        await say(b"", more=False)


def event(data: Mapping[str, Any], name: str | None = None) -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + to_json(data) + b"\n\n"
