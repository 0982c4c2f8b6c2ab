"""Background responses and the store: they outlive clients and processes, and end exactly once."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import create_engine

from steep.engines import NativeConfig, NativeEngine, load_model, save_model
from steep.errors import SteepError
from steep.server.sealing import Seal
from steep.server.store import REQUEST, TABLES, VERSION, Gain, Means, Record, State, Store, store_url
from steep.types import Budget, Progress, Request
from tests.server.serving import CLOSING, CONTEXT, VLLM, VLLM_OPTIONS, Client, serving, tiny
from tests.server.test_responses import lasting, thought

LONG = {"input": "x", "background": True, "reasoning": {"effort": "max"}}
ENDED = State(status="incomplete", completed_at=5.0)
MEANS = Means(weights="w", context=64, chunked=False)


def begin(client, **fields):
    body = {"model": "tiny", "input": "make 24", "seed": 1, "background": True} | fields
    response = client.post("/v1/responses", body)[1]
    assert (response["status"], response["output"], response["background"]) == ("queued", [], True)
    return response["id"]


def finished(client, id):
    """The response when it is done."""
    client.wait(lambda: client.get(f"/v1/responses/{id}")[1]["status"] not in ("queued", "in_progress"), seconds=120)
    return client.get(f"/v1/responses/{id}")[1]


def told(client, id, after=None):
    """The events of a stored response, from the one after `after` on."""
    starting = "" if after is None else f"&starting_after={after}"
    status, body = client.call("GET", f"/v1/responses/{id}?stream=true{starting}")
    assert status == 200
    return [json.loads(part.split("data: ", 1)[1]) for part in body.decode().split("\n\n") if part]


def test_a_background_response_is_what_a_waiting_client_gets(endless):
    for fields in ({"thinking_token_budget": 200}, {"reasoning": {"effort": "none"}}, {"max_output_tokens": 90}):
        assert lasting(finished(endless, begin(endless, **fields))) == lasting(endless.respond(**fields))


def test_an_answer_that_is_held_to_a_schema(endless):
    pytest.importorskip("llguidance")
    form = {"type": "json_schema", "name": "f", "schema": {"enum": [24]}}
    response = finished(endless, begin(endless, text={"format": form}, thinking_token_budget=20))
    assert response["output"][1]["content"][0]["text"] == "24"


@pytest.mark.parametrize("background", [True, False])
def test_a_stream_is_taken_up_after_any_event(endless, background):
    whole = endless.response_stream(background=background, thinking_token_budget=600)
    id = whole[0]["response"]["id"]
    kinds = [event["type"].removeprefix("response.") for event in whole]
    assert kinds[: 2 + background] == ["created", *["queued"] * background, "in_progress"]
    assert kinds[-1] == "incomplete"
    assert "reasoning_text.delta" in kinds
    assert [event["sequence_number"] for event in whole] == list(range(len(whole)))
    for after in (None, *range(-1, len(whole))):
        assert told(endless, id, after) == whole[0 if after is None else after + 1 :]


def test_a_stream_is_taken_up_while_it_is_made_and_a_client_that_goes_ends_nothing():
    with serving(endless=True, context=4096, singly=True) as client:
        first = client.begin("/v1/responses", {"model": "tiny", "stream": True} | LONG)
        said = b""
        while b"reasoning_text.delta" not in said:
            said += first.recv(1 << 16)
        first.close()
        created = json.loads(said.partition(b"data: ")[2].partition(b"\n\n")[0])
        id = created["response"]["id"]
        assert client.get(f"/v1/responses/{id}")[1]["status"] == "in_progress"
        rest = told(client, id, after=0)
        assert rest == told(client, id, after=0)
        assert rest[0]["sequence_number"] == 1
        assert rest[-1]["response"] == finished(client, id)
        assert rest[-1]["response"]["usage"]["output_tokens_details"]["reasoning_tokens"] > 3000


def test_a_live_stream_has_a_second_reader():
    with serving(endless=True, context=4096) as client:
        first = client.begin("/v1/responses", {"model": "tiny", "stream": True} | LONG | {"background": False})
        client.wait(lambda: client.service.live)
        (generation,) = client.service.live
        seen = told(client, f"resp_{generation.id}")
        said = b""
        while not said.endswith(b"0\r\n\r\n"):
            said += first.recv(1 << 16)
        assert all(json.dumps(event["sequence_number"]).encode() in said for event in seen)
        assert seen[-1]["type"] == "response.incomplete"
        first.close()


def thought_so_far(client, id):
    return "".join(item["content"][0]["text"] for item in client.get(f"/v1/responses/{id}")[1]["output"])


def test_one_under_way_and_one_in_the_queue_are_ended():
    with serving(endless=True, context=4096, singly=True, rows=2) as client:
        running, other, waiting = [begin(client, **LONG) for _ in range(3)]  # a row stays free
        client.wait(lambda: thought_so_far(client, running))
        statuses = [client.get(f"/v1/responses/{id}")[1]["status"] for id in (running, other, waiting)]
        assert statuses == ["in_progress", "queued", "queued"]
        assert client.chat(reasoning_effort="none")["object"] == "chat.completion"
        for id in (running, waiting):
            assert client.post(f"/v1/responses/{id}/cancel")[1]["status"] == "cancelled"
        client.wait(lambda: thought_so_far(client, other))
        client.post(f"/v1/responses/{other}/answer_now")
        answered = finished(client, other)
        assert answered["usage"]["output_tokens_details"]["reasoning_tokens"] < 3900
        assert [item["type"] for item in answered["output"]] == ["reasoning", "message"]
        assert told(client, waiting)[-1]["response"] == client.get(f"/v1/responses/{waiting}")[1]
        (thought,) = client.get(f"/v1/responses/{running}")[1]["output"]
        assert (thought["status"], len(thought["content"][0]["text"]) > 0) == ("incomplete", True)
        assert client.call("DELETE", f"/v1/responses/{running}")[0] == 200
        assert client.get(f"/v1/responses/{running}")[0] == 404


def test_one_that_is_deleted_is_made_no_further():
    with serving(endless=True, context=4096) as client:
        id = begin(client, **LONG)
        client.wait(lambda: client.model.driver.engine.active)
        assert client.call("DELETE", f"/v1/responses/{id}")[0] == 200
        client.wait(lambda: client.model.driver.engine.idle)
        assert client.model.answers == 0


def test_the_queue_has_an_end():
    with serving(endless=True, context=4096, rows=1, queue=1) as client:
        for _ in range(2):
            begin(client, **LONG)
        status, answer = client.post("/v1/responses", {"model": "tiny"} | LONG)
        assert (status, answer["error"]["code"]) == (429, "queue_full")


def test_an_engine_that_fails_ends_what_it_had(caplog):
    with serving(endless=True, context=4096) as client:
        client.break_engine()
        response = finished(client, begin(client, **LONG))
        assert (response["status"], response["error"]["message"]) == ("failed", "the engine failed")
    assert "the engine failed" in caplog.text


def test_one_that_cannot_be_gone_on_with_fails_alone(tmp_path):
    with serving(endless=True, store=tmp_path / "a.db") as client:
        odd = f"resp_{0:032x}"
        asked = {"model": "tiny", "background": True, "telepathy": True}
        client.service.store.add(record(0, id=odd, weights=client.model.weights, asked=asked))
        assert finished(client, begin(client))["status"] == "incomplete"
        assert client.service.store.find(odd).state.status == "failed"
        status, answer = client.get(f"/v1/responses/{odd}")
        assert (status, "this release does not know" in answer["error"]["message"]) == (500, True)


def test_one_in_chunks_waits_for_a_server_that_cuts_them_alike(tmp_path):
    options = {"endless": True, "context": 256, "chunked": True, "singly": True, "store": tmp_path / "a.db"}
    asked = {"input": "x", "thinking_token_budget": 2000}
    id = left(options, asked)
    for other in ({"chunked": False}, {"chunked": False, "context": 4096}, {"context": 512}):
        with serving(**options | other) as client:
            assert finished(client, begin(client, thinking_token_budget=8))["status"] == "incomplete"
            assert client.get(f"/v1/responses/{id}")[1]["status"] == "in_progress"
            assert client.service.store.waiting(client.model.means) == 0
    with serving(**options) as client:
        response = finished(client, id)
        assert VLLM or lasting(response) == lasting(client.respond(**asked))
        assert response["usage"]["output_tokens"] == 2000 + CLOSING + 24


def test_one_needs_the_context_that_it_may_fill(tmp_path):
    needed = []
    with serving(endless=True, store=tmp_path / "a.db") as client:
        for fields in ({}, {"max_output_tokens": 200}, {"max_output_tokens": 5000}):
            record = client.service.store.find(begin(client, thinking_token_budget=100, **fields))
            needed.append((record.context - len(record.request.prompt_ids), record.chunked))
    room = CONTEXT - len(record.request.prompt_ids)
    assert needed == [(100 + CLOSING + 24, False), (200, False), (room, False)]


def test_one_that_no_chunk_is_cut_for_needs_no_server_that_cuts_chunks(tmp_path):
    needed = []
    with serving(endless=True, chunked=True, store=tmp_path / "a.db") as client:
        for thought in (32, 900, 1000, 5000):
            id = begin(client, thinking_token_budget=thought, max_output_tokens=32_000)
            record = client.service.store.find(id)
            needed.append((record.context, record.chunked))
    assert needed == [(CONTEXT, False), (CONTEXT, False), (CONTEXT, True), (CONTEXT, True)]


def test_one_may_take_longer_than_a_client_would_wait():
    with serving(endless=True, token_s=0.001, singly=True, answer_s=0.05) as client:
        used = finished(client, begin(client, thinking_token_budget=300))["usage"]
    assert used["output_tokens_details"]["reasoning_tokens"] == 300


def test_a_server_without_the_secret_makes_what_another_tells_encrypted(tmp_path):
    file, fields = tmp_path / "a.db", {"thinking_token_budget": 40, "include": ["reasoning.encrypted_content"]}
    with serving(endless=True, secret="a", store=file) as client:
        id = begin(client, **fields)
        finished(client, id)
        made = client.service.store.find(id)
        client.service.store.drop(id)
    with serving(endless=True, store=file) as client:
        store = client.service.store
        store.add(replace(made, state=State(status="queued")))
        client.wait(lambda: store.find(id).state.done)
        assert store.find(id).state.status == "incomplete"
        assert client.get(f"/v1/responses/{id}")[0] == 400
    with serving(endless=True, secret="a", store=file) as client:
        response = client.get(f"/v1/responses/{id}")[1]
        assert Seal("a").open(response["output"][0]["encrypted_content"]) == thought(response) != ""


def test_ids_that_no_response_has_are_not_looked_for(url):
    with serving(store=url) as client:
        for path in ("%00", "resp_nothing", f"resp_{0:032x}"):
            for method, what in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("POST", "/answer_now")):
                status, answer = client.call(method, f"/v1/responses/{path}{what}")
                assert (status, json.loads(answer)["error"]["code"]) == (404, "not_found")
        asked = {"model": "tiny", "input": "x", "previous_response_id": "\0"}
        assert client.post("/v1/responses", asked)[0] == 404


def test_responses_are_there_after_a_restart(tmp_path):
    with serving(store=tmp_path / "a.db") as client:
        first = client.respond("make 24", reasoning={"effort": "minimal"})
        after = client.respond("why?", previous_response_id=first["id"])
    with serving(store=tmp_path / "a.db") as client:
        assert client.get(f"/v1/responses/{first['id']}") == (200, first)
        assert lasting(client.respond("why?", previous_response_id=first["id"])) == lasting(after)
        assert (tmp_path / "a.db").stat().st_mode & 0o777 == 0o600
    with serving(endless=True, store=tmp_path / "a.db") as client:  # other weights
        status, answer = client.get(f"/v1/responses/{first['id']}")
        assert (status, "made by weights of tiny that are not served here" in answer["error"]["message"]) == (404, True)


@pytest.mark.parametrize(("chunked", "context"), [(False, 4096), (True, 256)])
def test_a_server_that_stops_leaves_its_work_to_the_next(tmp_path, chunked, context):
    options = {"endless": True, "context": context, "chunked": chunked, "singly": True, "store": tmp_path / "a.db"}
    asked = {"input": "x", "thinking_token_budget": 2000}
    id = left(options, asked)
    with serving(**options) as client:
        kept = saved(client.service.store, id)
        assert 0 < len(kept) < 2000
        response = finished(client, id)
        assert VLLM or lasting(response) == lasting(client.respond(**asked))
        assert response["usage"]["output_tokens"] == 2000 + CLOSING + 24
        assert saved(client.service.store, id)[: len(kept)] == kept


def left(options, asked):
    """A response that a server began, and left when it stopped."""
    with serving(**options, drain_s=0) as client:
        engine = client.model.driver.engine
        step, steps = engine.step, iter(range(500))
        engine.step = lambda: time.sleep(0.01) if next(steps, None) is None else step()
        id = begin(client, **asked)
        client.wait(lambda: saved(client.service.store, id))
        client.server.handle_exit(signal.SIGTERM, None)
        client.wait(lambda: client.server.should_exit)
    return id


def saved(store, id):
    """The ids that it has of a response."""
    _, pieces = store.news(id)
    return [id for piece in pieces for id in piece.ids.tolist()]


# The store


def record(number, **fields):
    request = Request(prompt_ids=(1, 2), budget=Budget(thought=9, answer=4, closing=(7, 9), total=12), seed=number)
    plain = {"model": "m", "weights": "w", "background": True, "asked": {"model": "m"}, "said": []}
    plain |= {"context": 64, "chunked": False}
    state = State(status="queued")
    return Record(**{"id": f"r{number}", "created": number, "request": request, "state": state} | plain | fields)


def gain(number, ids, end=None):
    n = len(ids)
    logprobs, sampled = np.full(n, -0.5, np.float32), np.ones(n, np.bool_)
    piece = Progress(
        sample=0, ids=np.array(ids, np.int32), logprobs=logprobs, sampled=sampled, thought_len=n, stop=None
    )
    return Gain(number=number, piece=piece, end=end)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    """Of an empty database."""
    if request.param == "sqlite":
        return str(tmp_path / "new" / "responses.db")
    return request.getfixturevalue("postgres")()


@pytest.fixture
def stores(url):
    """The same database as two servers see it."""
    both = [Store(store_url(url), keep=3) for _ in range(2)]
    yield both
    for store in both:
        store.close()


def test_a_record_comes_back_as_it_was(stores):
    one, other = stores
    odd = record(1, said=[{"role": "user", "content": "\0 \U0001f600", "thought": None}], asked={"input": "\0\ud800"})
    one.add(odd)
    assert other.find("r1") == odd
    assert other.find("r2") is None
    one.drop("r1")
    assert other.news("r1") is None


def test_who_is_no_longer_the_owner_saves_nothing(stores):
    one, other = stores
    one.add(record(1))
    assert [r.id for r in one.claim("one", MEANS, 5, lease_s=60)] == ["r1"]
    assert other.claim("other", MEANS, 5, lease_s=60) == []
    assert one.save("one", {"r1": gain(0, [5, 6])}, lease_s=-1) == {"r1": False}  # it is over
    assert [r.state.status for r in other.claim("other", MEANS, 5, lease_s=60)] == ["in_progress"]
    assert one.save("one", {"r1": gain(1, [7], end=ENDED)}, lease_s=60) == {}
    assert other.save("other", {"r1": gain(1, [8, 9], end=ENDED)}, lease_s=60) == {"r1": False}
    state, pieces = one.news("r1")
    assert state == ENDED
    assert [piece.ids.tolist() for piece in pieces] == [[5, 6], [8, 9]]
    assert [piece.ids.tolist() for piece in one.news("r1", after=1)[1]] == [[8, 9]]
    assert one.claim("one", MEANS, 5, lease_s=60) == []


def test_claims_are_in_order_and_shared(stores):
    one, other = stores
    for number in (3, 1, 2):
        one.add(record(number))
    one.add(record(4, weights="others"))
    one.add(record(5, background=False, state=ENDED))
    assert [r.id for r in one.claim("one", MEANS, 2, lease_s=60)] == ["r1", "r2"]
    assert [r.id for r in other.claim("other", MEANS, 2, lease_s=60)] == ["r3"]
    assert one.waiting(MEANS) == 3
    one.answer_now("r3")
    for id in ("r1", "r5"):  # the latter is done
        other.end(id, State(status="cancelled"))
    assert one.save("one", {}, lease_s=60) == {"r2": False}
    assert other.save("other", {}, lease_s=60) == {"r3": True}
    assert [one.find(id).state.status for id in ("r1", "r5")] == ["cancelled", "incomplete"]
    one.release("one")
    assert [r.id for r in other.claim("other", MEANS, 2, lease_s=60)] == ["r2"]


def test_what_a_server_cannot_go_on_with_is_left_to_others(stores):
    one, _ = stores
    one.add(record(1))
    one.add(record(2, context=65))
    one.add(record(3, chunked=True))
    one.add(record(4, chunked=None))  # stored before it was told whether in chunks
    for context, chunked, ids in (
        (63, False, []),
        (64, False, [1, 4]),
        (63, True, [4]),
        (64, True, [1, 3, 4]),
        (90, True, [1, 2, 4]),
    ):
        means = Means(weights="w", context=context, chunked=chunked)
        assert one.waiting(means) == len(ids)
        assert [r.id for r in one.claim("one", means, 5, lease_s=60)] == [f"r{number}" for number in ids]
        one.release("one")
    assert one.waiting(Means(weights="others", context=64, chunked=True)) == 0


def test_the_newest_that_are_done_are_kept(stores):
    one, _ = stores
    for number in range(7):
        one.add(record(number, state=ENDED if number else State(status="queued")), [gain(0, [3]).piece])
    assert [one.find(f"r{number}") is not None for number in range(7)] == [True, False, False, True, True, True, True]
    assert one.news("r1") is None


def test_a_store_that_cannot_be_had_is_told(tmp_path, monkeypatch):
    with pytest.raises(SteepError, match="cannot be of kind 'mysql'"):
        store_url("mysql://x")
    with pytest.raises(SteepError, match="cannot be written: Is a directory"):
        store_url(str(tmp_path))
    (tmp_path / "text").write_text("not a database at all, but longer than its header would be: " * 20)
    with pytest.raises(SteepError, match="cannot be opened"):
        Store(store_url(str(tmp_path / "text")), keep=1)
    with pytest.raises(SteepError, match="cannot be opened"):
        Store(store_url(f"postgresql://nobody@/none?host={tmp_path}"), keep=1)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SteepError, match=r"needs psycopg, which is not installed"):
        Store(store_url("postgresql://nobody@/none"), keep=1)


@pytest.mark.parametrize("made", ["UPDATE store_version SET version = version + 1", "DROP TABLE store_version"])
def test_a_store_of_another_version_is_refused(made, url):
    Store(store_url(url), keep=3).close()
    engine = create_engine(store_url(url))
    with engine.begin() as db:
        db.exec_driver_sql(made)
    engine.dispose()
    with pytest.raises(SteepError, match="made by another version of steep") as refusal:
        Store(store_url(url), keep=3)
    assert "--store" in refusal.value.fix


def test_a_store_of_the_first_version_is_brought_up_to_date(url):
    store = Store(store_url(url), keep=3)
    store.add(record(1))
    store.add(record(0, state=ENDED))
    store.close()
    engine = create_engine(store_url(url))
    with engine.begin() as db:
        for column in ("context", "chunked"):
            db.exec_driver_sql(f"ALTER TABLE responses DROP COLUMN {column}")
        db.exec_driver_sql("UPDATE store_version SET version = 1")
    engine.dispose()
    for _ in range(2):
        store = Store(store_url(url), keep=3)
        assert store.find("r1") == record(1, context=2 + 9 + 2 + 4, chunked=None)
        assert store.find("r0") == record(0, context=None, chunked=None, state=ENDED)
        store.add(record(2, context=9))
        assert store.find("r2").context == 9
        store.drop("r2")
        store.close()


def test_what_is_stored_changes_with_its_version_alone():
    columns = [f"{c.table.name}.{c.name} {c.type} {c.nullable}" for t in TABLES.sorted_tables for c in t.columns]
    request = REQUEST.dump_python(record(1).request, mode="json", exclude={"constraint", "cuts"})
    digest = hashlib.sha256(json.dumps([columns, request]).encode()).hexdigest()
    assert (VERSION, digest[:8]) == (2, "5dc13f1b"), "raise VERSION, and put the new digest here"


# Processes


class Remote(Client):
    def __init__(self, process, port):
        self.process, self.port = process, port

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def command(directory, url, rows=4):
    """`steep serve` in a process of its own."""
    options = ["--port", "0", "--rows", str(rows), "--store", url]
    if VLLM:
        options += ["--engine", "vllm", *(f"--vllm={name}={json.dumps(value)}" for name, value in VLLM_OPTIONS.items())]
    line = [sys.executable, "-m", "steep.cli", "serve", str(directory), *options]
    with subprocess.Popen(
        line, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    ) as process:
        try:
            said = []  # before it serves, vLLM says this and that
            while not (said and said[-1].startswith("serving tiny at http://127.0.0.1:")):
                said.append(process.stderr.readline())
                assert said[-1], "".join(said)
            yield Remote(process, int(said[-1].split(":")[2].split("/")[0]))
        finally:
            process.kill()


@pytest.fixture
def model(tmp_path):
    loaded = tiny(endless=True, hidden_size=512, intermediate_size=512, num_layers=6)  # seconds for 3,000 tokens
    save_model(tmp_path / "tiny", loaded.model, loaded.template)
    return tmp_path / "tiny"


def check_that_each_is_whole(model, store, client, ids):
    """Each is done, with the ids of a run that nothing interrupted (or as many: vLLM goes on with others)."""
    loaded = load_model(model)
    engine = NativeEngine(loaded.model, NativeConfig(rows=8, context=4096), loaded.template.end_ids)
    whole = {id: engine.submit(store.find(id).request) for id in ids}
    for id in ids:
        client.wait(lambda id=id: store.find(id).state.done, seconds=120)
        state, pieces = store.news(id)
        (rollout,) = whole[id].result()
        assert state.status == "incomplete"
        ids = np.concatenate([piece.ids for piece in pieces]).tolist()
        assert len(ids) == len(rollout.ids) if VLLM else ids == rollout.ids.tolist()
        assert np.concatenate([piece.sampled for piece in pieces]).tolist() == rollout.sampled.tolist()
        assert [piece.stop for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]


@pytest.mark.slow
def test_after_a_kill_each_goes_on_and_ends_once(model, url, stores):
    store, _ = stores
    with command(model, url) as first:
        ids = [begin(first, input=f"{n}", seed=n, thinking_token_budget=3000) for n in range(7)]
        first.wait(lambda: saved(store, ids[2]))
        first.kill()
    before = [saved(store, id) for id in ids]
    assert 0 < len(before[2]) < 3000
    assert before[-1] == []
    with command(model, url) as second:
        check_that_each_is_whole(model, store, second, ids)
        events = told(second, ids[2])
        assert sum(event["type"] == "response.incomplete" for event in events) == 1
    assert [saved(store, id)[: len(was)] for id, was in zip(ids, before, strict=True)] == before


@pytest.mark.slow
def test_two_servers_share_the_work_and_one_is_killed(model, url, stores):
    store, _ = stores
    with ExitStack() as stack:
        one, other = [stack.enter_context(command(model, url)) for _ in range(2)]
        ids = [begin(one, input=f"{n}", seed=n, thinking_token_budget=3000) for n in range(8)]
        for client in (one, other):
            client.wait(lambda client=client: b'steep_rows_active{model="tiny"} 3' in client.call("GET", "/metrics")[1])
        one.kill()
        begun = [id for id in ids if store.find(id).state.status == "in_progress"]
        assert len(begun) == 6
        check_that_each_is_whole(model, store, other, ids)
