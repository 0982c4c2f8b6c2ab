"""Programs that speak OpenAI's API, as their users run them, each against `steep serve` in a process of its own.

make clients      # makes the environment that they live in, and runs these tests
"""

import json
import os
import re
import subprocess
from itertools import islice
from pathlib import Path

import pytest

from benchmarks.rivals import HOME, is_installed
from steep.engines import save_model
from steep.tasks.arithmetic import Arithmetic
from tests.server.serving import serving, tiny
from tests.server.test_chat import whole
from tests.server.test_jobs import command
from tests.server.test_responses import text, thought

HERE = Path(__file__).parent / "clients"
pytestmark = pytest.mark.slow
ANSWERS = (3, 5)
"""What the files in clients/ let a model answer; so a random one is right now and then."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a program of the clients' environment."""
    if not is_installed("clients", HOME):
        pytest.skip("the clients are not installed: make clients")
    settings = {
        "PYTHONPATH": "",
        "STEEP_API_KEY": "none",
        "HF_HOME": str(tmp_path_factory.mktemp("cache")),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks the network for prices
    }

    def run(program, *arguments, cwd=None):
        line = [HOME / "clients" / "bin" / program, *map(str, arguments)]
        done = subprocess.run(line, capture_output=True, text=True, cwd=cwd, env=os.environ | settings)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    return run


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    loaded = tiny(endless=True)
    save_model(directory / "tiny", loaded.model, loaded.template)
    with command(directory / "tiny", str(directory / "responses.db")) as remote:
        remote.url = f"http://127.0.0.1:{remote.port}/v1"
        yield remote


@pytest.fixture(scope="module")
def problems():
    """Those of arithmetic that may be answered right, by their questions."""
    made = islice(Arithmetic(levels=(1,)).problems("test", seed=0), 300)
    found = {problem.prompt[0].content: problem for problem in made if problem.key["answer"] in ANSWERS}
    return dict(islice(found.items(), 12))


@pytest.fixture
def file(problems, tmp_path):
    lines = [{"input": text, "target": str(problem.key["answer"])} for text, problem in problems.items()]
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def share_right(problems, answers):
    """By steep's own check; some are right and some are wrong."""
    assert answers.keys() == problems.keys()
    verdicts = [Arithmetic().verify(problems[text], answer) for text, answer in answers.items()]
    share = sum(verdict.score for verdict in verdicts) / len(verdicts)
    assert 0 < share < 1
    return share


def test_litellm(run, remote):
    found = json.loads(run("python", HERE / "litellm_calls.py", remote.url).splitlines()[-1])
    for name, fields, tokens in (
        ("effort", {"reasoning_effort": "low"}, 32),
        ("budget", {"thinking_token_budget": 16}, 16),
    ):
        (choice,), usage = whole(remote.chat(**fields))
        counts = [usage["prompt_tokens"], usage["completion_tokens"], tokens]
        assert found[name] == [[choice["content"], choice["reasoning"], counts]] * 2
    response = remote.respond(reasoning={"effort": "low"})
    assert found["response"] == found["streamed response"] == [text(response), thought(response)]
    assert found["reasoning tokens"] == 32
    assert found["refused"] == [["BadRequestError", 400], ["NotFoundError", 404]]


@pytest.mark.parametrize("how", ["stream=true", "responses_api=true"])
def test_inspect(run, remote, problems, file, tmp_path, how):
    run(
        *("inspect", "eval", "inspect_task.py", "-T", f"problems={file}", "--display", "none"),
        *("--model", "openai-api/steep/tiny", "--model-base-url", remote.url, "-M", how),
        *("--log-dir", tmp_path / "logs", "--log-format", "json"),
        cwd=HERE,  # of its files it takes none by an absolute path
    )
    (path,) = (tmp_path / "logs").glob("*.json")
    log = json.loads(path.read_text())
    assert log["status"] == "success"
    answers = {}
    for sample in log["samples"]:
        said = sample["messages"][-1]["content"]
        assert [part["type"] for part in said] == ["reasoning", "text"]
        assert said[0]["reasoning"].endswith("!")
        answers[sample["input"]] = said[1]["text"]
    (score,) = log["results"]["scores"]
    assert score["metrics"]["mean"]["value"] == share_right(problems, answers)
    usage = log["stats"]["model_usage"]["openai-api/steep/tiny"]
    assert usage["reasoning_tokens"] == 32 * len(problems)
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_lm_eval(run, remote, problems, file, tmp_path):
    run(
        *("lm_eval", "run", "--model", "local-chat-completions", "--apply_chat_template"),
        *("--model_args", f"model=tiny,base_url={remote.url}/chat/completions", "--tasks", HERE / "lm_eval_task.yaml"),
        *("--log_samples", "--output_path", tmp_path / "out"),
        cwd=file.parent,
    )
    (results,) = (tmp_path / "out").glob("tiny/results_*.json")
    (samples,) = (tmp_path / "out").glob("tiny/samples_*.jsonl")
    said = [json.loads(line) for line in samples.read_text().splitlines()]
    answers = {sample["doc"]["input"]: sample["resps"][0][0] for sample in said}
    score = json.loads(results.read_text())["results"]["arithmetic"]["exact_match,none"]
    assert score == share_right(problems, answers)


def test_schemathesis(run, tmp_path):
    """Answers are as GET /openapi.json describes them, and what it does not allow is refused.

    What it allows may still be refused: it cannot say that a budget must fit the context, for example.
    """
    with serving(endless=True, context=256, max_thought=32) as client:
        said = run(
            *("schemathesis", "run", f"http://127.0.0.1:{client.port}/openapi.json", "--seed", "1", "-n", "50"),
            *("--exclude-checks", "positive_data_acceptance", "--warnings", "off"),
            cwd=tmp_path,
        )
    assert int(re.search(r"(\d+) generated", said)[1]) >= 1000
