"""The engine against a plain loop over the same model: same tokens, same log-probabilities, budgets kept exactly."""

import gc
import itertools
import weakref
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from steep.engines import NativeConfig, NativeEngine
from steep.engines.decoders import Order
from steep.engines.native import BURST
from steep.engines.sampling import draw, streams, uniforms
from steep.errors import SteepError
from steep.models import kernels
from steep.models.attention import PackedAttention, packed_positions
from steep.models.transformer import ModelConfig, Transformer, initialise
from steep.models.weights import digest
from steep.types import Budget, Progress, Request, Rollout, Sampling

THINK_END, END = 1, 2
CONFIG = ModelConfig(
    vocab_size=24,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=48,
    max_positions=256,
)


def model(seed: int = 0) -> Transformer:
    made = Transformer(CONFIG)
    initialise(made, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        made.embedding.weight.mul_(20)  # far from uniform
    return made


def engine(
    rows: int = 8, context: int = 128, dtype: str = "float32", end: int = END, burst: int = BURST
) -> NativeEngine:
    made = NativeEngine(model(), NativeConfig(rows=rows, context=context, dtype=dtype), frozenset([end]))
    made.burst = burst  # 0: a token of each row in a step
    return made


def budget(thought: int | None, answer: int = 8, phrase: tuple[int, ...] = (7, 9)) -> Budget:
    return Budget(thought=thought, answer=answer, closing=(*phrase, THINK_END))


def request(prompt: tuple[int, ...] = (3, 4, 5), thought: int | None = 20, **more: object) -> Request:
    return Request(prompt_ids=prompt, budget=budget(thought), **more)  # type: ignore[arg-type]


def logits(network: Transformer, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        hidden = network(torch.tensor(ids), packed_positions([len(ids)]), PackedAttention([len(ids)]))
        return network.logits(hidden)


def plain_loop(network: Transformer, asked: Request, sample: int = 0) -> tuple[list[int], list[float]]:
    """The specification of a rollout: no cache, no batch, one token after another."""
    ids: list[int] = []
    logprobs: list[float] = []
    forced: list[int] = []
    thinking, left, answer = True, asked.budget.thought, asked.budget.answer
    extensions, extending = asked.budget.extensions, False
    think_end = asked.budget.closing[-1]
    assert left is not None
    if left == 0:
        forced = list(asked.budget.closing)
    while True:
        if forced:
            ids.append(forced.pop(0))
            logprobs.append(0.0)
            if not extending:
                thinking = bool(forced)
                continue
            left -= 1
            extending = bool(forced)
            if left == 0:
                forced, extending = list(asked.budget.closing), False
            continue
        u = uniforms(streams(np.array([asked.seed]), np.array([sample])), np.array([len(ids)]))
        distribution = logits(network, [*asked.prompt_ids, *ids])[-1].log_softmax(-1)
        cumulative = distribution.exp().cumsum(-1)
        token = int(torch.searchsorted(cumulative, float(u[0]) * cumulative[-1], right=True))
        if thinking and token == think_end and extensions:
            extensions -= 1
            forced, extending = list(asked.budget.extension), True
            continue
        ids.append(token)
        logprobs.append(float(distribution[token]))
        if token == END:
            return ids, logprobs
        if thinking:
            if token == think_end:
                thinking = False
                continue
            left -= 1
            if left == 0:
                forced = list(asked.budget.closing)
        else:
            answer -= 1
            if answer == 0:
                return ids, logprobs


@pytest.mark.parametrize("thought", [0, 1, 2, 7, 40])
def test_a_rollout_is_what_a_plain_loop_samples(thought: int):
    for seed in range(6):
        asked = request(thought=thought, seed=seed)
        (rollout,) = engine().submit(asked).result()
        ids, logprobs = plain_loop(model(), asked)
        assert rollout.ids.tolist() == ids
        np.testing.assert_allclose(rollout.logprobs, logprobs, atol=1e-5)


def test_one_path_sampler_and_trainer_agree():
    """Invariant 1: KL under 1e-6 in fp32 between what the sampler reported and a packed forward of the trainer."""
    rollouts = engine(rows=5).submit(request(n=12, thought=30, seed=3)).result()
    gaps = []
    for rollout in rollouts:
        ids = [*rollout.prompt_ids, *rollout.ids.tolist()]
        trained = logits(model(), ids[:-1]).log_softmax(-1)[len(rollout.prompt_ids) - 1 :]
        trained = trained.gather(-1, torch.tensor(rollout.ids.tolist())[:, None])[:, 0].numpy()
        gaps.append((trained - rollout.logprobs)[rollout.sampled])
    gap = np.concatenate(gaps).astype(np.float64)
    assert float(np.mean(np.exp(gap) - 1 - gap)) < 1e-9
    assert np.abs(gap).max() < 1e-5


def same(a: Rollout, b: Rollout) -> bool:
    return a.ids.tolist() == b.ids.tolist() and a.stop == b.stop and a.thought_len == b.thought_len


def test_a_rollout_does_not_depend_on_what_runs_beside_it():
    alone = {seed: engine().submit(request(seed=seed, n=2)).result() for seed in range(10)}
    crowded = engine(rows=7)
    futures = {seed: crowded.submit(request(prompt=(3, 4, 5), seed=seed, n=2)) for seed in range(10)}
    others = [crowded.submit(request(prompt=(9, 8, 7, 6, 5 + i), seed=100 + i, n=3)) for i in range(5)]
    for seed, future in futures.items():
        assert all(same(a, b) for a, b in zip(future.result(), alone[seed], strict=True))
    assert all(len(other.result()) == 3 for other in others)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    small = st.integers(0, 30)
    thinks = draw(st.booleans())
    total = draw(st.one_of(st.none(), st.integers(30, 60)))
    allowed = Budget(
        thought=draw(st.one_of(st.none(), small)),
        answer=draw(st.integers(1, 20)),
        closing=(7, 9, THINK_END) if thinks else (),
        total=total,
        must_answer=thinks and draw(st.booleans()),
        pause=thinks and draw(st.booleans()),
        extension=(8, 6, 8, 6) if thinks else (),
        extensions=draw(st.integers(0, 3)) if thinks else 0,
    )
    limit = min(allowed.thought if allowed.thought is not None else 90, (total or 130) - 30)
    cuts = tuple(sorted(draw(st.sets(st.integers(1, max(limit - 1, 1)), max_size=2)))) if thinks and limit > 1 else ()
    temperature = draw(st.sampled_from([0.0, 1.0, 1.5]))
    return Request(
        prompt_ids=(3, 4, draw(st.integers(5, 6))),
        budget=allowed,
        n=draw(st.integers(1, 4)),
        seed=draw(small),
        sampling=Sampling(temperature=temperature),
        cuts=cuts,
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(requests(), min_size=1, max_size=5))
def test_rollouts_are_those_of_steps_of_one_token(asked: list[Request]):
    def rollouts(burst: int) -> list[list[Rollout]]:
        sampler = engine(rows=6, context=128, end=23, burst=burst)
        futures = [sampler.submit(each) for each in asked]
        return [future.result() for future in futures]

    singly, bursts = rollouts(0), rollouts(BURST)
    for one, many in zip(itertools.chain(*singly), itertools.chain(*bursts), strict=True):
        assert same(one, many)
        assert one.budget == many.budget
        assert (one.sample, one.versions.tolist()) == (many.sample, many.versions.tolist())
        assert one.sampled.tolist() == many.sampled.tolist()
        assert one.logprobs.tolist() == many.logprobs.tolist()


@pytest.mark.skipif(not kernels.status().startswith("compiled"), reason="the kernels do not compile here")
def test_a_step_decodes_what_there_is_time_for_and_ends_when_a_request_comes(monkeypatch):
    sampler = engine()
    sampler.submit(request(thought=100, seed=8))
    limits, counts = sampler._stretch, []

    def comes_late(at: Order) -> kernels.Stretch:
        if len(counts) == 2:
            sampler.submit(request())
        return limits(at)

    monkeypatch.setattr(sampler, "_stretch", comes_late)
    for _ in range(4):
        sampler.step()
        counts.append(int(sampler.rows.count[0]))
    assert counts == [17, 33, 34, 50]


def test_samples_of_a_request_are_numbered():
    together = engine().submit(request(n=5, seed=4)).result()
    assert [r.sample for r in together] == [0, 1, 2, 3, 4]
    assert len({tuple(r.ids.tolist()) for r in together}) > 1
    (third,) = engine().submit(request(n=1, seed=4, first_sample=2)).result()
    assert same(third, together[2])


LIMITS = {
    "an answer's": budget(12),
    "a total": Budget(thought=12, answer=4, closing=(7, 9, THINK_END), total=25, must_answer=True),
    "no thought section": Budget(thought=0, answer=20, closing=()),
    "no thought section, a total": Budget(thought=0, answer=4, closing=(), total=20),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_response_is_carried_on_from_all_that_is_told_as_if_it_had_not_been_cut(limit: str):
    carried = 0
    for seed in range(8):
        asked = Request(prompt_ids=(3, 4, 5), budget=LIMITS[limit], seed=seed)
        told: list[Progress] = []
        sampler = engine(end=23, burst=0)
        pending = sampler.submit(asked, told.append)
        while not pending.done():
            sampler.step()
            sampler.tell()
        (whole,) = pending.result()
        for cut in np.cumsum([len(progress.ids) for progress in told])[:-1].tolist():
            rest = replace(asked, response_ids=tuple(whole.ids[:cut].tolist()))
            (again,) = engine(end=23).submit(rest).result()
            assert same(again, whole)
            carried += 1
    assert carried > 100


def test_a_constraint_holds_an_answer_that_is_carried_on():
    asked = request(thought=4, constraint=Countdown)
    (whole,) = engine().submit(asked).result()
    for cut in range(len(whole.ids) - 4, len(whole.ids)):
        (again,) = engine().submit(replace(asked, response_ids=tuple(whole.ids[:cut].tolist()))).result()
        assert again.ids[-4:].tolist() == [12, 11, 10, END]


def test_a_response_that_leaves_no_room_is_not_carried_on():
    for tokens in (37, 27):  # 3 of the prompt before it, after it 3 of the closing and 8 of the answer
        with pytest.raises(SteepError, match=f"3 tokens, {tokens} of a response and an answer of 8 do not fit"):
            engine(context=40).submit(request(response_ids=(6,) * tokens))
    (rollout,) = engine(context=40, end=23).submit(request(response_ids=(6,) * 26)).result()
    assert (rollout.thought_tokens, rollout.interrupted) == (26, True)
    assert len(rollout.ids) == 37


def test_an_answer_that_is_carried_on_needs_room_for_itself_alone():
    asked = request(response_ids=(6, THINK_END, *(5,) * 8))
    (rollout,) = engine(context=40, end=23).submit(replace(asked, budget=budget(1, 35))).result()
    assert len(rollout.ids) == 37
    with pytest.raises(SteepError, match="do not fit"):
        engine(context=40).submit(replace(asked, budget=budget(1, 36)))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"prompt": ()}, "at least one token"),
        ({"n": 0}, "at least one sample, not 0"),
        ({"seed": 2**64}, "does not fit 64 bits"),
        ({"cuts": (4, 2)}, r"cuts rise, and \[4, 2\] do not"),
        ({"prompt": (3, 24)}, "the token 24 is none of the model's 24"),
        ({"response_ids": (-1,)}, "the token -1 is none of the model's 24"),
    ],
)
def test_what_no_engine_can_do_is_refused_and_nobody_else_waits_for_it(more: dict[str, Any], said: str):
    sampler = engine()
    beside = sampler.submit(request())
    with pytest.raises(SteepError, match=said):
        sampler.submit(request(**more))
    assert len(beside.result()) == 1


