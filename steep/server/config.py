"""What a server lets in, shows and bears."""

from dataclasses import dataclass
from typing import Literal

Thoughts = Literal["hidden", "summary", "full"]


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    thoughts: Thoughts = "full"
    """What of a thought leaves the server: nothing, how long it was, or its text."""
    secret: str | None = None
    """What thoughts are encrypted with that clients carry unread; None: they are given none."""
    api_key: str | None = None
    """What every request but those for `/health` and the page must bring as `Authorization: Bearer`; None: nothing."""
    cors: tuple[str, ...] = ()
    """Origins whose pages may call, besides the server's own; `*` for all."""
    hosts: tuple[str, ...] = ("localhost",)
    """Names by which the server may be called; addresses always may, for a page cannot rebind these."""
    max_thought: int | None = None
    """Thinking tokens of one answer at most. None leaves the context as the only limit, and in chunks 131,072."""
    max_answers: int = 16
    """`n` at most."""
    max_messages: int = 1000
    max_body_bytes: int = 4 << 20
    queue: int = 256
    """Answers that may wait for a free row of their engine; more are refused with 429."""
    per_key: int | None = None
    """Answers that clients with one key (`Authorization`) may wait for at once; None: all that there is room for."""
    stored: int = 10_000
    """Responses kept once they are done, for `previous_response_id` and `GET`; the oldest go first."""
    lease_s: float = 10.0
    """After this time without a sign of life from its server, a background response is taken over by another."""
    headers_s: float = 10.0
    """Within this time the head of a request must be there,"""
    body_s: float = 10.0
    """and within this its body."""
    answer_s: float = 7200.0
    """Wall time of an answer that a client waits for: then its thought is ended as by `answer_now`, and a tenth of that
    later the answer."""
    drain_s: float = 30.0
    """After SIGTERM, how long answers under way may go on."""
