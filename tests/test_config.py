import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import pytest

from steep.config import check_types, dump, load_recipe, override, to_json
from steep.errors import ConfigError, SteepError


class Checker(Protocol):
    def check(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    lr: float = 3e-4
    kind: Literal["adamw", "muon"] = "adamw"

    def __post_init__(self) -> None:
        if self.lr < 0:
            raise ValueError("a rate is not negative")


@dataclass(frozen=True, kw_only=True)
class Rl:
    num_steps: int = 50
    optimizer: Optimizer = field(default_factory=Optimizer)


@dataclass(frozen=True, kw_only=True)
class Share:
    task: Checker | None = None
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Config:
    name: str = "nano"
    fast: bool = False
    threads: int | None = None
    budgets: tuple[int, ...] = (0, 64)
    levels: tuple[int, ...] | None = None
    span: tuple[int, int] = (16, 512)
    modes: tuple[Literal["greedy", "sampled"], ...] = ("greedy",)
    where: Path = Path("here")
    shares: tuple[Share, ...] = (Share(), Share(weight=2.0))
    rl: Rl | None = field(default_factory=Rl)
    sft: Rl | None = None


@pytest.mark.parametrize(
    ("words", "get", "value"),
    [
        (["--name", "big"], lambda c: c.name, "big"),
        (["--name=a=b"], lambda c: c.name, "a=b"),
        (["--name", "a=b"], lambda c: c.name, "a=b"),
        (["--name", "none"], lambda c: c.name, "none"),
        (["--fast", "true"], lambda c: c.fast, True),
        (["--threads", "2"], lambda c: c.threads, 2),
        (["--threads", "None"], lambda c: c.threads, None),
        (["--budgets", "0,64,256"], lambda c: c.budgets, (0, 64, 256)),
        (["--budgets", "32"], lambda c: c.budgets, (32,)),
        (["--budgets", "0, 8,"], lambda c: c.budgets, (0, 8)),
        (["--levels", "1,2"], lambda c: c.levels, (1, 2)),
        (["--span", "4,8"], lambda c: c.span, (4, 8)),
        (["--modes", "sampled,greedy"], lambda c: c.modes, ("sampled", "greedy")),
        (["--where", "there"], lambda c: c.where, Path("there")),
        (["--shares.1.weight", "3"], lambda c: [s.weight for s in c.shares], [1.0, 3.0]),
        (["--rl.num-steps", "7"], lambda c: c.rl.num_steps, 7),
        (["--rl.optimizer.lr", "3e-3"], lambda c: c.rl.optimizer.lr, 3e-3),
        (["--rl", "none"], lambda c: c.rl, None),
        (["--threads", "1", "--threads", "2"], lambda c: c.threads, 2),
    ],
)
def test_override_sets_a_field(words, get, value):
    assert get(override(Config(), words)) == value


def test_override_leaves_the_rest_as_it_was():
    assert override(Config(), ["--rl.optimizer.kind", "muon"]) == Config(rl=Rl(optimizer=Optimizer(kind="muon")))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rl.num_stepz", "3"], "--rl.num_stepz: there is no field 'num_stepz' in Rl\n  did you mean num_steps?"),
        (["--zzz", "3"], "there is no field 'zzz' in Config\n  there are: name, fast,"),
        (["--name.first", "x"], "there is no field 'first' in str\n  there are: no fields below it"),
        (["--rl.num_steps", "many"], "--rl.num_steps many: Input should be a valid integer"),
        (["--rl.num_steps", "1.5"], "--rl.num_steps 1.5: Input should be a valid integer"),
        (["--rl.optimizer.kind", "sgd"], "--rl.optimizer.kind sgd: Input should be 'adamw' or 'muon'"),
        (["--rl.optimizer.lr", "-1"], "--rl.optimizer.lr -1: a rate is not negative"),
        (["--budgets", "1,x"], "--budgets 1,x: Input should be a valid integer"),
        (["--span", "1,2,3"], "--span 1,2,3: Tuple should have at most 2 items"),
        (["--shares.2.weight", "1"], "--shares.2: 2 is not one of the 2 parts\n  they are counted from 0"),
        (["--shares.x.weight", "1"], "x is not one of the 2 parts"),
        (["--shares.0", "1"], "--shares.0 is not a single value"),
        (["--shares.0.task", "x"], "--shares.0.task is not a single value"),
        (["--sft.num_steps", "3"], "--sft.num_steps: what 'num_steps' would be a field of is None in the recipe"),
        (["--rl", "none", "--rl.num_steps", "3"], "--rl.num_steps: 'rl' is already set to none"),
        (["--name"], "overrides come in pairs"),
        (["name", "x"], "overrides come in pairs"),
    ],
)
def test_override_says_what_is_wrong(words, message):
    with pytest.raises(ConfigError) as caught:
        override(Config(), words)
    assert message in str(caught.value)


