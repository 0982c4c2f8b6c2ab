"""The words of the house: what flows from a problem to an update, and the protocols between the rooms.

    Problem -> prompt ids -> Request -> Rollout -> Verdict -> Group -> batch -> update -> weights

Everything here is a value: frozen, without behaviour beyond what follows from its own fields.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # a worker that checks answers is ready in a tenth of the time without torch
    import torch

Role = Literal["system", "user", "assistant"]
Split = Literal["train", "valid", "test"]
Stop = Literal["end", "length", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation. `thought` is what an assistant thought before `content`, None if not known."""

    role: Role
    content: str
    thought: str | None = None


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One prompt with what is needed to check an answer.

    Problem(id="countdown/3 5 8=25", task="countdown", split="train", level=1,
            prompt=(Message(role="user", content="Use 3, 5 and 8 to make 25."),),
            key={"numbers": [3, 5, 8], "target": 25})
    """

    id: str
    """Stable across runs, and the same for problems that differ in wording only: splits are made by its hash."""
    task: str
    split: Split
    level: int
    """Difficulty, counted from 1 within the task."""
    prompt: tuple[Message, ...]
    key: Mapping[str, Any]
    """What `Task.verify` needs; JSON values only, so that rollouts on disk can be verified again."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a check found. `invalid` means that the check itself failed: dropped and counted, never a reward of 0."""

    kind: Literal["correct", "wrong", "invalid"]
    score: float
    """In [0, 1]; 0.0 and without meaning when `kind` is `invalid`."""
    reason: str = ""


def correct(reason: str = "") -> Verdict:
    return Verdict(kind="correct", score=1.0, reason=reason)


def wrong(reason: str) -> Verdict:
    return Verdict(kind="wrong", score=0.0, reason=reason)


def invalid(reason: str) -> Verdict:
    return Verdict(kind="invalid", score=0.0, reason=reason)


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """A thought as a human might write it, with wrong turns noticed and mended, and the answer it leads to."""

    thought: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Slip:
    """A step of a thought that has a false result, as characters of the thought."""

    start: int
    end: int
    mended: tuple[int, int] | None
    """Where the same step is written again with the right result; None if it never is."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """The steps that a thought has in writing, worked out again."""

    steps: int
    slips: tuple[Slip, ...]

    @property
    def wrong(self) -> int:
        return len(self.slips)

    @property
    def mended(self) -> int:
        """Of the wrong steps, those that are mended later in the thought."""
        return sum(slip.mended is not None for slip in self.slips)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a model may think, and how the thought is ended when the time is up.

    Budget(thought=256, answer=32, closing=(7, 9))   # closing: the phrase, then the end-of-thought token
    """

    thought: int | None
    """Thought tokens at most, the closing not counted; 0 answers at once; None leaves the context as the only limit."""
    answer: int
    """Answer tokens at most, the end token included."""
    closing: tuple[int, ...]
    """Ids injected when the thought reaches its limit. The last one is the end-of-thought token.

    Empty for a model without a thought section: then everything sampled is answer."""
    total: int | None = None
    """Response tokens at most, forced ones included: the answer may also take what the thought has left, and `answer`
    is what is kept for it. None: `answer` is its limit."""
    must_answer: bool = False
    """An end token within the thought does not end the response: the closing takes its place, and the model answers."""
    pause: bool = False
    """A thought at its limit is not closed: the response stops there, `length`, to be carried on."""
    extension: tuple[int, ...] = ()
    """Ids injected where the model would end its thought, in place of that end, so that it thinks on. They count as
    thought tokens, and end where the limit is."""
    extensions: int = 0
    """How often, at most. Whoever carries on a response leaves out those that it has."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn. The defaults are what RL needs: the policy's own distribution."""

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0