@pytest.mark.parametrize(
    "limits",
    [Budget(thought=0, answer=9, closing=()), replace(budget(4, answer=6), total=20), budget(4, answer=6)],
    ids=["no thought section", "total", "answer"],
)
def test_an_answer_that_is_carried_on_keeps_its_limit(limits: Budget):
    asked = Request(prompt_ids=(3, 4, 5), budget=limits, seed=3)
    (whole,) = engine(end=23).submit(asked).result()
    assert whole.stop == "length"
    assert whole.thought_len is not None
    for cut in range(whole.thought_len, len(whole.ids)):
        (again,) = engine(end=23).submit(replace(asked, response_ids=tuple(whole.ids[:cut].tolist()))).result()
        assert same(again, whole)


@pytest.mark.parametrize("thought", [0, 1, 2, 5, 16])
def test_budgets_are_kept_exactly_and_forced_tokens_are_masked(thought: int):
    for seed in range(20):
        (rollout,) = engine(end=23).submit(request(seed=seed, thought=thought)).result()
        assert rollout.thought_tokens <= thought
        if rollout.interrupted:
            assert rollout.thought_tokens == thought
            forced = rollout.ids[~rollout.sampled].tolist()
            assert forced == [7, 9, THINK_END]
            assert (rollout.logprobs[~rollout.sampled] == 0).all()
        else:
            assert rollout.sampled.all()


