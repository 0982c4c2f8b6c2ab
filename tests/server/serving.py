"""A real server over a tiny random model, on a free port of this machine.

    STEEP_TEST_ENGINE=vllm python -m pytest tests/server -m "not browser" -W ignore

computes with vLLM, where it is installed (`python -m benchmarks.rivals vllm`).
"""

import http.client
import json
import os
import socket
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from steep.engines import ChunkedEngine, LoadedModel, NativeConfig, NativeEngine, load_model, save_model
from steep.engines.vllm import ChunkedVllmEngine, VllmEngine
from steep.models.transformer import ModelConfig, Transformer, initialise
from steep.server.app import create_app
from steep.server.config import ServerConfig
from steep.server.described import Chunk, Completion, ResponseEvent, ResponseTold
from steep.server.model import ServedModel
from steep.server.run import Server
from steep.server.store import IN_MEMORY, Store, store_url
from steep.tokens import Template, Tokenizer, compact

VLLM = os.environ.get("STEEP_TEST_ENGINE") == "vllm"
VLLM_OPTIONS = {"enforce_eager": True, "gpu_memory_utilization": 0.2, "kv_cache_memory_bytes": 1 << 26}
HEAD = 32 if VLLM else 16  # smaller heads are not computed on a CPU
CONTEXT = 1024
CLOSING = 2
"""Tokens that end a thought: one of phrase, and the end-of-thought token."""


def tiny(endless, head_dim=HEAD, **shape):
    """A model of random weights; an endless one writes ASCII and no control tokens, so that only limits end it."""
    config = replace(compact(), closing="!", answer=24)
    template = Template(Tokenizer.train(["make 24"], 300, config.control), config)
    small = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "intermediate_size": 32}
    made = ModelConfig(
        vocab_size=template.tokenizer.vocab_size,
        head_dim=head_dim,
        max_positions=4096,
        tied_embeddings=False,
        **(small | shape),
    )
    model = Transformer(made)
    initialise(model, torch.Generator().manual_seed(0))
    if endless:
        with torch.no_grad():
            model.embedding.weight[:, 0] = 4  # then every hidden state has a large first entry
            model.head.weight.mul_(30)
            model.head.weight[:, 0] = -20
            tokens = [template.tokenizer.token_bytes(id) for id in range(made.vocab_size)]
            plain = [id for id, token in enumerate(tokens) if token and min(token) >= 0x20 and max(token) < 0x7F]
            model.head.weight[plain, 0] = 0
    return LoadedModel(model, template, Path("tiny"), "tiny")


class Client:
    """What a test says to a server, whose answers must be as they are described."""

    def __init__(self, port, server):
        self.port, self.server = port, server
        self.service = server.service
        self.model = server.service.models["tiny"]

    def call(self, method, path, body=None, headers=None):
        """Status and bytes of the answer; a body of bytes is sent as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body)
            connection.request(method, path, data, {"content-type": "application/json"} | (headers or {}))
            answer = connection.getresponse()
            self.headers = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, answer.read()
        finally:
            connection.close()

    def get(self, path, **more):
        status, body = self.call("GET", path, **more)
        return status, json.loads(body)

    def post(self, path, body=None, **more):
        status, answer = self.call("POST", path, body, **more)
        return status, json.loads(answer)

    def chat(self, text="make 24", **fields):
        """The object of a completion."""
        status, answer = self.post("/v1/chat/completions", self.chat_body(text, **fields))
        assert status == 200, answer
        Completion.model_validate(answer)
        return answer

    def chat_body(self, text="make 24", **fields):
        return {"model": "tiny", "messages": [{"role": "user", "content": text}], "seed": 1} | fields

    def chat_stream(self, **fields):
        """The chunks of a completion."""
        options = {"stream": True, "stream_options": {"include_usage": True}}
        status, body = self.call("POST", "/v1/chat/completions", self.chat_body(**options, **fields))
        assert status == 200, body
        *chunks, done = [line.removeprefix("data: ") for line in body.decode().split("\n\n") if line]
        assert done == "[DONE]"
        for chunk in chunks:
            Chunk.model_validate_json(chunk)
        return [json.loads(chunk) for chunk in chunks]

    def respond(self, text="make 24", **fields):
        status, answer = self.post("/v1/responses", {"model": "tiny", "input": text, "seed": 1} | fields)
        assert status == 200, answer
        ResponseTold.model_validate(answer)
        return answer

    def response_stream(self, text="make 24", **fields):
        """The events of a response."""
        asked = {"model": "tiny", "input": text, "seed": 1, "stream": True} | fields
        status, body = self.call("POST", "/v1/responses", asked)
        assert status == 200, body
        events = [json.loads(part.split("data: ", 1)[1]) for part in body.decode().split("\n\n") if part]
        assert [part.split("\n")[0] for part in body.decode().split("\n\n") if part] == [
            f"event: {event['type']}" for event in events
        ]
        for event in events:
            ResponseEvent.model_validate(event)
            ResponseTold.model_validate(event.get("response", events[-1]["response"]))
        return events

    def break_engine(self):
        engine = self.model.driver.engine
        (engine._llm if VLLM else engine.decoder).step = None
        if not VLLM:
            engine.decoder.sample = None

    def begin(self, path, body):
        """A connection that has asked and reads nothing yet."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        return connection

    def wait(self, condition, seconds=20.0):
        """How long it took until something was so."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < seconds
            time.sleep(0.005)
        return time.monotonic() - began


def slowed(step, token_s):
    def slow(*args):
        time.sleep(token_s)
        return step(*args)

    return slow


kept = []
"""vLLM's engines share what is torn down when the first of them goes."""


def new_engine(loaded, config, chunked):
    if not VLLM:
        return (ChunkedEngine if chunked else NativeEngine)(loaded.model, config, loaded.template.end_ids)
    with tempfile.TemporaryDirectory() as directory:
        engine = (ChunkedVllmEngine if chunked else VllmEngine)(on_disk(loaded, directory), config, VLLM_OPTIONS)
    kept.append(engine)
    return engine


def on_disk(loaded, directory):
    save_model(Path(directory), loaded.model, loaded.template)
    return load_model(directory)


@contextmanager
def serving(
    endless=False,
    rows=8,
    context=CONTEXT,
    token_s=0.0,
    singly=False,
    names=("tiny",),
    store=IN_MEMORY,
    chunked=False,
    **config,
):
    """`token_s` is what each token takes at least; `singly`: the engine makes no more than one of a row in a step."""
    models = []
    for name in names:
        loaded = replace(tiny(endless), name=name)
        engine = new_engine(loaded, NativeConfig(rows=rows, context=context), chunked)
        if (token_s or singly) and not VLLM:
            engine.burst = 0
        if token_s:
            engine.step = slowed(engine.step, token_s)
        models.append(ServedModel(loaded, engine))
    settings = ServerConfig(**config)
    app = create_app(models, settings, Store(store_url(str(store)), settings.stored))
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(app, app.state.service)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    client = Client(listener.getsockname()[1], server)
    try:
        client.wait(lambda: server.started)
        yield client
    finally:
        server.should_exit = True
        thread.join()
        app.state.service.close()
        listener.close()
