"""Every dataset of reasoning-gym, every level: its gold answers are correct, junk is not, nothing hostile is executed.

`REFUSED` is what fails here.

python -m tests.tasks.test_gym_datasets      all in one run, with how long each takes
"""

import math
import os
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from random import Random

import pytest

from steep.tasks.gym import REFUSED, Gym, every_level, normalised

PROBLEMS = 5
PARTS = 31
JUNK = ("", "0", "1", "hello", "nan", "inf", "True", "None", "No", "[]", "{}", "()", "x", "C", "A, B, C", "1 2 3")
WRITTEN = Path(tempfile.gettempdir()) / f"steep-hostile-{os.getpid()}"
HOSTILE = (f"__import__('os').mkdir({str(WRITTEN)!r})", f"[open({str(WRITTEN)!r}, 'w').write('x')]", "9**9**9**9")
"""Files that are not to be, and a number that takes for ever."""


def same(answer, gold):
    """Up to rounding, case and the constant of an integral, which scorers may take."""
    try:
        return math.isclose(float(answer), float(gold), rel_tol=1e-3)
    except ValueError:
        return answer.casefold() == gold.casefold().removesuffix(" + c")


def failures(dataset):
    """What is wrong with a dataset, and the seconds for a problem and for an answer, at worst."""
    found, making, checking = [], 0.0, 0.0
    for level in Gym(dataset=dataset).levels:
        task, rng = Gym(dataset=dataset, levels=(level,)), Random(0)
        began = time.monotonic()
        problems = [task.make(level, rng) for _ in range(PROBLEMS)]
        making = max(making, (time.monotonic() - began) / PROBLEMS)
        for problem in problems:
            gold, question = problem.key["answer"], problem.prompt[0].content
            junk = (*JUNK, *HOSTILE, question, gold[: len(gold) // 2], f"{gold} {gold} or something else")
            wrong = [text for text in junk if not same(normalised(text), normalised(gold))]
            for answer in (gold, f" {gold}\n", *wrong):
                began = time.monotonic()
                verdict = task.verify(problem, answer)
                checking = max(checking, time.monotonic() - began)
                expected = {"wrong", "invalid"} if answer in HOSTILE else {"wrong" if answer in wrong else "correct"}
                if verdict.kind not in expected or WRITTEN.exists():
                    found.append((level, question[-60:], gold[:60], answer[:60], verdict))
    return found, making, checking


@pytest.mark.slow
@pytest.mark.skipif(find_spec("reasoning_gym") is None, reason="needs the [gym] extra")
@pytest.mark.parametrize("part", range(PARTS))
def test_every_dataset_that_is_not_refused(part, tmp_path, monkeypatch):
    monkeypatch.setenv("STEEP_CACHE", str(tmp_path))
    usable = [name for name in every_level() if name not in REFUSED]
    assert {name: found for name in usable[part::PARTS] if (found := failures(name)[0])} == {}


if __name__ == "__main__":
    asked, began, failed = sys.argv[1:] or [name for name in every_level() if name not in REFUSED], time.monotonic(), 0
    for name in asked:
        found, making, checking = failures(name)
        print(
            f"{name:26} {making:6.2f} s a problem {checking:6.2f} s an answer {len(found):4} wrong verdicts", flush=True
        )
        print(*(f"    {failure}" for failure in found[:5]), sep="\n", end="\n" if found else "")
        failed += bool(found)
    print(f"{len(asked)} datasets, {failed} of them with wrong verdicts, in {time.monotonic() - began:.0f} s")
    sys.exit(failed > 0)
