"""`steep chat`: ask a model on the terminal, and watch it think."""

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from random import SystemRandom
from typing import cast

from steep.cli.engine import LONGEST_CONTEXT, new_engine, tell_thoughtless
from steep.cli.entry import STOPPED
from steep.cli.outcome import Outcome, Output
from steep.engines import LoadedModel, load_model
from steep.errors import SteepError
from steep.tokens import StreamDecoder, Template
from steep.types import Budget, Message, Request, Sampling, Token

with suppress(ImportError):  # arrow keys and history in input(), where Python was built with it
    import readline  # noqa: F401

DEFAULT_EFFORT = "medium"
HELP = "/budget N   /effort NAME   /new (forget what was said)   /quit   Ctrl-C stops an answer, Ctrl-D leaves"


@dataclass(frozen=True, kw_only=True)
class Reply:
    thought: str
    answer: str
    thought_tokens: int
    answer_tokens: int
    seconds: float
    cut: bool
    """The thought was ended from outside, because its budget or the context was used up."""
    ended: bool
    """The answer was ended by the model."""
    stopped: bool
    """Ctrl-C was pressed."""


class Conversation:
    """What was said so far. The oldest turns make way when the context is full; half of it is kept for thinking."""

    def __init__(self, template: Template, context: int, system: str | None) -> None:
        self._template, self._context = template, context
        self._system = () if system is None else (Message(role="system", content=system),)
        self._turns: tuple[Message, ...] = ()

    def prompt(self, question: str, budget: Budget) -> tuple[tuple[int, ...], int]:
        """The ids to go on from, and how many turns were dropped to make room for them."""
        thought = self._context // 2 if budget.thought is None else min(budget.thought, self._context // 2)
        room = self._context - thought - len(budget.closing) - budget.answer
        dropped = 0
        while True:
            ids = self._template.render((*self._system, *self._turns, Message(role="user", content=question)))
            if len(ids) <= room or not self._turns:
                return ids, dropped
            self._turns = self._turns[2:]
            dropped += 1

    def add(self, question: str, reply: Reply) -> None:
        answer = Message(role="assistant", content=reply.answer, thought=reply.thought)
        self._turns = (*self._turns, Message(role="user", content=question), answer)

    def clear(self) -> None:
        self._turns = ()


