"""A response as clients see it: the object, and the events that lead to it."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from steep.server.asked import LOGPROBS, SEALED_THOUGHT, ResponseAsked, sealed_with
from steep.server.budgets import most_tokens
from steep.server.errors import ApiError
from steep.server.generation import Finish, Generation, Sample, Wanted
from steep.server.service import Service
from steep.server.store import Means, Record, State, Status
from steep.server.stream import event
from steep.types import Message, Progress

STATUS: dict[Finish | None, Status] = {
    None: "in_progress",
    "stop": "completed",
    "length": "incomplete",
    "cancelled": "cancelled",
}
SAID = TypeAdapter(tuple[Message, ...])
News = tuple[State, Sequence[Progress]]
"""How far a response is, and what it gained."""


class Made:
    """A response with what it answers: the object that clients see, at any time."""

    def __init__(self, generation: Generation, asked: ResponseAsked, said: Sequence[Message]) -> None:
        self.generation, self.asked = generation, asked
        self.said = said
        """The conversation before the answer, without the instructions."""
        self.id = f"resp_{generation.id}"
        self.reasoning_id, self.message_id = f"rs_{generation.id}", f"msg_{generation.id}"
        self.queued = bool(asked.background)
        self.completed_at: float | None = None

    @classmethod
    def stored(cls, record: Record, service: Service, *, told: bool = True) -> "Made":
        """As it was before its first token. `told`: to a client, for whom its thought may have to be encrypted."""
        model = service.maker(record)
        try:
            asked = ResponseAsked.model_validate({"input": ""} | record.asked)
        except ValidationError as error:
            raise ApiError(500, f"{record.id!r} was asked in a way that this release does not know") from error
        generation = Generation(
            model.name,
            model.template,
            record.request,
            wanted(asked, service, told=told),
            record.id.removeprefix("resp_"),
            record.created,
        )
        return cls(generation, asked, SAID.validate_python(record.said))

    def record(self, means: Means) -> Record:
        """`means`: of the model that makes it."""
        request = self.generation.request
        tokens = len(request.prompt_ids) + most_tokens(request.budget)
        return Record(
            id=self.id,
            created=self.generation.created,
            model=self.generation.model,
            weights=means.weights,
            context=min(tokens, means.context),
            chunked=tokens > means.context,
            background=bool(self.asked.background),
            asked=self.asked.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"input"}),
            said=SAID.dump_python(tuple(self.said), mode="json"),
            request=request,
            state=self.state,
        )

    def blank(self) -> "Made":
        """The same response before its first token."""
        return Made(self.generation.blank(), self.asked, self.said)

    def catch_up(self, state: State, pieces: Sequence[Progress]) -> None:
        """From blank to as far as it is elsewhere."""
        for piece in pieces:
            self.generation.take(piece)
        self.follow(state)

    def follow(self, state: State) -> None:
        """Be in the state in which it is elsewhere; its tokens were taken."""
        self.queued, self.completed_at = state.status == "queued", state.completed_at
        if state.status == "cancelled":
            self.generation.cancel()
        elif state.status == "incomplete":  # by the clock, where no piece says so
            self.generation.cut()
        elif state.status == "failed":
            self.generation.fail(state.error or "")

    @property
    def sample(self) -> Sample:
        return self.generation.samples[0]

    @property
    def conversation(self) -> tuple[Message, ...]:
        return (*self.said, self.sample.message())

    @property
    def state(self) -> State:
        return State(status=self.status, error=self.generation.error, completed_at=self.completed_at)

    @property
    def status(self) -> Status:
        if self.generation.error is not None:
            return "failed"
        return "queued" if self.queued else STATUS[self.sample.finish]

    @property
    def answers(self) -> bool:
        """Whether there is a message yet, if only an empty one that is done."""
        return bool(self.sample.answer) or self.sample.finish in ("stop", "length")

    def body(self) -> dict[str, Any]:
        asked, generation = self.asked, self.generation
        output = [self.reasoning_item()] if generation.thinks and not self.queued else []
        output += [self.message_item()] if self.answers else []
        error = {"code": "server_error", "message": generation.error} if generation.error else None
        return {
            "id": self.id,
            "object": "response",
            "created_at": int(generation.created),
            "completed_at": self.completed_at if self.status == "completed" else None,
            "status": self.status,
            "background": bool(asked.background),
            "error": error,
            "incomplete_details": {"reason": "max_output_tokens"} if self.status == "incomplete" else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "model": generation.model,
            "output": output,
            "parallel_tool_calls": True,
            "previous_response_id": asked.previous_response_id,
            "reasoning": {"effort": asked.effort, "summary": asked.reasoning and asked.reasoning.summary},
            "store": asked.store is not False,
            "temperature": asked.sampling.temperature,
            "text": {"format": asked.text.format.model_dump(by_alias=True, exclude_none=True)},
            "tool_choice": "auto",
            "tools": [],
            "top_p": asked.sampling.top_p,
            "truncation": "disabled",
            "usage": usage(generation) if generation.done else None,
            "metadata": asked.metadata or {},
        }

    @property
    def summary(self) -> str:
        asked = self.asked.reasoning is not None and self.asked.reasoning.summary is not None
        thoughts = self.generation.wanted.thoughts
        return self.sample.summary if thoughts == "summary" or (asked and thoughts == "full") else ""

    def reasoning_item(self) -> dict[str, Any]:
        thinking = self.sample.thinking
        item: dict[str, Any] = {"id": self.reasoning_id, "type": "reasoning", "summary": []}
        if self.summary:
            item["summary"] = [{"type": "summary_text", "text": self.summary}]
        if self.generation.wanted.thoughts == "full":
            item["content"] = [{"type": "reasoning_text", "text": self.sample.shown_thought}]
        if (sealed := self.generation.sealed_thought()) is not None:
            item["encrypted_content"] = sealed
        ended = "incomplete" if self.generation.done else "in_progress"
        return {**item, "status": ended if thinking else "completed"}

    def message_item(self) -> dict[str, Any]:
        ends = {"in_progress": "in_progress", "completed": "completed"}
        return {
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "status": ends.get(self.status, "incomplete"),
            "content": [self.answer_part()],
        }

    def answer_part(self) -> dict[str, Any]:
        answer = self.sample.answer
        return {"type": "output_text", "text": answer, "annotations": [], "logprobs": self.logprobs(0, len(answer))}

    def logprobs(self, start: int, end: int) -> list[dict[str, Any]]:
        return [entry.json() for entry in self.sample.logprobs_in(start, end)]


class Events:
    """The events of one response after number `after`; they are the same whenever the response is told."""

    def __init__(self, made: Made, news: AsyncIterator[News], after: int = -1) -> None:
        """`made` is blank, and follows the news."""
        self.made, self.news, self.after = made, news, after
        self.number = 0
        self.full = made.generation.wanted.thoughts == "full"
        self.thinking = made.generation.thinks
        self.message = int(self.thinking)  # its index in the output
        self.thought_sent = self.answer_sent = 0
        self.answering = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        made = self.made
        yield b"".join(self._created())
        begun = thought = False
        async for state, pieces in self.news:
            made.queued = state.status == "queued"
            if not (begun or made.queued):
                begun = True
                yield self.event("response.in_progress", response=made.body() | {"output": []})
            if self.thinking and not thought and (pieces or state.done):
                thought = True
                yield b"".join(self._thought_begun())
            for piece in pieces:
                made.generation.take(piece)
                yield b"".join(self._gained())
            if state.done:
                made.follow(state)
                yield b"".join([*self._gained(), *self._ended()])
                return

    def _created(self) -> Iterator[bytes]:
        body = self.made.body()
        yield self.event("response.created", response=body | {"output": []})
        if self.made.queued:
            yield self.event("response.queued", response=body)

    def _thought_begun(self) -> Iterator[bytes]:
        """With its first token, for which it may have to wait."""
        yield self.added(0, self.made.reasoning_item() | ({"content": []} if self.full else {}))
        if self.full:
            yield self.of_thought("content_part.added", content_index=0, part=_thought_part(""))

    def _gained(self) -> Iterator[bytes]:
        made, sample, message = self.made, self.made.sample, self.message
        if self.full and self.thinking and len(sample.shown_thought) > self.thought_sent:
            delta = sample.shown_thought[self.thought_sent :]
            self.thought_sent += len(delta)
            so_far = sample.thought_tokens
            yield self.of_thought("reasoning_text.delta", content_index=0, delta=delta, reasoning_tokens=so_far)
        if self.thinking and (not sample.thinking or made.generation.done):
            self.thinking = False
            yield from self._thought_done()
        if made.answers and not self.answering:
            self.answering = True
            yield self.added(message, made.message_item() | {"status": "in_progress", "content": []})
            part = made.answer_part() | {"text": "", "logprobs": []}
            yield self.of_message("content_part.added", message, content_index=0, part=part)
        if len(sample.answer) > self.answer_sent:
            end = len(sample.answer)
            logprobs, delta = made.logprobs(self.answer_sent, end), sample.answer[self.answer_sent :]
            self.answer_sent = end
            yield self.of_message("output_text.delta", message, content_index=0, delta=delta, logprobs=logprobs)

    def _ended(self) -> Iterator[bytes]:
        made, message = self.made, self.message
        if self.answering:
            part = made.answer_part()
            text, logprobs = part["text"], part["logprobs"]
            yield self.of_message("output_text.done", message, content_index=0, text=text, logprobs=logprobs)
            yield self.of_message("content_part.done", message, content_index=0, part=part)
            yield self.event("response.output_item.done", output_index=message, item=made.message_item())
        how = made.status if made.status in ("completed", "failed") else "incomplete"
        yield self.event(f"response.{how}", response=made.body())

    def _thought_done(self) -> Iterator[bytes]:
        made = self.made
        if self.full:
            text = made.sample.shown_thought
            yield self.of_thought("reasoning_text.done", content_index=0, text=text)
            yield self.of_thought("content_part.done", content_index=0, part=_thought_part(text))
        if made.summary:
            part = {"type": "summary_text", "text": made.summary}
            yield self.of_thought("reasoning_summary_part.added", summary_index=0, part=part | {"text": ""})
            yield self.of_thought("reasoning_summary_text.delta", summary_index=0, delta=made.summary)
            yield self.of_thought("reasoning_summary_text.done", summary_index=0, text=made.summary)
            yield self.of_thought("reasoning_summary_part.done", summary_index=0, part=part)
        yield self.event("response.output_item.done", output_index=0, item=made.reasoning_item())

    def added(self, index: int, item: dict[str, Any]) -> bytes:
        return self.event("response.output_item.added", output_index=index, item=item)

    def of_thought(self, name: str, **data: Any) -> bytes:
        return self.event(f"response.{name}", item_id=self.made.reasoning_id, output_index=0, **data)

    def of_message(self, name: str, index: int, **data: Any) -> bytes:
        return self.event(f"response.{name}", item_id=self.made.message_id, output_index=index, **data)

    def event(self, name: str, **data: Any) -> bytes:
        number, self.number = self.number, self.number + 1
        return b"" if number <= self.after else event({"type": name, "sequence_number": number, **data}, name)


def wanted(asked: ResponseAsked, service: Service, *, told: bool = True) -> Wanted:
    included = asked.include or ()
    seal = sealed_with(service.seal) if told and SEALED_THOUGHT in included else None
    return Wanted(logprobs=LOGPROBS in included, thoughts=service.config.thoughts, seal=seal)


def usage(generation: Generation) -> dict[str, Any]:
    return {
        "input_tokens": generation.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": generation.tokens,
        "output_tokens_details": {"reasoning_tokens": generation.thought_tokens},
        "total_tokens": generation.prompt_tokens + generation.tokens,
    }


def _thought_part(text: str) -> dict[str, Any]:
    return {"type": "reasoning_text", "text": text}
