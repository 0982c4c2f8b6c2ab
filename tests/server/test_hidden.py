"""What a thought says leaves the server only if it may."""

import json
import sqlite3
from contextlib import closing

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
def test_no_raw_thought_leaves_by_any_way(thought, mode, tmp_path, caplog, capfd):
    with serving(endless=True, thoughts=mode, secret="a", store=tmp_path / "a.db") as client:
        chat = client.chat_body(**FIELDS, logprobs=True)
        response = {"model": "tiny", "input": "make 24", "seed": 1, **FIELDS}
        response["include"] = ["message.output_text.logprobs", "reasoning.encrypted_content"]
        response["reasoning"] = {"summary": "detailed"}
        answers = [
            client.call("POST", path, asked | {"stream": stream})
            for path, asked in (
                ("/v1/chat/completions", chat),
                ("/v1/responses", response),
                ("/v1/responses", response | {"background": True}),
            )
            for stream in (False, True)
        ]
        ids = [client.respond(**FIELDS)["id"], json.loads(answers[-2][1])["id"]]
        client.wait(lambda: client.get(f"/v1/responses/{ids[1]}")[1]["status"] == "incomplete")
        stored = [f"/v1/responses/{id}{query}" for id in ids for query in ("", "?stream=true&starting_after=1")]
        answers += [client.call("GET", path) for path in (*stored, "/metrics", "/v1/models")]
        assert {status for status, _ in answers} == {200}
        with closing(sqlite3.connect(tmp_path / "a.db")) as database:
            database.execute("DROP TABLE pieces")
        answers += [client.call("POST", "/v1/responses", response)]
        client.break_engine()
        failed = client.call("POST", "/v1/chat/completions", chat)
        assert failed[0] == 500
    told = capfd.readouterr()
    everything = "".join([*(body.decode() for _, body in [*answers, failed]), caplog.text, told.out, told.err])
    assert not [piece for piece in thought if piece in everything]
    assert '"reasoning_tokens":64' in everything
    assert "a response could not be stored" in caplog.text
    assert ("Thought for 64 tokens" in everything) == (mode == "summary")
    assert ("reasoning_content" in everything) == (mode == "summary")
