"""What the server bears, and how fast it is: against its engine without a server, and against vLLM's.

    python -m benchmarks.serve
    python -m benchmarks.serve --model runs/nano

share        tokens a second of 64 streams, against the engine alone. Server and engine are in one process and answer
             the same prompts with the same seeds, so they sample the same tokens.
first token  how long 19 of 20 clients wait for it at most, 16 of whom begin at once and ask again and again, three
             times a round, against vLLM's server with the same model, dtype, prompts and lengths of answers, in turn.
disconnects  of 100 clients at once, of all kinds, 36 of whom still wait for a row: places free within a second.
overload     clients come at random, four times as many as the server can serve. The 99th percentile of those who are
             admitted, over that of clients who come one after another; and answers but 200, 429 and 503.
slow         100 heads and 100 bodies of a byte a second: how many are closed within 15 s, and the 99th percentile of
             what an honest client waits for 16 tokens meanwhile.
soak         32 clients ask for 90 s in all ways: growth of the server's anonymous memory, and errors.
kill         with 20 background jobs, when half of them are done; a new server takes over. Survived: a job that ends
             once, with the ids of a run that nothing interrupted.

The clients are a process of their own, and their time is in the server's.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

import numpy as np
import uvloop

from benchmarks.bench import STEEP, Bench, options
from benchmarks.clients import Answer, post
from benchmarks.strain import CHAT, Served, disconnects, overload, prompts, siege, soak
from benchmarks.worker import Side, SideError
from steep.engines import NativeConfig, NativeEngine, load_model
from steep.server.store import Store, store_url
from steep.tokens import Template
from steep.types import Message

STREAMS, THOUGHT, CONTEXT = 64, 512, 1024
CLIENTS, TURNS, LENGTHS, BURSTS = 16, 8, (32, 96), 3
VLLM = "vllm-serve"
GONE, SLOW, SOAKING = 100, 200, 32
CLOSED_S = 15.0
SOAK_S, WARM_S = 90.0, 20.0
OVERLOAD_ROWS, OVERLOAD_NEW, OVERLOAD_COUNT = 4, 128, 100
ADMITTED = {200, 429, 503}
JOBS, ROWS = 20, 8


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--model", metavar="MODEL", help="a trained model instead of N with random weights")
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    bench = Bench("serve", args)
    directory = args.model or str(bench.model("N"))
    speed(bench, directory, args.dtype)
    bench.close()
    endurance(bench, directory)
    bench.finish()


def speed(bench: Bench, directory: str, dtype: str) -> None:
    """What it costs to have a server, and how soon it begins to answer."""
    quick = bench.args.quick
    streams, thought = (4, 8) if quick else (STREAMS, THOUGHT)
    load: dict[str, Any] = {"directory": directory, "rows": streams, "context": CONTEXT, "dtype": dtype}
    bench.sides[STEEP] = side = bench.steep("benchmarks.sides.server", **load)

    def served(number: int) -> dict[str, Any]:
        with side.awake():
            return uvloop.run(streamed(side, prompts(number, streams), thought, 1000 * number))

    def alone(number: int) -> dict[str, Any]:
        return side.call("alone", prompts=prompts(number, streams), thought=thought, seed=1000 * number)

    rows = bench.compare(f"{streams} streams", {STEEP: served, "engine alone": alone})
    bench.claim_ratio("serve.share_of_engine", rows, ">= 0.85")

    bench.rival(VLLM, **load)
    template = load_model(directory).template
    clients, turns = (2, 2) if quick else (CLIENTS, TURNS)

    def first_tokens(side: Side, request: Asking) -> Callable[[int], dict[str, Any]]:
        def run(number: int) -> dict[str, Any]:
            with side.awake():
                return uvloop.run(waited(side, request, number, clients, turns))

        return run

    asking = {STEEP: chat, VLLM: lambda model, text, new: completion(model, text, new, template)}
    runs = {name: first_tokens(side, asking[name]) for name, side in bench.sides.items()}
    rows = bench.compare(f"first token, p95 of {clients} streams", runs)
    bench.claim_ratio("serve.first_token_against_vllm", rows, ">= 2")


async def streamed(side: Side, texts: list[str], thought: int, seed: int) -> dict[str, Any]:
    """All at once, by how many tokens they had."""
    served = Served(**side.loaded, pid=side.process.pid)
    began = time.perf_counter()
    asked = [served.chat(text, thought, stream=True, seed=seed + i) for i, text in enumerate(texts)]
    answers = await asyncio.gather(*(post(served.port, *one) for one in asked))
    return {"seconds": time.perf_counter() - began, "tokens": sum(answer.tokens for answer in answers)}


Asking = Callable[[str, str, int], tuple[str, dict[str, Any], bytes]]
"""Path and body for a model, a text and a number of tokens, and what is in the answer from its first token on."""


def chat(model: str, text: str, new: int) -> tuple[str, dict[str, Any], bytes]:
    messages = [{"role": "user", "content": text}]
    asked = {"model": model, "messages": messages, "reasoning_effort": "max", "max_tokens": new, "stream": True}
    return CHAT, asked, b'"reasoning":'


def completion(model: str, text: str, new: int, template: Template) -> tuple[str, dict[str, Any], bytes]:
    """The same of a server that knows no thoughts, by ids."""
    ids = template.render([Message(role="user", content=text)])
    asked = {"model": model, "prompt": ids, "max_tokens": new, "temperature": 1.0, "ignore_eos": True, "stream": True}
    return "/v1/completions", asked, b'"text":'


async def waited(side: Side, asking: Asking, number: int, clients: int, turns: int) -> dict[str, Any]:
    """The 95th percentile of the time to the first token."""
    port, model = side.loaded["port"], side.loaded["model"]

    async def client(seed: int) -> list[Answer]:
        lengths = Random(seed)
        asked = [asking(model, text, lengths.randint(*LENGTHS)) for text in prompts(seed, turns)]
        return [await post(port, *one) for one in asked]

    answers: list[Answer] = []
    for burst in range(BURSTS):  # the longest waits of each are in its beginning, which is one throw of the dice
        asked = await asyncio.gather(*(client(1000 * (BURSTS * number + burst) + i) for i in range(clients)))
        answers += [answer for one in asked for answer in one]
    if odd := [answer for answer in answers if answer.status != 200 or not answer.first_s]:
        raise SideError(f"answered {odd[0].said[:200]!r}")
    return {"seconds": float(np.percentile([answer.first_s for answer in answers], 95))}


def endurance(bench: Bench, directory: str) -> None:
    """What it lives through."""
    quick = bench.args.quick
    file = fresh(bench.work / "responses.db")
    environment = {"OMP_NUM_THREADS": str(bench.args.threads)}
    gone, streams, slow = (8, 4, 8) if quick else (GONE, SOAKING, SLOW)
    new, count = (8, 8) if quick else (OVERLOAD_NEW, OVERLOAD_COUNT)
    with server(directory, file, environment, STREAMS) as served:
        bench.claim("serve.disconnects_freed", [uvloop.run(disconnects(served, gone, THOUGHT))], f"== {gone}")
        besieged = uvloop.run(siege(served, slow))
        closed = sum(seconds < CLOSED_S for seconds in besieged.closed_s)
        bench.claim("serve.slow_closed", [closed], f"== {slow}")
        bench.claim("serve.honest_p99_s", [float(np.percentile(besieged.honest_s, 99))], "< 1")
    with server(directory, file, environment, streams) as served:  # whose cache is in use from the beginning
        soaked = uvloop.run(soak(served, streams, THOUGHT // 4, *((2, 3) if quick else (WARM_S, SOAK_S))))
        bench.claim("serve.soak_growth", soaked.growth, "< 0.03")
        bench.claim("serve.soak_errors", [soaked.errors], "== 0")
    with server(directory, file, environment, OVERLOAD_ROWS, "--queue", "0") as served:
        loads = [uvloop.run(overload(served, OVERLOAD_ROWS, count, new, seed)) for seed in range(bench.pairs)]
        bench.claim("serve.overload_slowdown", [load.slowdown for load in loads], "<= 2")
        others = sum(n for load in loads for status, n in load.statuses.items() if status not in ADMITTED)
        bench.claim("serve.overload_errors", [others], "== 0")
    jobs = 4 if quick else JOBS
    bench.claim(
        "serve.background_jobs_survived",
        [survived(directory, file, environment, jobs, 8 if quick else THOUGHT)],
        f"== {jobs}",
    )


def survived(directory: str, file: Path, environment: dict[str, str], jobs: int, thought: int) -> int:
    store = Store(store_url(str(fresh(file))), keep=jobs)
    with server(directory, file, environment, ROWS) as served:
        ids = [begin(served, text, thought, seed) for seed, text in enumerate(prompts(0, jobs))]
        wait(store, ids, jobs // 2)
    with server(directory, file, environment, ROWS):
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


def fresh(file: Path) -> Path:
    """A store that is not there, nor what a killed server left beside it."""
    for path in file.parent.glob(f"{file.name}*"):
        path.unlink()
    return file


@contextmanager
def server(directory: str, store: Path, environment: dict[str, str], rows: int, *more: str) -> Iterator[Served]:
    """`steep serve` until SIGKILL."""
    options = ["--port", "0", "--rows", str(rows), "--context", str(CONTEXT), "--store", str(store), *more]
    command = [sys.executable, "-m", "steep.cli", "serve", directory, *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            url = said[said.index("http") : said.index("/v1")]
            with urlopen(f"{url}/v1/models") as answer:
                model = json.load(answer)["data"][0]["id"]
            yield Served(port=int(url.rpartition(":")[2]), model=model, pid=process.pid)
        finally:
            process.kill()


def begin(served: Served, text: str, thought: int, seed: int) -> str:
    """Ask for a background response; its id."""
    path, asked = served.response(text, thought, stream=False, background=True, seed=seed)
    url, body = f"http://127.0.0.1:{served.port}{path}", json.dumps(asked).encode()
    with urlopen(HttpRequest(url, body, {"content-type": "application/json"})) as answer:
        return str(json.load(answer)["id"])


def wait(store: Store, ids: list[str], done: int) -> None:
    """Until so many are done."""
    while sum(found is not None and found[0].done for found in map(store.news, ids)) < done:
        time.sleep(0.1)


if __name__ == "__main__":
    main()
