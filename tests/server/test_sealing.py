"""Thoughts that clients carry: only a server with the same secret reads them."""

import pytest

from steep.server.asked import ResponseAsked
from steep.server.errors import ApiError
from steep.server.sealing import Seal, secret_in
from tests.server.serving import CLOSING, serving
from tests.server.test_responses import text, thought

ID, OTHER = "0123456789abcdef" * 2, "f" * 32


def test_a_thought_is_opened_by_the_same_secret_alone():
    sealed = Seal("a").close(ID, "3*8 = 24 ✓")
    assert Seal("a").open(sealed) == "3*8 = 24 ✓"
    assert Seal("a").close(ID, "3*8 = 24 ✓") == sealed
    assert len({sealed[22:], Seal("a").close(OTHER, "3*8 = 24 ✓")[22:], Seal("b").close(ID, "3*8 = 24 ✓")[22:]}) == 3
    with pytest.raises(ApiError, match="was changed"):
        Seal("b").open(sealed)


def test_what_was_changed_is_refused():
    sealed = Seal("a").close(ID, "3*8 = 24")
    for at in (0, 21, 30, len(sealed) - 5):
        changed = sealed[:at] + ("A" if sealed[at] != "A" else "B") + sealed[at + 1 :]
        with pytest.raises(ApiError, match="was changed"):
            Seal("a").open(changed)
    for nonsense in ("", "x", "é", sealed[:20]):
        with pytest.raises(ApiError, match="was not made by this server"):
            Seal("a").open(nonsense)


def test_a_file_keeps_the_secret(tmp_path):
    file = tmp_path / "responses.db.key"
    secret = secret_in(file)
    assert len(secret) == 64
    assert secret_in(file) == secret
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]


def test_a_carried_thought_is_what_was_thought():
    fields = {"thinking_token_budget": 40, "include": ["reasoning.encrypted_content"]}
    with serving(endless=True, secret="a") as client:
        plain = client.respond(**fields)
        assert Seal("a").open(plain["output"][0]["encrypted_content"]) == thought(plain)
    for mode in ("hidden", "summary"):
        with serving(endless=True, secret="a", thoughts=mode) as client:
            events = client.response_stream(**fields)
            response = events[-1]["response"]
            item, _ = response["output"]
            assert Seal("a").open(item["encrypted_content"]) == thought(plain)
            assert client.get(f"/v1/responses/{response['id']}") == (200, response)
            carried = [event["type"] for event in events if "encrypted_content" in event.get("item", {})]
            assert carried == ["response.output_item.done"]
            assert "encrypted_content" not in client.respond(thinking_token_budget=40)["output"][0]

            question = {"role": "user", "content": "make 24"}
            asked = [question, *response["output"], {"role": "user", "content": "why?"}]
            again = client.respond(asked, store=False, **fields)
            assert text(again)
            assert again["usage"]["output_tokens"] == 40 + CLOSING + 24
            item["encrypted_content"] = Seal("b").close(ID, "mine")
            status, answer = client.post("/v1/responses", {"model": "tiny", "input": asked})
            assert (status, answer["error"]["param"]) == (400, "input")


def test_the_thought_that_is_carried_is_read_by_templates_that_keep_thoughts():
    sealed = Seal("a").close(ID, "3*8 is 24.")
    items = [{"type": "reasoning", "encrypted_content": sealed}, {"role": "assistant", "content": "24"}]
    (message,) = ResponseAsked(model="m", input=items).messages(Seal("a"))
    assert (message.thought, message.content) == ("3*8 is 24.", "24")
    with pytest.raises(ApiError, match="set STEEP_SECRET"):
        list(ResponseAsked(model="m", input=items).messages(None))
