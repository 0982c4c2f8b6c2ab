"""Thoughts in chunks: the same tokens as a plain loop that forgets, whatever the chunks are carried on from."""

from concurrent.futures import CancelledError
from dataclasses import replace

import numpy as np
import pytest
import torch

from steep.engines import ChunkedEngine, NativeConfig
from steep.engines.driven import Pending
from steep.engines.sampling import streams, uniforms
from steep.errors import SteepError
from steep.types import Budget, Progress, Request, Rollout
from tests.engines.test_native import THINK_END, Countdown, budget, engine, logits, model, request, same
from tests.server.serving import tiny

END = 23
CONTEXT = 32
LENGTH = CONTEXT - 3 - 3 - 8  # of a chunk, after the prompt, the closing and the answer of `request`


def chunked(rows: int = 8, context: int = CONTEXT, end: int = END) -> ChunkedEngine:
    return ChunkedEngine(model(), NativeConfig(rows=rows, context=context), frozenset([end]))


def forgetful_loop(asked: Request) -> list[int]:
    """The specification: prompt and window, one token after another."""
    network, ids, window = model(), [], []
    forced: list[int] = []
    thinking, left, answer = True, asked.budget.thought, asked.budget.answer
    assert left is not None
    while True:
        if thinking and not forced and len(window) == LENGTH:
            window = window[LENGTH - LENGTH // 2 :]
        u = uniforms(streams(np.array([asked.seed]), np.array([0])), np.array([len(ids)]))
        distribution = logits(network, [*asked.prompt_ids, *window])[-1].log_softmax(-1)
        cumulative = distribution.exp().cumsum(-1)
        token = int(torch.searchsorted(cumulative, float(u[0]) * cumulative[-1], right=True))
        chosen = not forced
        token = token if chosen else forced.pop(0)
        ids.append(token)
        window.append(token)
        if chosen and token == END:
            return ids
        if thinking:
            if token == THINK_END:
                thinking = False
            elif chosen:
                left -= 1
                if left == 0:
                    forced = list(asked.budget.closing)
        else:
            answer -= 1
            if answer == 0:
                return ids


@pytest.mark.parametrize("thought", [LENGTH - 1, LENGTH, LENGTH + 1, 2 * LENGTH, 100])
def test_a_rollout_is_what_a_loop_samples_that_forgets(thought: int):
    longest = 0
    for seed in range(10):
        asked = request(thought=thought, seed=seed)
        (rollout,) = chunked().submit(asked).result()
        assert rollout.ids.tolist() == forgetful_loop(asked)
        assert rollout.thought_tokens <= thought
        assert len(rollout.ids) == len(rollout.logprobs) == len(rollout.sampled) == len(rollout.versions)
        assert rollout.budget == asked.budget
        longest = max(longest, rollout.thought_tokens)
    assert longest == thought


def test_what_fits_the_context_is_not_cut():
    for seed in range(5):
        asked = request(thought=20, seed=seed, n=2)
        whole = engine(context=64, end=END).submit(asked).result()
        assert all(same(a, b) for a, b in zip(chunked(context=64).submit(asked).result(), whole, strict=True))
    bare = Request(prompt_ids=(3, 4), budget=Budget(thought=0, answer=20, closing=()), seed=1)
    assert len(chunked().submit(bare).result()[0].ids) == 20


LIMITS = {
    "an answer's": budget(50),
    "a total": Budget(thought=50, answer=8, closing=(7, 9, THINK_END), total=70, must_answer=True),
    "a total that cuts the thought": Budget(thought=90, answer=8, closing=(7, 9, THINK_END), total=61),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_it_is_carried_on_from_all_that_is_told(limit: str):
    lengths = []
    for seed in range(6):
        asked = Request(prompt_ids=(3, 4, 5), budget=LIMITS[limit], seed=seed)
        whole, told = followed(asked)
        lengths.append(whole.thought_tokens)
        for cut in np.cumsum([len(progress.ids) for progress in told])[:-1].tolist():
            rest = replace(asked, response_ids=tuple(whole.ids[:cut].tolist()))
            (again,) = chunked().submit(rest).result()
            assert same(again, whole)
            assert again.logprobs[cut:] == pytest.approx(whole.logprobs[cut:], abs=1e-4)
    assert max(lengths) == 50


def followed(asked: Request) -> tuple[Rollout, list[Progress]]:
    told: list[Progress] = []
    sampler = chunked()
    pending = sampler.submit(asked, told.append)
    while not pending.done():
        sampler.step()
        sampler.tell()
    (rollout,) = pending.result()
    for name in ("ids", "logprobs", "sampled"):
        assert np.concatenate([getattr(p, name) for p in told]).tolist() == getattr(rollout, name).tolist()
    assert sum(p.thought_len for p in told) == (rollout.thought_len or len(rollout.ids))
    assert [p.stop for p in told] == [None] * (len(told) - 1) + [rollout.stop]
    return rollout, told


def test_samples_are_chunked_each_for_itself():
    asked = request(thought=60, seed=4, n=5)
    together = chunked(rows=2).submit(asked).result()
    assert [r.sample for r in together] == [0, 1, 2, 3, 4]
    (third,) = chunked().submit(replace(asked, n=1, first_sample=2)).result()
    assert same(third, together[2])


def in_a_later_chunk() -> tuple[ChunkedEngine, Pending]:
    sampler = chunked()
    sampler.burst = 0  # a token in a step
    pending = sampler.submit(request(thought=1000, seed=10))
    for _ in range(2 * LENGTH):
        sampler.step()
    return sampler, pending


def test_a_thought_in_a_later_chunk_can_be_told_to_answer():
    sampler, pending = in_a_later_chunk()
    pending.answer_now()
    (rollout,) = pending.result()
    assert rollout.interrupted
    assert LENGTH < rollout.thought_tokens <= 3 * LENGTH
    assert sampler.idle


def test_a_thought_in_a_later_chunk_can_be_ended():
    sampler, pending = in_a_later_chunk()
    pending.end(0)
    (rollout,) = pending.result()
    assert (rollout.stop, rollout.thought_len) == ("cancelled", None)
    assert LENGTH < len(rollout.ids) <= 3 * LENGTH
    assert sampler.idle


def test_a_thought_in_a_later_chunk_can_be_cancelled():
    sampler, pending = in_a_later_chunk()
    pending.cancel()
    with pytest.raises(CancelledError):
        pending.result()
    assert sampler.idle


def test_what_is_recalled_between_chunks_is_given_back_as_far_as_it_is():
    sampler = chunked(rows=1)
    sampler.burst = 0
    whole = chunked().submit(request(thought=1000, seed=10)).result()[0]
    pending = sampler.submit(request(thought=1000, seed=10, n=2))
    sampler.step()
    while not sampler.arrived:  # the first sample's second chunk
        sampler.step()
    sampler.recall()
    (first,) = pending.result()
    assert (first.sample, first.stop, first.thought_len) == (0, "cancelled", None)
    assert first.ids.tolist() == whole.ids[: len(first.ids)].tolist()
    assert len(first.ids) >= LENGTH
    assert sampler.idle


def test_a_request_that_fails_leaves_no_chunk_running():
    def broken() -> Countdown:
        raise RuntimeError("made")

    sampler = chunked(rows=2)
    pending = sampler.submit(replace(request(thought=1000, seed=10, n=3), constraint=broken))
    with pytest.raises(RuntimeError, match="made"):
        pending.result()
    for _ in range(3):
        sampler.step()
    assert sampler.idle


def test_a_thought_keeps_its_row_from_chunk_to_chunk():
    sampler = chunked(rows=1)
    pending = sampler.submit(request(thought=60, seed=10))
    after = sampler.submit(request(thought=4, seed=1))
    assert len(pending.result()[0].ids) > 60
    assert not after.done()


def test_a_thought_in_chunks_is_not_extended_nor_cut():
    longer = budget(LENGTH + 1)
    extended = Request(prompt_ids=(3, 4, 5), budget=replace(longer, extension=(8,), extensions=1))
    for asked in (extended, Request(prompt_ids=(3, 4, 5), budget=longer, cuts=(3,))):
        with pytest.raises(SteepError, match="goes on to its own end"):
            chunked().submit(asked)


def test_a_context_without_room_for_a_chunk_is_refused():
    with pytest.raises(SteepError, match="leave no room for a thought in a context of 14"):
        chunked(context=14).submit(request(thought=50))


@pytest.mark.slow
def test_a_thought_of_many_contexts_keeps_to_its_budget():
    loaded = tiny(endless=True)
    sampler = ChunkedEngine(loaded.model, NativeConfig(rows=1, context=256), loaded.template.end_ids)
    (rollout,) = sampler.submit(Request(prompt_ids=(5, 6), budget=loaded.template.budget(5000), seed=5)).result()
    assert (rollout.thought_tokens, rollout.interrupted) == (5000, True)
    assert len(rollout.ids) == 5000 + 2 + 24
