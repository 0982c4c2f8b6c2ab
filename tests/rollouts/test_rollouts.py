"""Groups are drawn, sampled and verified as the numbers say, and a failing check never becomes a reward."""

import json
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from random import Random
from threading import Barrier

import numpy as np
import pytest
import torch

from steep.engines import NativeConfig, NativeEngine
from steep.models.transformer import ModelConfig, Transformer, initialise
from steep.rollouts import CurriculumConfig, RolloutConfig, Rollouts, judge, rows, told, verified_groups
from steep.rollouts.curriculum import Curriculum
from steep.runs.codec import decode, encode
from steep.tasks.arithmetic import Arithmetic
from steep.tasks.countdown import Countdown
from steep.tasks.mixture import Share, distinct, numbered
from steep.tokens import Template, Tokenizer, compact
from steep.types import Budget, Group, Message, Problem, Rollout, Verdict

SHARES = (Share(task=Countdown(levels=(1, 3)), weight=3), Share(task=Arithmetic(levels=(1, 2))))


@pytest.fixture(scope="module")
def template() -> Template:
    texts = [m.content for _, p in zip(range(50), numbered(SHARES, "train", 0), strict=False) for m in p[1].prompt]
    return Template(Tokenizer.train(texts, 300, compact().control), compact())


def supply(template: Template, seed: int = 0, staleness: int = 0, **config: object) -> Rollouts:
    shape = ModelConfig(
        vocab_size=template.tokenizer.vocab_size,
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        num_kv_heads=2,
        head_dim=8,
        intermediate_size=16,
    )
    model = Transformer(shape)
    initialise(model, torch.Generator().manual_seed(0))
    engine = NativeEngine(model, NativeConfig(rows=16, context=128), template.end_ids)
    made = RolloutConfig(**({"group_size": 3, "thought": (2, 20), "answer": 4} | config))  # type: ignore[arg-type]
    return Rollouts(engine, template, SHARES, made, seed, staleness)


def ids(groups: list[Group]) -> list[list[int]]:
    return [r.ids.tolist() for g in groups for r in g.rollouts]


def test_groups_are_a_function_of_the_seed_and_their_number(template: Template):
    first = supply(template).take(6)
    assert [g.problem.split for g in first] == ["train"] * 6
    assert all(len(g.rollouts) == 3 for g in first)
    assert all(r.verdict is not None for g in first for r in g.rollouts)
    assert ids(supply(template).take(6)) == ids(first)
    assert ids(supply(template, seed=1).take(6)) != ids(first)


def test_a_supply_goes_on_where_its_state_says(template: Template):
    whole = supply(template)
    whole.take(4)
    state = whole.state()
    expected = whole.take(4)
    resumed = supply(template)
    resumed.load_state(state)
    assert ids(resumed.take(4)) == ids(expected)


def test_staleness_keeps_batches_under_way(template: Template):
    as_they_come = CurriculumConfig(adaptive=False)
    stale = supply(template, staleness=2, curriculum=as_they_come)
    taken = [stale.take(2) for _ in range(3)]
    assert len(stale.under_way) == 2
    assert stale.next_group == 10
    assert stale.engine.idle
    fresh = supply(template, curriculum=as_they_come)
    assert [ids(batch) for batch in taken] == [ids(fresh.take(2)) for _ in range(3)]


def weights(source: Rollouts, version: int) -> None:
    """Hand other weights to the engine: those of the version."""
    model = deepcopy(source.engine.model)
    initialise(model, torch.Generator().manual_seed(version))
    source.engine.load_weights(dict(model.named_parameters()), version)


def parts(groups: list[Group]) -> list[tuple]:
    """All that a trainer takes from the rollouts."""
    return [
        (r.prompt_ids, r.thought_len, r.stop, *(a.tobytes() for a in (r.ids, r.logprobs, r.sampled, r.versions)))
        for g in groups
        for r in g.rollouts
    ]


