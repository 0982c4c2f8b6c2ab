"""The native engine: continuous batching over one cache, with thinking budgets kept inside the sampler.

    submit -> waiting jobs -> prefill (a prompt once, however many samples) -> rows of the cache -> decode -> rollouts

One `step` starts what fits, decodes a token or a few in every active row, and retires the rows that are done. Whoever
waits for a future drives the engine; there is no thread behind it. What happens to a row is decided by token ids alone,
beginning after the prompt, so nothing a user writes can change it.
"""

import time
from collections import deque
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steep.config import within
from steep.engines.decoders import FusedDecoder, Order, decoder
from steep.engines.driven import DrivenEngine, Pending, Sink
from steep.engines.rows import AT_CUT, CANCELLED, END, LENGTH, STOPS, NativeJob, Rows
from steep.engines.sampling import draw, streams, uniforms
from steep.errors import ConfigError, SteepError
from steep.models.kernels import Stretch
from steep.models.transformer import LanguageModel
from steep.models.weights import digest
from steep.types import Progress, Receipt, Request, Rollout, Stop

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CACHE_DTYPES = {"int8": torch.int8}


@dataclass(frozen=True, kw_only=True)
class NativeConfig:
    """How much the engine holds at once."""

    rows: int = 256
    """Sequences decoded together."""
    context: int = 1024
    """Tokens a row can hold, prompt and response; at most the model's own context."""
    dtype: str = "float32"
    """`float32` or `bfloat16`: weights and cache. The head is fp32 either way."""
    cache_dtype: str | None = None
    """`int8`: keys and values in 8 bits, with a factor for each head and token. They take half the memory of bf16, are
    read in half the time, and are about as inexact. Takes the compiled kernels. None: as `dtype`."""

    def __post_init__(self) -> None:
        within(self, 1, "rows", "context")
        if self.dtype not in DTYPES:
            raise ConfigError(f"the engine knows no dtype {self.dtype!r}", f"choose one of {', '.join(DTYPES)}")
        if self.cache_dtype not in (None, *CACHE_DTYPES):
            raise ConfigError(f"the engine keeps no keys and values in {self.cache_dtype!r}", "choose int8, or none")


MAX_STEPS = 16
"""Tokens of a row at most that one step decodes."""
BURST = 1 << 32
"""Parameters times rows times tokens that one step decodes, about 60 ms of two cores. Not so many seconds: what is
under way when the weights change would then depend on the clock."""
FEW = 16
"""As long as fewer rows take."""


