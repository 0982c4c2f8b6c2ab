"""Server-sent events."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import Response
from pydantic_core import to_json
from starlette.types import Message, Receive, Scope, Send


class EventStream(Response):
    """Chunks as they come. The head goes with the first, which wakes the client once and not twice."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-cache"})
        del self.headers["content-length"]
        self.chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head: Message = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        begun = False
        async for chunk in self.chunks:
            if chunk:
                if not begun:
                    await send(head)
                begun = True
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if not begun:
            await send(head)
        await send({"type": "http.response.body", "body": b""})


def event(data: Mapping[str, Any], name: str | None = None) -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + to_json(data) + b"\n\n"
