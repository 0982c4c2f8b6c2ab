"""The arguments of every command. Nothing slow is imported here, so that `--help` comes at once."""

import argparse
import difflib
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import steep
from steep.errors import SteepError

VERIFIER_HELP = "for a file: exact, number, math, choice or regex, where a line does not say (exact)"
MODEL_HELP = "a run (runs/nano), a stage of one, a model directory, a GGUF file, smollm2, or owner/name on the hub"


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
    args = argparse.Namespace(command=first)
    if first == "train":
        rest, args.overrides = split_overrides(rest)
    return commands[first].parse_intermixed_args(rest, args)


def did_you_mean(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, 2)
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}"


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words that `train` itself takes, and the options that name fields of the recipe, with their values."""
    own: list[str] = []
    overrides: list[str] = []
    left = iter(words)
    for word in left:
        name, _, value = word.partition("=")
        mine = not name.startswith("--") or name in ("--run", "--json", "--help")
        has_value = name.startswith("--") and not value and name not in ("--json", "--help")
        (own if mine else overrides).extend([word, *(islice(left, 1) if has_value else ())])
    return own, overrides


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
    _resume(commands)
    _eval(commands)
    _tasks(commands)
    _report(commands)
    _chat(commands)
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
        "carry out a recipe",
        "steep train recipes/nano.py",
        "steep train recipes/nano.py --run fast --rl.policy.optimizer.lr 3e-4",
        "steep train recipes/nano.py --watch.budgets 32,128 --rl none",
        "steep train recipes/nano_claims.py",
        "steep train recipes/nano_claims.py:0/main",
        usage="steep train RECIPE [--run NAME_OR_PATH] [--json] [--field value ...]",
    )
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        help="a Python file whose config() returns a recipe, or a study of several; FILE.py:ARM is one arm of a study",
    )
    parser.add_argument(
        "--run",
        metavar="NAME_OR_PATH",
        help="where to; a name is below runs/ (the recipe's own name); an arm gets a directory of its own within it",
    )
    parser.add_argument_group(
        "fields of the recipe",
        "--seed 1, --rl.num_steps 50, --tasks.0.weight 2: any field of the recipe may be given another value.",
    )


def _resume(commands: _Commands) -> None:
    parser = commands.add("resume", "go on with a run that was stopped or failed", "steep resume runs/nano")
    parser.add_argument("run", metavar="RUN", type=Path, help="the directory of the run")


def _eval(commands: _Commands) -> None:
    parser = commands.add(
        "eval",
        "measure a model's accuracy on held-out problems at several thinking budgets",
        "steep eval runs/nano --task countdown --budgets 0,64,256",
        "steep eval runs/nano/sft --task arithmetic --levels 1,2 --greedy",
        "steep eval runs/nano --task gsm8k --problems 50 --json",
        "steep eval runs/nano --task mine.jsonl --verifier number",
        "steep eval runs/nano --task mine.py",
        "steep eval runs/nano --task mine.py:Riddles",
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--task",
        required=True,
        metavar="NAME|FILE",
        help="a name that `steep tasks list` shows, a file of problems (.jsonl, .jsonl.gz, .py) or FILE.py:CLASS",
    )
    parser.add_argument("--verifier", metavar="NAME", help=VERIFIER_HELP)
    parser.add_argument("--levels", type=_numbers(1), metavar="N,N", help="levels of the task (its own choice)")
    parser.add_argument(
        "--budgets", type=_numbers(0), default=(0, 64, 256), metavar="N,N", help="thinking tokens (0,64,256)"
    )
    parser.add_argument("--samples", type=_number(1), default=1, metavar="N", help="answers to each problem (1)")
    parser.add_argument("--problems", type=_number(1), default=200, metavar="N", help="different problems (200)")
    parser.add_argument("--answer", type=_number(1), metavar="N", help="answer tokens at most (the model's own limit)")
    parser.add_argument("--greedy", action="store_true", help="take the likeliest token; otherwise temperature 1")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to keep figures and answers (below runs/evals)")


def _tasks(commands: _Commands) -> None:
    parser = commands.add(
        "tasks",
        "list the tasks there are, and check a file of problems of your own",
        "steep tasks",
        "steep tasks check mine.jsonl --verifier number",
        "steep tasks check mine.py --model runs/nano --samples 8 --problems 50",
        usage="steep tasks [list | check FILE] [--verifier NAME] [--model MODEL] [--json]",
    )
    parser.add_argument("what", nargs="?", default="list", metavar="list | check", help="what to do (list)")
    parser.add_argument("files", nargs="*", metavar="FILE", help="problems: .jsonl, .jsonl.gz or .py")
    parser.add_argument("--verifier", metavar="NAME", help=VERIFIER_HELP)
    signal = parser.add_argument_group("whether a model can learn from them")
    signal.add_argument("--model", metavar="MODEL", help=f"see how often it is right: {MODEL_HELP}")
    signal.add_argument("--samples", type=_number(2), default=8, metavar="N", help="answers to each problem (8)")
    signal.add_argument("--problems", type=_number(1), default=50, metavar="N", help="different problems (50)")
    signal.add_argument("--budget", type=_number(0), metavar="N", help="thinking tokens (the model's medium effort)")


def _report(commands: _Commands) -> None:
    parser = commands.add(
        "report",
        "draw curves and tables of runs and evaluations",
        "steep report runs/nano",
        "steep report runs/nano runs/fast --out compared --open",
    )
    parser.add_argument("paths", metavar="RUN", nargs="+", type=Path, help="runs or evaluations")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to (report/ in the first run)")
    parser.add_argument("--open", action="store_true", help="show it in a browser")


def _chat(commands: _Commands) -> None:
    parser = commands.add(
        "chat",
        "talk to a model and watch it think",
        "steep chat runs/nano",
        "steep chat runs/nano --budget 512 'Use 3, 5 and 8 to make 24.'",
        "steep chat smollm2 --greedy 'What is the capital of France?'",
        "echo 'Use 3, 5 and 8 to make 24.' | steep chat runs/nano --effort high",
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="answer this and leave")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--budget", type=_number(0), metavar="N", help="thinking tokens")
    length.add_argument("--effort", metavar="NAME", help="a budget by its name: none minimal low medium high xhigh max")
    parser.add_argument("--greedy", action="store_true", help="take the likeliest token; otherwise temperature 1")
    parser.add_argument("--system", metavar="TEXT", help="what to tell the model before all else")


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
        "list, show and compare runs, on the terminal or on a page in the browser",
        "steep runs",
        "steep runs show nano",
        "steep runs compare nano fast",
        "steep runs serve --open",
        usage="steep runs [list | show RUN | compare RUN RUN ... | serve] [--root DIR] [--json]",
    )
    parser.add_argument(
        "what", nargs="?", default="list", metavar="list | show | compare | serve", help="what to do (list)"
    )
    parser.add_argument("names", nargs="*", metavar="RUN", help="runs by name or path")
    parser.add_argument("--root", type=Path, default=Path("runs"), metavar="DIR", help="where the runs are (runs)")
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
