import re
import shutil

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from steep.rollouts import rows
from steep.runs import Run
from steep.server.pages import pages
from tests.evals.conftest import groups

URL = "http://127.0.0.1:8400"


@pytest.fixture(scope="module")
def client(root):
    return TestClient(pages(root), base_url=URL)


def told(client, what, **params):
    response = client.get(f"/api/{what}", params=params)
    assert response.status_code == 200, response.text
    return response.json()


def test_runs_are_listed_newest_first_with_their_arms(client):
    lines = told(client, "runs")
    assert {line["summary"]["name"] for line in lines} == {"nano", "young", "study", "study/0/main"}
    names = [line["summary"]["name"] for line in lines]
    assert names.index("study/0/main") == names.index("study") + 1
    nano = next(line for line in lines if line["summary"]["name"] == "nano")
    assert (nano["summary"]["status"], nano["metric"], len(nano["spark"])) == ("finished", "reward", 20)


def test_a_run_is_shown_with_its_charts_and_events(client):
    run = told(client, "run", run="nano")
    assert (run["status"], run["info"]["recipe"], run["arms"]) == ("finished", "recipes/nano.py", [])
    pretrain, rl, evaluation = run["stages"]
    assert [chart["title"] for chart in pretrain["charts"] if chart["main"]] == ["Loss", "Speed"]
    assert [chart["title"] for chart in rl["charts"] if chart["main"]] == [
        "Reward", "Accuracy, countdown", "Accuracy, letters", "Groups with signal", "Thought length", "Entropy",
        "Speed",
    ]  # fmt: skip
    assert [line["label"] for line in rl["charts"][1]["lines"]] == ["128 tokens", "32 tokens"]
    assert rl["events"] == [{"step": 7, "rule": "entropy", "reaction": "warn", "message": "fell by half"}]
    assert pretrain["events"] == []
    (curve, *_) = evaluation["budgets"]
    assert (curve["model"], curve["task"], curve["budgets"]) == ("sft", "countdown", [0, 16, 32, 64, 128, 256])


def test_courses_come_from_metrics_and_timing(client):
    courses = told(
        client, "courses", run="nano", stage="rl", metric=["reward", "tokens/s", "valid/letters@128", "none"]
    )
    assert set(courses) == {"reward", "tokens/s", "valid/letters@128"}
    assert courses["reward"]["steps"] == list(range(20))
    assert courses["valid/letters@128"]["steps"] == [-1, 3, 7, 11, 15, 19]


def test_a_study_names_its_arms(client):
    assert told(client, "run", run="study")["arms"] == ["study/0/main", "study/0/control"]
    assert [stage["name"] for stage in told(client, "run", run="study/0/main")["stages"]] == ["pretrain"]


def test_config_tells_what_was_given_and_what_was_chosen(client):
    settings = {setting["key"]: setting for setting in told(client, "config", run="nano")}
    assert settings["rl.num_steps"] == {"key": "rl.num_steps", "value": 20, "given": True, "chosen": False}
    assert settings["rl.name"] == {"key": "rl.name", "value": "<script>", "given": False, "chosen": False}


def test_runs_are_compared(client):
    comparison = told(client, "compare", run=["nano", "study/0/main"])
    assert comparison["names"] == ["nano", "main"]
    assert comparison["config"] == []


# Rollouts


def test_rollouts_are_filtered_and_paged(client):
    everything = told(client, "rollouts", run="nano", stage="rl", count=50)
    assert (everything["total"], everything["matching"], everything["steps"]) == (64, 64, [18, 19])
    assert [row["step"] for row in everything["rows"]] == [19] * 32 + [18] * 18
    wrong = told(
        client, "rollouts", run="nano", stage="rl", verdict="wrong", first=18, last=18, shortest=30, longest=64
    )
    assert 0 < wrong["matching"] < 32
    for row in wrong["rows"]:
        assert (row["verdict"], row["step"]) == ("wrong", 18)
        assert 30 <= row["thought_tokens"] <= 64
    second = told(client, "rollouts", run="nano", stage="rl", offset=20, count=20)
    assert second["rows"] == everything["rows"][20:40]
    assert told(client, "rollouts", run="nano", stage="rl", task="letters")["matching"] == 0
    assert told(client, "rollouts", run="nano", stage="pretrain")["total"] == 0


def test_what_the_budget_forced_is_marked(client):
    found = told(client, "rollouts", run="nano", stage="rl", count=64)["rows"]
    cut = next(row for row in found if row["interrupted"])
    assert cut["thought"][-1] == ["</think>", "forced control"]
    free = next(row for row in found if not row["interrupted"])
    assert free["thought"][-1] == ["</think>", "control"]
    assert free["answer"][-1] == ["<|end|>", "control"]


def test_text_of_a_model_is_made_printable(client):
    row = told(client, "rollouts", run="nano", stage="eval", task="letters", count=1)["rows"][0]
    assert row["prompt"].startswith("</pre><script>alert('x')</script>\\x1b[2J\\u202e")
    assert (row["model"], row["mode"]) == ("rl", "greedy")


def test_new_rollouts_are_seen(root, tmp_path, template):
    shutil.copytree(root / "young", tmp_path / "young")
    client = TestClient(pages(tmp_path), base_url=URL)
    assert told(client, "rollouts", run="young", stage="rl")["total"] == 64
    (stage,) = Run.open(tmp_path / "young").stages()
    stage.save_rollouts(7, list(rows(groups(template, "countdown", 64, 1.0), template)))
    stage.save_rollouts(8, [])
    page = told(client, "rollouts", run="young", stage="rl")
    assert (page["total"], page["rows"][0]["step"]) == (104, 7)
    (tmp_path / "young/rl/rollouts/step-000007.parquet").unlink()
    assert told(client, "rollouts", run="young", stage="rl")["total"] == 64


