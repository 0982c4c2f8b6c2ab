"""The page of runs as a person meets it, in a headless Chromium."""

import json
import math
import shutil
import threading
import time
from contextlib import contextmanager

import pytest
import uvicorn
from playwright.sync_api import expect

from steep.rollouts import rows
from steep.runs import Log
from steep.server.pages import pages
from tests.evals.conftest import groups, new_run, reinforced, save_stage_model
from tests.server.browsing import NEEDS_CHROMIUM, PHONE, opened

pytestmark = NEEDS_CHROMIUM
PAUSE_MS = 200
COLOURED = """canvas => {
    const style = getComputedStyle(document.documentElement).getPropertyValue("--c0").trim();
    const [r, g, b] = [1, 3, 5].map(at => parseInt(style.slice(at, at + 2), 16));
    // A copy is read: reading the page's own canvas again and again makes Chromium complain in the page's name.
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", {willReadFrequently: true});
    copy.drawImage(canvas, 0, 0);
    const {data} = copy.getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let i = 0; i < data.length; i += 4)
        count += [r, g, b].every((wanted, at) => Math.abs(data[i + at] - wanted) < 12) && data[i + 3] > 200;
    return count;
}"""
LONG_TASKS = """
    window.longTasks = [];
    new PerformanceObserver(list => longTasks.push(...list.getEntries().map(entry => entry.duration)))
        .observe({type: "longtask", buffered: true});
"""


