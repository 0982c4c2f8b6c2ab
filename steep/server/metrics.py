"""Figures for Prometheus, in its text format."""

from collections import Counter
from collections.abc import Iterable, Mapping

from steep.server.generation import Generation
from steep.server.model import ServedModel

Labels = Mapping[str, str]


class Metrics:
    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        """By route and status."""
        self.responses: Counter[tuple[str, str]] = Counter()
        """By model and how they ended, each of n answers for itself."""
        self.tokens: Counter[tuple[str, str]] = Counter()
        """By model and kind: those of thoughts are counted among the completion too."""

    def count_request(self, route: str, status: int) -> None:
        self.requests[route, status] += 1

    def count(self, generation: Generation) -> None:
        model = generation.model
        self.responses.update((model, sample.finish or "failed") for sample in generation.samples)
        self.tokens[model, "prompt"] += generation.prompt_tokens
        self.tokens[model, "completion"] += generation.tokens
        self.tokens[model, "thought"] += generation.thought_tokens

    def text(self, models: Iterable[ServedModel]) -> str:
        models = list(models)
        running = [({"model": m.name}, m.driver.engine.active) for m in models]
        answers = [({"model": m.name}, m.answers) for m in models]
        rows = [({"model": m.name}, m.rows) for m in models]
        requests = [({"route": r, "status": str(s)}, n) for (r, s), n in self.requests.items()]
        responses = [({"model": m, "end": e}, n) for (m, e), n in self.responses.items()]
        tokens = [({"model": m, "kind": k}, n) for (m, k), n in self.tokens.items()]
        return "".join(
            [
                *_family("steep_requests_total", "counter", "HTTP requests by route and status.", requests),
                *_family("steep_answers_total", "counter", "Answers by how they ended.", responses),
                *_family("steep_tokens_total", "counter", "Tokens; completion includes thought.", tokens),
                *_family("steep_answers_waiting_or_running", "gauge", "Answers under way or waiting.", answers),
                *_family("steep_rows_active", "gauge", "Rows of the engine that are decoded now.", running),
                *_family("steep_rows", "gauge", "Rows that the engine has.", rows),
            ]
        )


def _family(name: str, kind: str, help: str, values: Iterable[tuple[Labels, int]]) -> Iterable[str]:
    yield f"# HELP {name} {help}\n# TYPE {name} {kind}\n"
    for labels, value in values:
        inner = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
        yield f"{name}{{{inner}}} {value}\n"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
