"""A card says what the rollouts on disk say, and models are compared on the same problems only."""

import math
import re

import numpy as np
import pytest

from steep.errors import SteepError
from steep.evals.card import as_markdown, card, find, habits, measured, words
from steep.evals.comparing import compare, difference


def row(thought, tokens, *, verdict="correct", interrupted=False, prompt="Make 24."):
    return {
        "thought": thought,
        "thought_tokens": tokens,
        "tokens": tokens + 5,
        "interrupted": interrupted,
        "verdict": verdict,
        "prompt": prompt,
    }


def test_habits_are_counted():
    rows = [row("so 3", 10), row("so no", 30, verdict="wrong"), row("so 4", 20, interrupted=True, verdict="wrong")]
    found = habits("countdown", 64, rows)
    assert (found.thought[1], found.thought_right, found.thought_wrong) == (20, 10, 25)
    assert (found.cut_short.value, found.right_when_cut_short.value) == (pytest.approx(1 / 3), 0)
    assert found.words == (("so", 1.0), ("no", pytest.approx(1 / 3)))
    assert (found.tokens, found.tokens_per_right) == (25, 75)
    alone = habits("countdown", 64, rows[1:2])
    assert math.isnan(alone.thought_right)
    assert math.isinf(alone.tokens_per_right)


def test_words_of_the_prompt_and_single_letters_are_none_to_think_with():
    assert words([row("Make a 24 WAIT wait", 5), row("b", 5)]) == (("wait", 0.5),)
    assert words([row("x", 1)] * 99 + [row("rare", 1)]) == ()


def test_what_is_measured_is_found_by_run_stage_and_model(whole_run, tmp_path):
    for path in (whole_run, whole_run / "rl", whole_run / "rl" / "model"):
        assert measured(path).model == "rl"
    assert measured(whole_run / "sft").model == "sft"
    assert find(whole_run / "pretrain") is None
    with pytest.raises(SteepError, match="nothing was measured of") as raised:
        measured(tmp_path)
    assert raised.value.fix == f"measure it: steep eval {tmp_path} --task countdown"


def test_a_card_holds_the_cells_and_what_stands_out(whole_run):
    found = measured(whole_run)
    made = card(found, "nano")
    assert [(c.task, c.budget) for c in made.cells] == [
        *(("countdown", budget) for budget in (0, 16, 32, 64, 128, 256)),
        *(("letters", budget) for budget in (0, 32, 128)),
    ]
    assert all(cell.low > made.mean for cell in made.strengths)
    assert all(cell.high < made.mean for cell in made.weaknesses)
    countdown = made.habits[0]
    rows = [r for r in found.rows() if (r["task"], r["mode"], r["budget"]) == ("countdown", "sampled", 256)]
    assert countdown.rollouts == len(rows) == 48
    assert countdown.tokens == np.mean([r["tokens"] for r in rows])
    assert countdown.words[0][0] in ("try", "again", "that", "not", "is")
    told = as_markdown(made)
    assert told.startswith("# nano\n\n| task | thinking tokens | accuracy | cut short | problems |\n")
    assert "## Thinking about countdown, 256 tokens at most" in told
    assert "An answer took" not in told
    assert "An answer took 12 ms" in as_markdown(card(found, "nano", seconds=0.012))


def test_models_are_compared_on_the_same_problems(whole_run):
    found = compare({"sft": measured(whole_run / "sft"), "rl": measured(whole_run / "rl")})
    assert len(found) == 2 * (6 + 3)
    cells = {(c.model, c.task, c.mode, c.budget): c for c in measured(whole_run).cells if c.level is None}
    for one in found:
        assert one.model == "rl"
        assert one.problems <= 48
        assert one.difference.value == pytest.approx(one.accuracy.value - one.first.value)
        if one.problems == 48:
            assert one.accuracy.value == cells["rl", one.task, one.mode, one.budget].value
    last = next(one for one in found if (one.task, one.mode, one.budget) == ("countdown", "sampled", 256))
    assert last.verdict == "better"
    assert last.up > last.down


def question(number):
    return (f"countdown/{number}", "prompt", "{}")


def test_differences_are_paired_and_leave_out_what_could_not_be_checked():
    base = {question(n): [float(n % 2)] for n in range(40)} | {question(40): [], question(41): [1.0]}
    other = {question(n): [1.0] for n in range(40)} | {question(40): [1.0], question(41): []}
    found = difference("b", ("countdown", "sampled", 64), base, other)
    assert (found.problems, found.up, found.down, found.verdict) == (40, 20, 0, "better")
    assert found.difference.value == 0.5
    assert 0.3 < found.difference.low < 0.45 < 0.55 < found.difference.high < 0.7
    assert difference("b", ("countdown", "sampled", 64), base, base).verdict == "level"
    assert difference("b", ("countdown", "sampled", 64), other, base).verdict == "worse"


def test_models_that_were_asked_other_things_are_not_compared(whole_run, making, template, tmp_path):
    with making.new_run(tmp_path / "run") as run:
        making.evaluated(run, template, models=(("sft", 0.5),), problems=40)
    told = "asked different problems of countdown (sampled, 0 tokens): 40 are the same, 8 only a was asked, 0 only b"
    with pytest.raises(SteepError, match=re.escape(told)):
        compare({"a": measured(whole_run / "sft"), "b": measured(tmp_path / "run")})


def test_models_without_a_problem_that_both_could_be_checked_on_are_not_compared():
    asked = ("1", "?", "{}")
    with pytest.raises(SteepError, match=r"b and the first have no problem of countdown .*\n.*steep tasks check"):
        difference("b", ("countdown", "sampled", 64), {asked: [1.0]}, {asked: []})
