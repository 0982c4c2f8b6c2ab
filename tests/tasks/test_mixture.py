from collections import Counter
from itertools import islice

import pytest

from steep.errors import ConfigError
from steep.tasks.arithmetic import Arithmetic
from steep.tasks.countdown import Countdown
from steep.tasks.mixture import Share, demonstrators, numbered
from steep.tasks.published import Svamp


def test_tasks_and_levels_come_as_their_weights_say():
    shares = (Share(task=Countdown(levels=(1, 3)), weight=3, level_weights=(4, 1)), Share(task=Arithmetic(levels=(1,))))
    drawn = Counter((p.task, p.level) for _, p in islice(numbered(shares, "train", 0), 2000))
    for (task, level), expected in {("countdown", 1): 0.6, ("countdown", 3): 0.15, ("arithmetic", 1): 0.25}.items():
        assert abs(drawn[task, level] / 2000 - expected) < 0.03


def test_a_number_decides_its_problem():
    shares = (Share(task=Countdown(levels=(1, 3))), Share(task=Arithmetic()))
    all_of_them = list(islice(numbered(shares, "train", 0), 30))
    assert list(islice(numbered(shares, "train", 0, 20), 10)) == all_of_them[20:]


def test_every_level_needs_its_weight():
    with pytest.raises(ConfigError, match=r"1 weights for the levels \[1, 3\]"):
        Share(task=Countdown(levels=(1, 3)), level_weights=(1,))


def test_who_must_demonstrate_is_named():
    assert list(demonstrators((Share(task=Countdown()), Share(task=Arithmetic())))) == ["countdown", "arithmetic"]
    with pytest.raises(ConfigError, match="the task svamp has no demonstrations"):
        demonstrators((Share(task=Countdown()), Share(task=Svamp())))
