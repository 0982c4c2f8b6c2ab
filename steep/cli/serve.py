"""`steep serve`: models behind an API that OpenAI's clients speak, and a page to chat with them."""

import argparse
import ipaddress
import json
import os
import socket
from pathlib import Path
from typing import Any

from steep.cache import cache_directory
from steep.cli.engine import LONGEST_CONTEXT, new_engine
from steep.cli.outcome import Outcome, Output
from steep.engines import ChunkedEngine, DrivenEngine, LoadedModel, NativeConfig, NativeEngine, load_model
from steep.engines.vllm import ChunkedVllmEngine, VllmEngine
from steep.errors import SteepError, to_install

try:
    from steep.server.app import create_app
    from steep.server.config import ServerConfig
    from steep.server.model import ServedModel
    from steep.server.run import run as run_server
    from steep.server.sealing import secret_in
    from steep.server.store import Store, store_url
except ImportError as error:
    raise SteepError(f"serving needs {error.name}, which is not installed", to_install("serve")) from error


def run(args: argparse.Namespace) -> Outcome:
    api_key = args.api_key or os.environ.get("STEEP_API_KEY") or None
    if api_key is None and not is_loopback(args.host):
        raise SteepError(
            f"anyone who reaches {args.host} could use the models",
            "set STEEP_API_KEY to a secret of your choice, or stay on 127.0.0.1",
        )
    where = args.store or str(cache_directory() / "responses.db")
    url = store_url(where)
    secret = os.environ.get("STEEP_SECRET") or (None if "://" in where else secret_in(Path(f"{where}.key")))
    config = ServerConfig(
        thoughts=args.thoughts,
        secret=secret,
        api_key=api_key,
        cors=tuple(args.cors),
        hosts=tuple(name.lower() for name in ("localhost", args.host, *args.allow_host)),
        max_thought=args.max_thought,
        queue=args.queue,
        per_key=args.per_key,
        answer_s=args.max_time,
        drain_s=args.drain,
    )
    listener = listen(args.host, args.port)
    store = Store(url, config.stored)
    models = [served(load_model(name), args) for name in args.models]
    app = create_app(models, config, store)
    host = f"[{args.host}]" if ":" in args.host else args.host
    page = f"http://{host}:{listener.getsockname()[1]}/"
    url = f"{page}v1"
    names = ", ".join(model.name for model in models)
    Output(stderr=True).say(f"serving {names} at {url}, with a page to chat at {page}; Ctrl-C stops")
    run_server(app, listener)
    return Outcome(value={"url": url, "page": page})


def served(loaded: LoadedModel, args: argparse.Namespace) -> ServedModel:
    longest = loaded.model.config.max_positions
    if args.context is not None and args.context > longest:
        raise SteepError(f"the context of {loaded.name} is {longest} tokens", f"choose --context {longest} or less")
    return ServedModel(loaded, engine(loaded, args))


def engine(loaded: LoadedModel, args: argparse.Namespace) -> DrivenEngine:
    longest, chunked = loaded.model.config.max_positions, args.thinking == "chunked"
    if args.engine == "vllm":
        if args.cache_dtype:
            raise SteepError("--cache-dtype is for steep's own engine", "for vLLM: --vllm kv_cache_dtype=fp8")
        config = NativeConfig(rows=args.rows, context=args.context or longest, dtype=args.dtype)
        return (ChunkedVllmEngine if chunked else VllmEngine)(loaded, config, vllm_options(args.vllm))
    if args.vllm:
        raise SteepError("--vllm is for vLLM alone", "add --engine vllm")
    context = args.context or min(longest, LONGEST_CONTEXT)
    kind = ChunkedEngine if chunked else NativeEngine
    return new_engine(loaded, args.rows, context, kind, args.dtype, args.cache_dtype)


def vllm_options(given: list[str]) -> dict[str, Any]:
    """NAME=VALUE, the value as in JSON where it is that."""
    options: dict[str, Any] = {}
    for option in given:
        name, equals, value = option.partition("=")
        if not equals:
            raise SteepError(f"--vllm {option} has no value", "write NAME=VALUE, as in tensor_parallel_size=2")
        try:
            options[name.replace("-", "_")] = json.loads(value)
        except json.JSONDecodeError:
            options[name.replace("-", "_")] = value
    return options


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """Before models are loaded, so that a port that is taken is told at once."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise SteepError(f"{host}:{port} cannot be listened on: {error}", "choose another --port or --host") from error
