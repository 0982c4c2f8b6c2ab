"""What all requests share: the models, and the responses under way."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from random import getrandbits
from typing import Any

from fastapi import Request as HttpRequest

from steep.errors import SteepError
from steep.server.budgets import budget_for, check_size
from steep.server.config import ServerConfig
from steep.server.errors import ApiError, refused
from steep.server.fields import Asked
from steep.server.generation import Generation, Wanted
from steep.server.grammar import Schema
from steep.server.metrics import Metrics
from steep.server.model import ServedModel
from steep.server.sealing import Seal
from steep.server.store import Record, Store
from steep.types import Constraint, Message, Request

LONG_TEXT = 4096
"""Characters from which on tokenising is left to a thread; a shorter text takes less than going there and back."""
ANSWER_SHARE = 0.1
"""Of the time that an answer may take, what it has besides when its thought was ended for it."""
FAILED = "the answer failed: the server's log says why"


class Service:
    def __init__(self, models: Sequence[ServedModel], config: ServerConfig, store: Store) -> None:
        self.config, self.store = config, store
        self.seal = None if config.secret is None else Seal(config.secret)
        self.models = {model.name: model for model in models}
        if len(self.models) < len(models):
            names = ", ".join(model.name for model in models)
            raise SteepError(f"two models have the same name: {names}", "serve one of them from another directory")
        self.live: set[Generation] = set()
        """Those that somebody waits for."""
        self.background: set[Generation] = set()
        self.by_key: Counter[str | None] = Counter()
        """Answers that are waited for with each key, and those in the background for None."""
        self.metrics = Metrics()
        self.draining = False
        self._watchers: set[asyncio.Task[None]] = set()
        for model in models:
            model.driver.on_failure = partial(self._fail, model.name)

    def model(self, name: str) -> ServedModel:
        if name not in self.models:
            known = ", ".join(self.models)
            raise ApiError(404, f"there is no model {name!r} here, but {known}", "model", "model_not_found")
        return self.models[name]

    def maker(self, record: Record) -> ServedModel:
        """The model that made a response: with the same weights, under whatever name."""
        by_weights = {model.weights: model for model in self.models.values()}
        if record.weights not in by_weights:
            raise ApiError(404, f"{record.id!r} was made by weights of {record.model} that are not served here")
        return by_weights[record.weights]

    async def begin(
        self,
        http: HttpRequest,
        asked: Asked,
        messages: Sequence[Message],
        *,
        wanted: Wanted,
        total: int | None,
        n: int = 1,
        schema: dict[str, Any] | None = None,
    ) -> Generation:
        """Start to answer. When the client goes, the response is cancelled."""
        model = self.model(asked.model)
        key = http.headers.get("authorization", "")
        self.admit(model, n, key)
        self.count(model, n, key)  # before anything is waited for
        try:
            request = await self.request(model, asked, messages, total, n, schema)
        except BaseException:
            self.count(model, -n, key)
            raise
        generation = Generation(model.name, model.template, request, wanted)
        generation.key = key
        self.start(generation, request, self.live)
        watcher = asyncio.create_task(_cancel_when_gone(http, generation))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return generation

    def start(self, generation: Generation, request: Request, among: set[Generation]) -> None:
        """Have the engine of its model make it."""
        driver, loop, seconds = self.models[generation.model].driver, asyncio.get_running_loop(), self.config.answer_s
        generation.pending = driver.submit(request, generation.take, partial(generation.fail, FAILED))
        generation.on_done = self._done
        if among is self.live:  # in the background nobody waits, and a row stays free for those who do
            generation.timers = (
                loop.call_later(seconds, generation.answer_now),
                loop.call_later(seconds * (1 + ANSWER_SHARE), generation.cut),
            )
        among.add(generation)
        if driver.failed:  # before it could be told
            self._fail(generation.model)

    def close(self) -> None:
        for model in self.models.values():
            model.close()
        self.store.close()

    def admit(self, model: ServedModel, n: int, key: str | None = None) -> None:
        """Refuse what there is no room for. `key`: of a client who waits for it."""
        if self.draining:
            raise ApiError(503, "the server is shutting down", code="shutting_down")
        if model.driver.failed:
            raise ApiError(500, f"the engine of {model.name} has failed: the server must be started anew")
        places = model.rows + self.config.queue
        most = None if key is None else self.config.per_key
        limit = min(self.config.max_answers, places if most is None else min(places, most))
        if n > limit:
            raise refused(f"n = {n} is more than this server's limit of {limit}", "n")
        if model.answers + n > places:
            raise ApiError(429, "too many answers are waiting: try again", code="queue_full")
        if most is not None and self.by_key[key] + n > most:
            raise ApiError(429, f"more than {most} answers for one key are waiting: try again", code="key_busy")

    def count(self, model: ServedModel, n: int, key: str | None) -> None:
        """Take n answers into account, or fewer by -n."""
        model.answers += n
        self.by_key[key] += n
        if not self.by_key[key]:
            del self.by_key[key]

    async def request(
        self,
        model: ServedModel,
        asked: Asked,
        messages: Sequence[Message],
        total: int | None,
        n: int,
        schema: dict[str, Any] | None,
    ) -> Request:
        if len(messages) > self.config.max_messages:
            raise refused(f"{len(messages)} messages are more than the limit of {self.config.max_messages}", "messages")
        effort, thought = asked.effort, asked.thought
        size = sum(len(message.content) + len(message.thought or "") for message in messages)
        if size < LONG_TEXT:
            prompt_ids = model.template.render(messages)
        else:
            check_size(model, messages)
            prompt_ids = await asyncio.to_thread(model.template.render, messages)
        budget = budget_for(model, len(prompt_ids), effort, thought, total, self.config.max_thought)
        constraint = await self.constraint(model, schema)
        seed = getrandbits(63) if asked.seed is None else asked.seed
        return Request(
            prompt_ids=prompt_ids, budget=budget, n=n, sampling=asked.sampling, seed=seed, constraint=constraint
        )

    async def constraint(self, model: ServedModel, schema: dict[str, Any] | None) -> Callable[[], Constraint] | None:
        """What holds an answer to a schema."""
        if schema is None:
            return None
        matcher = await asyncio.to_thread(model.grammars.matcher, schema)
        return lambda: Schema(matcher, model.vocab_size)

    def _done(self, generation: Generation) -> None:
        self.live.discard(generation)
        self.background.discard(generation)
        for timer in generation.timers:
            timer.cancel()
        generation.pending = None  # two that hold each other would wait for the garbage collector
        self.count(self.models[generation.model], -len(generation.samples), generation.key)
        self.metrics.count(generation)

    def _fail(self, name: str) -> None:
        for generation in [g for g in (*self.live, *self.background) if g.model == name]:
            generation.fail("the engine failed")


async def _cancel_when_gone(http: HttpRequest, generation: Generation) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
    generation.cancel()