@contextmanager
def serving(root):
    server = uvicorn.Server(uvicorn.Config(pages(root), host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def url(root):
    with serving(root) as url:
        yield url


@pytest.fixture
def page(browser, url):
    """A page that fails the test if it complains, or asks for anything from elsewhere."""
    with opened(browser, url) as page:
        yield page


def go(page, place):
    page.goto(page.url.split("#")[0] + "#/" + place)


def drawn(page, title):
    """Pixels of the first colour in the chart of that title, once there are any."""
    figure = page.locator("figure", has_text=title)
    expect(figure.locator("b").first).not_to_be_empty()
    for _ in range(200):
        pixels = figure.locator("canvas").evaluate(COLOURED)
        if pixels:
            break
        page.wait_for_timeout(50)
    return pixels


def test_runs_are_listed_and_opened_with_the_keyboard(page):
    expect(page.locator(".runs li")).to_have_count(4)
    expect(page.locator(".runs li.arm")).to_contain_text(["study/0/main"])
    page.keyboard.press("/")
    page.keyboard.type("nano fin")
    expect(page.locator(".runs li")).to_have_count(1)
    page.locator("h1").click()  # out of the field
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text("nano")
    expect(page).to_have_title("nano · steep runs")


def test_curves_are_drawn(page):
    go(page, "run/nano")
    expect(page.locator("figure")).to_have_count(7)
    assert drawn(page, "Reward") > 100
    expect(page.locator("figure", has_text="Accuracy, countdown").locator("li")).to_have_count(2)
    page.get_by_text("more curves").click()
    expect(page.locator("figure", has_text="tokens_sampled")).to_be_visible()


def test_a_chart_is_read_with_the_keyboard(page):
    go(page, "run/nano")
    assert drawn(page, "Reward")
    reward = page.locator("figure", has_text="Reward")
    reward.locator(".plot").focus()
    page.keyboard.press("Home")
    expect(reward.locator(".where")).to_have_text("step 0")
    for _ in range(7):
        page.keyboard.press("ArrowRight")
    expect(reward.locator(".where")).to_have_text("7: entropy, fell by half")
    page.keyboard.press("+")
    expect(page.get_by_text("all steps")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_text("all steps")).to_have_count(0)


def test_health_events_are_listed(page):
    go(page, "run/nano?stage=rl")
    expect(page.get_by_role("table", name="health events").locator("tbody tr")).to_have_text("7entropywarnfell by half")
    go(page, "run/nano?stage=pretrain")
    expect(page.get_by_role("table", name="health events")).to_have_count(0)


def test_a_run_under_way_is_followed(browser, root, tmp_path):
    shutil.copytree(root / "young", tmp_path / "young")
    with serving(tmp_path) as url, opened(browser, url) as page:
        go(page, "run/young")
        assert drawn(page, "Reward")
        expect(page.get_by_role("button", name="rl 3 steps")).to_be_visible()
        Log(tmp_path / "young/rl/metrics.jsonl").append({"step": 3, "reward": 0.125})
        expect(page.get_by_role("button", name="rl 4 steps")).to_be_visible(timeout=60_000)
        expect(page.locator("figure", has_text="Reward").locator("b")).to_have_text("0.125", timeout=60_000)


def test_rollouts_are_filtered_and_unfolded(page):
    go(page, "run/nano?view=rollouts&stage=rl")
    expect(page.locator("article")).to_have_count(20)
    expect(page.locator("output")).to_have_text("64 of 64")
    assert page.locator("article details[open]").count() == 0
    page.get_by_label("verdict").select_option("wrong")
    expect(page.locator("output")).not_to_have_text("64 of 64")
    assert set(page.locator("article header b").all_inner_texts()) == {"wrong"}
    page.get_by_label("thought, from").fill("60")
    page.get_by_label("thought, from").press("Enter")
    page.locator("h1").click()
    page.keyboard.press("j")
    page.keyboard.press("o")
    expect(page.locator("article").first.locator("mark.forced")).to_be_visible()
    assert "shortest=60" in page.url
    assert "verdict=wrong" in page.url


def test_pages_of_rollouts_are_turned(page):
    go(page, "run/nano?view=rollouts&stage=rl")
    expect(page.get_by_text("1 to 20", exact=True)).to_be_visible()
    page.keyboard.press("n")
    expect(page.get_by_text("21 to 40", exact=True)).to_be_visible()
    page.keyboard.press("p")
    expect(page.get_by_text("1 to 20", exact=True)).to_be_visible()


def test_what_a_model_writes_is_only_text(page):
    page.on("dialog", lambda dialog: pytest.fail("a script of a rollout ran"))
    go(page, "run/nano?view=rollouts&stage=eval&task=letters")
    expect(page.locator(".prompt").first).to_contain_text("</pre><script>alert('x')</script>")


def test_config_is_filtered(page):
    go(page, "run/nano?view=config")
    page.get_by_label("filter fields").fill("num_st")
    expect(page.locator(".config dt")).to_have_text(["rl.num_steps"])
    expect(page.locator(".config mark")).to_have_text(["rl.num_steps"])


def test_runs_are_compared(page):
    page.get_by_label("compare nano").check()
    page.get_by_label("compare young").check()
    page.locator("h1").click()
    page.keyboard.press("c")
    expect(page.locator("h1")).to_have_text("2 runs")
    reward = page.locator("figure", has_text="Reward")
    expect(reward.locator("li")).to_have_count(2)
    expect(reward.locator("li").first).to_contain_text("nano")
    expect(page.get_by_text("The configs are the same.")).to_be_visible()


def test_a_study_shows_its_arms(page):
    go(page, "run/study")
    expect(page.locator(".runs .name")).to_have_text(["study/0/main"])
    expect(page.get_by_text("Not begun: 0/control")).to_be_visible()


def test_what_is_not_there_is_told(browser, url):
    page = browser.new_page()
    page.goto(url + "#/run/nowhere")
    expect(page.get_by_role("alert")).to_contain_text("nowhere is not a run")
    page.close()


@pytest.fixture(scope="module")
def reporting(reported):
    with serving(reported) as url:
        yield url


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_reports_are_opened_with_the_keyboard(browser, reporting, theme):
    with opened(browser, reporting, color_scheme=theme) as page:
        expect(page.locator(".runs li")).to_have_count(1)
        page.keyboard.press("j")
        page.keyboard.press("r")
        expect(page.get_by_role("heading", name="How it was made")).to_be_visible()
        expect(page).to_have_title("nano: report")
        paper = {"light": "rgb(253, 253, 252)", "dark": "rgb(21, 24, 28)"}[theme]
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
        page.get_by_label("verdict").select_option("wrong")  # its own script runs
        assert 0 < page.locator("article:visible").count() < page.locator("article").count()
        page.go_back()
        go(page, "run/nano")
        expect(page.get_by_role("link", name="report", exact=True)).to_be_visible()
        page.keyboard.press("r")
        expect(page).to_have_title("nano: report")


def test_evaluations_are_listed_with_their_reports(browser, reporting):
    with opened(browser, reporting) as page:
        evaluations = page.get_by_role("table", name="evaluations").locator("tbody tr")
        expect(evaluations).to_have_count(2)
        expect(evaluations.filter(has_text="evals/other")).to_contain_text("none yet")
        go(page, "run/nano")
        expect(evaluations).to_have_count(1)
        page.get_by_role("link", name="report on evals/nano-rl-o1").click()
        expect(page).to_have_title("nano-rl-o1: report")


def test_a_report_can_ask_the_server_for_nothing(browser, reporting):
    with opened(browser, reporting + "report?of=nano") as page:
        assert page.evaluate("origin") == "null"


def test_a_phone_is_wide_enough_for_a_report(browser, reporting):
    for of in ("nano", "evals/nano-rl-o1"):
        with opened(browser, f"{reporting}report?of={of}", viewport=PHONE) as page:
            assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_both_themes(page):
    go(page, "run/nano")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert drawn(page, "Reward") > 100
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    assert drawn(page, "Reward") > 100  # drawn again in the colours of the dark


@pytest.mark.parametrize(
    "place", ["", "run/nano", "run/nano?view=rollouts", "run/nano?view=config", "compare?run=nano&run=young"]
)
def test_a_phone_is_wide_enough(browser, url, place):
    with opened(browser, url, viewport=PHONE) as page:
        go(page, place)
        page.locator(".runs li, figure canvas, article, .config dt").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


@pytest.fixture(scope="module")
def large(tmp_path_factory, template):
    """100,000 steps, and 50,000 rollouts."""
    root = tmp_path_factory.mktemp("large")
    run = new_run(root / "large")
    stage = reinforced(run, template, steps=1)
    (first,) = stage.metrics()
    with open(stage.path / "metrics.jsonl", "w") as file:
        for step in range(100_000):
            file.write(json.dumps(first | {"step": step, "reward": math.sin(step / 9000) + step % 7 / 70}) + "\n")
    saved = list(rows(groups(template, "countdown", 256, 1.0, problems=50, samples=10), template))
    for step in range(100):
        stage.save_rollouts(step, saved)
    save_stage_model(stage, template)
    return root


@pytest.mark.slow
def test_a_large_run_causes_no_pause(browser, large):
    with serving(large) as url, opened(browser, url) as page:
        page.add_init_script(LONG_TASKS)
        pauses = []
        for _ in range(3):  # another program may take the core from one
            page.goto("about:blank")
            page.goto(url + "#/run/large")
            assert drawn(page, "Reward") > 100
            go(page, "run/large?view=rollouts")
            expect(page.locator("output")).to_have_text("50,000 of 50,000")
            page.get_by_label("verdict").select_option("wrong")
            expect(page.locator("output")).not_to_have_text("50,000 of 50,000")
            pauses.append(max(page.evaluate("longTasks"), default=0))
        assert min(pauses) < PAUSE_MS, pauses