OFTEN = 5  # the model would end its thoughts with this token


def extended(thought: int, extensions: int, seed: int) -> Request:
    limits = Budget(thought=thought, answer=8, closing=(7, 9, OFTEN), extension=(8, 6), extensions=extensions)
    return Request(prompt_ids=(3, 4, 5), budget=limits, seed=seed)


@pytest.mark.parametrize(("thought", "extensions"), [(7, 1), (8, 100), (40, 1), (40, 100)])
def test_a_thought_goes_on_past_its_own_end_as_a_plain_loop_has_it(thought: int, extensions: int):
    together = engine(rows=7)
    futures = {seed: together.submit(extended(thought, extensions, seed)) for seed in range(40)}
    forced = 0
    for seed, future in futures.items():
        (rollout,) = future.result()
        ids, logprobs = plain_loop(model(), extended(thought, extensions, seed))
        assert rollout.ids.tolist() == ids
        np.testing.assert_allclose(rollout.logprobs, logprobs, atol=1e-5)
        forced += not rollout.sampled[: rollout.thought_tokens].all()
    assert forced > 3


def test_extensions_are_masked_and_count_in_the_budget():
    put_off = 0
    sampler = engine()
    for seed in range(40):
        (before,) = sampler.submit(extended(100, 0, seed)).result()
        (rollout,) = sampler.submit(extended(100, 2, seed)).result()
        if not before.ended:
            assert same(rollout, before)
            continue
        assert before.thought_len is not None
        own = before.thought_len - 1
        assert rollout.ids[: own + 2].tolist() == [*before.ids[:own].tolist(), 8, 6]
        thought = slice(0, rollout.thought_tokens)
        forced = rollout.ids[thought][~rollout.sampled[thought]].tolist()
        assert forced in ([8, 6], [8, 6] * 2, [8, 6, 8])
        assert (rollout.logprobs[~rollout.sampled] == 0).all()
        if rollout.thought_len is not None:
            assert rollout.thought_tokens == rollout.thought_len - (3 if rollout.interrupted else 1)
        assert rollout.thought_tokens == 100 if rollout.interrupted else rollout.thought_tokens < 100
        put_off += 1
    assert put_off > 5


