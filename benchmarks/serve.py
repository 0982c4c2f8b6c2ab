"""Tokens a second of 64 streams from the server, against the engine without one on the same requests.

    python -m benchmarks.serve
    python -m benchmarks.serve --model runs/nano

Both are in one process and answer the same prompts with the same seeds, so they sample the same tokens. The client is
a process of its own, and its time is in the server's.
"""

import asyncio
import json
import time
from random import Random
from typing import Any

from benchmarks.bench import STEEP, Bench, options

STREAMS, THOUGHT, CONTEXT = 64, 512, 1024


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


if __name__ == "__main__":
    main()
