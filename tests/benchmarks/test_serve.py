"""What `benchmarks.serve` puts a server through, in small, and that it notices what a server lacks."""

import asyncio
import os

import pytest

from benchmarks import serve, strain
from benchmarks.clients import post
from benchmarks.strain import Load, Served, Soak, disconnects, overload, siege, soak
from steep.server.config import ServerConfig
from tests.server.serving import serving

NEW, TOKEN_S = 16, 0.005
LOOP_CLOCK_S = 0.002  # the server's loop counts milliseconds, so what it waits for may end that much early


def served(client):
    return Served(port=client.port, model="tiny", pid=os.getpid())


def test_the_first_token_is_seen_long_before_the_last():
    with serving(endless=True, token_s=0.02) as client:
        path, asked, mark = serve.chat("tiny", "make 24", 60)
        answer = asyncio.run(post(client.port, path, asked | {"stream_options": {"include_usage": True}}, mark))
        unmarked = asyncio.run(post(client.port, path, asked | {"max_tokens": 2}, b"nothing like this"))
    assert 0 < answer.first_s < answer.seconds / 2
    assert (answer.whole, answer.tokens) == (True, 60)
    assert (unmarked.status, unmarked.whole, unmarked.first_s) == (200, False, 0)


def test_clients_that_go_are_counted_when_their_places_are_free():
    with serving(endless=True, context=4096, rows=3) as client:
        assert asyncio.run(disconnects(served(client), 8, thought=3000, within_s=0)) == 0
        client.wait(lambda: not client.model.answers)
        assert asyncio.run(disconnects(served(client), 8, thought=3000)) == 8


@pytest.mark.parametrize(("queue", "statuses"), [(0, {200, 429}), (256, {200})])
def test_too_many_are_refused_or_wait(queue, statuses):
    with serving(endless=True, rows=2, queue=queue, token_s=TOKEN_S) as client:
        load = asyncio.run(overload(served(client), rows=2, count=10, new=NEW, seed=0))
        assert load.statuses.keys() == statuses
        assert sum(load.statuses.values()) == 40
        assert len(load.alone_s) == 10
        assert len(load.admitted_s) == load.statuses[200]
        assert min(load.alone_s + load.admitted_s) >= NEW * TOKEN_S
        if queue:
            assert load.slowdown > 2


def test_a_slowdown_is_of_the_slowest():
    assert Load(alone_s=[1.0] * 50 + [2.0] * 50, admitted_s=[1.0] * 90 + [3.0] * 10, statuses={}).slowdown == 1.5


def test_slow_requests_are_closed_while_others_are_answered():
    with serving(endless=True, headers_s=0.5, body_s=0.5) as client:
        besieged = asyncio.run(siege(served(client), 8))
    assert len(besieged.closed_s) == 8
    assert min(besieged.closed_s) >= 0.5 - LOOP_CLOCK_S
    assert 0 < max(besieged.honest_s) < strain.GIVEN_UP_S
    assert max(ServerConfig().headers_s, ServerConfig().body_s) < serve.CLOSED_S


def test_a_server_that_is_patient_is_noticed(monkeypatch):
    monkeypatch.setattr(strain, "GIVEN_UP_S", 1.0)
    with serving(endless=True, body_s=60) as client:
        assert len(asyncio.run(siege(served(client), 2)).closed_s) == 0


@pytest.mark.parametrize(("max_thought", "errors"), [(50, 0), (49, 1)])
def test_a_soak_counts_errors(max_thought, errors):
    with serving(endless=True, max_thought=max_thought) as client:
        soaked = asyncio.run(soak(served(client), streams=4, thought=50, warm_s=0.2, seconds=1))
        assert soaked.errors == errors * soaked.answers
        assert soaked.answers >= 4
        assert min(soaked.kb) > 1000


def test_a_soak_measures_no_growth_where_the_system_does_not_tell_it(tmp_path, monkeypatch):
    monkeypatch.setattr(strain, "PROCESSES", tmp_path)
    with serving(endless=True) as client:
        soaked = asyncio.run(soak(served(client), streams=2, thought=8, warm_s=0.1, seconds=0.2))
    assert (soaked.errors, soaked.growth) == (0, [])


def test_growth_is_of_the_end_over_the_beginning():
    assert Soak(kb=[100, 100, 102, 103, 104, 130], answers=1, errors=0).growth == [pytest.approx(0.3)]