def test_an_extension_is_told_as_a_whole_and_gives_way_to_answering_now():
    every = (engine().submit(extended(40, 100, seed)).result()[0] for seed in range(40))
    whole = next(r for r in every if r.sampled[:3].all() and not r.sampled[: r.thought_tokens].all())
    at = int(np.flatnonzero(~whole.sampled)[0])
    told: list[Progress] = []
    sampler = engine(burst=0)
    pending = sampler.submit(extended(40, 100, whole.seed), told.append)
    for _ in range(at):  # a request's first token comes with its start, in the same step as its second
        sampler.step()
        sampler.tell()
    assert np.concatenate([progress.ids for progress in told]).tolist() == whole.ids[:at].tolist()
    pending.answer_now()
    (rollout,) = pending.result()
    assert rollout.ids[: at + 4].tolist() == [*whole.ids[: at + 1].tolist(), 7, 9, OFTEN]
    assert np.concatenate([progress.ids for progress in told]).tolist() == rollout.ids.tolist()


def test_an_answer_follows_every_interruption():
    for seed in range(10):
        (rollout,) = engine().submit(request(seed=seed, thought=3)).result()
        if rollout.interrupted:
            assert rollout.thought_len is not None
            assert len(rollout.ids) > rollout.thought_len


def test_the_context_ends_a_thought_without_a_budget_and_leaves_room_for_the_answer():
    small = engine(context=40, end=23)
    for seed in range(10):
        (rollout,) = small.submit(request(seed=seed, thought=None)).result()
        assert len(rollout.prompt_ids) + len(rollout.ids) <= 40
        if rollout.interrupted:
            assert rollout.thought_tokens == 40 - 3 - 3 - 8


def test_a_model_without_a_thought_section_only_answers():
    asked = Request(prompt_ids=(3, 4), budget=Budget(thought=None, answer=5, closing=()), seed=1)
    (rollout,) = engine(end=23).submit(asked).result()
    assert rollout.thought_len == 0
    assert rollout.stop == "length"
    assert len(rollout.ids) == 5


def test_a_think_token_in_the_prompt_ends_nothing():
    (rollout,) = engine(end=23).submit(request(prompt=(3, THINK_END, 4), thought=2, seed=5)).result()
    assert rollout.thought_tokens <= 2
    assert rollout.thought_len is not None
    assert rollout.thought_len >= 1


def test_greedy_takes_the_most_likely_token():
    asked = request(thought=6, sampling=Sampling(temperature=0.0))
    (rollout,) = engine().submit(asked).result()
    ids = [*asked.prompt_ids, *rollout.ids.tolist()]
    best = logits(model(), ids[:-1])[2:].argmax(-1).numpy()
    assert (best == rollout.ids)[rollout.sampled].all()


def test_a_stream_gives_the_tokens_of_the_rollout():
    asked = request(seed=8, thought=4)
    (rollout,) = engine().submit(asked).result()
    tokens = list(engine().stream(asked))
    assert [t.id for t in tokens] == rollout.ids.tolist()
    assert [t.sampled for t in tokens] == rollout.sampled.tolist()
    assert sum(t.in_thought for t in tokens) == rollout.thought_len
    with pytest.raises(SteepError, match="one sample"):
        next(engine().stream(request(n=2)))


def test_a_sink_is_told_what_each_sample_gained():
    """However seldom the engine is asked to tell, the parts of a sample are its rollout."""
    asked = request(seed=8, thought=6, n=3)
    rollouts = engine().submit(asked).result()
    for every in (1, 4, 1000):
        told: list[Progress] = []
        sampler = engine()
        pending = sampler.submit(asked, told.append)
        for step in range(1000):
            if pending.done():
                break
            sampler.step()
            if step % every == 0:
                sampler.tell()
        assert sampler.idle
        for rollout in rollouts:
            parts = [progress for progress in told if progress.sample == rollout.sample]
            assert np.concatenate([p.ids for p in parts]).tolist() == rollout.ids.tolist()
            assert np.concatenate([p.logprobs for p in parts]).tolist() == rollout.logprobs.tolist()
            assert np.concatenate([p.sampled for p in parts]).tolist() == rollout.sampled.tolist()
            assert all(THINK_END in p.ids for p in parts if not p.sampled.all())  # a closing is told as a whole
            assert sum(p.thought_len for p in parts) == (rollout.thought_len or len(rollout.ids))
            assert [p.stop for p in parts] == [None] * (len(parts) - 1) + [rollout.stop]