# Reports


def test_runs_and_evaluations_say_whether_there_is_a_report(reported):
    client = TestClient(pages(reported), base_url=URL)
    assert [(line["summary"]["name"], line["report"]) for line in told(client, "runs")] == [("nano", True)]
    evaluations = {line["name"]: line for line in told(client, "evaluations")}
    assert {name: line["report"] for name, line in evaluations.items()} == {
        "evals/nano-rl-o1": True,
        "evals/other": False,
    }
    assert evaluations["evals/other"]["command"] == "steep eval /elsewhere/model"
    run = told(client, "run", run="nano")
    assert (run["report"], [line["name"] for line in run["evaluations"]]) == (True, ["evals/nano-rl-o1"])


def test_a_report_is_shown_in_a_sandbox_of_its_own(reported):
    client = TestClient(pages(reported), base_url=URL)
    for name in ("nano", "evals/nano-rl-o1"):
        response = client.get("/report", params={"of": name})
        assert response.content == (reported / name / "report" / "index.html").read_bytes()
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        policy = response.headers["content-security-policy"]
        assert policy.startswith("sandbox allow-scripts; default-src 'none'")
        assert "allow-same-origin" not in policy
        assert "connect-src" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"


def test_without_a_report_it_is_said_how_to_write_one(reported):
    response = TestClient(pages(reported), base_url=URL).get("/report", params={"of": "evals/other"})
    assert response.status_code == 404
    assert response.json() == {
        "error": "there is no report on evals/other",
        "fix": f"write one: steep report {reported / 'evals' / 'other'}",
    }


@pytest.mark.parametrize("name", ["../secret", "link", "linked"])
def test_no_report_outside_the_runs_is_shown(tmp_path, name):
    runs, secret = tmp_path / "runs", tmp_path / "secret" / "report"
    secret.mkdir(parents=True)
    (secret / "index.html").write_text("secret")
    (runs / "linked" / "report").mkdir(parents=True)
    (runs / "linked" / "report" / "index.html").symlink_to(secret / "index.html")
    (runs / "link").symlink_to(tmp_path / "secret")
    response = TestClient(pages(runs), base_url=URL).get("/report", params={"of": name})
    assert response.status_code == 404
    assert "lies outside" in response.json()["error"]


# Who may ask for what


@pytest.mark.parametrize("name", ["../secret", "/secret", "link", "nano/..", "nano/rl", "nowhere"])
def test_nothing_outside_the_runs_is_read(root, tmp_path, name):
    runs = tmp_path / "runs"
    shutil.copytree(root / "young", tmp_path / "secret")
    shutil.copytree(root / "young", runs / "nano")
    (runs / "link").symlink_to(tmp_path / "secret")
    client = TestClient(pages(runs), base_url=URL)
    for what, params in (
        ("run", {}),
        ("config", {}),
        ("rollouts", {"stage": "rl"}),
        ("courses", {"stage": "rl", "metric": "x"}),
    ):
        response = client.get(f"/api/{what}", params={"run": name, **params})
        assert response.status_code == 404
        assert re.search("lies outside|is not a run", response.json()["error"])


def test_a_stage_is_one_that_the_run_entered(client):
    response = client.get("/api/courses", params={"run": "nano", "stage": "../young/rl", "metric": "reward"})
    assert (response.status_code, response.json()["fix"]) == (404, "it has: pretrain, rl, eval")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_there_is_nothing_but_get(client, method):
    assert client.request(method, "/api/runs").status_code == 405
    assert client.request(method, "/").status_code == 405


def test_only_this_machine_s_own_names_are_answered(client):
    assert client.get("/api/runs", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/api/runs", headers={"host": "localhost:9000"}).status_code == 200


def test_every_answer_is_guarded(client):
    for path in ("/", "/index.js", "/api/runs", "/api/run?run=nowhere", "/nothing"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"


def test_the_page_asks_for_nothing_from_elsewhere(client):
    page = client.get("/").text
    files = re.findall(r'(?:src|href)="(\./[^"]+)"', page)
    assert sorted(files) == ["./index.css", "./index.js"]
    assert "http" not in re.sub(r"http://www\.w3\.org/\S+", "", page)
    for file in files:
        assert client.get(file).status_code == 200
    assert "url(" not in client.get("/index.css").text


def test_it_can_be_mounted_in_another_app(root):
    client = TestClient(Starlette(routes=[Mount("/runs", pages(root))]), base_url=URL)
    assert '<div id="page">' in client.get("/runs/").text
    assert client.get("/runs/index.js").status_code == 200
    assert len(client.get("/runs/api/runs").json()) == 4


def test_a_damaged_log_is_told_and_the_others_are_shown(root, tmp_path):
    for name in ("whole", "damaged"):
        shutil.copytree(root / "young", tmp_path / name)
    (tmp_path / "damaged/rl/metrics.jsonl").write_bytes(b"\0\0\n")
    client = TestClient(pages(tmp_path), base_url=URL)
    assert "damaged line" in client.get("/api/run", params={"run": "damaged"}).json()["error"]
    lines = {line["summary"]["name"]: line["summary"]["status"] for line in told(client, "runs")}
    assert lines["damaged"] == "unreadable"
    assert lines["whole"] != "unreadable"


def test_no_runs(tmp_path):
    assert told(TestClient(pages(tmp_path / "runs"), base_url=URL), "runs") == []