class Constraint(Protocol):
    """What an answer must look like, for one sample."""

    def allowed(self) -> NDArray[np.bool_]:
        """Of each id of the vocabulary, whether it may come next; at least one may."""
        ...

    def advance(self, id: int) -> None:
        """Take the next token of the answer."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Ask an engine for `n` rollouts of one prompt."""

    prompt_ids: tuple[int, ...]
    budget: Budget
    n: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    """Sample i draws token t from a counter-based stream of (seed, first_sample + i, t), whatever runs beside it."""
    first_sample: int = 0
    """Number of the first of the n samples, so that a request can be split or carried on."""
    response_ids: tuple[int, ...] = ()
    """A response to carry on: taken as if sampled already; counted in budgets, token numbers and the rollout."""
    dropped: int = 0
    """Tokens of the response before `response_ids`, which the model no longer sees: counted in token numbers alone."""
    constraint: Callable[[], Constraint] | None = None
    """Makes what each sample's answer is held to; its thought is free. Log-probabilities are those that remain."""
    cuts: tuple[int, ...] = ()
    """Thought tokens, rising and below the budget's. A sample that thinks so far answers there too, as under a budget
    of that many, and then thinks on as if it had not: the future holds these rollouts before the sample's own."""


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One sampled response, token in, token out. All arrays have one entry for each response token.

    Rollout(prompt_ids=(1, 40, 41, 5), ids=[60, 61, 7, 9, 30, 2], sampled=[1, 1, 0, 0, 1, 1], thought_len=4, stop="end")
    has thought "60 61" cut by the closing "7 9", and answer "30" with its end token 2.
    """

    prompt_ids: tuple[int, ...]
    ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    """The sampler's log-probability of each token; 0 where the token was forced."""
    sampled: NDArray[np.bool_]
    """The loss mask: True where the model chose the token, False where the budget injected it."""
    versions: NDArray[np.int32]
    """Version of the weights that chose each token."""
    thought_len: int | None
    """How many of `ids` belong to the thought, its end token included; None if the thought never ended."""
    stop: Stop
    """`end`: the model's end token; `length`: an answer or context limit; `cancelled`."""
    budget: Budget
    seed: int
    sample: int
    verdict: Verdict | None = None

    @property
    def interrupted(self) -> bool:
        """The thought was ended by the budget, not by the model."""
        return self.thought_len is not None and self.thought_len > 0 and not self.sampled[self.thought_len - 1]

    @property
    def ended(self) -> bool:
        """The thought was ended by the model, before its budget."""
        return self.thought_len is not None and self.thought_len > 0 and not self.interrupted

    @property
    def thought_tokens(self) -> int:
        """Those that count in the budget: neither the closing nor the end token."""
        if self.thought_len is None:
            return int(self.sampled.nonzero()[0].max(initial=-1)) + 1  # a closing that was begun comes last
        closing = len(self.budget.closing) if self.interrupted else 1
        return max(self.thought_len - closing, 0)


@dataclass(frozen=True, kw_only=True)
class Group:
    """The rollouts of one problem."""

    problem: Problem
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True, kw_only=True)
class Token:
    """One token of a stream, as it is sampled or forced."""

    id: int
    logprob: float
    sampled: bool
    in_thought: bool
    """False from the first token after the end-of-thought token on."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What one sample of a request gained since it was last told of. All arrays have one entry for each new token."""

    sample: int
    ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    sampled: NDArray[np.bool_]
    thought_len: int
    """The first so many belong to the thought, its end token included."""
    stop: Stop | None
    """None while the sample goes on."""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Proof of a weight sync: what the engine holds now."""

    version: int
    digest: str
    """sha256 over names, shapes and fp32 values, in the order of names (`models.weights.digest`)."""


class Task(Protocol):
    """A named family of problems. Everything is a function of its arguments: same seed, same problems."""

    @property
    def name(self) -> str: ...

    @property
    def levels(self) -> Sequence[int]: ...

    def problems(self, split: Split, seed: int, level: int | None = None, start: int = 0) -> Iterator[Problem]:
        """Problems number `start`, `start + 1`, ... of a split, of one level or (None) of all levels in turn."""
        ...

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Check an answer (the text after the thought). Pure; may be run in a thread, or in a worker that is killed.

        Answers are checked some at a time, by threads, if the task's class says `in_worker = True`.
        """
        ...

    def examples(self) -> Sequence[tuple[Problem, str, Verdict]]:
        """Answers with known verdicts; one test runs them for every task."""
        ...


@runtime_checkable
class Demonstrator(Task, Protocol):
    """A task that can show how to think."""

    def demonstrate(self, problem: Problem, rng: Random) -> Demonstration: ...


@runtime_checkable
class Replayer(Task, Protocol):
    """A task whose thoughts are written in steps that can be worked out again."""

    def replay(self, thought: str) -> Replay: ...


@runtime_checkable
class Matcher(Task, Protocol):
    """A task that knows when two answers say the same, right or wrong: what a majority is counted by."""

    def same(self, problem: Problem, answer: str, other: str) -> bool: ...


@runtime_checkable
class Rephraser(Task, Protocol):
    """A task that can ask the same in other words."""

    def phrasings(self, problem: Problem) -> Sequence[str]:
        """Ways to ask the problem in its last message; its own may be among them."""
        ...


@runtime_checkable
class Guarded(Task, Protocol):
    """A task that watches over its verifier."""

    def canaries(self) -> Sequence[Problem]:
        """Problems without a right answer, never trained on: an answer that is rewarded has deceived the verifier."""
        ...


class Engine(Protocol):
    """What samples rollouts from weights."""

    @property
    def dtype(self) -> "torch.dtype":
        """What its weights are kept in; weights are best sent in it."""
        ...

    @property
    def context(self) -> int:
        """Tokens of a sequence at most, prompt and response."""
        ...

    @property
    def receipt(self) -> "Receipt":
        """Of the last weight sync."""
        ...

    def submit(self, request: Request) -> "Future[list[Rollout]]":
        """Queue a request; the future holds its n rollouts, in order. `Future.cancel()` ends it early."""
        ...

    def stream(self, request: Request) -> Iterator[Token]:
        """The tokens of one rollout (n must be 1) as they come. Closing the iterator cancels the rollout."""
        ...

    def recall(self) -> None:
        """Stop all that is under way. Each future then holds its rollouts as far as they are: `cancelled` where one was
        cut short, none of a sample that was not begun."""
        ...

    def load_weights(self, weights: "Mapping[str, torch.Tensor]", version: int) -> Receipt: ...

    def close(self) -> None: ...
