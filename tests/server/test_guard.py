"""Who may call, how much, how fast, and what becomes of a server that is asked too much or told to stop."""

import asyncio
import itertools
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest

from steep.engines import save_model
from steep.errors import SteepError
from steep.server import stream
from steep.server.generation import Generation
from steep.server.run import Together
from steep.server.stream import EventStream
from tests.server.serving import VLLM, serving, tiny


def test_a_key_guards_every_route_but_health_and_the_page():
    with serving(api_key="kéy") as client:
        routes = [("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("POST", "/v1/responses")]
        for method, path in [*routes, ("GET", "/v1/responses/x"), ("GET", "/nothing")]:
            for given in ({}, {"authorization": "Bearer no"}, {"authorization": "kéy".encode()}):
                assert client.call(method, path, headers=given)[0] == 401
        assert client.get("/health") == (200, {"status": "ok"})
        assert client.get("/v1/models", headers={"authorization": "Bearer kéy".encode()})[0] == 200


def test_the_page_loads_without_the_key_and_from_here_alone():
    with serving(api_key="key") as client:
        status, page = client.call("GET", "/")
        assert (status, client.headers["content-type"]) == (200, "text/html; charset=utf-8")
        policy = dict(rule.split(" ", 1) for rule in client.headers["content-security-policy"].split("; "))
        assert (policy["default-src"], policy["script-src"], policy["style-src"]) == ("'none'", "'self'", "'self'")
        files = re.findall(r'(?:src|href)="\./(.*?)"', page.decode())
        assert files == ["index.js", "index.css"]
        for file in (*files, "tex.js", "KaTeX_Main-Regular.woff2", "licenses.md"):
            assert client.call("GET", f"/{file}")[0] == 200
            assert client.headers["x-content-type-options"] == "nosniff"
        unchanged = {"if-none-match": client.headers["etag"]}
        assert client.call("GET", "/licenses.md", headers=unchanged) == (304, b"")
        known = {"authorization": "Bearer key"}
        for path in ("/nothing", "/..%2fapp.py", "/%2e%2e/app.py"):
            assert client.call("GET", path, headers=known)[0] == 404
        assert client.call("POST", "/", headers=known)[0] == 405


def test_only_own_names_and_pages_are_served(server):
    own = {"localhost:1": 200, "127.0.0.1": 200, "[::1]:80": 200}
    for host, status in (own | {"evil.example": 400, "localhost.evil": 400, "[": 400, "": 400}).items():
        assert server.call("GET", "/health", headers={"host": host})[0] == status
    for origin, status in {"http://evil.example": 403, "null": 403, "http://127.0.0.1:9": 403}.items():
        assert server.call("GET", "/health", headers={"origin": origin})[0] == status
    same = {"origin": "http://localhost:9", "host": "localhost:9"}
    assert server.call("GET", "/health", headers=same)[0] == 200
    assert "access-control-allow-origin" not in server.headers


def test_pages_of_other_origins_may_call_if_told():
    page = {"origin": "https://page.example"}
    with serving(cors=("https://page.example",), api_key="key") as client:
        assert client.call("GET", "/health", headers=page)[0] == 200
        assert client.headers["access-control-allow-origin"] == "https://page.example"
        of_a_client = "authorization,content-type,x-stainless-lang,x-stainless-retry-count"  # as openai-node asks
        asks = {"access-control-request-method": "POST", "access-control-request-headers": of_a_client}
        assert client.call("OPTIONS", "/v1/responses", headers=page | asks)[0] == 200
        assert client.headers["access-control-allow-headers"] == of_a_client
        assert client.call("GET", "/v1/models", headers=page)[0] == 401
        assert client.headers["access-control-expose-headers"] == "retry-after"
        assert client.call("GET", "/health", headers={"origin": "https://other.example"})[0] == 403


def test_bodies_have_a_limit_whether_or_not_they_say_their_length():
    with serving(max_body_bytes=1000) as client:
        assert client.call("POST", "/v1/responses", b"x" * 1001)[0] == 413
        with socket.create_connection(("127.0.0.1", client.port), timeout=20) as connection:
            head = b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.sendall(head + b"400\r\n" + b"x" * 1024 + b"\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (b"GET /health HTTP/1.1\r\nHost: loc", b""),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea", b""),
        (b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{", b"HTTP/1.1 408"),
    ],
)
def test_requests_that_do_not_arrive_are_given_up(sent, answer):
    with serving(headers_s=0.3, body_s=0.3) as client:
        with socket.create_connection(("127.0.0.1", client.port), timeout=20) as connection:
            connection.sendall(sent)
            parts = []
            while part := connection.recv(4096):
                parts.append(part)
        said = b"".join(parts)
        assert said.startswith(b"HTTP/1.1 200" if sent.count(b"GET") == 2 else answer)
        assert client.get("/health")[0] == 200


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_a_client_that_goes_frees_its_rows(stream, path):
    with serving(endless=True, context=4096, rows=2) as client:
        many = {"n": 16} if "chat" in path else {}
        messages = {"messages": [{"role": "user", "content": "x"}]} if "chat" in path else {"input": "x"}
        body = {"model": "tiny", "stream": stream, "reasoning_effort": "max"} | messages | many
        connection = client.begin(path, body)
        client.wait(lambda: client.model.driver.engine.active)
        connection.close()
        assert client.wait(lambda: client.model.driver.engine.idle) < 1.0
        assert client.model.answers == 0
        assert not client.service.live


def test_a_full_queue_is_told():
    with serving(endless=True, context=4096, rows=1, queue=1) as client:
        body = client.chat_body(n=2, reasoning_effort="max")
        connection = client.begin("/v1/chat/completions", body)
        client.wait(lambda: client.model.answers == 2)
        status, answer = client.post("/v1/chat/completions", client.chat_body())
        assert (status, answer["error"]["code"]) == (429, "queue_full")
        assert client.headers["retry-after"] == "1"
        assert client.post("/v1/chat/completions", client.chat_body(n=3))[0] == 400  # it could never be let in
        connection.close()
        client.wait(lambda: client.model.answers == 0)
        assert client.chat(reasoning_effort="none")["object"] == "chat.completion"


def test_one_key_does_not_take_all_places():
    with serving(endless=True, context=4096, rows=4, per_key=2) as client:
        connection = client.begin("/v1/chat/completions", client.chat_body(n=2, reasoning_effort="max"))
        client.wait(lambda: client.model.answers == 2)
        status, answer = client.post("/v1/responses", {"model": "tiny", "input": "x"})
        assert (status, answer["error"]["code"]) == (429, "key_busy")
        assert client.headers["retry-after"] == "1"
        other = {"authorization": "Bearer other"}
        few = {"reasoning_effort": "none", "n": 2}
        assert client.post("/v1/chat/completions", client.chat_body(**few), headers=other)[0] == 200
        status, answer = client.post("/v1/chat/completions", client.chat_body(n=3), headers=other)
        assert (status, answer["error"]["param"]) == (400, "n")  # it could never be let in
        connection.close()
        client.wait(lambda: not client.service.by_key)
        assert client.post("/v1/chat/completions", client.chat_body(**few))[0] == 200


def test_messages_and_thoughts_have_limits():
    with serving(max_messages=2, max_thought=20, endless=True) as client:
        many = [{"role": "user", "content": "x"}] * 3
        assert client.post("/v1/chat/completions", client.chat_body(messages=many))[0] == 400
        assert client.post("/v1/chat/completions", client.chat_body(thinking_token_budget=21))[0] == 400
        used = client.chat(reasoning_effort="max")["usage"]
        assert used["completion_tokens_details"]["reasoning_tokens"] == 20


def test_what_is_under_way_is_ended_and_nothing_new_begun_while_draining():
    with serving(endless=True, context=4096, rows=1) as client:
        stream = client.begin("/v1/chat/completions", client.chat_body(n=2, stream=True, max_tokens=2000))
        client.wait(lambda: client.service.live)
        client.server.handle_exit(signal.SIGTERM, None)
        assert client.get("/health") == (503, {"status": "draining"})
        status, answer = client.post("/v1/chat/completions", client.chat_body())
        assert (status, answer["error"]["code"]) == (503, "shutting_down")
        assert client.headers["retry-after"] == "1"
        said = b""
        while part := stream.recv(1 << 16):
            said += part
        assert b"data: [DONE]" in said
        assert said.count(b'"finish_reason":"length"') == 2
        client.wait(lambda: client.server.should_exit)
        stream.close()


def test_an_engine_that_fails_is_told_and_nobody_waits_for_ever(caplog):
    with serving(endless=True, context=4096) as client:
        answers = []
        asking = threading.Thread(target=lambda: answers.append(client.post("/v1/chat/completions", body)))
        body = client.chat_body(reasoning_effort="max", n=8)
        client.break_engine()
        asking.start()
        asking.join(timeout=20)
        ((status, answer),) = answers
        assert (status, answer["error"]["type"]) == (500, "server_error")
        assert client.get("/health") == (503, {"status": "failed"})
        assert client.post("/v1/chat/completions", client.chat_body())[0] == 500
    assert "the engine failed" in caplog.text


def errors_told(client):
    """At each way in, to clients that ask for a schema."""
    schema = {"enum": [24]}
    chat = client.chat_body(response_format={"type": "json_schema", "json_schema": {"schema": schema}})
    asked = {"model": "tiny", "input": "x", "text": {"format": {"type": "json_schema", "name": "f", "schema": schema}}}

    def whole(path, body):
        status, answer = client.post(path, body)
        assert status == 500
        return answer["error"]

    def last(path, body):
        said = client.call("POST", path, body | {"stream": True})[1].removesuffix(b"data: [DONE]\n\n")
        event = said.split(b"\n\n")[-2]
        return json.loads(event.partition(b"data: ")[2])

    yield whole("/v1/chat/completions", chat)
    yield last("/v1/chat/completions", chat)["error"]
    yield whole("/v1/responses", asked)
    for background in (False, True):
        event = last("/v1/responses", asked | {"background": background})
        assert event["type"] == "response.failed"
        yield event["response"]["error"]


@pytest.mark.skipif(VLLM, reason="on vLLM it ends the engine")
def test_what_raises_for_one_request_ends_that_one_alone(caplog):
    class Broken:
        def allowed(self):
            raise RuntimeError("no grammar")

    async def constraint(model, schema):
        return None if schema is None else Broken

    with serving(endless=True, context=4096) as client:
        client.service.constraint = constraint
        other = client.begin("/v1/chat/completions", client.chat_body(reasoning_effort="max", stream=True))
        client.wait(lambda: client.service.live)
        (generation,) = client.service.live
        told = [error["message"] for error in errors_told(client)]
        assert told == ["the answer failed: the server's log says why"] * 5
        assert caplog.text.count("RuntimeError: no grammar") == 5
        assert (generation.error, client.get("/health")[0]) == (None, 200)
        client.wait(lambda: not client.service.live)
        assert generation.tokens > 4000
        assert client.model.answers == 0
        other.close()


def test_a_bug_in_what_is_told_of_one_answer_stops_no_other(monkeypatch, caplog):
    take = Generation.take

    def broken(self, progress):
        if self.request.seed == 13:
            raise RuntimeError("no news")
        take(self, progress)

    monkeypatch.setattr(Generation, "take", broken)
    with serving(endless=True, context=4096) as client:
        status, answer = client.post("/v1/chat/completions", client.chat_body(seed=13, reasoning_effort="max"))
        assert (status, answer["error"]["message"]) == (500, "the answer failed: the server's log says why")
        assert "RuntimeError: no news" in caplog.text
        assert client.wait(lambda: client.model.driver.engine.idle) < 1.0
        assert client.chat(reasoning_effort="low")["usage"]["completion_tokens_details"]["reasoning_tokens"] == 32


def test_a_bug_is_told_counted_and_logged(tmp_path, caplog):
    with serving(store=tmp_path / "a.db", cors=("https://page.example",)) as client:
        with closing(sqlite3.connect(tmp_path / "a.db")) as database:
            database.execute("DROP TABLE responses")
        path, page = f"/v1/responses/resp_{0:032x}", {"origin": "https://page.example"}
        status, answer = client.get(path, headers=page)
        assert (status, answer["error"]["type"]) == (500, "server_error")
        assert client.headers["access-control-allow-origin"] == "https://page.example"
        counted = 'steep_requests_total{route="/v1/responses/{id}",status="500"} 1\n'
        assert counted in client.call("GET", "/metrics")[1].decode()
    assert f"GET '{path}' failed" in caplog.text
    assert "no such table: responses" in caplog.text


def test_a_method_that_is_not_there_is_answered_with_those_that_are(server):
    for path, methods in {"/v1/responses/x": "GET, DELETE", "/v1/models/a/b": "GET", "/v1/responses": "POST"}.items():
        assert server.call("PUT", path)[0] == 405
        assert server.headers["allow"] == methods


def test_the_description_is_this_servers(server):
    description = server.get("/openapi.json")[1]
    for asked in ("ChatAsked", "ResponseAsked"):
        assert description["components"]["schemas"][asked]["properties"]["model"]["enum"] == ["tiny"]
    statuses = {path: {s for o in made.values() for s in o["responses"]} for path, made in description["paths"].items()}
    anywhere = {"200", "400", "401", "403", "408", "413", "500"}
    assert statuses["/v1/chat/completions"] == statuses["/v1/responses"] == anywhere | {"404", "429", "503"}
    assert statuses["/v1/responses/{id}"] == statuses["/v1/models/{name}"] == anywhere | {"404"}


def test_models_and_metrics(server):
    (model,) = server.get("/v1/models")[1]["data"]
    assert model == server.get("/v1/models/tiny")[1]
    assert (model["id"], model["context"], model["answer"]) == ("tiny", 1024, 24)
    assert model["efforts"]["low"] == 32
    assert model["default_effort"] == "medium"
    before = server.model.driver.engine
    used = server.chat()["usage"]
    assert before.idle
    text = server.call("GET", "/metrics")[1].decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert int(values['steep_tokens_total{model="tiny",kind="completion"}']) >= used["completion_tokens"]
    assert int(values['steep_requests_total{route="/v1/chat/completions",status="200"}']) >= 1
    assert values['steep_rows{model="tiny"}'] == "8"


# The command


class Recorded(asyncio.Transport):
    """What was written at once, and None for its end."""

    def __init__(self):
        super().__init__()
        self.parts = []

    def write(self, data):
        self.parts.append(data)

    def close(self):
        self.parts.append(None)

    def is_closing(self):
        return None in self.parts


def test_what_is_said_in_one_turn_is_written_at_once():
    recorded = Recorded()

    async def say():
        together = Together(recorded, asyncio.get_running_loop())
        together.write(b"head")
        together.write(b" and body")
        await asyncio.sleep(0)
        together.write(b"the end")
        together.close()
        together.write(b"to nobody")
        await asyncio.sleep(0)

    asyncio.run(say())
    assert recorded.parts == [b"head and body", b"the end", None]


@pytest.mark.parametrize("pause_s", [0.25, 0.0])
def test_a_long_silence_is_broken(pause_s, monkeypatch):
    monkeypatch.setattr(stream, "SILENCE_S", 0.1)
    sent = []

    async def chunks():
        for chunk in (b"", b"data: 1\n\n", b"data: 2\n\n"):
            await asyncio.sleep(pause_s)
            yield chunk

    async def send(message):
        sent.append(message)

    asyncio.run(EventStream(chunks())({"type": "http"}, None, send))
    head, *bodies = sent
    assert (head["type"], head["status"]) == ("http.response.start", 200)
    assert [body["more_body"] for body in bodies] == [True] * (len(bodies) - 1) + [False]
    said = [(chunk, len([*same])) for chunk, same in itertools.groupby(body["body"] for body in bodies)]
    one, two = (b"data: 1\n\n", 1), (b"data: 2\n\n", 1)
    if pause_s:
        (comment, before), *rest = said
        assert (comment, before >= 2) == (b": \n\n", True)
        assert [chunk for chunk, _ in rest] == [one[0], comment, two[0], b""]
    else:
        assert said == [one, two, (b"", 1)]


def test_another_address_needs_a_key(monkeypatch):
    from steep.cli.arguments import parse
    from steep.cli.serve import run

    monkeypatch.delenv("STEEP_API_KEY", raising=False)
    with pytest.raises(SteepError, match=r"anyone who reaches 0\.0\.0\.0"):
        run(parse(["serve", "nowhere", "--host", "0.0.0.0"]))
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SteepError, match="cannot be listened on"):
        run(parse(["serve", "nowhere", "--port", str(taken.getsockname()[1])]))


def test_options_for_vllm_are_read_as_json_and_refused_without_it():
    from steep.cli.arguments import parse
    from steep.cli.serve import engine, vllm_options

    assert vllm_options(["tensor-parallel-size=2", "kv_cache_dtype=fp8", "enforce_eager=true"]) == {
        "tensor_parallel_size": 2,
        "kv_cache_dtype": "fp8",
        "enforce_eager": True,
    }
    with pytest.raises(SteepError, match="--vllm seed has no value"):
        vllm_options(["seed"])
    with pytest.raises(SteepError, match=r"--cache-dtype is for steep's own engine\n.*kv_cache_dtype"):
        engine(tiny(endless=True), parse(["serve", "tiny", "--engine", "vllm", "--cache-dtype", "int8"]))
    with pytest.raises(SteepError, match="--vllm is for vLLM alone"):
        engine(tiny(endless=True), parse(["serve", "tiny", "--vllm", "seed=1"]))


def test_the_command_serves_until_it_is_stopped(tmp_path):
    loaded = tiny(endless=True)
    save_model(tmp_path, loaded.model, loaded.template)
    command = [sys.executable, "-m", "steep.cli", "serve", str(tmp_path), "--port", "0", "--rows", "2", "--json"]
    command += ["--store", str(tmp_path / "store.db")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    line = process.stderr.readline()
    assert line.startswith(f"serving {tmp_path.name} at http://127.0.0.1:"), line + process.stderr.read()
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert json.loads(out)["url"] in line
    assert json.loads(out)["page"] in line
