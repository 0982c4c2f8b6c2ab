"""steep's server and its engine without one, in one process: whoever is not asked waits.

No token ends an answer, and each is a letter, so that the first is seen as soon as it is told.
"""

import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.worker import Channel, serve
from steep.engines import NativeConfig, NativeEngine, load_model
from steep.server.app import create_app
from steep.server.config import ServerConfig
from steep.server.model import ServedModel
from steep.server.run import run
from steep.server.store import IN_MEMORY, Store
from steep.types import Message, Request


class Both:
    model: ServedModel

    def load(self, directory: str, rows: int, context: int, dtype: str) -> dict[str, Any]:
        loaded = load_model(directory)
        loaded.template.tokenizer.token_bytes = lambda id, control=False: b"x"  # type: ignore[method-assign]
        config = NativeConfig(rows=rows, context=context, dtype=dtype)
        self.model = ServedModel(loaded, NativeEngine(loaded.model, config, end_ids=frozenset()))
        app = create_app([self.model], ServerConfig(), Store(IN_MEMORY, keep=0))
        listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=run, args=(app, listener), daemon=True).start()
        return {"port": listener.getsockname()[1], "model": self.model.name}

    def alone(self, prompts: Sequence[str], thought: int, seed: int) -> dict[str, Any]:
        """What the server answers to the same prompts, by the engine itself."""
        template, engine = self.model.template, self.model.driver.engine
        budget = replace(template.budget(thought), must_answer=True)
        began = time.perf_counter()
        futures = [
            engine.submit(
                Request(prompt_ids=template.render([Message(role="user", content=text)]), budget=budget, seed=seed + i)
            )
            for i, text in enumerate(prompts)
        ]
        tokens = sum(len(rollout.ids) for future in futures for rollout in future.result())
        return {"seconds": time.perf_counter() - began, "tokens": tokens}


if __name__ == "__main__":
    both = Both()
    serve(Channel(), {"load": both.load, "alone": both.alone})
