"""A thinking budget under each of its names, at every way in: kept to the token, with an answer, and counted."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.server.serving import CLOSING
from tests.server.test_chat import BUDGETS, joined, thought_tokens, whole
from tests.server.test_jobs import begin, finished
from tests.server.test_responses import text
from tests.server.test_responses import thought as thought_of

NAMES = {
    "thinking_token_budget": lambda n: n,
    "thinking_budget_tokens": lambda n: n,
    "thinking": lambda n: {"type": "enabled", "budget_tokens": n},
    "reasoning": lambda n: {"max_tokens": n},
}
EFFORTS = {"none": 0, "minimal": 16, "low": 32, "medium": 64, "high": 128, "xhigh": 256}
ASKED = [
    *(({name: says(n)}, n) for name, says in NAMES.items() for n in BUDGETS),
    *(({"reasoning_effort": effort}, n) for effort, n in EFFORTS.items()),
    *(({"reasoning": {"effort": effort}}, n) for effort, n in EFFORTS.items()),
    ({"thinking": {"type": "disabled"}}, 0),
]
"""Fields of a request, and the budget that they mean."""


def of_completion(choices, usage):
    (choice,) = choices
    return choice["reasoning"], choice["content"], usage["completion_tokens"], thought_tokens(usage)


def of_response(response):
    usage = response["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    thinking = usage["output_tokens_details"]["reasoning_tokens"]
    return thought_of(response), text(response), usage["output_tokens"], thinking


WAYS_IN = {
    "chat": lambda c, fields: of_completion(*whole(c.chat(**fields))),
    "chat, streamed": lambda c, fields: of_completion(*joined(c.chat_stream(**fields))),
    "responses": lambda c, fields: of_response(c.respond(**fields)),
    "responses, streamed": lambda c, fields: of_response(c.response_stream(**fields)[-1]["response"]),
    "background": lambda c, fields: of_response(finished(c, begin(c, **fields))),
    "background, streamed": lambda c, fields: of_response(c.response_stream(background=True, **fields)[-1]["response"]),
}
"""From a request to the thought, the answer, all tokens and thinking tokens."""


@pytest.fixture(params=WAYS_IN)
def found(request):
    """What a client finds for each of `ASKED`; of a background response it waits for the next save, so all at once."""
    way_in = WAYS_IN[request.param]

    def found(client):
        with ThreadPoolExecutor(8) as pool:
            return pool.map(lambda asked: (*asked, *way_in(client, asked[0])), ASKED)

    return found


def test_a_budget_is_kept_to_the_token(found, endless):
    """The model thinks until it is stopped, and so does it answer: 24 tokens."""
    for fields, budget, thought, answer, tokens, thinking in found(endless):
        assert (tokens, thinking) == (budget + 24 + (CLOSING if budget else 0), budget), fields
        assert (len(answer) > 0, thought.endswith("!")) == (True, budget > 0), fields


def test_a_thought_may_end_before_its_budget(found, server):
    for fields, budget, _, answer, tokens, thinking in found(server):
        assert thinking <= budget, fields
        assert thinking < tokens <= budget + 24 + CLOSING, fields
        assert len(answer) > 0, fields