class NativeEngine(DrivenEngine):
    """Samples rollouts from a model of `steep.models` on one device."""

    def __init__(self, model: LanguageModel, config: NativeConfig, end_ids: frozenset[int], version: int = 0) -> None:
        """`model` is copied. `end_ids` are the model's end tokens; the end-of-thought token comes with each budget."""
        if config.context > model.config.max_positions:
            raise SteepError(
                f"an engine context of {config.context} tokens is more than the model's {model.config.max_positions}"
            )
        super().__init__(config, version, model.config.vocab_size)
        self.dtype = DTYPES[config.dtype]
        cached = self.dtype if config.cache_dtype is None else CACHE_DTYPES[config.cache_dtype]
        self.device = model.device
        self.model = deepcopy(model).requires_grad_(False).eval()
        for parameter in self.model.parameters():  # and no buffer: in bf16, RoPE could not tell positions apart
            parameter.data = parameter.data.to(self.dtype)
        self.ends = np.zeros(model.config.vocab_size, np.bool_)  # whether a token ends a response
        self.ends[sorted(end_ids)] = True
        self.prefill_tokens = 8192
        """Once so many tokens of prompts are begun in a step, the next prompts wait for the next one."""
        self.patience_s = 0.0
        """How long active rows wait for their next token while there are prompts to begin."""
        self.burst = BURST
        """How much a step decodes: several tokens a row of a small model, one of a large one."""
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.halt = np.zeros(1, np.int32)  # not 0 when a step should end at its next token, for a request is here
        self.decoded_s = 0.0  # when no active row was waiting for its next token
        self.decoder = decoder(self.model, config.rows, config.context, self.dtype, cached)
        self.rows = Rows(config.rows, config.context)
        self.arrived: deque[NativeJob] = deque()  # from any thread, without waiting for a step to end
        self.waiting: deque[NativeJob] = deque()
        self.load_weights(dict(model.named_parameters()), version)

    # -- what callers use

    @property
    def idle(self) -> bool:
        return not (self.active or self.waiting or self.arrived)

    def tell(self, first: int = 0) -> None:
        """Of rows from `first` on."""
        with self.lock:
            rows, at = self.rows, slice(first, self.active)
            for i in np.flatnonzero(rows.watched[at] & (rows.told[at] < rows.count[at])).tolist():
                self._tell(first + i)

    def load_weights(self, weights: Mapping[str, Tensor], version: int) -> Receipt:
        """Copy weights in; rows under way go on with the new ones, and their tokens carry the new version."""
        with self.lock, torch.no_grad():
            own = dict(self.model.named_parameters())
            if own.keys() != weights.keys():
                odd = sorted(own.keys() ^ weights.keys())
                raise SteepError(f"the engine's model and the weights differ in {', '.join(odd[:5])}")
            for name, parameter in own.items():
                parameter.copy_(weights[name])
            self.decoder.load()
            for job in self.waiting:  # what is left of it begins with these weights
                job.prefix = None
            self.version = version
            self.receipt = Receipt(version=version, digest=digest(own))
            return self.receipt

    def recall(self) -> None:
        """Stop all that is under way. Each future then holds its rollouts as far as they are."""
        with self.lock:
            jobs = self._jobs()
            self.arrived.clear()
            self.waiting.clear()
            self.rows.stop[: self.active] = CANCELLED
            self._retire()
            for job in jobs:
                if not job.future.done():
                    job.hand_over()

    def close(self) -> None:
        with self.lock:
            for job in self._jobs():
                self.drop(job)
            self.step()

    def _jobs(self) -> set[NativeJob]:
        return {*self.arrived, *self.waiting, *map(_job, self.rows.jobs[: self.active])}

    # -- one step

    @torch.inference_mode()
    def step(self) -> None:
        """As every engine's; prompts may go before the next token of rows."""
        with self.lock:
            self.halt[0] = 0
            while self.arrived:
                job = self.arrived.popleft()
                (self.waiting.appendleft if job.request.dropped else self.waiting.append)(job)  # it had a row before
            if not self.active:
                self.decoded_s = time.monotonic()
            self._obey()
            self._start()
            begin_first = (self.waiting or self.arrived) and self.active < self.config.rows
            if self.active and not (begin_first and time.monotonic() < self.decoded_s + self.patience_s):
                self._decode()
                self.decoded_s = time.monotonic()

    def _queue(self, request: Request, future: Pending, sink: Sink | None) -> None:
        if request.cuts and sink is not None:
            raise SteepError(f"a thought that is told as it comes is not cut: {list(request.cuts)} cannot be kept")
        if request.cuts and request.cuts[-1] >= (limit := self._thought_limit(request)):
            raise SteepError(
                f"a thought of at most {limit} tokens is not cut at {request.cuts[-1]}: the prompt has "
                f"{len(request.prompt_ids)} tokens, the context {self.config.context}",
                "leave out the longest budgets or the longest prompts, or give the engine a longer context",
            )
        self.arrived.append(NativeJob(request, future, sink))
        self.halt[0] = 1

    def _obey(self) -> None:
        """Do what was asked of jobs: to be dropped, to end a sample, to answer now."""
        if not self.asked:
            return
        self.asked = False
        for job in [j for j in self.waiting if j.cancelled]:
            self.waiting.remove(job)
            job.end_cancelled()
        rows = self.rows
        for r in range(self.active):
            job = _job(rows.jobs[r])
            if job.cancelled or int(rows.sample[r]) in job.ended:
                rows.stop[r] = CANCELLED
            elif job.answer_now and rows.thinking[r] and not 0 <= rows.forcing[r] < rows.closing[r]:
                rows.forcing[r] = 0
        if rows.stop[: self.active].any():
            self._retire()

    def _start(self) -> None:
        """Give free rows to waiting samples; a job's prompt is prefilled when its first sample starts."""
        free = self.config.rows - self.active
        fresh: list[NativeJob] = []
        samples = tokens = 0
        for job in self.waiting:
            if samples >= free or tokens >= self.prefill_tokens:
                break
            samples += job.request.n - job.started
            if job.prefix is None:
                fresh.append(job)
                tokens += len(job.request.prompt_ids) + len(job.request.response_ids)
        self._prefill(fresh)
        first = self.active
        while self.active < self.config.rows and self.waiting and self.waiting[0].prefix is not None:
            job = self.waiting[0]
            self._start_row(job)
            if job.started == job.request.n:
                self.waiting.popleft()
                job.prefix = None
        if self.active > first:
            started = slice(first, self.active)
            jobs = [_job(job) for job in self.rows.jobs[started]]
            seeds = np.array([job.request.seed for job in jobs])
            self.rows.stream[started] = streams(seeds, self.rows.sample[started])
            logits = torch.stack([_logits(job) for job in jobs])
            self._advance(first, *self._draw(started, logits))
            self.tell(first)
            if self.rows.watched[started].any():
                self.halt[0] = 1  # whoever drives the engine hands first tokens on when the step is over

    def _prefill(self, jobs: list[NativeJob]) -> None:
        if not jobs:
            return
        prefixes, logits = self.decoder.prefill([job.request.prompt_ids + job.request.response_ids for job in jobs])
        for job, prefix, row in zip(jobs, prefixes, logits, strict=True):
            job.prefix, job.logits_V = prefix, row

    def _start_row(self, job: NativeJob) -> None:
        rows, r, request = self.rows, self.active, job.request
        assert job.prefix is not None
        self.decoder.start(r, job.prefix)
        budget, sample = request.budget, request.first_sample + job.started
        rows.jobs[r] = job
        rows.sample[r] = sample
        rows.temperature[r], rows.top_p[r] = request.sampling.temperature, request.sampling.top_p
        rows.position[r] = len(request.prompt_ids) - 1
        rows.count[r] = rows.told[r] = rows.stop[r] = 0
        rows.aside[r] = False
        rows.watched[r] = job.sink is not None
        rows.must_answer[r], rows.pause[r] = budget.must_answer, budget.pause
        rows.dropped[r] = request.dropped
        self._constrain(r)
        if sample in job.ended:
            self.asked = True
        rows.think_end[r] = budget.closing[-1] if budget.closing else -1
        rows.closing[r], rows.extensions[r] = len(budget.closing), budget.extensions
        rows.thought_len[r] = -1
        rows.thinking[r] = bool(budget.closing)
        rows.thought_left[r] = 0 if job.answer_now else self._thought_limit(request)
        rows.total[r] = total = self._total(request) if budget.total else 0
        rows.answer_left[r] = total or budget.answer
        if request.response_ids:
            self._carry_on(r, request)
        rows.forcing[r] = 0 if rows.thinking[r] and rows.thought_left[r] <= 0 else -1
        self._await_cut(r)
        job.started += 1
        self.active += 1

    def _carry_on(self, r: int, request: Request) -> None:
        """Take the beginning of a response as if it had been sampled."""
        rows, done = self.rows, np.array(request.response_ids, np.int32)
        n = rows.count[r] = rows.told[r] = len(done)
        rows.position[r] += n
        rows.ids[r, :n] = done
        rows.logprobs[r, :n] = 0.0
        rows.sampled[r, :n] = True
        rows.versions[r, :n] = self.version
        ended = np.flatnonzero(done == rows.think_end[r])
        if len(ended):
            rows.thinking[r] = False
            rows.thought_len[r] = ended[0] + 1
        if rows.thinking[r]:
            rows.thought_left[r] -= n
        else:
            answered = done[max(rows.thought_len[r], 0) :].tolist()
            rows.answer_left[r] -= n if rows.total[r] else len(answered)
            for id in answered:
                self._hold(r, id)

    def _await_cut(self, r: int) -> None:
        count = int(self.rows.count[r])
        ahead = [cut for cut in _job(self.rows.jobs[r]).request.cuts if cut > count]
        self.rows.cut_left[r] = ahead[0] - count if ahead else -1

    def _turn_aside(self, r: int) -> None:
        """Close the thought as at its limit, and remember it."""
        rows = self.rows
        _job(rows.jobs[r]).returns[int(rows.sample[r])] = {name: getattr(rows, name)[r] for name in AT_CUT}
        rows.aside[r] = True
        rows.forcing[r] = 0

    def _go_back(self, r: int) -> None:
        """Think on from a cut. What the cache holds beyond it is written over."""
        rows, job = self.rows, _job(self.rows.jobs[r])
        sample = int(rows.sample[r])
        for name, value in job.returns.pop(sample).items():
            getattr(rows, name)[r] = value
        rows.aside[r], rows.thinking[r], rows.thought_len[r], rows.stop[r] = False, True, -1, 0
        self._constrain(r)
        if job.answer_now:
            self.asked = True
        self._await_cut(r)

    def _decode(self) -> None:
        rows, n = self.rows, self.active
        # Constraints and top_p are kept in Python, one token after another.
        masked = rows.constrained[:n] & ~rows.thinking[:n]
        if isinstance(self.decoder, FusedDecoder) and not masked.any() and (rows.top_p[:n] == 1).all():
            self._decode_on(self.decoder)
            return
        order, logits_BV = self.decoder.step(rows.last[:n], rows.position[:n])
        drawn = self._draw(order, logits_BV)
        ids, logprobs = map(np.empty_like, drawn)
        ids[order], logprobs[order] = drawn
        self._advance(0, ids, logprobs)

    def _decode_on(self, decoder: FusedDecoder) -> None:
        """Several tokens a row in one call: up to one that `_advance` has something to decide about."""
        rows, at = self.rows, slice(0, self.active)
        order, drawn = decoder.sample(rows.last[at], rows.position[at], self._stretch)
        made, ids, logprobs = map(np.empty_like, drawn)
        made[order], ids[order], logprobs[order] = drawn
        if made.max() > 1:
            self._go_on(made - 1, ids, logprobs)
        last = np.arange(self.active), made - 1
        self._advance(0, ids[last], logprobs[last])

    def _stretch(self, at: Order) -> Stretch:
        """How far each of these rows may go before something changes for it."""
        rows = self.rows
        steps = min(max(self.burst // (self.parameters * max(self.active, FEW)), 1), MAX_STEPS)
        thinking, forcing, closing = rows.thinking[at], rows.forcing[at], rows.closing[at]
        free, going_on = rows.phases(at)
        limit = np.where(thinking, steps, rows.answer_left[at])
        cut_left = rows.cut_left[at]
        np.minimum(limit, rows.thought_left[at], out=limit, where=going_on)
        np.minimum(limit, cut_left, out=limit, where=going_on & (cut_left > 0))
        forced = np.full((len(limit), steps), -1, np.int64)
        for i in np.flatnonzero(~free).tolist():
            budget = _job(rows.jobs[np.arange(self.active)[at][i]]).request.budget
            script = budget.closing if forcing[i] < closing[i] else budget.closing + budget.extension
            rest = script[forcing[i] : forcing[i] + steps]
            forced[i, : len(rest)] = rest
            limit[i] = min(limit[i], len(rest))
        return Stretch(
            temperature_B=rows.temperature[at],
            stream_B=rows.stream[at],
            counter_B=rows.dropped[at] + rows.count[at],
            limit_B=limit.clip(1, steps),
            close_B=np.where(thinking, rows.think_end[at], -1),
            forced_BT=forced,
            ends_V=self.ends,
            halt=self.halt,
        )

    def _go_on(self, more: NDArray[np.int64], ids: NDArray[np.int64], logprobs: NDArray[np.float32]) -> None:
        """Take the first `more` tokens of each active row, about which there is nothing to decide."""
        rows, at = self.rows, slice(0, self.active)
        which, step = np.nonzero(np.arange(ids.shape[1]) < more[:, None])
        where = rows.count[which] + step
        free, going_on = rows.phases(at)
        rows.ids[which, where], rows.logprobs[which, where] = ids[which, step], logprobs[which, step]
        rows.sampled[which, where], rows.versions[which, where] = free[which], self.version
        rows.count[at] += more
        rows.position[at] += more
        rows.thought_left[at] -= np.where(going_on, more, 0)
        rows.cut_left[at] -= np.where(going_on, more, 0)
        rows.answer_left[at] -= np.where(rows.thinking[at], 0, more)
        rows.forcing[at] += np.where(free, 0, more)

    def _draw(self, at: Order, logits_BV: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The next token of rows `at` and its log-probability."""
        rows = self.rows
        for i in np.flatnonzero(rows.constrained[at] & ~rows.thinking[at]).tolist():
            row = np.arange(self.active)[at][i]
            job = _job(rows.jobs[row])
            with self._blaming(job):
                allowed = job.constraints[int(rows.sample[row])].allowed()
                logits_BV[i, torch.from_numpy(~allowed).to(self.device)] = -torch.inf
        uniform = uniforms(rows.stream[at], rows.dropped[at] + rows.count[at])
        return draw(logits_BV, rows.temperature[at], rows.top_p[at], uniform)

    def _advance(self, first: int, ids: NDArray[np.int64], logprobs: NDArray[np.float32]) -> None:
        """Decide what the next token means for each active row from `first` on.

        What is rare is looked for before it is done: a step of few rows is spent on the calls into numpy.
        """
        rows, at = self.rows, slice(first, self.active)
        thinking, forcing, stop = rows.thinking[at], rows.forcing[at], rows.stop[at]  # views
        count, answer_left, cut_left = rows.count[at], rows.answer_left[at], rows.cut_left[at]
        free, answering = thinking & (forcing < 0), ~thinking
        ends, closes = self.ends[ids], free & (ids == rows.think_end[at])
        if ends.any():
            forcing[free & ends & rows.must_answer[at]] = 0
        if closes.any():
            extended = closes & (rows.extensions[at] > 0)
            np.copyto(forcing, rows.closing[at], where=extended)
            rows.extensions[at] -= extended
        forced, extending = forcing >= 0, forcing >= rows.closing[at]
        sampled = ~forced
        closed = closes & sampled  # the thought ends with this token
        for i in np.flatnonzero(forced).tolist():
            row = first + i
            budget = _job(rows.jobs[row]).request.budget
            script = budget.closing + budget.extension
            ids[i], logprobs[i] = script[forcing[i]], 0.0
            forcing[i] += 1
            closed[i] = forcing[i] == len(budget.closing) and not extending[i]
            if closed[i] or forcing[i] == len(script):
                forcing[i] = -1
        going_on = (thinking & sampled | extending) & ~closed

        active, where = np.arange(first, self.active), count.copy()
        rows.ids[active, where], rows.logprobs[active, where] = ids, logprobs
        rows.sampled[active, where], rows.versions[active, where] = sampled, self.version
        count += 1
        rows.position[at] += 1
        rows.last[at] = ids
        rows.thought_left[at] -= going_on
        cut_left -= going_on
        if closed.any():
            thinking &= ~closed
            np.copyto(rows.thought_len[at], count, where=closed)
            np.copyto(answer_left, rows.total[at] - count, where=closed & (rows.total[at] > 0))
        spent = going_on & (rows.thought_left[at] <= 0)
        if spent.any():
            forcing[spent & ~rows.pause[at]] = 0
            stop[spent & rows.pause[at]] = LENGTH
        answer_left -= answering
        stop[answering & (answer_left <= 0)] = LENGTH
        stop[ends & sampled] = END
        for i in np.flatnonzero(going_on & (cut_left == 0) & (stop == 0)).tolist():
            self._turn_aside(first + i)

        for i in np.flatnonzero(rows.constrained[at] & answering).tolist():
            self._hold(first + i, int(ids[i]))
        if rows.stop[at].any():
            self._retire()

    def _retire(self) -> None:
        """Hand over the rollouts of stopped rows, and close the gaps they leave with the last active rows."""
        rows = self.rows
        for r in np.flatnonzero(rows.stop[: self.active])[::-1].tolist():
            job = _job(rows.jobs[r])
            if rows.aside[r]:
                cancelled = rows.stop[r] == CANCELLED
                if not cancelled:
                    job.cuts.setdefault(int(rows.sample[r]), []).append(self._rollout(r, job))
                self._go_back(r)
                if not cancelled:
                    continue
                rows.stop[r] = CANCELLED
            if job.cancelled:
                job.end_cancelled()
            else:
                self._finish(r, job)
            self.active -= 1
            if r != self.active:
                rows.move(self.active, r)
                self.decoder.move(self.active, r, int(rows.position[r]) + 1)
            rows.jobs[self.active] = None
            rows.stop[self.active] = 0

    def _finish(self, r: int, job: NativeJob) -> None:
        rows = self.rows
        if rows.watched[r]:
            self._tell(r, STOPS[rows.stop[r]])
        job.done[int(rows.sample[r])] = self._rollout(r, job)
        if len(job.done) == job.request.n and not job.cancelled:
            job.hand_over()

    def _rollout(self, r: int, job: NativeJob) -> Rollout:
        rows, n = self.rows, int(self.rows.count[r])
        stop, budget = STOPS[rows.stop[r]], job.request.budget
        assert stop is not None
        sample, ended = int(rows.sample[r]), int(rows.thought_len[r])
        thought_len = 0 if not budget.closing else ended if ended >= 0 else None
        cut = replace(budget, thought=int(job.returns[sample]["count"])) if rows.aside[r] else budget
        return Rollout(
            prompt_ids=job.request.prompt_ids,
            ids=rows.ids[r, :n].copy(),
            logprobs=rows.logprobs[r, :n].copy(),
            sampled=rows.sampled[r, :n].copy(),
            versions=rows.versions[r, :n].copy(),
            thought_len=thought_len,
            stop=stop,
            budget=cut,
            seed=job.request.seed,
            sample=sample,
        )

    def _tell(self, r: int, stop: Stop | None = None) -> None:
        rows, job = self.rows, _job(self.rows.jobs[r])
        since, until = int(rows.told[r]), int(rows.count[r])
        if stop is None:  # a closing is told as a whole, so that a response can be carried on from all that is told
            forced = int(rows.forcing[r])
            until -= max(forced if forced < rows.closing[r] else forced - int(rows.closing[r]), 0)
            if until == since:
                return
        rows.told[r] = until
        thought = until if rows.thinking[r] else max(int(rows.thought_len[r]), 0)
        progress = Progress(
            sample=int(rows.sample[r]),
            ids=rows.ids[r, since:until].copy(),
            logprobs=rows.logprobs[r, since:until].copy(),
            sampled=rows.sampled[r, since:until].copy(),
            thought_len=min(max(thought - since, 0), until - since),
            stop=stop,
        )
        with self._blaming(job):
            assert job.sink is not None
            job.sink(progress)

    def _constrain(self, r: int) -> None:
        """Hold the row's answer to a new constraint, where its request has one."""
        rows, job = self.rows, _job(self.rows.jobs[r])
        rows.constrained[r] = False
        if job.request.constraint is not None:
            with self._blaming(job):
                job.constraints[int(rows.sample[r])] = job.request.constraint()
                rows.constrained[r] = True

    def _hold(self, r: int, id: int) -> None:
        """Take the next token of an answer into its constraint, where it has one."""
        if self.rows.constrained[r]:
            job = _job(self.rows.jobs[r])
            with self._blaming(job):
                job.constraints[int(self.rows.sample[r])].advance(id)


def _job(job: NativeJob | None) -> NativeJob:
    assert job is not None
    return job


def _logits(job: NativeJob) -> Tensor:
    assert job.logits_V is not None
    return job.logits_V
