"""Clients of a server, made for measuring: one connection a request, and hardly any time of their own."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HOST = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    """0 where the connection ended without one."""
    seconds: float
    first_s: float
    """Until its first token."""
    said: bytes

    @property
    def whole(self) -> bool:
        """Whether it came to its proper end, of which the usage is the last part."""
        return self.status == 200 and b'"usage":{' in self.said

    @property
    def tokens(self) -> int:
        return int(self.said.rpartition(b'"completion_tokens":')[2].partition(b",")[0])


def request(method: str, path: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: application/json\r\nConnection: close\r\n\r\n".encode() + body


async def post(port: int, path: str, asked: Mapping[str, Any], mark: bytes = b"") -> Answer:
    """`mark` is in the answer from its first token on."""
    began = time.perf_counter()
    first_s, said = 0.0, b""
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(request("POST", path, json.dumps(asked).encode()))
        while part := await reader.read(1 << 16):
            said += part
            if not first_s and mark in said:
                first_s = time.perf_counter() - began
        writer.close()
    except ConnectionError:
        said = b""
    status = int(said.split(maxsplit=2)[1]) if said else 0
    return Answer(status=status, seconds=time.perf_counter() - began, first_s=first_s, said=said)


async def gauges(port: int, *names: str) -> list[int]:
    """Figures of `GET /metrics`, each summed over the models."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(request("GET", "/metrics"))
    lines = (await reader.read()).decode().splitlines()
    writer.close()
    values = [(line.partition("{")[0], line.rpartition(" ")[2]) for line in lines]
    return [sum(int(value) for found, value in values if found == name) for name in names]