@dataclass(frozen=True, kw_only=True)
class Heads:
    """Two fields that must agree."""

    queries: int = 4
    keys: int = 2

    def __post_init__(self) -> None:
        if self.queries % self.keys:
            raise ValueError("they do not divide")


def test_fields_that_must_agree_are_set_together():
    assert override(Heads(), ["--queries", "9", "--keys", "3"]) == Heads(queries=9, keys=3)
    with pytest.raises(ConfigError, match=r"^--queries 9: they do not divide$"):
        override(Heads(), ["--queries", "9"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(name=3), "name is 3: Input should be a valid string"),
        (Config(threads="2"), "threads is '2': Input should be a valid integer"),
        (Config(rl=Rl(num_steps=2.5)), "rl.num_steps is 2.5: Input should be a valid integer"),
        (Config(rl=Rl(num_steps=True)), "rl.num_steps is True: Input should be a valid integer"),
        (Config(rl=Rl(optimizer=Optimizer(kind="sgd"))), "rl.optimizer.kind is 'sgd': Input should be 'adamw' or"),
        (Config(shares=(Share(), Share(weight="x"))), "shares.1.weight is 'x': Input should be a valid number"),
        (Config(budgets=[0, 64]), r"budgets is \[0, 64\]: Input should be a valid tuple"),
    ],
)
def test_a_recipe_with_a_value_of_another_type_is_refused(config, message):
    with pytest.raises(ConfigError, match=rf"^{message}"):
        check_types(config)


def test_a_recipe_may_hold_objects_and_whole_numbers_for_others():
    class Always:
        def check(self) -> bool:
            return True

    check_types(Config(shares=(Share(task=Always(), weight=2),), rl=None))


def recipe(path, text):
    path.write_text(text)
    return path


def test_load_recipe_returns_what_config_returns(tmp_path):
    path = recipe(tmp_path / "r.py", "def config():\n    return {'steps': 3}\n")
    assert load_recipe(path) == {"steps": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def config(:\n", "SyntaxError: invalid syntax (r.py, line 1)"),
        ("import nothing_of_this_name\n", "r.py, line 1: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("x = 1 / 0\n", "r.py, line 1: ZeroDivisionError: division by zero"),
        ("def config():\n    return dict(1)\n", "r.py, line 2: TypeError"),
        ("steps = 3\n", "has no config()\n  a recipe is a file with `def config() -> Recipe`"),
    ],
)
def test_load_recipe_says_what_is_wrong(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe(tmp_path / "r.py", text))
    assert message in str(caught.value)


def test_load_recipe_hands_on_errors_that_say_what_to_do(tmp_path):
    text = "from steep.errors import SteepError\ndef config():\n    raise SteepError('no', 'do this')\n"
    with pytest.raises(SteepError, match=r"^no\n  do this$"):
        load_recipe(recipe(tmp_path / "r.py", text))


def test_a_missing_recipe_names_those_that_are_there(tmp_path, monkeypatch):
    (tmp_path / "recipes").mkdir()
    recipe(tmp_path / "recipes" / "nano.py", "")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"there is no recipe at nan.py\n  recipes here: recipes/nano.py"):
        load_recipe(Path("nan.py"))


def test_a_function_in_a_config_is_written_the_same_in_every_process():
    assert to_json({"claims": dump}) == {"claims": "steep.config.dump"}


class Plain:
    """A task may be any class."""


def test_an_object_in_a_config_is_written_the_same_in_every_process():
    assert to_json(Plain()) == "tests.test_config.Plain"
    assert to_json(partial(dump, 3)) == "functools.partial"
    assert to_json(Path("runs/nano")) == "runs/nano"


def test_a_config_as_json_names_its_classes():
    assert to_json(Share(weight=2.0)) == {"_": "Share", "task": None, "weight": 2.0}
    written = json.loads(dump(Config()))
    assert written["rl"] == {"_": "Rl", "num_steps": 50, "optimizer": {"_": "Optimizer", "lr": 3e-4, "kind": "adamw"}}
    assert written["shares"][1]["weight"] == 2.0
    assert written["where"] == "here"
