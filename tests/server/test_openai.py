"""The server as the `openai` package sees it."""

import time
from typing import Literal

import pydantic
import pytest

openai = pytest.importorskip("openai", reason="the openai package is not installed")
QUESTION = [{"role": "user", "content": "make 24"}]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_chat(client):
    fields = {"model": "tiny", "messages": QUESTION, "reasoning_effort": "low", "seed": 3, "n": 2}
    whole = client.chat.completions.create(**fields)
    said, thought = ["", ""], ["", ""]
    options = {"include_usage": True}
    for chunk in client.chat.completions.create(**fields, stream=True, stream_options=options):
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
            thought[choice.index] += getattr(choice.delta, "reasoning_content", "")
    assert said == [choice.message.content for choice in whole.choices]
    assert thought == [choice.message.reasoning for choice in whole.choices]
    assert chunk.usage == whole.usage
    assert whole.usage.completion_tokens_details.reasoning_tokens <= 64


def test_responses(client):
    fields = {"model": "tiny", "input": QUESTION, "reasoning": {"effort": "low", "summary": "auto"}}
    whole = client.responses.create(**fields, extra_body={"seed": 3})
    events = list(client.responses.create(**fields, extra_body={"seed": 3}, stream=True))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    assert events[-1].response.output_text == whole.output_text
    assert events[-1].response.usage == whole.usage
    assert [item.type for item in whole.output] == ["reasoning", "message"]
    assert client.responses.retrieve(whole.id) == whole
    again = client.responses.create(model="tiny", input="why?", previous_response_id=whole.id, max_output_tokens=30)
    assert again.usage.output_tokens <= 30
    client.responses.delete(whole.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(whole.id)


def test_its_stream_helper_follows_the_events(client):
    fields = {"model": "tiny", "input": "make 24", "max_output_tokens": 900, "reasoning": {"effort": "low"}}
    with client.responses.stream(**fields, extra_body={"seed": 1}) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert {"response.created", "response.reasoning_text.delta", "response.output_text.done"} <= kinds
    assert final.status == "completed"


def test_in_the_background(client):
    fields = {"model": "tiny", "input": QUESTION, "reasoning": {"effort": "low"}}
    response = client.responses.create(**fields, background=True, extra_body={"seed": 3})
    assert (response.status, response.background, response.output) == ("queued", True, [])
    while response.status in ("queued", "in_progress"):
        time.sleep(0.05)
        response = client.responses.retrieve(response.id)
    whole = client.responses.create(**fields, extra_body={"seed": 3})
    assert (response.status, response.output_text, response.usage) == (whole.status, whole.output_text, whole.usage)
    events = list(client.responses.retrieve(response.id, stream=True, starting_after=1))
    assert events[0].sequence_number == 2
    assert events[-1].response == response
    cancelled = client.responses.cancel(client.responses.create(**fields, background=True).id)
    assert cancelled.status == "cancelled"
    assert client.responses.retrieve(cancelled.id).status == "cancelled"


class Pair(pydantic.BaseModel):
    a: Literal["x", "y"]
    b: bool


def test_structured_output(client):
    pytest.importorskip("llguidance", reason="schemas need llguidance")
    response = client.responses.parse(model="tiny", input=QUESTION, text_format=Pair, reasoning={"effort": "minimal"})
    completion = client.chat.completions.parse(
        model="tiny", messages=QUESTION, response_format=Pair, reasoning_effort="minimal"
    )
    for parsed, text in (
        (response.output_parsed, response.output_text),
        (completion.choices[0].message.parsed, completion.choices[0].message.content),
    ):
        assert parsed == Pair.model_validate_json(text)
        assert type(parsed.b) is bool


def test_models_and_errors(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").efforts["low"] == 32
    with pytest.raises(openai.BadRequestError, match="thinking_token_budget"):
        client.chat.completions.create(model="tiny", messages=QUESTION, extra_body={"thinking_token_budget": -1})
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        client.chat.completions.create(model="gpt", messages=QUESTION)
