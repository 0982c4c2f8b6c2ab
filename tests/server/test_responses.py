"""The Responses API: events in order, what is kept of a response, and how one is ended."""

import pytest

from steep.server import service
from tests.server.serving import CLOSING, serving, slowed

BUDGETS = [0, 1, 16, 256]


def text(response):
    (message,) = [item for item in response["output"] if item["type"] == "message"]
    return message["content"][0]["text"]


def thought(response):
    items = [item for item in response["output"] if item["type"] == "reasoning"]
    return "".join(part["text"] for item in items for part in item["content"])


def lasting(response):
    """What is the same when the same is asked again."""
    return thought(response), text(response), response["status"], response["usage"]


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_budget_is_kept_and_a_stream_says_what_the_whole_says(server, endless, budget):
    for client in (server, endless):
        whole = client.respond(thinking_token_budget=budget)
        events = client.response_stream(thinking_token_budget=budget)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert lasting(events[-1]["response"]) == lasting(whole)
        for kind, said in (("reasoning_text", thought(whole)), ("output_text", text(whole))):
            assert "".join(e["delta"] for e in events if e["type"] == f"response.{kind}.delta") == said
    usage = whole["usage"]
    assert usage["output_tokens_details"]["reasoning_tokens"] == budget
    counts = [event["reasoning_tokens"] for event in events if event["type"] == "response.reasoning_text.delta"]
    assert counts == sorted(counts)
    assert counts[-1:] == ([budget] if budget else [])
    assert usage["output_tokens"] == budget + 24 + (CLOSING if budget else 0)
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert (whole["status"], whole["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


def test_events_come_in_order(endless):
    kinds = [event["type"].removeprefix("response.") for event in endless.response_stream(reasoning={"effort": "low"})]
    order = [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] != kind]  # deltas once
    assert order == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "incomplete",
    ]


def test_efforts_and_limits(endless):
    used = endless.respond(reasoning={"effort": "low"}, max_output_tokens=40)["usage"]
    assert (used["output_tokens"], used["output_tokens_details"]["reasoning_tokens"]) == (40, 18)
    assert endless.respond(reasoning={"effort": "none"})["usage"]["output_tokens"] == 24


def test_a_thought_in_chunks_may_be_longer_than_the_context():
    with serving(endless=True, context=128, chunked=True) as client:
        model = client.get("/v1/models/tiny")[1]
        assert (model["thinking"], model["max_thought"]) == ("chunked", 131_072)
        room = 128 - client.respond(reasoning={"effort": "none"})["usage"]["input_tokens"] + 1
        fitting = room - CLOSING - 24
        for fields, thought, answer in (
            ({"thinking_token_budget": 700}, 700, 24),
            ({"reasoning": {"effort": "xhigh"}}, 256, 24),
            ({"reasoning": {"effort": "max"}}, fitting, 24),
            ({"reasoning": {"effort": "xhigh"}, "max_output_tokens": 200}, 200 - CLOSING - 24, 24),
            ({"thinking_token_budget": 150, "max_output_tokens": 200}, 150, 200 - 150 - CLOSING),
        ):
            used = client.respond(**fields)["usage"]
            assert used["output_tokens_details"]["reasoning_tokens"] == thought
            assert used["output_tokens"] == thought + CLOSING + answer
        for too_much, told in (
            ({"thinking_token_budget": 200, "max_output_tokens": 200}, "do not fit 200 tokens"),
            ({"thinking_token_budget": model["max_thought"] + 1}, "more than this server's limit of 131072"),
        ):
            answer = client.post("/v1/responses", {"model": "tiny", "input": "x"} | too_much)[1]
            assert told in answer["error"]["message"]


def test_a_summary_says_how_long_was_thought(endless):
    (item, _) = endless.respond(reasoning={"effort": "low", "summary": "auto"})["output"]
    assert item["summary"] == [{"type": "summary_text", "text": "Thought for 32 tokens, until it was told to answer."}]


def test_a_response_is_kept_and_can_be_gone_on_from(server):
    template = server.model.template
    first = server.respond("make 24", instructions="be brief", reasoning={"effort": "minimal"})
    assert server.get(f"/v1/responses/{first['id']}") == (200, first)
    second = server.respond("why?", previous_response_id=first["id"])
    said = [len(template.tokenizer.encode(part)) + 2 for part in ("make 24", text(first), "why?")]
    assert second["usage"]["input_tokens"] == sum(said) + 2  # the instructions are not carried over
    assert server.call("DELETE", f"/v1/responses/{first['id']}")[0] == 200
    assert server.get(f"/v1/responses/{first['id']}")[0] == 404
    status, answer = server.post("/v1/responses", {"model": "tiny", "input": "x", "previous_response_id": first["id"]})
    assert (status, answer["error"]["code"]) == (404, "not_found")


def test_output_items_can_be_sent_back(server):
    first = server.respond("make 24", reasoning={"effort": "minimal"})
    question = {"role": "user", "content": [{"type": "input_text", "text": "make 24"}]}
    again = server.respond([question, *first["output"], {"role": "user", "content": "why?"}])
    chained = server.respond("why?", previous_response_id=first["id"])
    assert lasting(again) == lasting(chained)


def test_only_the_newest_are_kept(server):
    with serving(stored=2) as client:
        ids = [client.respond(reasoning={"effort": "none"})["id"] for _ in range(4)]
        assert [client.get(f"/v1/responses/{id}")[0] for id in ids] == [404, 200, 200, 200]  # 2 and the one just made
        unstored = client.respond(reasoning={"effort": "none"}, store=False)
        assert client.get(f"/v1/responses/{unstored['id']}")[0] == 404


