"""Thoughts are changed as told, and what is counted is what happened. A stand-in for an engine obeys its thoughts."""

from concurrent.futures import Future
from random import Random

import numpy as np
import pytest

from steep.evals.evaluate import EvalConfig
from steep.evals.thoughts import (
    FROM_HERE,
    Subject,
    as_markdown,
    asked,
    figure,
    figures,
    flips,
    foreign_letters,
    is_mended,
    mixed,
    moved,
    plant,
    twins,
)
from steep.tasks.arithmetic import Arithmetic
from steep.tasks.chat import Chat
from steep.tasks.countdown import Countdown
from steep.tasks.mixture import distinct
from steep.tokens import Template, Tokenizer, compact
from steep.types import Rollout

TASK = Arithmetic(levels=(2,), slips=0)


@pytest.fixture(scope="module")
def template():
    texts = [f"{p.prompt[0].content} {TASK.demonstrate(p, Random(0)).thought}" for p in distinct(TASK, "train", 50)]
    return Template(Tokenizer.train(texts, 300, compact().control), compact())


class Reader:
    """Thinks as the task shows and answers with the last number of its thought; `mends` decides what it does with a
    thought that was begun for it: goes on as shown from there, or stops.
    """

    context = 10**6

    def __init__(self, template, problems, mends=True):
        self.template, self.mends = template, mends
        self.known = {template.render(p.prompt): p for p in problems}

    def submit(self, request):
        problem = self.known[request.prompt_ids]
        shown = TASK.demonstrate(problem, Random(0)).thought
        begun, close = list(request.response_ids), self.template.think_close_id
        if close in begun:
            thought = self.template.tokenizer.decode(begun[:-1])
        else:
            thought = self.template.tokenizer.decode(begun)
            thought += (f" no wait {shown}" if self.mends else "") if begun else shown
        words = thought.replace(".", "").split()
        answer = words[-1].rpartition("=")[2] if words else "0"
        ids = [*self.template.tokenizer.encode(thought), close, *self.template.tokenizer.encode(answer)]
        ids.append(min(self.template.end_ids))
        future = Future()
        future.set_result(
            [
                Rollout(
                    prompt_ids=request.prompt_ids,
                    ids=np.array(ids, np.int32),
                    logprobs=np.zeros(len(ids), np.float32),
                    sampled=np.ones(len(ids), bool),
                    versions=np.zeros(len(ids), np.int32),
                    thought_len=ids.index(close) + 1,
                    stop="end",
                    budget=request.budget,
                    seed=request.seed,
                    sample=0,
                )
            ]
        )
        return future


def measured(template, mends=True):
    problems = distinct(TASK, "test", 30)
    engine = Reader(template, asked(TASK, problems), mends)
    subject = Subject(engine=engine, template=template, task=TASK, config=EvalConfig(budgets=(256,), answer=8))
    return {found.name: found for part in figures(subject, problems) for found in part}


def test_answers_that_are_read_off_the_thought_follow_it(template):
    found = measured(template)
    assert found["right after its own thought"].value == 1
    assert found["right after no thought"].value == 0
    assert found["right after another problem's thought"].value == 0
    assert found["after another problem's thought, right for that problem and not its own"].value == 1
    assert found["after another problem's thought, the same answer as after its own"].value == 0
    assert found["right after the first half of it"].value < 0.2
    assert found["right after its words in another order"].value < 0.5
    assert {figure.rollouts for figure in found.values()} == {30}


def test_planted_mistakes_are_recovered_from_or_not(template):
    recovered, lost = measured(template), measured(template, mends=False)
    assert recovered["right after a wrong step"].value == recovered["mends the wrong step in writing"].value == 1
    assert lost["right after a wrong step"].value == lost["mends the wrong step in writing"].value == 0
    assert set(recovered["right after a wrong step"].by_problem.values()) == {1}
    assert set(lost["right after a wrong step"].by_problem.values()) == {0}
    example = recovered["mends the wrong step in writing"].examples[0]
    begun, rest = example.thought.split(FROM_HERE)
    assert rest.startswith(" no wait")
    assert TASK.replay(f"{begun} ").wrong == 1


