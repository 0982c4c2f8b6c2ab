"""A recipe's config, and the pipeline that carries it out stage by stage. A stage that is finished is not run again."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random

import torch
from rich.console import Console

from steep.config import blamed_on, within
from steep.engines import NativeConfig, NativeEngine, find_device, find_model, load_model, save_model, with_thought
from steep.errors import ConfigError
from steep.evals.demonstrator import DEMONSTRATOR
from steep.evals.evaluate import EvalConfig, accuracy, check_budgets, evaluate, scores
from steep.evals.suite import SuiteConfig, measure, measure_demonstrator
from steep.models.lora import merge
from steep.models.transformer import LanguageModel, ModelConfig, Transformer, initialise
from steep.policies import Policy, PolicyConfig
from steep.rollouts import Rollouts
from steep.runs import (
    Checkpoint,
    Claim,
    Health,
    HealthConfig,
    RollBackError,
    Run,
    Stage,
    Trackers,
    check_trackers,
    held_out_overlap,
    load_best,
    write_evidence,
)
from steep.tasks.mixture import Share, blaming, by_name, demonstrated, demonstrators, distinct, numbered, problems
from steep.tokens import Template, TemplateConfig, Tokenizer, compact
from steep.training.pretrain import PretrainConfig, Writer, document, pretrain
from steep.training.rl import RlConfig, rl
from steep.training.sft import SftConfig, sft
from steep.types import Demonstrator, Engine, Guarded, Split, Task

MEASURED = ("start", "pretrain", "sft", "rl", DEMONSTRATOR)
HELD_OUT = 200  # problems that a recipe on other tasks is measured on
OVERLAP_PROBLEMS = 500  # of each task and split that are compared
TOKENIZER_TEXTS = 4000  # documents, prompts and demonstrations, each, that the tokenizer is trained on


@dataclass(frozen=True, kw_only=True)
class Watch:
    """The small evaluation in the RL loop, on the validation split."""

    problems: int = 128
    """Of each task, over its levels."""
    budgets: tuple[int, ...] = (32, 128, 512)
    answer: int = 32
    """Answer tokens at most."""

    def __post_init__(self) -> None:
        within(self, 1, "problems", "answer")
        check_budgets(self.budgets)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Held-out problems of one task at a list of thinking budgets."""

    task: Task
    config: SuiteConfig = field(default_factory=SuiteConfig)
    models: tuple[str, ...] = ("sft", "rl")
    """The stages to measure; those that the recipe leaves out are passed over. `start` stands for the model that the
    recipe starts from, as it is, and `demonstrator` for the task's own demonstrations."""

    def __post_init__(self) -> None:
        for name in self.models:
            if name not in MEASURED:
                raise ConfigError(f"a suite measures no {name!r}", f"choose from {', '.join(MEASURED)}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a run needs. The stages run in the order of the fields; None leaves one out."""

    seed: int = 0
    threads: int | None = None
    """Threads of the processor to use; None: all."""
    device: str = "auto"
    """Where models are trained and sampled from: cpu, cuda, cuda:1; auto is cuda where there is one."""
    start: str | None = None
    """A model to start from, with its tokenizer and template: a run, a stage of one, a model directory, a GGUF file,
    `smollm2` or a model on the hub. One that has no thought section is given one. `vocabulary`, `template` and `model`
    are then not used. None: random weights."""
    tasks: tuple[Share, ...]
    """What to train on."""
    vocabulary: int = 512
    """Tokens of the tokenizer, at most. The model's vocabulary is set to what it has."""
    template: TemplateConfig = field(default_factory=compact)
    model: ModelConfig = field(default_factory=ModelConfig)
    engine: NativeConfig = field(default_factory=NativeConfig)
    pretrain: PretrainConfig | None = field(default_factory=PretrainConfig)
    sft: SftConfig | None = field(default_factory=SftConfig)
    rl: RlConfig | None = field(default_factory=RlConfig)
    watch: Watch = field(default_factory=Watch)
    health: HealthConfig = field(default_factory=HealthConfig)
    """From where on something counts as wrong, and what is done about it: docs/health.md."""
    evals: tuple[Suite, ...] = ()
    """What the finished stages are measured on."""
    claims: Callable[[Run], list[Claim]] | None = None
    """Reads the finished run and says which of its figures meet their bars."""
    trackers: tuple[str, ...] = ()
    """Where metrics go besides the run directory: tensorboard, wandb, trackio."""

    def __post_init__(self) -> None:
        check_trackers(self.trackers)
        if self.tasks and not any(share.weight for share in self.tasks):
            raise ConfigError("no task has a weight", "give one of them a weight above 0")
        if self.rl is not None and "teacher" in self.rl.algorithm.needs and self.rl.teacher is None:
            loss = type(self.rl.algorithm.loss).__name__
            raise ConfigError(f"{loss} needs a teacher", "set rl.teacher to a model")
        if self.start is None and self.engine.context > self.model.max_positions:
            raise ConfigError(
                f"an engine context of {self.engine.context} tokens is more than the model's "
                f"{self.model.max_positions}",
                "choose a smaller engine.context or a larger model.max_positions",
            )
        asked: list[Watch | EvalConfig] = [suite.config.eval for suite in self.evals]
        for one in asked if self.rl is None else [self.watch, *asked]:
            if max(one.budgets) + one.answer >= self.engine.context:
                raise ConfigError(
                    f"a budget of {max(one.budgets)} tokens and an answer of {one.answer} leave no room for a prompt "
                    f"in the engine's context of {self.engine.context}",
                    "choose smaller budgets or a larger engine.context",
                )


def on_tasks(recipe: Recipe, tasks: Sequence[Task]) -> tuple[Recipe, list[str]]:
    """The recipe with these tasks to train on, watch and measure; and which stages are left out for it, in words."""
    shares = tuple(Share(task=task) for task in tasks)
    for task in by_name(shares).values():  # whoever lacks problems says so before anything is begun
        trained = [problems(task, "train", recipe.seed, level) for level in task.levels]
        for drawn in (*trained, problems(task, "valid", recipe.seed), problems(task, "test", recipe.seed)):
            next(drawn)
    lacking = {
        "pretrain": [f"{task.name} has no documents" for task in tasks if not isinstance(task, Writer)],
        "sft": [f"{task.name} lacks demonstrations" for task in tasks if not isinstance(task, Demonstrator)],
    }
    budgets = tuple(sorted({0, *recipe.watch.budgets}))
    measured = SuiteConfig(
        problems=HELD_OUT, modes=("sampled",), eval=EvalConfig(budgets=budgets, answer=recipe.watch.answer)
    )
    changed = replace(
        recipe,
        tasks=shares,
        evals=tuple(Suite(task=task, config=measured, models=("start", "sft", "rl")) for task in tasks),
        claims=None,
        pretrain=None if lacking["pretrain"] else recipe.pretrain,
        sft=None if lacking["sft"] else recipe.sft,
    )
    left_out = [stage for stage in lacking if getattr(changed, stage) is not getattr(recipe, stage)]
    return changed, [f"{stage} is left out: {' and '.join(lacking[stage])}" for stage in left_out]


def run_recipe(run: Run, recipe: Recipe, console: Console) -> None:
    """Carry out the stages that are not finished."""
    with Trackers(run, recipe.trackers):
        run_stages(run, recipe, console)


def run_stages(run: Run, recipe: Recipe, console: Console) -> None:
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    device = find_device(recipe.device)
    before: Path | None = None
    for name in ("pretrain", "sft", "rl"):
        config = getattr(recipe, name)
        if config is None:
            continue
        stage = run.stage(name)
        if stage.finished:
            console.print(f"{name}: finished before")
        else:
            look = partial(overlap, recipe.tasks, recipe.seed) if name == "rl" else dict
            health = Health(stage, recipe.health, lambda text: console.print(text, markup=False, soft_wrap=True), look)
            while not run_stage(stage, recipe, health, before, device):
                pass
        before = stage.model
    if recipe.evals or recipe.claims:
        evaluate_run(run, recipe)


def run_stage(stage: Stage, recipe: Recipe, health: Health, before: Path | None, device: torch.device) -> bool:
    """Train from the model of the stage before. False if health asks to go back to the newest checkpoint."""
    model, template = begin(recipe) if before is None else _load(before)
    try:
        train(stage, recipe, model.to(device), template, health)
    except RollBackError:
        return False
    stage.wait()
    best = load_best(stage.checkpoints)
    if best is not None:
        leave(stage, stage.best, holding(best, model), template)
    leave(stage, stage.model, model, template)
    stage.finish({} if best is None else {"best": {"step": best.step, "score": best.score}})
    return True


def holding(checkpoint: Checkpoint, model: LanguageModel) -> LanguageModel:
    """A copy of the model that was trained, with the weights of a checkpoint."""
    copied = deepcopy(model)
    taken = copied.load_state_dict(checkpoint.weights, strict=False)  # what is not trained is the model's own
    assert not taken.unexpected_keys, taken
    return copied


def leave(stage: Stage, directory: Path, model: LanguageModel, template: Template) -> None:
    merge(model)
    stage.when_room(lambda: save_model(directory, model, template))


def evaluate_run(run: Run, recipe: Recipe) -> None:
    """Measure the finished stages, then write the claims down. What is measured already is not measured again."""
    stage = run.stage("eval")
    if stage.finished:
        return
    began = time.monotonic()
    for name in dict.fromkeys(model for suite in recipe.evals for model in suite.models):
        suites = [suite for suite in recipe.evals if name in suite.models]
        if name == DEMONSTRATOR:
            evaluate_demonstrator(stage, Template.load(find_model(run.path).path), suites)
        elif getattr(recipe, name) is not None:
            model, template = _load(recipe.start if recipe.start and name == "start" else run.path / name / "model")
            engine = NativeEngine(model.to(find_device(recipe.device)), recipe.engine, template.end_ids)
            for suite in suites:
                measure(stage, name, engine, template, {suite.task.name: suite.task}, suite.config)
    claims = claimed(run, recipe)
    seconds = time.monotonic() - began
    stage.when_room(lambda: write_evidence(stage.path / "claims.json", claims, seconds))
    stage.finish({"claims": len(claims), "hold": sum(claim.holds for claim in claims)})


def claimed(run: Run, recipe: Recipe) -> list[Claim]:
    """What the recipe claims of the run. What its `claims` raises is told as the recipe's to mend."""
    if recipe.claims is None:
        return []
    stem, colon, _ = run.info.recipe.partition(".py:")  # FILE.py:ARM
    with blamed_on(Path(f"{stem}.py" if colon else stem)):
        return recipe.claims(run)


def evaluate_demonstrator(stage: Stage, template: Template, suites: Sequence[Suite]) -> None:
    for suite in suites:
        if not isinstance(suite.task, Demonstrator):
            raise ConfigError(
                f"the task {suite.task.name} has no demonstrations", "take the demonstrator from its suite"
            )
        measure_demonstrator(stage, template, suite.task, suite.config)


def begin(recipe: Recipe) -> tuple[LanguageModel, Template]:
    """What the first stage begins with: the model at `start`, or a new tokenizer and random weights."""
    if recipe.start is not None:
        loaded = load_model(recipe.start)
        thinking = with_thought(loaded, recipe.seed)
        first = next(config for config in (recipe.pretrain, recipe.sft, recipe.rl) if config is not None)
        lora = first.policy.lora
        if thinking is not loaded and lora is not None and not lora.embedding:
            raise ConfigError(
                f"{recipe.start} has no thought section, and LoRA alone cannot teach it the tokens of a new one",
                "train the embedding too in the first stage: LoraConfig(embedding=True)",
            )
        return thinking.model, thinking.template
    template = Template(new_tokenizer(recipe), recipe.template)
    config = replace(recipe.model, vocab_size=template.tokenizer.vocab_size)
    model = Transformer(config)
    initialise(model, torch.Generator().manual_seed(recipe.seed))
    return model, template


def train(stage: Stage, recipe: Recipe, model: LanguageModel, template: Template, health: Health) -> None:
    """Run one training stage on `model`, in place."""
    if stage.name == "pretrain":
        assert recipe.pretrain is not None
        policy = Policy(model, recipe.pretrain.policy, recipe.pretrain.steps, seed=recipe.seed)
        pretrain(stage, policy, template, recipe.tasks, recipe.pretrain, recipe.seed, health)
    elif stage.name == "sft":
        assert recipe.sft is not None
        policy = Policy(model, recipe.sft.policy, recipe.sft.steps, seed=recipe.seed)
        sft(stage, policy, template, recipe.tasks, recipe.sft, recipe.seed, health)
    elif stage.name == "rl":
        assert recipe.rl is not None
        train_rl(stage, recipe, recipe.rl, model, template, health)
    else:
        raise ConfigError(f"there is no stage {stage.name}")


def train_rl(
    stage: Stage, recipe: Recipe, config: RlConfig, model: LanguageModel, template: Template, health: Health
) -> None:
    needs = config.algorithm.needs
    frozen = replace(config.policy, lora=None)
    reference = Policy(deepcopy(model), frozen, config.num_steps) if "reference" in needs else None
    teacher = load_teacher(config, frozen, template, model.device) if "teacher" in needs else None
    engine = NativeEngine(model, recipe.engine, template.end_ids)  # copies the model as it is, before any adapters
    policy = Policy(model, config.policy, config.num_steps, critic="critic" in needs, seed=recipe.seed)
    rollouts = Rollouts(engine, template, recipe.tasks, config.rollouts, recipe.seed, config.max_staleness)
    rl(stage, policy, engine, rollouts, config, lambda: watch(engine, template, recipe), health, reference, teacher)


def load_teacher(config: RlConfig, policy: PolicyConfig, template: Template, device: torch.device) -> Policy:
    """The model to distill from; its tokens must mean what ours mean."""
    assert config.teacher is not None
    loaded = load_model(config.teacher)
    theirs, ours = (t.tokenizer for t in (loaded.template, template))
    if theirs.pieces() != ours.pieces():
        raise ConfigError(f"the teacher {config.teacher} has another tokenizer", "distill from a model of the same one")
    return Policy(loaded.model.to(device), policy, config.num_steps)


def watch(engine: Engine, template: Template, recipe: Recipe) -> dict[str, float]:
    """Accuracy on the validation split, by task and budget; how many unsolvable problems were answered to reward."""
    config = EvalConfig(budgets=recipe.watch.budgets, answer=recipe.watch.answer)
    metrics: dict[str, float] = {}
    deceived: list[float] = []
    for name, task in by_name(recipe.tasks).items():
        asked = distinct(task, "valid", recipe.watch.problems)
        for budget, groups in evaluate(engine, template, {name: task}, asked, config).items():
            estimate = accuracy(groups)
            at = f"valid/{name}@{budget}"
            metrics |= {at: estimate.value, f"{at}_low": estimate.low, f"{at}_high": estimate.high}
        if isinstance(task, Guarded):
            alone = replace(config, budgets=(max(config.budgets),))
            with blaming(task, "canaries", "unsolvable problems"):
                unsolvable = task.canaries()
            (groups,) = evaluate(engine, template, {name: task}, unsolvable, alone).values()
            deceived += [float(score > 0) for score in scores(groups)]
    return metrics | ({"canary": sum(deceived) / len(deceived)} if deceived else {})


def overlap(shares: Sequence[Share], seed: int) -> dict[str, float]:
    """How much of the held-out problems stands in training problems as well."""
    texts: dict[Split, list[str]] = {"train": [], "valid": [], "test": []}
    for split, prompts in texts.items():
        for share in shares:
            with suppress(ConfigError):  # a list may have no such split
                found = distinct(share.task, split, OVERLAP_PROBLEMS, seed if split == "train" else 0)
                prompts += [message.content for problem in found for message in problem.prompt]
    return {"overlap": held_out_overlap(texts["train"], texts["valid"] + texts["test"])}


def new_tokenizer(recipe: Recipe) -> Tokenizer:
    """A tokenizer trained on what the tasks write and ask."""
    return Tokenizer.train(tokenizer_texts(recipe.tasks, recipe.seed), recipe.vocabulary, recipe.template.control)


def tokenizer_texts(shares: Sequence[Share], seed: int) -> list[str]:
    texts = []
    tasks = demonstrators(shares)
    for number, problem in islice(numbered(shares, "train", seed), TOKENIZER_TEXTS):
        rng = Random(f"tokenizer/{seed}/{number}")
        shown = demonstrated(tasks[problem.task], problem, rng)
        share = rng.choices(shares, [s.weight for s in shares])[0]
        texts += [m.content for m in problem.prompt] + [shown.thought, shown.answer, document(share, rng)]
    return texts


def _load(name: str | Path) -> tuple[LanguageModel, Template]:
    loaded = load_model(name)
    return loaded.model, loaded.template