class Chat:
    """One model, one conversation, one budget at a time."""

    def __init__(self, loaded: LoadedModel, args: argparse.Namespace, output: Output, thoughts: Output) -> None:
        self.context = min(loaded.model.config.max_positions, LONGEST_CONTEXT)
        self.template = loaded.template
        self.engine = new_engine(loaded, rows=1, context=self.context)
        self.conversation = Conversation(loaded.template, self.context, args.system)
        self.sampling = Sampling(temperature=0.0) if args.greedy else Sampling()
        self.budget = first_budget(loaded.template, args)
        self._output, self._thoughts = output, thoughts

    def ask(self, question: str) -> Reply:
        """Answer a question, showing every token as it comes."""
        budget = replace(self.budget, answer=min(self.budget.answer, self.context // 4))
        ids, dropped = self.conversation.prompt(question, budget)
        if dropped:
            self._thoughts.say(f"(the context is full: {dropped} of the oldest turns are forgotten)", style="dim")
        seed = SystemRandom().getrandbits(31)
        request = Request(prompt_ids=ids, budget=budget, sampling=self.sampling, seed=seed)
        reply = self._stream(request)
        if not reply.stopped:
            self.conversation.add(question, reply)
        self._thoughts.say(describe(reply, self.budget), style="dim")
        return reply

    def _stream(self, request: Request) -> Reply:
        began = time.monotonic()
        decoder = StreamDecoder(self.template.tokenizer)
        thought = answer = ""
        tokens: list[Token] = []
        stream = cast(Generator[Token, None, None], self.engine.stream(request))
        with interruptible() as interrupted, closing(stream):
            for token in stream:
                if tokens and tokens[-1].in_thought and not token.in_thought:
                    thought += self._show(decoder.flush() + "\n" if thought else "", in_thought=True)
                tokens.append(token)
                piece = self._show(decoder.push(token.id), token.in_thought)
                thought, answer = (thought + piece, answer) if token.in_thought else (thought, answer + piece)
                if interrupted.is_set():
                    break
        last_in_thought = bool(tokens) and tokens[-1].in_thought
        rest = self._show(decoder.flush(), last_in_thought)
        self._show("\n", last_in_thought)
        control = self.template.tokenizer.control_ids
        return Reply(
            thought=(thought + rest if last_in_thought else thought).rstrip("\n"),
            answer=answer if last_in_thought else answer + rest,
            thought_tokens=sum(t.in_thought and t.sampled and t.id != self.template.think_close_id for t in tokens),
            answer_tokens=sum(not t.in_thought and t.id not in control for t in tokens),
            seconds=time.monotonic() - began,
            cut=any(t.in_thought and not t.sampled for t in tokens) and self.budget.thought != 0,
            ended=bool(tokens) and tokens[-1].id in self.template.end_ids,
            stopped=interrupted.is_set(),
        )

    def _show(self, text: str, in_thought: bool) -> str:
        if text:
            (self._thoughts if in_thought else self._output).say(text, style="dim" if in_thought else "", end="")
        return text


def run(args: argparse.Namespace) -> Outcome:
    question = asked(args.prompt)
    if question is None and args.json:
        raise SteepError("--json is for one answer", "give the question as an argument or on standard input")
    if question is not None and not question.strip():
        raise SteepError("there is no question", "give it as an argument or on standard input")
    output = Output()
    only_answer = question is not None and not output.is_terminal
    thoughts = Output(stderr=True) if only_answer else output  # `steep chat MODEL QUESTION > file` keeps the answer
    loaded = load_model(args.model)
    chat = Chat(loaded, args, output, thoughts)
    tell_thoughtless(loaded, thoughts)
    if question is None:
        converse(chat, output)
        return Outcome(value=None)
    reply = chat.ask(question)
    return Outcome(value=reply, exit_code=STOPPED if reply.stopped else 0)


def asked(prompt: str | None) -> str | None:
    """The question in the argument, or on standard input; None where somebody is there to type."""
    if prompt is None and sys.stdin.isatty():
        return None
    return whole(lambda: sys.stdin.read().strip() if prompt is None else prompt)


def whole(read: Callable[[], str]) -> str:
    """What is read. Bytes that are no text cannot be, or come as halves of characters, which cannot be encoded."""
    try:
        text = read()
        text.encode()
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise SteepError(f"the question is no text: {error.reason}", "give it in UTF-8") from None
    return text


def first_budget(template: Template, args: argparse.Namespace) -> Budget:
    if template.think_close_id is None and (args.budget or args.effort not in (None, "none")):
        raise SteepError(
            f"{args.model} has no thought section: it answers at once",
            "leave --budget and --effort away, or train it to think first (`start` in a recipe)",
        )
    if args.budget is not None:
        return template.budget(args.budget)
    efforts = template.config.efforts
    if args.effort is None and DEFAULT_EFFORT not in efforts:
        return template.budget(None)
    return template.effort(args.effort or DEFAULT_EFFORT)


def converse(chat: Chat, output: Output) -> None:
    """Questions and commands until /quit or Ctrl-D."""
    output.say(f"{thinking(chat.budget)}\n{HELP}", style="dim")
    while True:
        try:
            line = whole(lambda: input("> ").strip())
        except SteepError as error:
            output.say(str(error), style="yellow")
            continue
        except EOFError:
            output.say("")
            return
        except KeyboardInterrupt:
            output.say("\nCtrl-D leaves", style="dim")
            continue
        if line in ("/quit", "/exit"):
            return
        try:
            if line.startswith("/"):
                output.say(obey(chat, line), style="dim")
            elif line:
                chat.ask(line)
        except SteepError as error:
            output.say(str(error), style="yellow")


def obey(chat: Chat, line: str) -> str:
    """Carry out a command; what to say about it."""
    match line.split():
        case ["/new"]:
            chat.conversation.clear()
            return "forgotten"
        case ["/budget", number] if number.isdecimal():
            chat.budget = chat.template.budget(int(number))
        case ["/effort", name]:
            chat.budget = chat.template.effort(name)
        case _:
            return HELP
    return thinking(chat.budget)


def thinking(budget: Budget) -> str:
    if not budget.closing:
        return "answering at once"
    limit = "as long as the context lasts" if budget.thought is None else f"up to {budget.thought} tokens"
    return f"thinking for {limit}"


def describe(reply: Reply, budget: Budget) -> str:
    """The line below an answer."""
    full = budget.thought is None or reply.thought_tokens < budget.thought
    cut = f" (cut by the {'context' if full else 'budget'})" if reply.cut else ""
    length = "" if reply.ended or reply.stopped else " (cut)"
    stopped = ", stopped and forgotten" if reply.stopped else ""
    return (
        f"[thought {reply.thought_tokens} tokens{cut}, answer {reply.answer_tokens} tokens{length}, "
        f"{reply.seconds:.1f} s{stopped}]"
    )


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Ctrl-C sets the event, to be looked at between two tokens, and does not break off the engine within one."""
    asked = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
