"""The arguments of every command. Nothing slow is imported here, so that `--help` comes at once."""

import argparse
import difflib
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import steep
from steep.errors import SteepError

VERIFIER_HELP = "for a file: exact, number, math, choice or regex, where a line does not say (exact)"
OWN_OPTIONS = {
    "train": ("--run", "--model", "--task", "--verifier", "--json", "--help"),
    "sweep": ("--run", "--grid", "--seeds", "--by", "--json", "--help"),
    "resume": ("--json", "--help"),
}
"""Of the commands in which every other option names a field of the recipe."""
TASK_HELP = "a name in `steep tasks list`, gym:NAME, a file of problems (.jsonl, .jsonl.gz, .py) or FILE.py:CLASS"
DTYPES = ("float32", "bfloat16")
DTYPE_HELP = "of weights and cache: float32 (default), or bfloat16, which takes half the memory and rounds"
ANSWER_HELP = "answer tokens at most (the model's own limit)"
MODEL_HELP = (
    "a run (runs/nano), a stage of one, its best checkpoint (runs/nano/rl/best), a model directory, a GGUF file, "
    "smollm2, or owner/name on the hub"
)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command in `args.command`, and its arguments."""
    parser, commands = build()
    if not words:
        words = ["--help"]
    first, *rest = words
    if not first.startswith("-") and first not in commands:
        raise SteepError(f"there is no command {first!r}", did_you_mean(first, list(commands)))
    if first not in commands:  # --help, --version
        return parser.parse_args(words)
    args = argparse.Namespace(command=first, words=tuple(words))
    if first in OWN_OPTIONS:
        rest, args.overrides = split_overrides(rest, OWN_OPTIONS[first])
    return commands[first].parse_intermixed_args(rest, args)


def did_you_mean(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, 2)
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}"


def split_overrides(words: Sequence[str], options: Sequence[str] = OWN_OPTIONS["train"]) -> tuple[list[str], list[str]]:
    """The words that a command itself takes, and the options that name fields of the recipe, with their values."""
    own: list[str] = []
    overrides: list[str] = []
    left = iter(words)
    for word in left:
        name, _, value = word.partition("=")
        mine = not name.startswith("--") or name in options
        has_value = name.startswith("--") and not value and name not in ("--json", "--help")
        (own if mine else overrides).extend([word, *(islice(left, 1) if has_value else ())])
    return own, overrides


def split_tasks(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """What the words of a run say about its problems, and the overrides among them."""
    return _split(words, _problems)


def split_grid(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """What the words of a sweep say about its runs, and those that each of them has."""
    return _split(words, _grid)


def _split(
    words: Sequence[str], add_options: Callable[[argparse.ArgumentParser], None]
) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_options(parser)
    return parser.parse_known_args(words)


def build() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(
        prog="steep",
        description="Train language models to think before they answer, and choose how long they may think.",
        epilog="first steps:\n  steep doctor\n  steep train recipes/nano.py\n  steep chat runs/nano",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"steep {steep.__version__}")
    commands = _Commands(parser)
    _train(commands)
    _sweep(commands)
    _resume(commands)
    _eval(commands)
    _tasks(commands)
    _probes(commands)
    _thoughts(commands)
    _card(commands)
    _compare(commands)
    _report(commands)
    _chat(commands)
    _serve(commands)
    _export(commands)
    _runs(commands)
    _doctor(commands)
    return parser, commands.parsers


class _Commands:
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._subparsers = parser.add_subparsers(metavar="COMMAND", title="commands")
        self.parsers: dict[str, argparse.ArgumentParser] = {}

    def add(self, name: str, help: str, *examples: str, usage: str | None = None) -> argparse.ArgumentParser:
        parser = self._subparsers.add_parser(
            name,
            help=help,
            usage=usage,
            description=help[0].upper() + help[1:] + ".",
            epilog="examples:\n" + "\n".join(f"  {example}" for example in examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object last, and all else to stderr")
        self.parsers[name] = parser
        return parser


def _train(commands: _Commands) -> None:
    parser = commands.add(
        "train",
        "carry out a recipe, on its own problems or on yours",
        "steep train recipes/nano.py",
        "steep train --model smollm2 --task mine.jsonl --verifier number",
        "steep train --model runs/nano --task mine.py --task arithmetic --rl.num_steps 50",
        "steep train recipes/nano.py --run fast --rl.policy.optimizer.lr 3e-4",
        "steep train recipes/nano.py --watch.budgets 32,128 --trackers tensorboard",
        "steep train recipes/nano.py --run short --sft.steps 600 --rl none",
        "steep train recipes/nano_claims.py",
        "steep train recipes/nano_claims.py:0/main",
        usage="steep train [RECIPE] [--model MODEL] [--task NAME|FILE ...] [--verifier NAME] [--run NAME_OR_PATH]\n"
        "                   [--json] [--field value ...]",
    )
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        nargs="?",
        help="a Python file whose config() returns a recipe, or a study of several; FILE.py:ARM is one arm of a study "
        "(with --task: steep's own for a small model)",
    )
    parser.add_argument("--model", metavar="MODEL", help=f"start from {MODEL_HELP}")
    _problems(parser)
    parser.add_argument(
        "--run",
        metavar="NAME_OR_PATH",
        help="where to; a name is below runs/ (that of the first --task, or of the recipe); an arm gets a directory of "
        "its own within it",
    )
    parser.add_argument_group(
        "fields of the recipe",
        "--seed 1, --rl.num_steps 50, --tasks.0.weight 2: any field of the recipe may be given another value.",
    )


def _problems(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task", action="append", default=[], metavar="NAME|FILE", help=f"train on this and measure it: {TASK_HELP}"
    )
    parser.add_argument("--verifier", metavar="NAME", help=VERIFIER_HELP)


def _sweep(commands: _Commands) -> None:
    parser = commands.add(
        "sweep",
        "carry out a recipe over a grid of settings and some seeds, and rank the settings",
        "steep sweep recipes/nano.py --grid rl.policy.optimizer.lr=1e-4,3e-4 --seeds 3",
        "steep sweep recipes/nano.py --grid sft.policy.optimizer.lr=1e-3,2e-3 --grid sft.examples=64,128 --rl none",
        "steep sweep recipes/nano.py --seeds 5 --by rl.valid/countdown@512",
        usage="steep sweep RECIPE [--grid FIELD=VALUE,VALUE ...] [--seeds N] [--by FIGURE] [--run NAME_OR_PATH]\n"
        "                   [--json] [--field value ...]",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a Python file whose config() returns a recipe")
    _grid(parser)
    parser.add_argument(
        "--by",
        metavar="FIGURE",
        help="what to rank by: a claim, or a metric as `steep runs compare` names it (the first that there is)",
    )
    parser.add_argument("--run", metavar="NAME_OR_PATH", help="where to; a name is below runs/ (RECIPE_sweep)")
    parser.add_argument_group(
        "how it runs",
        "As many runs at once as there are cores for their threads (`threads` of the recipe, otherwise 1), on a GPU\n"
        "one after the other. The same command again, or `steep resume`, goes on where it was stopped or killed.",
    )


def _grid(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="FIELD=VALUE,VALUE",
        help="a field of the recipe and its values; given several times, all combinations are run",
    )
    parser.add_argument("--seeds", type=_number(1), default=1, metavar="N", help="runs of each setting (1)")


def _resume(commands: _Commands) -> None:
    parser = commands.add(
        "resume",
        "go on with a run that was stopped, paused or failed",
        "steep resume runs/nano",
        "steep resume runs/nano --health.truncation.pause 0.5",
        "steep resume runs/nano --health.zero_variance none",
        usage="steep resume RUN [--json] [--health.RULE.LINE value ...]",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the directory of the run")
    parser.add_argument_group(
        "health",
        "--health.RULE none leaves out the rule that paused a run; no other field can be changed. docs/health.md",
    )


def _eval(commands: _Commands) -> None:
    parser = commands.add(
        "eval",
        "measure a model's accuracy on held-out problems at several thinking budgets",
        "steep eval runs/nano --task countdown --budgets 0,64,256",
        "steep eval runs/nano --suite o1",
        "steep eval runs/nano --suite o1 --task countdown --levels 3 --samples 256",
        "steep eval runs/nano --suite o1 --without extended chunked",
        "steep eval runs/nano/sft --task arithmetic --levels 1,2 --greedy",
        "steep eval runs/nano/rl/best --task countdown",
        "steep eval runs/nano --task gsm8k --problems 50 --json",
        "steep eval runs/nano --task mine.jsonl --verifier number",
        "steep eval runs/nano --task mine.py",
        "steep eval runs/nano --task mine.py:Riddles",
        "steep eval smollm2 --task gym:spell_backward --levels 1,2",
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--task", metavar="NAME|FILE", help=f"{TASK_HELP} (with --suite: the tasks of the model's run)")
    parser.add_argument(
        "--suite",
        choices=("o1",),
        help="o1: at the level of each task that tells most, whether longer thoughts (cut, extended, in chunks), "
        "majorities of many answers and a learned scorer's choice among them pay; for `steep report`",
    )
    parser.add_argument(
        "--without",
        nargs="+",
        choices=("extended", "chunked"),
        default=(),
        help="leave out of the suite thoughts that go on past their own end, or in chunks past the context",
    )
    parser.add_argument("--verifier", metavar="NAME", help=VERIFIER_HELP)
    parser.add_argument("--levels", type=_numbers(1), metavar="N,N", help="levels of the task (its own choice)")
    parser.add_argument(
        "--budgets", type=_numbers(0), metavar="N,N", help="thinking tokens (0,64,256; of the suite 0,16,32 to 512)"
    )
    parser.add_argument("--samples", type=_number(1), metavar="N", help="answers to each problem (1; of the suite 64)")
    parser.add_argument("--problems", type=_number(1), default=200, metavar="N", help="different problems (200)")
    parser.add_argument("--answer", type=_number(1), metavar="N", help=ANSWER_HELP)
    parser.add_argument("--greedy", action="store_true", help="take the likeliest token; otherwise temperature 1")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help=DTYPE_HELP)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to keep figures and answers (below runs/evals); an evaluation that is there goes on",
    )


def _tasks(commands: _Commands) -> None:
    parser = commands.add(
        "tasks",
        "list the tasks there are, and check problems before anything is trained on them",
        "steep tasks",
        "steep tasks list gym",
        "steep tasks check mine.jsonl --verifier number",
        "steep tasks check mine.py --model runs/nano --samples 16 --problems 50",
        "steep tasks check countdown --model runs/nano --budget 128",
        "steep tasks check gym:spell_backward --model smollm2",
        "steep tasks check mine.jsonl --model runs/nano --problems 1000 --keep between.jsonl --between 0.1 0.9",
        usage="steep tasks [list [gym] | check NAME|FILE] [--verifier NAME] [--model MODEL [--samples N]\n"
        "                   [--problems N] [--budget N] [--answer N] [--keep OUT.jsonl [--between LOW HIGH]]] [--json]",
    )
    parser.add_argument("what", nargs="?", default="list", metavar="list | check", help="what to do (list)")
    parser.add_argument("names", nargs="*", metavar="NAME|FILE", help=TASK_HELP)
    parser.add_argument("--verifier", metavar="NAME", help=VERIFIER_HELP)
    signal = parser.add_argument_group("whether a model can learn from them")
    signal.add_argument("--model", metavar="MODEL", help=f"see how often it is right: {MODEL_HELP}")
    signal.add_argument(
        "--samples", type=_number(2), default=16, metavar="N", help="answers to each problem (16, a group of RL)"
    )
    signal.add_argument("--problems", type=_number(1), default=50, metavar="N", help="different problems (50)")
    signal.add_argument("--budget", type=_number(0), metavar="N", help="thinking tokens (the model's medium effort)")
    signal.add_argument("--answer", type=_number(1), metavar="N", help=ANSWER_HELP)
    signal.add_argument(
        "--keep",
        type=Path,
        metavar="OUT.jsonl",
        help="write those that it sometimes gets right, with their pass_rate, and all held-out ones",
    )
    signal.add_argument(
        "--between",
        nargs=2,
        type=float,
        default=(0.05, 0.95),
        metavar=("LOW", "HIGH"),
        help="pass rates that --keep takes for sometimes (0.05 0.95)",
    )


def _probes(commands: _Commands) -> None:
    parser = commands.add(
        "probes",
        "ask models what they are said to get wrong: letters, 9.11 and 9.9, dates, family puzzles",
        "steep probes",
        "steep probes run runs/nano smollm2",
        "steep probes run runs/nano --by probe --budget 128",
        'steep probes add "How many e\'s are in cheese?" --check number --answer 3 --category letters',
        "steep probes add 'Which one is a fish?' --choices shark whale --answer shark",
        usage="steep probes [list | run MODEL ... | add QUESTION --answer TEXT] [--file FILE.jsonl] [...] [--json]",
    )
    parser.add_argument("what", nargs="?", default="list", metavar="list | run | add", help="what to do (list)")
    parser.add_argument(
        "names", nargs="*", metavar="MODEL|QUESTION", help=f"to run: {MODEL_HELP}; to add: the question"
    )
    parser.add_argument(
        "--file", type=Path, metavar="FILE.jsonl", help="your own probes, which come on top of steep's (probes.jsonl)"
    )
    parser.add_argument(
        "--answer",
        metavar="TEXT|N",
        help=f"of add: the right answer, of choices the text or the letter of one; of run: {ANSWER_HELP}",
    )
    asking = parser.add_argument_group("run")
    asking.add_argument(
        "--samples", type=_number(1), default=8, metavar="N", help="answers to each, without and with a thought (8)"
    )
    asking.add_argument("--budget", type=_number(0), metavar="N", help="thinking tokens (the model's medium effort)")
    asking.add_argument("--by", choices=("category", "probe"), default="category", help="rows of the table (category)")
    asking.add_argument(
        "--history",
        type=Path,
        default=Path("runs/probes.jsonl"),
        metavar="FILE",
        help="where answers are remembered, to say what was fixed and what came back (runs/probes.jsonl)",
    )
    adding = parser.add_argument_group("add")
    adding.add_argument("--check", metavar="NAME", help="exact, number, math, choice or regex (exact)")
    adding.add_argument("--choices", nargs="+", metavar="TEXT", help="options, written below the question")
    adding.add_argument("--category", metavar="NAME", help="what kind of question it is")
    adding.add_argument("--id", metavar="NAME", help="what to call it (a hash of the question)")


def _thoughts(commands: _Commands) -> None:
    parser = commands.add(
        "thoughts",
        "measure what thoughts are worth: do answers follow from them, are mistakes mended, what goes off the rails",
        "steep thoughts runs/nano/sft runs/nano/rl --task countdown",
        "steep thoughts runs/nano --task arithmetic --levels 2,3 --budget 256 --problems 500",
    )
    parser.add_argument("models", metavar="MODEL", nargs="+", help=f"one column each: {MODEL_HELP}")
    parser.add_argument("--task", required=True, metavar="NAME|FILE", help=TASK_HELP)
    parser.add_argument("--levels", type=_numbers(1), metavar="N,N", help="levels of the task (its own choice)")
    parser.add_argument("--budget", type=_number(1), metavar="N", help="thinking tokens (the model's high effort)")
    parser.add_argument("--problems", type=_number(2), default=200, metavar="N", help="different problems (200)")
    parser.add_argument("--answer", type=_number(1), metavar="N", help=ANSWER_HELP)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to keep what was found (below runs/thoughts)")


def _card(commands: _Commands) -> None:
    parser = commands.add(
        "card",
        "say in figures what a model is good and bad at, how it thinks, and what that costs",
        "steep card runs/nano",
        "steep card runs/nano/sft --out cards/sft",
        "steep card smollm2 --task gsm8k --task letters --problems 50",
    )
    parser.add_argument(
        "model", metavar="MODEL", help=f"{MODEL_HELP}; or an evaluation. What was measured of it is taken from the disk"
    )
    parser.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="NAME|FILE",
        help=f"measure this now (countdown, arithmetic and letters, if nothing is on disk): {TASK_HELP}",
    )
    parser.add_argument("--problems", type=_number(1), default=100, metavar="N", help="of each task, if measured (100)")
    parser.add_argument("--budget", type=_number(0), metavar="N", help="thinking tokens (the model's high effort)")
    parser.add_argument("--answer", type=_number(1), metavar="N", help=ANSWER_HELP)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to keep it (below runs/cards)")


def _compare(commands: _Commands) -> None:
    parser = commands.add(
        "compare",
        "compare models on the problems that all were asked, with paired intervals",
        "steep compare runs/nano/sft runs/nano/rl",
        "steep compare runs/evals/nano-countdown-1 runs/evals/fast-countdown-1",
    )
    parser.add_argument("first", metavar="MODEL", type=Path, help="what the others are compared with: see below")
    parser.add_argument(
        "others", metavar="MODEL", nargs="+", type=Path, help="runs or stages with an evaluation, or evaluations"
    )


def _report(commands: _Commands) -> None:
    parser = commands.add(
        "report",
        "draw curves and tables of runs and evaluations",
        "steep report runs/nano",
        "steep report runs/nano runs/fast --out compared --open",
        "steep report runs/evals/nano-rl-o1 --html",
        "steep report runs/evals/nano-rl-o1 runs/thoughts/nano-rl-countdown-1 runs/probes.jsonl",
        "steep report runs/nano --markdown docs/results/nano.md",
    )
    parser.add_argument(
        "paths",
        metavar="RUN",
        nargs="+",
        type=Path,
        help="runs or evaluations; beside them what `steep thoughts` wrote, and histories of `steep probes run`",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to (report/ in the first run)")
    parser.add_argument("--html", action="store_true", help="write the page alone: no pictures and JSON beside it")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write Markdown instead, and its pictures beside it (nano-*.png)"
    )
    parser.add_argument("--open", action="store_true", help="show it in a browser")


def _chat(commands: _Commands) -> None:
    parser = commands.add(
        "chat",
        "talk to a model and watch it think",
        "steep chat runs/nano",
        "steep chat runs/nano --budget 512 'Use 3, 5 and 8 to make 25.'",
        "steep chat smollm2 --greedy 'What is the capital of France?'",
        "echo 'Use 3, 5 and 8 to make 25.' | steep chat runs/nano --effort high",
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="answer this and leave")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--budget", type=_number(0), metavar="N", help="thinking tokens")
    length.add_argument("--effort", metavar="NAME", help="a budget by its name: none minimal low medium high xhigh max")
    parser.add_argument("--greedy", action="store_true", help="take the likeliest token; otherwise temperature 1")
    parser.add_argument("--system", metavar="TEXT", help="what to tell the model before all else")


def _serve(commands: _Commands) -> None:
    parser = commands.add(
        "serve",
        "serve models over HTTP: a page to chat with them, and OpenAI's API with a thinking budget in every request",
        "steep serve runs/nano",
        "steep serve runs/nano smollm2 --port 8080 --thoughts summary",
        "steep serve runs/nano --store postgresql://steep@db/steep",
        "STEEP_API_KEY=secret steep serve runs/nano --host 0.0.0.0 --allow-host box.lan",
        "steep serve Qwen/Qwen3-8B --engine vllm --dtype bfloat16 --rows 256 --vllm tensor_parallel_size=2",
        usage="steep serve MODEL [MODEL ...] [--host HOST] [--port N] [--thoughts HOW] [...]",
    )
    parser.add_argument("models", metavar="MODEL", nargs="+", help=MODEL_HELP)
    parser.add_argument(
        "--thoughts",
        choices=("hidden", "summary", "full"),
        default="full",
        help="what of a thought leaves the server: nothing, how long it was, or its text (full)",
    )
    parser.add_argument(
        "--thinking",
        choices=("whole", "chunked"),
        default="whole",
        help="how a thought keeps to the context: it fits as a whole (default), or goes on in chunks for as long as a "
        "budget says, each of which sees the prompt and the last part of the chunk before",
    )
    parser.add_argument(
        "--engine",
        choices=("native", "vllm"),
        default="native",
        help="what computes: steep's own engine (native), or vLLM, which has to be installed",
    )
    parser.add_argument(
        "--vllm",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an engine argument of vLLM's, as in gpu_memory_utilization=0.8; may be given again",
    )
    parser.add_argument(
        "--store",
        metavar="FILE|URL",
        help="database of responses, from which those in the background go on after a crash: a file, or "
        "postgresql://... for several servers that share the work (responses.db in the cache directory)",
    )
    network = parser.add_argument_group("who may call")
    network.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine alone)")
    network.add_argument("--port", type=_number(0), default=8000, metavar="N", help="8000; 0 takes any that is free")
    network.add_argument(
        "--api-key",
        metavar="KEY",
        help="what callers must know, needed with any other address; better in the environment, as STEEP_API_KEY",
    )
    network.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a further name that the server is called by"
    )
    network.add_argument(
        "--cors", action="append", default=[], metavar="ORIGIN", help="pages of other origins that may call; * for all"
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument("--rows", type=_number(1), default=64, metavar="N", help="answers that are made together (64)")
    limits.add_argument("--queue", type=_number(0), default=256, metavar="N", help="answers that may wait (256)")
    limits.add_argument("--context", type=_number(1), metavar="N", help="tokens of prompt and answer (the model's own)")
    limits.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help=DTYPE_HELP)
    limits.add_argument(
        "--cache-dtype", choices=["int8"], help="keys and values in 8 bits: less memory, faster where there are many"
    )
    limits.add_argument(
        "--max-thought",
        type=_number(0),
        metavar="N",
        help="thinking tokens of one answer at most (what the context holds; in chunks 131072)",
    )
    limits.add_argument(
        "--max-time",
        type=_number(1),
        default=7200,
        metavar="SECONDS",
        help="time that an answer may take while a client waits; then its thought is ended, and soon the answer (7200)",
    )
    limits.add_argument(
        "--per-key", type=_number(1), metavar="N", help="answers that clients with one key may wait for at once (all)"
    )
    limits.add_argument(
        "--drain", type=_number(0), default=30, metavar="SECONDS", help="time to end answers when it is stopped (30)"
    )


def _export(commands: _Commands) -> None:
    parser = commands.add(
        "export",
        "write a model for other programs, with its tokenizer and chat template",
        "steep export runs/nano --to hf exported/nano",
        "steep export runs/nano --to gguf exported --precision q8_0",
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("directory", metavar="DIR", type=Path, help="where to; made if it is not there")
    parser.add_argument(
        "--to",
        required=True,
        choices=("hf", "gguf"),
        help="a Hugging Face directory (transformers, vLLM), or a GGUF file in DIR (llama.cpp and its kin)",
    )
    parser.add_argument(
        "--precision",
        choices=("f32", "f16", "bf16", "q8_0"),
        default="f32",
        help="of the numbers of matrices (f32: as they are trained); q8_0, 8 bits, for GGUF only",
    )


def _runs(commands: _Commands) -> None:
    parser = commands.add(
        "runs",
        "list, show, compare and watch runs, on the terminal or on a page in the browser",
        "steep runs",
        "steep runs show nano",
        "steep runs compare nano fast",
        "steep runs watch nano",
        "steep runs serve --open",
        usage="steep runs [list | show RUN | compare RUN RUN ... | watch RUN [--once] | serve [--port N] [--open]]\n"
        "                  [--root DIR] [--json]",
    )
    parser.add_argument(
        "what", nargs="?", default="list", metavar="list | show | compare | watch | serve", help="what to do (list)"
    )
    parser.add_argument("names", nargs="*", metavar="RUN", help="runs by name or path")
    parser.add_argument("--root", type=Path, default=Path("runs"), metavar="DIR", help="where the runs are (runs)")
    parser.add_argument(
        "--once", action="store_true", help="watch: print one frame (otherwise: space shows the next rollout, q leaves)"
    )
    page = parser.add_argument_group(
        "the page",
        "serve shows live curves, rollouts and configs at http://127.0.0.1:8400/, to this machine only, and changes "
        "nothing. For a machine elsewhere: ssh -L 8400:127.0.0.1:8400 MACHINE.",
    )
    page.add_argument("--port", type=_number(0), default=8400, metavar="N", help="where to listen (8400); 0: any")
    page.add_argument("--open", action="store_true", help="show it in a browser")


def _doctor(commands: _Commands) -> None:
    commands.add("doctor", "check this machine, and say what to do about what is missing", "steep doctor")


def _number(low: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} on")
        return int(text)

    return parse


def _numbers(low: int) -> Callable[[str], tuple[int, ...]]:
    one = _number(low)
    return lambda text: tuple(dict.fromkeys(one(part.strip()) for part in text.split(",")))