@pytest.mark.parametrize("closing", ["", "Time is up."])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_what_is_under_way_goes_on_where_the_state_says(template: Template, closing: str, at: int):
    """Weights change at every step; the second supply is made anew at some step, of nothing but state and weights."""
    made = Template(template.tokenizer, replace(template.config, closing=closing))
    options = {"staleness": 2, "thought": (2, 40), "answer": 12, "told_share": 0.5}
    whole, resumed = supply(made, **options), supply(made, **options)
    taken, again = [], []
    for step in range(6):
        if step == at:
            structure, tensors = encode(resumed.state())
            resumed = supply(made, **options)
            resumed.load_state(decode(json.loads(json.dumps(structure)), tensors))
            weights(resumed, step)
        for source, kept in ((whole, taken), (resumed, again)):
            kept.append(source.take(3))
            weights(source, step + 1)
    assert [parts(groups) for groups in again] == [parts(groups) for groups in taken]
    versions = [r.versions for groups in taken for g in groups for r in g.rollouts]
    assert sum(v[0] < v[-1] for v in versions) > 5  # rollouts that were carried on
    for step, groups in enumerate(taken):
        oldest = min(int(r.versions.min()) for g in groups for r in g.rollouts)
        assert max(0, step - 2) <= oldest <= step
    for r in (r for groups in taken for g in groups for r in g.rollouts if r.interrupted):
        assert r.ids[~r.sampled].tolist() == list(r.budget.closing)


def test_batches_that_are_passed_over_are_the_next_ones(template: Template):
    whole, left_out = supply(template, staleness=1), supply(template, staleness=1)
    taken = [whole.take(2) for _ in range(5)]
    left_out.take(2)
    left_out.pass_over(2, groups=2)
    assert [g.problem.id for g in left_out.take(2)] == [g.problem.id for g in taken[3]]


def test_a_told_budget_must_be_kept(template: Template):
    groups = supply(template, told_share=0.5, thought=(2, 4)).take(24)
    told_groups = 0
    for group in groups:
        prompt, budget = group.rollouts[0].prompt_ids, group.rollouts[0].budget.thought
        assert budget is not None
        tell = prompt == template.render(told(group.problem.prompt, budget))
        assert tell or prompt == template.render(group.problem.prompt)
        told_groups += tell
        late = [r.verdict is not None and "in time" in r.verdict.reason for r in group.rollouts]
        assert late == [tell and r.interrupted for r in group.rollouts]
    assert 6 <= told_groups <= 18


def test_budgets_are_drawn_over_the_whole_range_on_a_log_scale(template: Template):
    drawn = [supply(template, thought=(16, 512))._budget(Random(i)) for i in range(4000)]
    assert min(drawn) == 16
    assert max(drawn) == 512
    logs = np.log2(drawn)
    for low in range(4, 9):
        assert abs(np.mean((logs >= low) & (logs < low + 1)) - 0.2) < 0.03
    full = [supply(template, thought=(16, 512), full_share=1.0)._budget(Random(i)) for i in range(5)]
    assert full == [512] * 5
    shares = {"full_share": 0.3, "none_share": 0.2}
    mixed = [supply(template, thought=(16, 512), **shares)._budget(Random(i)) for i in range(4000)]
    assert abs(np.mean(np.equal(mixed, 0)) - 0.2) < 0.02
    assert abs(np.mean(np.equal(mixed, 512)) - 0.3 * 0.8) < 0.02
    assert supply(template, thought=(64, 64), none_share=1.0)._budget(Random(0)) == 0


def test_who_gets_no_thought_is_not_told(template: Template):
    rollouts = supply(template, none_share=0.5, told_share=1.0)
    asked = [rollouts._next() for _ in range(40)]
    assert {(group.thought > 0, group.tells) for group in asked} == {(True, True), (False, False)}


def test_telling_the_budget_keeps_a_system_message():
    user = Message(role="user", content="Hi")
    assert told((user,), 32)[0].content == "Think for at most 32 tokens."
    system = Message(role="system", content="Be kind.")
    assert told((system, user), 32) == (
        Message(role="system", content="Be kind.\nThink for at most 32 tokens."),
        user,
    )


def rollout(template: Template, text: str, stop: str = "end", ended: bool = True) -> Rollout:
    response = [*template.tokenizer.encode("hm"), template.think_close_id, *template.tokenizer.encode(text)]
    n = len(response)
    return Rollout(
        prompt_ids=(1,),
        ids=np.array(response, np.int32),
        logprobs=np.zeros(n, np.float32),
        sampled=np.ones(n, np.bool_),
        versions=np.zeros(n, np.int32),
        thought_len=3 if ended else None,
        stop=stop,  # type: ignore[arg-type]
        budget=Budget(thought=8, answer=8, closing=(1,)),
        seed=0,
        sample=0,
    )


class Raises(Countdown):
    def verify(self, problem: Problem, answer: str) -> Verdict:
        raise RuntimeError("the checker broke")