def test_nothing_is_off_the_rails_in_a_model_that_is_sure(template):
    found = measured(template)
    assert found["other verdict in other words, greedy"].value == 0
    assert found["leaves the prompt's script: share of letters"].value == 0
    assert found["does not end its thought by itself"].value == 0


def test_a_model_that_reads_another_question_in_other_words_flips(template):
    problems = distinct(TASK, "test", 10)
    engine = Reader(template, problems)
    other = twins(TASK, problems)
    engine.known |= {template.render(twin.prompt): p for twin, p in zip(other, moved(problems), strict=True)}
    subject = Subject(engine=engine, template=template, task=TASK, config=EvalConfig(budgets=(256,), answer=8))
    flipped = flips(subject, problems)
    assert [example.counted for example in flipped] == [1.0] * 10
    assert flipped[0].prompt == other[0].prompt[-1].content
    assert flipped[0].verdict == "correct, then wrong"
    assert flipped[0].reason.startswith("not ")


@pytest.mark.parametrize(("task", "level"), [(Countdown(), 1), (Countdown(levels=(3,)), 3), (TASK, 2)])
def test_one_wrong_step_is_planted_where_a_right_one_was(task, level):
    planted = 0
    for problem in distinct(task, "train", 40):
        thought = task.demonstrate(problem, Random(0)).thought
        cut = plant(thought, task, Random(problem.id))
        if cut is not None:
            kept, wrong = cut
            assert thought.startswith(kept)
            assert task.replay(f"{wrong} ").wrong == task.replay(f"{kept} ").wrong + 1
            planted += 1
    assert planted >= 38
    assert plant("nothing to see", task, Random(0)) is None


def test_a_planted_step_is_mended_if_it_is_written_again_right():
    task = Countdown()
    assert is_mended(task, "8*3=26 no 8*3=24>20", len("8*3=26"))
    assert not is_mended(task, "8*3=26>20 8+3=11<20", len("8*3=26"))
    assert not is_mended(task, "8*3=24>20 5+5=9 no 5+5=10 ", len("8*3=24"))


def test_twins_ask_the_same_in_other_words():
    problems = distinct(Countdown(), "test", 20)
    for problem, twin in zip(problems, twins(Countdown(), problems), strict=True):
        assert (twin.id, twin.key) == (problem.id, problem.key)
        assert twin.prompt != problem.prompt
    assert twins(Chat(), distinct(Chat(), "test", 3)) == []
    assert len(asked(Countdown(), problems)) == 2 * 20 + 8


@pytest.mark.parametrize(
    ("prompt", "text", "share"),
    [
        ("What is 2+3?", "two and three", 0),
        ("What is 2+3?", "ab да", 0.5),
        ("2+3", "да", 0),
        ("Сколько?", "да", 0),
        ("What?", "12 + 3", 0),
        ("What?", "答案", 1),
    ],
)
def test_letters_of_other_scripts(prompt, text, share):
    assert foreign_letters(prompt, text) == share


def test_words_are_mixed_and_thoughts_moved(template):
    ids = template.tokenizer.encode("3+5=8 write 8; 4+8=12 write 128")
    text = template.tokenizer.decode(mixed(template, ids, Random(1)))
    assert sorted(text.split()) == sorted(["3+5=8", "write", "8;", "4+8=12", "write", "128"])
    assert text != "3+5=8 write 8; 4+8=12 write 128"
    assert moved([1, 2, 3]) == [2, 3, 1]


def test_examples_are_shown_for_what_is_counted_most_and_least(template):
    found = measured(template, mends=False)
    told = as_markdown({"old": list(found.values()), "new": list(found.values())})
    assert told.startswith(
        "| | old | new |\n| --- | ---: | ---: |\n| **does the answer follow from the thought** | | |\n"
    )
    assert "| right after no thought | 0% (0-11) of 30 | 0% (0-11) of 30 |\n" in told
    assert "\n    What" in told or "\n    Calculate" in told
    assert figure("part", "none", []).rollouts == 0
    assert "| none | - of 0 |" in as_markdown({"old": [figure("part", "none", [])]})
