"""What a server of steep is put through, over the loopback: clients that go, too many, slow ones, and hours in short.

Each function takes a server that runs and gives the figures; the bars are in `benchmarks/serve.py`.
"""

import asyncio
import json
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.clients import HOST, Answer, gauges, post, request

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
UNDER_WAY, ACTIVE = "steep_answers_waiting_or_running", "steep_rows_active"
PROCESSES = Path("/proc")
GIVEN_UP_S = 30.0
"""After so long a connection counts as one that the server does not close."""


@dataclass(frozen=True, kw_only=True)
class Served:
    port: int
    model: str
    pid: int

    def chat(self, text: str, thought: int, stream: bool, **fields: Any) -> tuple[str, dict[str, Any]]:
        """Path and body of a request."""
        more = {"stream_options": {"include_usage": True}} if stream else {}
        messages = [{"role": "user", "content": text}]
        asked = {"model": self.model, "messages": messages, "thinking_token_budget": thought, "stream": stream}
        return CHAT, asked | more | fields

    def response(self, text: str, thought: int, stream: bool, **fields: Any) -> tuple[str, dict[str, Any]]:
        asked = {"model": self.model, "input": text, "thinking_token_budget": thought, "stream": stream}
        return RESPONSES, asked | fields

    def either(self, number: int, text: str, thought: int, **fields: Any) -> tuple[str, dict[str, Any]]:
        """Of both kinds, streamed and not, in turn."""
        return (self.response if number % 2 else self.chat)(text, thought, stream=number % 4 > 1, **fields)


def prompts(number: int, count: int) -> list[str]:
    rng = Random(number)
    return [f"Use {rng.randint(1, 9)}, {rng.randint(1, 9)} and {rng.randint(1, 9)} to make 24." for _ in range(count)]


async def disconnects(served: Served, count: int, thought: int, within_s: float = 1.0) -> int:
    """So many clients, of whom some have a row and some wait for one, go at once: how many places are free in time."""
    writers = []
    for number, text in enumerate(prompts(0, count)):
        path, asked = served.either(number, text, thought)
        _, writer = await asyncio.open_connection(HOST, served.port)
        writer.write(request("POST", path, json.dumps(asked).encode()))
        writers.append(writer)
    async with asyncio.timeout(GIVEN_UP_S):
        while (await gauges(served.port, UNDER_WAY))[0] < count:
            await asyncio.sleep(0.01)
    for writer in writers:
        writer.transport.abort()
    until, left = time.perf_counter() + within_s, count
    while left:
        found = max(await gauges(served.port, UNDER_WAY, ACTIVE))
        if time.perf_counter() > until:
            break
        left = found
    return count - left


@dataclass(frozen=True, kw_only=True)
class Load:
    alone_s: list[float]
    """How long answers took whose clients asked one after another,"""
    admitted_s: list[float]
    """and those that were admitted of too many."""
    statuses: dict[int, int]
    """How many of the too many were answered so."""

    @property
    def slowdown(self) -> float:
        """How much longer the 99th percentile of those admitted is."""
        return float(np.percentile(self.admitted_s, 99) / np.percentile(self.alone_s, 99))


async def overload(served: Served, rows: int, count: int, new: int, seed: int, times: float = 4.0) -> Load:
    """Clients who come at random, `times` as many as the server's rows can serve, until `count` answers are due."""
    numbers = iter(range(seed * 1_000_000, (seed + 1) * 1_000_000))

    async def one() -> Answer:
        number = next(numbers)
        path, asked = served.chat(prompts(number, 1)[0], 0, number % 2 > 0, max_tokens=new, seed=number)
        return await post(served.port, path, asked)

    async def some(count: int) -> list[Answer]:
        return [await one() for _ in range(count)]

    alone = await some(count)
    began = time.perf_counter()
    await asyncio.gather(*(some(5) for _ in range(rows)))
    rate = times * rows * 5 / (time.perf_counter() - began)
    rng, came, asking = Random(seed), time.perf_counter(), []
    for _ in range(int(times * count)):
        came += rng.expovariate(rate)
        await asyncio.sleep(came - time.perf_counter())
        asking.append(asyncio.create_task(one()))
    answers = await asyncio.gather(*asking)
    statuses = [answer.status for answer in answers]
    return Load(
        alone_s=[answer.seconds for answer in alone],
        admitted_s=[answer.seconds for answer in answers if answer.status == 200],
        statuses={status: statuses.count(status) for status in sorted(set(statuses))},
    )