class Says(Countdown):
    def verify(self, problem: Problem, answer: str) -> Verdict:
        return True  # type: ignore[return-value]


def test_a_check_that_fails_is_invalid_and_never_wrong(template: Template):
    problem, answer, _ = Countdown().examples()[0]
    good = rollout(template, answer)
    assert judge(good, problem, Countdown(), template).kind == "correct"
    verdict = judge(good, problem, Raises(), template)
    assert (verdict.kind, verdict.reason) == ("invalid", "RuntimeError: the checker broke")
    verdict = judge(good, problem, Says(), template)
    assert (verdict.kind, verdict.reason) == ("invalid", "verify() gave True, which is no Verdict")
    assert judge(rollout(template, answer, stop="length"), problem, Countdown(), template).kind == "wrong"
    assert judge(rollout(template, answer, ended=False), problem, Countdown(), template).kind == "wrong"


def test_one_answer_is_checked_once_for_all_who_gave_it_in_the_same_way(template: Template):
    asked = []

    class Counted(Countdown):
        def verify(self, problem: Problem, answer: str) -> Verdict:
            asked.append(answer)
            return super().verify(problem, answer)

    problem, right, _ = Countdown().examples()[0]
    cut, endless = rollout(template, right, stop="length"), rollout(template, right, ended=False)
    given = [rollout(template, right), rollout(template, "1"), rollout(template, right), cut, endless]
    given.append(rollout(template, "1"))
    (group,) = verified_groups([(problem, given)], {"countdown": Counted()}, template)
    assert [r.verdict.kind for r in group.rollouts] == ["correct", "wrong", "correct", "wrong", "wrong", "wrong"]
    assert asked == [right, "1"]


class InPairs(Countdown):
    """Its checks wait for one another, two at a time; alone they would fail."""

    in_worker = True
    pair = Barrier(2)

    def verify(self, problem: Problem, answer: str) -> Verdict:
        self.pair.wait(timeout=10)
        return super().verify(problem, answer)


def test_checks_run_beside_each_other_and_keep_their_order(template: Template):
    examples = [e for e in Countdown().examples() if e[2].kind != "invalid"] * 4
    sampled = [
        (problem, [rollout(template, answer), rollout(template, answer, ended=False)])
        for problem, answer, _ in examples
    ]
    groups = verified_groups(iter(sampled), {"countdown": InPairs()}, template)
    assert [g.problem for g in groups] == [problem for problem, _ in sampled]
    kinds = [[r.verdict.kind for r in g.rollouts] for g in groups]
    assert kinds == [[judge(rollouts[0], p, Countdown(), template).kind, "wrong"] for p, rollouts in sampled]


def test_rows_say_everything_needed_to_verify_again(template: Template):
    groups = supply(template).take(2)
    saved = list(rows(groups, template))
    assert len(saved) == 6
    for row, r in zip(saved, [r for g in groups for r in g.rollouts], strict=True):
        assert row["ids"] is r.ids
        assert row["answer"] == template.answer(r.ids.tolist())
        assert row["verdict"] == r.verdict.kind


def test_the_curriculum_prefers_levels_with_signal_and_retires_what_is_solved():
    curriculum = Curriculum((Share(task=Countdown(levels=(1, 3))),), CurriculumConfig(floor=0.1))
    easy, even = (next(Countdown(levels=(level,)).problems("train", 0)) for level in (1, 3))
    for _ in range(60):
        curriculum.learn(easy, 1.0)
        curriculum.learn(even, 0.5)
    assert curriculum.weight("countdown/1") == 0.1
    assert curriculum.weight("countdown/3") == pytest.approx(1.0)
    drawn = [curriculum.choose(Random(i))[1] for i in range(2000)]
    assert abs(drawn.count(3) / 2000 - 1 / 1.1) < 0.03
    assert curriculum.retired == {easy.id}
    both = Curriculum((Share(task=Countdown(levels=(1, 3)), weight=4), Share(task=Arithmetic())), CurriculumConfig())
    both.rates = curriculum.rates | {f"arithmetic/{level}": 0.5 for level in Arithmetic().levels}
    drawn_too = [both.choose(Random(i)) for i in range(4000)]
    expected = {("countdown", 1): 2 * 0.1, ("countdown", 3): 2.0} | {("arithmetic", n): 1 / 6 for n in range(1, 7)}
    for (task, level), weight in expected.items():
        share = sum(s.task.name == task and n == level for s, n in drawn_too) / 4000
        assert abs(share - weight / 3.2) < 0.03
    weighted = Curriculum((Share(task=Countdown(levels=(1, 3)), level_weights=(3, 1)),), CurriculumConfig())
    assert abs(sum(weighted.choose(Random(i))[1] == 1 for i in range(2000)) / 2000 - 0.75) < 0.03
    again = Curriculum((), CurriculumConfig())
    again.load_state(curriculum.state())
    assert again.state() == curriculum.state()


