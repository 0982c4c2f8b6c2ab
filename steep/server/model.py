"""A model that is served: its weights in an engine, and the thread that drives it."""

import time

from steep.engines import Chunking, DrivenEngine, LoadedModel
from steep.server.driver import Driver
from steep.server.grammar import Grammars
from steep.server.store import Means


class ServedModel:
    def __init__(self, loaded: LoadedModel, engine: DrivenEngine) -> None:
        self.name, self.template = loaded.name, loaded.template
        self.created = int(time.time())
        self.rows, self.context = engine.config.rows, engine.config.context
        self.weights = engine.receipt.digest
        self.chunked = isinstance(engine, Chunking)
        """Whether a thought may be longer than the context."""
        self.vocab_size = loaded.model.config.vocab_size
        self.driver = Driver(engine)
        self.grammars = Grammars(loaded)
        self.answers = 0
        """Under way or waiting."""

    @property
    def default_effort(self) -> str | None:
        efforts = self.template.config.efforts
        if self.template.think_close_id is None:
            return "none" if "none" in efforts else None
        return "medium" if "medium" in efforts else None

    @property
    def means(self) -> Means:
        return Means(weights=self.weights, context=self.context, chunked=self.chunked)

    def close(self) -> None:
        self.driver.close()