@dataclass(frozen=True, kw_only=True)
class Siege:
    closed_s: list[float]
    """When slow connections were closed."""
    honest_s: list[float]
    """How long answers took meanwhile."""


async def siege(served: Served, count: int) -> Siege:
    """Half as many heads and half as many bodies that come by a byte a second, and one honest client."""
    slow = [asyncio.create_task(drip(served.port, body=number % 2 > 0)) for number in range(count)]
    honest_s: list[float] = []
    while not all(task.done() for task in slow):
        path, asked = served.chat("Use 1, 2 and 3 to make 6.", 0, stream=False, max_tokens=16)
        answer = await post(served.port, path, asked)
        honest_s.append(answer.seconds if answer.whole else GIVEN_UP_S)
    return Siege(closed_s=[closed for task in slow if (closed := task.result()) is not None], honest_s=honest_s)


async def drip(port: int, body: bool) -> float | None:
    """After how long the server closed a connection whose request does not end, if it did."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection(HOST, port)
    head = request("POST", CHAT, b" " * 1000)
    writer.write(head.removesuffix(b" " * 1000) if body else head.partition(b"Content-Type")[0])

    async def go_on() -> None:
        while True:
            await asyncio.sleep(1)
            writer.write(b"x")

    dripping = asyncio.create_task(go_on())
    try:
        async with asyncio.timeout(GIVEN_UP_S):
            with suppress(ConnectionError):
                await reader.read()
        return time.perf_counter() - began
    except TimeoutError:
        return None
    finally:
        dripping.cancel()
        writer.close()


@dataclass(frozen=True, kw_only=True)
class Soak:
    kb: list[int]
    """Anonymous memory of the server, from the end of the warm-up on; nothing where the system does not tell."""
    answers: int
    errors: int

    @property
    def growth(self) -> list[float]:
        """Of the last sixth of the time over the first."""
        if not self.kb:
            return []
        part = max(len(self.kb) // 6, 1)
        before = statistics.median(self.kb[:part])
        return [kb / before - 1 for kb in self.kb[-part:]]


async def soak(served: Served, streams: int, thought: int, warm_s: float, seconds: float) -> Soak:
    """So many clients who ask again and again, in all ways."""
    kb: list[int] = []
    answers: list[bool] = []
    until = time.perf_counter() + warm_s + seconds

    async def client(number: int) -> None:
        turn = 0
        while time.perf_counter() < until:
            text = prompts(1000 * turn + number, 1)[0]
            answers.append((await post(served.port, *served.either(number + turn, text, thought))).whole)
            turn += 1

    async def watch() -> None:
        if not rollup(served.pid).exists():
            return
        await asyncio.sleep(warm_s)
        while time.perf_counter() < until:
            kb.append(anonymous_kb(served.pid))
            await asyncio.sleep(seconds / 90)

    await asyncio.gather(watch(), *map(client, range(streams)))
    return Soak(kb=kb, answers=len(answers), errors=answers.count(False))


def anonymous_kb(pid: int) -> int:
    return int(rollup(pid).read_text().partition("Anonymous:")[2].split()[0])


def rollup(pid: int) -> Path:
    """What Linux, and no other system, tells of a process's memory."""
    return PROCESSES / str(pid) / "smaps_rollup"