def test_a_curriculum_begins_with_what_was_measured():
    curriculum = Curriculum((Share(task=Countdown(levels=(1, 3))),), CurriculumConfig(retire_below=0.1))
    first, second, third = islice(Countdown(levels=(1,)).problems("train", 0), 3)
    other = next(Countdown(levels=(3,)).problems("train", 0))
    curriculum.begin([(first, 0.0), (second, 0.1), (third, 1.0), (other, 0.5)])
    assert curriculum.rates == pytest.approx({"countdown/1": 1.1 / 3, "countdown/3": 0.5})
    assert curriculum.retired == {first.id, third.id}


def test_a_profile_asks_every_level_and_takes_no_group_away(template: Template):
    source = supply(template)
    source.profile(2)
    assert source.curriculum.rates == {f"{s.task.name}/{level}": 0.0 for s in SHARES for level in s.task.levels}
    assert len(source.curriculum.retired) == 8
    assert source.next_group == 0
    again = supply(template)
    again.load_state(source.state())
    assert ids(again.take(4)) == ids(source.take(4))


def test_a_retired_problem_is_not_drawn(template: Template):
    source = supply(template)
    before = source._draw(Random(5))
    source.curriculum.retired.add(before.id)
    assert source._draw(Random(5)).id != before.id


def test_what_is_too_long_for_the_context_is_not_drawn_and_thoughts_are_as_long_as_it_allows(template: Template):
    plain = supply(template, thought=(100, 100))._next()
    assert plain.thought == 128 - len(plain.request.prompt_ids) - len(plain.request.budget.closing) - 4
    source = supply(template, thought=(100, 100), told_share=0.5)
    for _ in range(20):
        group = source._next()
        room = 128 - len(template.render(told(group.problem.prompt, 100))) - len(group.request.budget.closing) - 4
        assert group.thought == group.request.budget.thought == room < 100
        text = template.tokenizer.decode(group.request.prompt_ids)
        assert group.tells == (f"at most {room} tokens" in text)
    some = [source._draw(Random(n)) for n in range(20)]
    most = max(map(source.room, some))
    tight = supply(template, thought=(100, 100), answer=4 + most, told_share=0.5)
    again = [tight._draw(Random(n)) for n in range(20)]
    assert all(tight.room(problem) >= 0 for problem in again)
    too_long = {problem.id for problem in some if tight.room(problem) < 0}
    assert 0 < len(too_long) < 20
    assert too_long <= tight.curriculum.retired
    tight.profile(8)


def test_a_profile_thinks_as_long_as_it_may(template: Template, monkeypatch):
    seeds = []
    for seed in (0, 1):
        source = supply(template, seed, none_share=0.5, told_share=1.0)
        asked, submit = [], source.engine.submit
        monkeypatch.setattr(source.engine, "submit", lambda request: asked.append(request) or submit(request))  # noqa: B023
        source.profile(4)
        assert len(asked) == 4 * 4
        assert {request.budget.thought for request in asked} == {20}
        assert not any("at most" in template.tokenizer.decode(request.prompt_ids) for request in asked)
        seeds.append({request.seed for request in asked})
    assert not seeds[0] & seeds[1]


def test_a_mixture_is_numbered_and_keeps_its_weights():
    drawn = [p for _, (_, p) in zip(range(800), numbered(SHARES, "train", 3), strict=False)]
    share = sum(p.task == "countdown" for p in drawn) / len(drawn)
    assert abs(share - 0.75) < 0.05
    _, tenth = next(numbered(SHARES, "train", 3, start=10))
    assert tenth == drawn[10]


def test_distinct_problems_do_not_repeat_and_stop_where_a_level_ends():
    found = distinct(Countdown(), "test", 300)
    assert len({p.id for p in found}) == 300
    assert len(distinct(Arithmetic(levels=(1,)), "test", 10_000)) < 1000
    both = [problem.level for problem in distinct(Countdown(levels=(1, 3)), "test", 600)]
    assert (both.count(1), both.count(3)) == (300, 300)  # though problems of level 1 repeat more often
