"""What a thought says leaves the server only if it may."""

import json

import pytest

from tests.server.serving import serving

FIELDS = {"thinking_token_budget": 64}


def pieces(text, size=6):
    """Every run of so many characters, as JSON has them."""
    text = json.dumps(text)[1:-1]
    return {text[i : i + size] for i in range(len(text) - size)}


@pytest.fixture(scope="module")
def thought(endless):
    """Pieces of what the model thinks, and does not say in its answer."""
    said = endless.chat(**FIELDS)["choices"][0]["message"]
    thought = pieces(said["reasoning"]) - pieces(said["content"])
    assert len(thought) > 20
    return thought


@pytest.mark.parametrize("mode", ["hidden", "summary"])
def test_no_raw_thought_leaves_by_any_way(thought, mode, caplog, capfd):
    with serving(endless=True, thoughts=mode) as client:
        chat = client.chat_body(**FIELDS, logprobs=True)
        response = {"model": "tiny", "input": "make 24", "seed": 1, **FIELDS}
        response |= {"reasoning": {"summary": "detailed"}, "include": ["message.output_text.logprobs"]}
        answers = [
            client.call("POST", path, asked | {"stream": stream})
            for path, asked in (("/v1/chat/completions", chat), ("/v1/responses", response))
            for stream in (False, True)
        ]
        id = client.respond(**FIELDS)["id"]
        answers += [client.call("GET", path) for path in (f"/v1/responses/{id}", "/metrics", "/v1/models")]
        assert {status for status, _ in answers} == {200}
        client.model.driver.engine.decoder.step = None
        failed = client.call("POST", "/v1/chat/completions", chat)
        assert failed[0] == 500
    told = capfd.readouterr()
    everything = "".join([*(body.decode() for _, body in [*answers, failed]), caplog.text, told.out, told.err])
    assert not [piece for piece in thought if piece in everything]
    assert '"reasoning_tokens":64' in everything
    assert ("Thought for 64 tokens" in everything) == (mode == "summary")
    assert ("reasoning_content" in everything) == (mode == "summary")