def test_the_first_token_is_told_at_once():
    told: list[Progress] = []
    sampler = engine()
    sampler.submit(request(seed=8, thought=6, n=3), told.append)
    sampler.step()
    assert [(part.sample, len(part.ids)) for part in told] == [(0, 1), (1, 1), (2, 1)]


@pytest.mark.parametrize("told", [True, False])
def test_a_step_with_first_tokens_to_tell_is_over_soon(told: bool):
    sampler = engine(end=23)
    sampler.submit(request(thought=50), [].append if told else None)
    sampler.step()
    assert (sampler.rows.count[0] == 2) == told
    sampler.step()
    assert sampler.rows.count[0] > 10


def test_prompts_beyond_a_steps_share_wait_for_the_next_step():
    sampler = engine(burst=0)
    sampler.prefill_tokens = 5
    asked = [request((3, 4, 5 + i), seed=i) for i in range(5)]
    pending = [sampler.submit(one) for one in asked]
    started = []
    for _ in range(3):
        sampler.step()
        started.append(sampler.active)
    assert started == [2, 4, 5]
    for one, future in zip(asked, pending, strict=True):
        assert future.result()[0].ids.tolist() == plain_loop(model(), one)[0]


def test_prompts_go_first_while_rows_are_patient():
    sampler = engine(burst=0)
    sampler.prefill_tokens, sampler.patience_s = 5, 3600.0
    asked = [request((3, 4, 5 + i), seed=i) for i in range(5)]
    pending = [sampler.submit(one) for one in asked]
    counts = []
    for _ in range(4):
        sampler.step()
        counts.append(int(sampler.rows.count[0]))
    assert counts == [1, 1, 2, 3]
    for one, future in zip(asked, pending, strict=True):
        assert future.result()[0].ids.tolist() == plain_loop(model(), one)[0]


def test_a_total_limits_thought_and_answer_together():
    for seed in range(10):
        limits = Budget(thought=20, answer=5, closing=(7, 9, THINK_END), total=30, must_answer=True)
        (rollout,) = engine(end=23).submit(Request(prompt_ids=(3, 4), budget=limits, seed=seed)).result()
        assert len(rollout.ids) == 30 or rollout.stop == "end"
        assert rollout.thought_len is not None
        assert rollout.thought_tokens <= 20
    bare = Budget(thought=0, answer=5, closing=(), total=9)
    (rollout,) = engine(end=23).submit(Request(prompt_ids=(3, 4), budget=bare, seed=2)).result()
    assert len(rollout.ids) == 9 or rollout.stop == "end"


def test_an_end_token_in_the_thought_can_be_made_to_end_the_thought_alone():
    early = 0
    for seed in range(40):
        (before,) = engine().submit(request(seed=seed)).result()
        insists = replace(budget(20), must_answer=True)
        (rollout,) = engine().submit(Request(prompt_ids=(3, 4, 5), budget=insists, seed=seed)).result()
        assert rollout.thought_len is not None
        assert len(rollout.ids) > rollout.thought_len
        if before.thought_len is not None:
            assert same(rollout, before)
        else:
            early += 1
            at = len(before.ids) - 1
            assert rollout.ids[: at + 3].tolist() == [*before.ids[:at].tolist(), 7, 9, THINK_END]
            assert not rollout.sampled[at : at + 3].any()
    assert early > 0


def test_a_thought_under_way_or_not_begun_can_be_told_to_answer():
    one = engine(rows=1, end=23, burst=0)
    running, waiting = (one.submit(request(thought=90, seed=seed)) for seed in (3, 4))
    one.step()
    for pending in (running, waiting):
        pending.answer_now()
    (first,), (second,) = running.result(), waiting.result()
    assert first.interrupted
    assert second.interrupted
    assert first.thought_tokens == 2
    assert second.thought_tokens == 0


def test_one_sample_can_be_ended():
    sampler = engine(end=23, burst=0)
    pending = sampler.submit(request(thought=50, n=3, seed=5))
    sampler.step()
    pending.end(1)
    rollouts = pending.result()
    assert [r.stop == "cancelled" for r in rollouts] == [False, True, False]
    assert len(rollouts[1].ids) == 2


