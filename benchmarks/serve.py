"""Tokens a second of 64 streams from the server, against the engine without one; and a kill with 20 background jobs.

    python -m benchmarks.serve
    python -m benchmarks.serve --model runs/nano

Server and engine are in one process and answer the same prompts with the same seeds, so they sample the same tokens.
The client is a process of its own, and its time is in the server's.

SIGKILL comes when half of the background jobs are done, and a new server takes over. Survived: a job that ends once,
with the ids of a run that nothing interrupted.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

from benchmarks.bench import STEEP, Bench, options
from steep.engines import NativeConfig, NativeEngine, load_model
from steep.server.store import Store, store_url

STREAMS, THOUGHT, CONTEXT = 64, 512, 1024
JOBS, ROWS = 20, 8


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--model", metavar="MODEL", help="a trained model instead of N with random weights")
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    bench = Bench("serve", args)
    side = bench.sides[STEEP] = bench.steep("benchmarks.sides.server")
    streams, thought = (4, 8) if args.quick else (STREAMS, THOUGHT)
    directory = args.model or str(bench.model("N"))
    server = side.call("load", directory=directory, rows=streams, context=CONTEXT, dtype=args.dtype)

    def served(number: int) -> dict[str, Any]:
        with side.awake():
            return asyncio.run(ask(server["port"], server["model"], prompts(number, streams), thought, 1000 * number))

    def alone(number: int) -> dict[str, Any]:
        return side.call("alone", prompts=prompts(number, streams), thought=thought, seed=1000 * number)

    rows = bench.compare(f"{streams} streams", {STEEP: served, "engine alone": alone})
    bench.claim_ratio("serve.share_of_engine", rows, ">= 0.85")
    jobs = 4 if args.quick else JOBS
    bench.claim("serve.background_jobs_survived", [survived(directory, bench.work, jobs, thought)], f"== {jobs}")
    bench.finish()


def prompts(number: int, count: int) -> list[str]:
    rng = Random(number)
    return [f"Use {rng.randint(1, 9)}, {rng.randint(1, 9)} and {rng.randint(1, 9)} to make 24." for _ in range(count)]


async def ask(port: int, model: str, texts: list[str], thought: int, seed: int) -> dict[str, Any]:
    began = time.perf_counter()
    answers = [stream(port, model, text, thought, seed + i) for i, text in enumerate(texts)]
    tokens = sum(await asyncio.gather(*answers))
    return {"seconds": time.perf_counter() - began, "tokens": tokens}


async def stream(port: int, model: str, text: str, thought: int, seed: int) -> int:
    """Read one stream to its end; how many tokens it had."""
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "thinking_token_budget": thought,
            "seed": seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{head}Content-Type: application/json\r\nConnection: close\r\n\r\n{body}".encode())
    said = await reader.read()
    writer.close()
    usage = said.rpartition(b'"completion_tokens":')[2].partition(b",")[0]
    return int(usage)


def survived(directory: str, work: Path, jobs: int, thought: int) -> int:
    file = work / "responses.db"
    file.unlink(missing_ok=True)
    store = Store(store_url(str(file)), keep=jobs)
    with server(directory, file) as url:
        with urlopen(f"{url}/models") as answer:
            model = json.load(answer)["data"][0]["id"]
        ids = [begin(url, model, text, thought, seed) for seed, text in enumerate(prompts(0, jobs))]
        wait(store, ids, jobs // 2)
    with server(directory, file):
        wait(store, ids, jobs)
    loaded = load_model(directory)
    engine = NativeEngine(loaded.model, NativeConfig(rows=ROWS, context=CONTEXT), loaded.template.end_ids)
    alone = {id: engine.submit(record.request) for id in ids if (record := store.find(id))}
    whole = 0
    for id, future in alone.items():
        _, pieces = store.news(id) or (None, [])
        whole += [i for piece in pieces for i in piece.ids.tolist()] == future.result()[0].ids.tolist()
    store.close()
    return whole


@contextmanager
def server(directory: str, store: Path) -> Iterator[str]:
    """`steep serve` until SIGKILL, by its URL."""
    options = ["--port", "0", "--rows", str(ROWS), "--context", str(CONTEXT), "--store", str(store)]
    command = [sys.executable, "-m", "steep.cli", "serve", directory, *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            yield said[said.index("http") : said.index(";")]
        finally:
            process.kill()


def begin(url: str, model: str, text: str, thought: int, seed: int) -> str:
    """Ask for a background response; its id."""
    asked = {"model": model, "input": text, "background": True, "thinking_token_budget": thought, "seed": seed}
    body = HttpRequest(f"{url}/responses", json.dumps(asked).encode(), {"content-type": "application/json"})
    with urlopen(body) as answer:
        return str(json.load(answer)["id"])


def wait(store: Store, ids: list[str], done: int) -> None:
    """Until so many are done."""
    while sum(found is not None and found[0].done for found in map(store.news, ids)) < done:
        time.sleep(0.1)


if __name__ == "__main__":
    main()
