"""From what a request asks for to a budget that will be kept, or a refusal.

The tokens of a response are the thought, its closing (phrase and end-of-thought token) and the answer; a request limits
their sum. What is kept for the answer is the model's own answer limit, or half of the sum where that is less. A thought
in chunks may be longer than the context where the request or the model's efforts say how long.
"""

from collections.abc import Sequence
from dataclasses import replace

from steep.server.errors import refused
from steep.server.fields import MOST_TOKENS
from steep.server.model import ServedModel
from steep.types import Budget, Message

MOST_CHUNKED = 1 << 17
"""Thinking tokens at most where no context limits them, if the server does not say."""


def budget_for(
    model: ServedModel,
    prompt_tokens: int,
    effort: str | None,
    thought: int | None,
    total: int | None,
    longest_thought: int | None = None,
) -> Budget:
    """`effort` by name, `thought` and `total` in tokens, each None if the request does not say."""
    template = model.template
    efforts = template.config.efforts
    if effort is not None and effort not in efforts and not (effort == "none" and template.think_close_id is None):
        raise refused(f"the model has no effort {effort!r}; its efforts are {', '.join(efforts)}", "reasoning_effort")
    if template.think_close_id is None and (thought or (effort is not None and efforts.get(effort) != 0)):
        raise refused(f"{model.name} has no thought section: it answers at once", "reasoning_effort")
    limit = most_thought(model, longest_thought)
    if thought is not None and limit is not None and thought > limit:
        raise refused(f"{thought} thinking tokens are more than this server's limit of {limit}")

    closing, at_once = template.budget(thought=1).closing, template.budget(thought=0)
    room = model.context - prompt_tokens
    if room <= len(at_once.closing):
        raise refused(
            f"a prompt of {prompt_tokens} tokens leaves no room for an answer in a context of {model.context}",
            code="context_length_exceeded",
        )
    fits = room if total is None else min(total, room)
    kept = min(template.config.answer, (fits + 1) // 2)
    chunked = model.chunked and fits - kept - len(closing) > 1
    most = (total or MOST_TOKENS) if chunked else fits
    if thought is not None and thought > 0 and thought + len(closing) + 1 > most:
        raise refused(
            f"{thought} thinking tokens, {len(closing)} that end the thought and an answer do not fit "
            + (f"the {room} that the prompt leaves" if most == room else f"{total} tokens")
        )
    named = effort or (model.default_effort if thought is None else None)
    limits = [limit for limit in (thought, efforts.get(named or ""), longest_thought) if limit is not None]
    if thought is None:
        limits.append(max((most if limits and chunked else fits) - kept - len(closing), 0))
    shortest = min(limits)
    if not shortest or template.think_close_id is None:
        return replace(at_once, answer=min(total or at_once.answer, room - len(at_once.closing)))
    kept = min(kept, most - shortest - len(closing))
    if shortest + len(closing) + kept <= room:  # no chunk is cut, so all of it stays within the context
        most = min(most, room)
    return replace(template.budget(shortest, kept), total=None if total is None else most, must_answer=True)


def most_thought(model: ServedModel, longest_thought: int | None) -> int | None:
    """Thinking tokens that a request may ask for; None if only the context limits them."""
    return MOST_CHUNKED if longest_thought is None and model.chunked else longest_thought


def most_tokens(budget: Budget) -> int:
    """Of a response."""
    assert budget.thought is not None
    return budget.total or budget.thought + len(budget.closing) + budget.answer


def check_size(model: ServedModel, messages: Sequence[Message]) -> None:
    """Refuse what cannot fit the context, whatever its tokens are."""
    size = sum(len(message.content.encode()) for message in messages)
    if size > model.context * model.template.tokenizer.longest:
        raise refused(
            f"a prompt of {size} bytes does not fit a context of {model.context}", code="context_length_exceeded"
        )