def test_a_sample_that_waits_can_be_ended_too():
    sampler = engine(rows=1, end=23, burst=0)
    pending = sampler.submit(request(thought=50, n=2, seed=5))
    sampler.step()
    pending.end(1)
    first, second = pending.result()
    assert (first.stop, second.stop, len(second.ids)) == ("length", "cancelled", 2)


class Countdown:
    """Allows 12, then 11, then 10, and then the end."""

    def __init__(self) -> None:
        self.next = 12

    def allowed(self) -> NDArray[np.bool_]:
        return np.arange(CONFIG.vocab_size) == (self.next if self.next >= 10 else END)

    def advance(self, id: int) -> None:
        assert id == self.next or id == END
        self.next -= 1


class Broken(Countdown):
    """Raises where it is told to."""

    def __init__(self, where: str) -> None:
        super().__init__()
        if where == "made":
            raise RuntimeError(where)
        self.where = where

    def allowed(self) -> NDArray[np.bool_]:
        if self.where == "allowed":
            raise RuntimeError(self.where)
        return super().allowed()

    def advance(self, id: int) -> None:
        if self.where == "advance":
            raise RuntimeError(self.where)
        super().advance(id)


@pytest.mark.parametrize("where", ["made", "allowed", "advance", "told", "told last"])
def test_what_a_request_brings_with_it_may_fail_for_itself_alone(where: str):
    def sink(progress: Progress) -> None:
        if progress.stop if where == "told last" else where == "told" and progress.thought_len == 0:
            raise RuntimeError(where)

    whole = engine().submit(request(seed=8, thought=12, n=2)).result()
    sampler = engine(rows=3)
    broken = sampler.submit(request(thought=3, n=4, constraint=partial(Broken, where)), sink)
    beside = sampler.submit(request(seed=8, thought=12, n=2))
    while not broken.done():
        sampler.step()
        sampler.tell()
    with pytest.raises(RuntimeError, match=where):
        broken.result()
    assert all(same(*pair) for pair in zip(beside.result(), whole, strict=True))
    sampler.step()
    assert sampler.idle


@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_a_constraint_holds_each_answer_and_no_thought(top_p: float):
    sampling = Sampling(top_p=top_p)
    asked = request(thought=4, n=3, seed=6, sampling=sampling, constraint=Countdown)
    free = engine().submit(replace(asked, constraint=None)).result()
    for rollout, unheld in zip(engine(rows=2).submit(asked).result(), free, strict=True):
        if rollout.thought_len is None:
            continue
        assert rollout.ids[: rollout.thought_len].tolist() == unheld.ids[: rollout.thought_len].tolist()
        assert rollout.ids[rollout.thought_len :].tolist() == [12, 11, 10, END]
        np.testing.assert_allclose(rollout.logprobs[rollout.thought_len :], 0.0, atol=1e-6)