def test_a_response_under_way_is_told_to_answer_now_or_cancelled():
    """Two long thoughts, of which one is cut short by each way."""
    with serving(endless=True, context=4096) as client:
        body = {"model": "tiny", "input": "x", "stream": True, "reasoning": {"effort": "max"}}
        connections = [client.begin("/v1/responses", body) for _ in range(2)]
        client.wait(lambda: len(client.service.live) == 2)
        first, second = [f"resp_{generation.id}" for generation in sorted(client.service.live, key=lambda g: g.created)]
        assert client.get(f"/v1/responses/{first}")[1]["status"] == "in_progress"
        assert client.post(f"/v1/responses/{first}/answer_now")[0] == 200
        assert client.post(f"/v1/responses/{second}/cancel")[1]["status"] == "cancelled"
        client.wait(lambda: not client.service.live)
        answered, cancelled = [client.get(f"/v1/responses/{id}")[1] for id in (first, second)]
        assert len(text(answered)) > 0
        assert thought(answered).endswith("!")
        assert answered["usage"]["output_tokens_details"]["reasoning_tokens"] < 3000
        assert cancelled["status"] == "cancelled"
        assert [item["type"] for item in cancelled["output"]] == ["reasoning"]
        assert client.post(f"/v1/responses/{first}/answer_now")[1] == answered
        for connection in connections:
            connection.close()
        for name in ("cancel", "answer_now"):
            assert client.post(f"/v1/responses/resp_nothing/{name}")[0] == 404


def test_one_that_is_cancelled_and_deleted_at_once_is_not_kept():
    with serving(endless=True, context=4096, singly=True) as client:
        store = client.service.store
        store.add = slowed(store.add, 0.3)
        asked = {"model": "tiny", "input": "x", "stream": True, "reasoning": {"effort": "max"}}
        connection = client.begin("/v1/responses", asked)
        client.wait(lambda: client.service.live)
        (generation,) = client.service.live
        path = f"/v1/responses/resp_{generation.id}"
        assert client.post(f"{path}/cancel")[1]["status"] == "cancelled"
        assert client.call("DELETE", path)[0] == 200
        assert client.get(path)[0] == 404
        connection.close()


def test_a_thought_is_told_when_it_begins_and_not_while_it_waits():
    with serving(endless=True, context=4096, rows=1, singly=True) as client:
        asked = {"model": "tiny", "input": "x", "stream": True, "reasoning": {"effort": "max"}}
        connections = []
        for number in (1, 2):
            connections.append(client.begin("/v1/responses", asked))
            client.wait(lambda number=number: len(client.service.live) == number)
        first, waiting = connections
        said = b""
        while b"response.in_progress" not in said:
            said += waiting.recv(1 << 16)
        waiting.settimeout(0.3)
        with pytest.raises(TimeoutError):
            waiting.recv(1 << 16)
        assert b"output_item.added" not in said
        first.close()
        waiting.settimeout(60)
        while b"reasoning_text.delta" not in said:
            said += waiting.recv(1 << 16)
        begun = [said.index(f'"response.{name}"'.encode()) for name in ("output_item.added", "reasoning_text.delta")]
        assert begun == sorted(begun)
        waiting.close()


@pytest.mark.parametrize("share", [1000, 0])
def test_an_answer_that_takes_too_long_is_ended(share, monkeypatch):
    """Its thought, if there is time left for the answer; else all of it, with what there is."""
    monkeypatch.setattr(service, "ANSWER_SHARE", share)
    with serving(endless=True, context=4096, token_s=0.002, answer_s=2.0) as client:
        response = client.response_stream(reasoning={"effort": "max"})[-1]["response"]
        usage = response["usage"]
        thinking = usage["output_tokens_details"]["reasoning_tokens"]
        assert 0 < thinking < 4000
        assert usage["output_tokens"] == thinking + (CLOSING + 24 if share else 0)
        assert len(text(response)) == (24 if share else 0)
        assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
        assert client.get(f"/v1/responses/{response['id']}") == (200, response)
        client.wait(lambda: client.model.driver.engine.idle)
        assert client.model.answers == 0


def test_logprobs_are_included_where_asked_for(endless):
    include = ["message.output_text.logprobs"]
    response = endless.respond(include=include, reasoning={"effort": "minimal"})
    entries = response["output"][1]["content"][0]["logprobs"]
    assert "".join(bytes(e["bytes"]).decode(errors="replace") for e in entries) == text(response)
    events = endless.response_stream(include=include, reasoning={"effort": "minimal"})
    streamed = [entry for e in events if e["type"] == "response.output_text.delta" for entry in e["logprobs"]]
    assert streamed == entries


REFUSED = {
    "what is neither waited for nor stored": {"background": True, "store": False},
    "a tool": {"tools": [{"type": "web_search"}]},
    "encrypted thoughts": {"include": ["reasoning.encrypted_content"]},
    "a conversation of theirs": {"conversation": "conv_1"},
    "truncation": {"truncation": "auto"},
    "a budget beyond the limit": {"thinking_token_budget": 98, "max_output_tokens": 100},
    "an empty input": {"input": []},
    "an image": {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
    "half a character in what is told again": {"instructions": "\ud800"},
    "half a character in what is stored": {"metadata": {"a": "\ud800"}, "background": True},
    "half a character in an id": {"previous_response_id": "\ud800"},
    "a number that is none": {"text": {"format": {"type": "text", "schema": {"x": float("nan")}}}, "background": True},
    "a chat's field": {"max_completion_tokens": 5},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_kept_is_refused(server, name):
    status, answer = server.post("/v1/responses", {"model": "tiny", "input": "x"} | REFUSED[name])
    assert status == 400
    assert answer["error"]["message"]