def cut_alone(sampler: NativeEngine, asked: Request) -> list[Rollout]:
    """What a request with cuts must give, from requests without."""
    whole = sampler.submit(replace(asked, cuts=())).result()
    alone = {
        cut: sampler.submit(replace(asked, cuts=(), budget=replace(asked.budget, thought=cut))).result()
        for cut in asked.cuts
    }
    return [
        rollout
        for number, own in enumerate(whole)
        for rollout in (*(alone[cut][number] for cut in asked.cuts if alone[cut][number].interrupted), own)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_a_sample_answers_at_each_cut_that_it_reaches_and_thinks_on(seed: int):
    asked = request(seed=seed, n=5, cuts=(1, 4, 5, 19))
    sampler = engine(rows=3)
    beside = sampler.submit(request((5, 6), seed=99, n=2))
    for ours, theirs in zip(sampler.submit(asked).result(), expected := cut_alone(sampler, asked), strict=True):
        assert same(ours, theirs)
        assert (ours.budget, ours.sample) == (theirs.budget, theirs.sample)
    assert {rollout.budget.thought for rollout in expected} >= {1, 20}
    assert len(beside.result()) == 2


def test_an_answer_at_a_cut_is_held_to_the_constraint_too():
    asked = request(seed=3, thought=20, cuts=(2, 6), constraint=Countdown)
    sampler = engine(end=END)
    found = sampler.submit(asked).result()
    assert [r.budget.thought for r in found] == [2, 6, 20]
    assert all(r.ids[r.thought_len :].tolist() == [12, 11, 10, END] for r in found)


@pytest.mark.parametrize("steps", [6, 7, 9])  # within the closing, at its end, within the answer
def test_what_is_recalled_while_it_answers_at_a_cut_is_the_thought_alone(steps: int):
    sampler = engine(end=23, burst=0)
    whole = sampler.submit(request(seed=1, thought=50)).result()[0]
    pending = sampler.submit(request(seed=1, thought=50, cuts=(5,)))
    for _ in range(steps):
        sampler.step()
    sampler.recall()
    (rollout,) = pending.result()
    assert (rollout.stop, rollout.thought_len, rollout.budget.thought) == ("cancelled", None, 50)
    assert rollout.ids.tolist() == whole.ids[:5].tolist()


def test_a_cut_that_cannot_be_kept_is_refused():
    with pytest.raises(
        SteepError, match=r"at most 20 tokens is not cut at 20: the prompt has 3 tokens, the context 128"
    ):
        engine().submit(request(thought=20, cuts=(4, 20)))
    with pytest.raises(SteepError, match="at most 18 tokens is not cut at 19: the prompt has 3 tokens, the context 32"):
        engine(context=32).submit(request(thought=20, cuts=(4, 19)))
    with pytest.raises(SteepError, match="told as it comes"):
        engine().submit(request(thought=20, cuts=(4,)), print)


def test_closing_a_stream_frees_its_row():
    one = engine(rows=1, end=23)
    stream = one.stream(request(thought=50))
    next(stream)
    stream.close()
    one.step()
    assert one.idle


def test_cancelling_ends_waiting_and_running_requests():
    crowded = engine(rows=2, end=23)
    running, waiting, kept = (crowded.submit(request(n=2, thought=30, seed=s)) for s in range(3))
    crowded.step()
    assert running.cancel()
    assert waiting.cancel()
    for future in (running, waiting):
        with pytest.raises(CancelledError):
            future.result()
    assert len(kept.result()) == 2
    assert not kept.cancel()


def test_what_is_recalled_is_given_back_as_far_as_it_is():
    asked = [request(n=2, thought=thought, seed=seed) for seed, thought in enumerate((2, 60, 60))]
    whole = [engine(end=23).submit(each).result() for each in asked]
    crowded = engine(rows=3, end=23, burst=0)
    first, cut, waiting = map(crowded.submit, asked)
    while not first.done():
        crowded.step()
    crowded.recall()
    assert crowded.idle
    assert all(same(a, b) for a, b in zip(first.result(), whole[0], strict=True))
    (part,) = cut.result()  # the other was not begun
    assert (part.stop, part.thought_len) == ("cancelled", None)
    assert 0 < len(part.ids) < len(whole[1][0].ids)
    assert part.ids.tolist() == whole[1][0].ids[: len(part.ids)].tolist()
    assert waiting.result() == []
    assert same(crowded.submit(asked[1]).result()[1], whole[1][1])


def test_a_sync_gives_a_receipt_and_new_tokens_carry_the_version():
    synced = engine()
    other = dict(model(seed=1).named_parameters())
    receipt = synced.load_weights(other, version=7)
    assert receipt.version == 7
    assert receipt.digest == digest(other)
    (rollout,) = synced.submit(request(seed=1)).result()
    assert set(rollout.versions.tolist()) == {7}
    with pytest.raises(SteepError, match="differ"):
        synced.load_weights({"embedding.weight": other["embedding.weight"]}, version=8)


def test_samples_that_begin_after_a_sync_begin_with_the_new_weights():
    sampler = engine(rows=1)
    pending = sampler.submit(request(n=2, seed=4, thought=0))
    sampler.step()
    sampler.load_weights(dict(model(seed=1).named_parameters()), version=1)
    second = pending.result()[1]
    anew = engine()
    anew.load_weights(dict(model(seed=1).named_parameters()), version=1)
    (expected,) = anew.submit(request(seed=4, thought=0, first_sample=1)).result()
    assert same(second, expected)
    assert second.versions.tolist() == [1] * len(second.ids)


def test_a_prompt_that_does_not_fit_is_refused():
    with pytest.raises(SteepError, match="do not fit"):
        engine(context=16).submit(request(prompt=tuple(range(3, 10)) * 2))
    with pytest.raises(SteepError, match="more than the model"):
        engine(context=512)


def test_waiting_for_rollouts_may_take_a_time_and_be_taken_up_again():
    sampler = engine()
    future = sampler.submit(request())
    with pytest.raises(TimeoutError, match=r"within 0\.0 s"):
        future.result(timeout=0.0)
    assert not future.done()
    assert future.result(timeout=60)[0].ids.tolist() == engine().submit(request()).result()[0].ids.tolist()


def test_bfloat16_stays_near():
    exact, rounded = engine(), engine(dtype="bfloat16")
    asked = request(thought=12, sampling=Sampling(temperature=0.0))
    a, b = exact.submit(asked).result()[0], rounded.submit(asked).result()[0]
    shared = min(len(a.ids), len(b.ids), 4)
    np.testing.assert_allclose(a.logprobs[:shared], b.logprobs[:shared], atol=0.15)


@pytest.mark.skipif(not kernels.status().startswith("compiled"), reason="the kernels do not compile here")
def test_a_cache_in_eight_bits_stays_near_whoever_is_beside():
    eight = NativeEngine(model(), NativeConfig(rows=8, context=128, cache_dtype="int8"), frozenset([END]))
    asked = request(thought=40, seed=3, n=3)
    rollouts = eight.submit(asked).result()
    for rollout, exact in zip(rollouts, engine().submit(asked).result(), strict=True):
        assert rollout.ids.tolist() == exact.ids.tolist()
        np.testing.assert_allclose(rollout.logprobs, exact.logprobs, atol=0.03)
    beside = eight.submit(request((5, 6), seed=9, n=4))
    assert all(same(*pair) for pair in zip(eight.submit(asked).result(), rollouts, strict=True))
    assert len(beside.result()) == 4


def test_a_cache_of_another_type_is_refused():
    with pytest.raises(SteepError, match="no keys and values in 'int4'"):
        NativeEngine(model(), NativeConfig(cache_dtype="int4", context=128), frozenset([END]))


def test_uniforms_are_uniform_and_independent():
    many = streams(np.arange(100_000), np.zeros(100_000, np.int64))
    u = uniforms(many, np.full(100_000, 3))
    assert abs(u.mean() - 0.5) < 0.005
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.01
    again = uniforms(many, np.full(100_000, 4))
    assert abs(np.corrcoef(u, again)[0, 1]) < 0.01


def test_draws_follow_the_distribution():
    one = torch.tensor([[0.0, 1.0, -1.0, 2.0]])
    rows = one.expand(20_000, 4)
    u = uniforms(streams(np.arange(20_000), np.zeros(20_000, np.int64)), np.zeros(20_000, np.int64))
    full = np.ones(20_000, np.float32)
    ids, logprobs = draw(rows, full, full, u)
    share = np.bincount(ids, minlength=4) / 20_000
    np.testing.assert_allclose(share, one.softmax(-1)[0], atol=0.01)
    np.testing.assert_allclose(logprobs[:5], one.log_softmax(-1)[0][ids[:5]], rtol=1.3e-6, atol=1e-5)
    ids, logprobs = draw(rows, full * 0.5, full * 0.9, u)
    sharp = (one / 0.5).softmax(-1)[0]
    kept = torch.tensor([0.0, sharp[1], 0.0, sharp[3]]) / (sharp[1] + sharp[3])
    np.testing.assert_allclose(np.bincount(ids, minlength=4) / 20_000, kept, atol=0.01)
    assert np.exp(logprobs).max() <= 1.0


@pytest.mark.parametrize("compiled", [True, False])
def test_no_number_draws_a_token_without_a_chance(compiled: bool, monkeypatch):
    if not compiled:
        monkeypatch.setattr(kernels, "compiled", lambda _: False)
    logits_BV = torch.full((3, 64), -torch.inf)
    logits_BV[:, [3, 17]] = torch.tensor([0.0, 1.0])
    full = np.ones(3, np.float32)
    ids, logprobs = draw(logits_BV, full, full, np.array([1 - 2.0**-53, 1 - 2.0**-26, 0.0]))
    assert ids.tolist() == [17, 17, 3]
    assert np.isfinite(logprobs).all()


@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_where_logits_are_broken_some_token_is_drawn(top_p: float):
    full = np.ones(2, np.float32)
    ids, logprobs = draw(torch.full((2, 64), torch.nan), full, full * np.float32(top_p), np.array([0.5, 0.9]))
    assert all(0 <= id < 64 for id in ids.tolist())
    assert np.isnan(logprobs).all()


def test_a_row_that_is_cut_changes_no_other():
    logits_BV = torch.randn(500, 300, generator=torch.Generator().manual_seed(0))
    u = uniforms(streams(np.arange(500), np.zeros(500, np.int64)), np.zeros(500, np.int64))
    full = np.ones(500, np.float32)
    ids, logprobs = draw(logits_BV, full, full, u)
    some = np.array([0.5, *full[1:]], np.float32)
    beside_ids, beside_logprobs = draw(logits_BV, full, some, u)
    assert beside_ids[1:].tolist() == ids[1:].tolist()
    assert beside_logprobs[1:].tolist() == logprobs[1:].tolist()


@pytest.mark.parametrize("ending", ["done", "cancelled"])
def test_what_has_ended_does_not_wait_for_the_garbage_collector(ending):
    few, told = engine(rows=3), []
    gc.disable()
    try:
        pending = few.submit(request(n=2, seed=2), told.append)
        kept = weakref.ref(pending.job)
        few.step()
        if ending == "cancelled":
            assert pending.cancel()
            few.step()
        else:
            pending.result()
        assert pending.done()
        assert not pending.cancel()
        assert kept() is None
    finally:
        gc.enable()


def test_a_request_larger_than_the_engine_is_served_in_turns():
    few = engine(rows=3)
    rollouts = few.submit(request(n=10, seed=2)).result()
    many = engine(rows=16).submit(request(n=10, seed=2)).result()
    assert all(same(a, b) for a, b in zip(rollouts, many, strict=True))
    assert replace(rollouts[0], verdict=None).sample == 0
