"""The chat page as a person meets it, in a headless Chromium, before a server of a tiny random model."""

import json
import re

import pytest
from playwright.sync_api import expect

from steep.server import stream
from tests.server.browsing import NEEDS_CHROMIUM, PHONE, opened
from tests.server.serving import serving

pytestmark = NEEDS_CHROMIUM
TOKEN_S = 0.01
COUNTED = re.compile(r"^Thinking, \d+ s, [1-9]\d* tokens$")
THOUGHT = re.compile(r"^Thought for \d+\.\d s$")
REPLY = {
    "state": "done",
    "thoughts": "full",
    "thought": "5*3=15",
    "summary": "",
    "error": "",
    "began": 0,
    "thought_ms": 400,
    "took_ms": 900,
    "thought_tokens": 7,
    "answer_tokens": 3,
}


def url_of(client):
    return f"http://127.0.0.1:{client.port}/"


@pytest.fixture(scope="module")
def slow():
    """Of answers that can be watched while they are made."""
    with serving(endless=True, token_s=TOKEN_S) as client:
        yield client


@pytest.fixture
def page(browser, endless):
    with opened(browser, url_of(endless)) as page:
        yield page


@pytest.fixture
def slow_page(browser, slow):
    with opened(browser, url_of(slow)) as page:
        yield page


def ask(page, text="make 24", effort="medium"):
    set_effort(page, effort)
    page.get_by_label("question", exact=True).fill(text)
    page.keyboard.press("Enter")


def set_effort(page, name):
    efforts = ["none", "minimal", "low", "medium", "high", "xhigh", "max"]
    page.get_by_label("effort").fill(str(efforts.index(name)))
    expect(page.get_by_label("effort")).to_have_attribute("aria-valuetext", re.compile(f"^{name}, "))


def fold(page):
    """The button of the last thought."""
    return page.locator(".thought button").last


def finished(page, answers=1):
    """Waits until there are so many answers, all of them done."""
    expect(page.locator(".figures")).to_have_count(answers)
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)


def said(page):
    """The text of the one answer, once it is Markdown."""
    answer = page.locator(".turn.assistant .said")
    expect(answer).not_to_have_class(re.compile("plain"))
    return answer.inner_text()


def kept(page, *texts, question="make 24"):
    """Opens a conversation that ended with these answers to one question."""
    turns = [{"id": 0, "parent": None, "role": "user", "text": question}]
    for text in texts:
        made = {"model": "tiny", "effort": "low", "limit": None, "reply": REPLY | {"text": text}}
        turns.append({"id": len(turns), "parent": 0, "role": "assistant"} | made)
    talk = {"id": "old", "changed": 0, "turns": turns, "leaf": len(texts)}
    page.evaluate("talk => localStorage.setItem('steep.chat.old', talk)", json.dumps(talk))
    page.goto(page.url.split("#")[0] + "#/talk/old")
    page.reload()
    expect(page.locator(".figures")).to_have_count(1)


# Asking


def test_a_question_is_answered_after_a_thought_that_folds(slow_page):
    page = slow_page
    ask(page)
    expect(fold(page)).to_have_text(COUNTED)
    expect(fold(page)).to_have_attribute("aria-expanded", "true")
    expect(page.locator(".folded pre")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("Thinking")
    finished(page)
    expect(fold(page)).to_have_text(THOUGHT)
    expect(fold(page)).to_have_attribute("aria-expanded", "false")
    expect(page.locator(".folded[inert]")).to_have_count(1)
    expect(page.locator(".folded pre")).to_be_hidden()
    expect(page.locator(".turn.assistant header")).to_have_text("tiny, medium")
    expect(page.locator(".figures")).to_have_text(re.compile(r"^64 tokens of thought, 26 tokens of answer, \d+\.\d s$"))
    expect(page.get_by_role("status")).to_have_text("Answer ready, cut off")
    expect(page).to_have_title("make 24 · steep chat")


def test_what_the_reader_folds_stays_folded_and_what_is_unfolded_open(slow_page):
    page = slow_page
    ask(page, effort="max")
    fold(page).click()
    expect(fold(page)).to_have_text(COUNTED)
    expect(fold(page)).to_have_attribute("aria-expanded", "false")
    page.get_by_role("button", name="Answer now").click()
    finished(page)
    expect(fold(page)).to_have_attribute("aria-expanded", "false")
    ask(page, effort="max")
    expect(fold(page)).to_have_text(COUNTED)
    fold(page).click()
    fold(page).click()
    expect(fold(page)).to_have_attribute("aria-expanded", "true")
    page.get_by_role("button", name="Answer now").click()
    finished(page, answers=2)
    expect(fold(page)).to_have_attribute("aria-expanded", "true")
    expect(page.locator(".folded").last).to_contain_text("until it was told to answer")


def test_a_thought_is_ended_with_answer_now(slow_page):
    page = slow_page
    ask(page, effort="max")
    expect(fold(page)).to_have_text(COUNTED)
    page.get_by_role("button", name="Answer now").click()
    finished(page)
    thought = int(page.locator(".figures").inner_text().split()[0])
    assert 0 < thought < 800
    assert page.locator(".turn.assistant .said").inner_text()


def test_an_answer_that_waits_for_a_row_is_not_told_as_thinking(browser, monkeypatch):
    monkeypatch.setattr(stream, "SILENCE_S", 0.2)
    options = {"endless": True, "context": 4096, "rows": 1, "token_s": TOKEN_S}
    with serving(**options) as client, opened(browser, url_of(client)) as page:
        asked = {"model": "tiny", "input": "x", "stream": True, "reasoning": {"effort": "max"}}
        connection = client.begin("/v1/responses", asked)
        client.wait(lambda: client.model.driver.engine.active)
        ask(page, effort="max")
        expect(page.get_by_text("waiting…")).to_be_visible()
        page.wait_for_timeout(3000)
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        expect(page.get_by_role("button", name="Answer now")).to_have_count(0)
        expect(page.locator(".thought")).to_have_count(0)
        connection.close()
        expect(fold(page)).to_have_text(re.compile(r"^Thinking, [01] s"))
        page.get_by_role("button", name="Answer now").click()
        finished(page)
        thought, took = (float(box.inner_text().split()[-2]) for box in (fold(page), page.locator(".figures")))
        assert took > thought + 2


def test_an_answer_is_stopped(slow_page, slow):
    page = slow_page
    ask(page, effort="max")
    expect(fold(page)).to_have_text(COUNTED)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".turn .missing")).to_have_text("Stopped.")
    finished(page)
    slow.wait(lambda: slow.model.driver.engine.idle)
    ask(page, effort="max")
    expect(fold(page)).to_have_text(COUNTED)
    page.get_by_label("question", exact=True).press("Escape")
    expect(page.locator(".turn .missing")).to_have_count(2)
    expect(page.get_by_role("status")).to_have_text("Stopped")


def test_every_answer_is_announced(page):
    page.evaluate("""() => {
        const status = document.querySelector("[role=status]");
        window.announced = [""];
        new MutationObserver(() => {
            if (status.textContent != announced.at(-1)) announced.push(status.textContent);
        }).observe(status, { characterData: true, childList: true, subtree: true });
    }""")
    for answers in (1, 2):
        ask(page, effort="none")
        finished(page, answers)
    page.get_by_role("button", name="regenerate").last.click()
    expect(page.locator(".branches")).to_contain_text("2/2")
    finished(page, answers=2)
    expect(page.get_by_role("status")).to_have_text("Answer ready, cut off")
    ready = "Answer ready, cut off"
    assert page.evaluate("announced") == ["", ready, "", ready, "", ready]


def test_effort_and_limit_are_two_things(page):
    page.get_by_label("limit of thought in tokens").fill("20")
    ask(page, effort="high")
    finished(page)
    expect(page.locator(".turn.assistant header")).to_have_text("tiny, high, at most 20 tokens of thought")
    expect(page.locator(".figures")).to_contain_text("20 tokens of thought")
    ask(page, effort="none")
    finished(page, answers=2)
    expect(page.locator(".thought")).to_have_count(1)
    expect(page.locator(".figures").last).to_have_text(re.compile(r"^24 tokens of answer, "))


def test_what_the_server_refuses_is_told(browser):
    with serving(endless=True, context=128) as client:
        page = browser.new_page()  # it complains of the 400
        page.goto(url_of(client))
        page.get_by_label("limit of thought in tokens").fill("120")
        ask(page)
        expect(page.locator(".turn .missing")).to_have_text(re.compile("^No answer: 120 thinking tokens,"))
        page.close()


def test_the_model_is_chosen(browser):
    with serving(names=("tiny", "other")) as client, opened(browser, url_of(client)) as page:
        expect(page.get_by_role("heading")).to_have_text("Ask tiny")
        page.get_by_label("model").select_option("other")
        expect(page.get_by_role("heading")).to_have_text("Ask other")
        ask(page, effort="minimal")
        finished(page)
        expect(page.locator(".turn.assistant header")).to_have_text("other, minimal")
        page.reload()
        expect(page.get_by_label("model")).to_have_value("other")
        expect(page.get_by_label("effort")).to_have_value("1")


def test_what_a_server_that_thinks_in_chunks_allows(browser):
    with serving(endless=True, context=256, chunked=True) as client, opened(browser, url_of(client)) as page:
        set_effort(page, "max")
        expect(page.locator(".allowed")).to_have_text("max as long as it fits")
        expect(page.get_by_label("limit of thought in tokens")).to_have_attribute("max", "131072")


# Branches


def test_an_answer_is_made_again_and_both_are_kept(page):
    ask(page, effort="low")
    finished(page)
    first = said(page)
    page.get_by_role("button", name="regenerate").click()
    expect(page.locator(".branches")).to_contain_text("2/2")
    finished(page)
    assert said(page) != first
    page.get_by_role("button", name="previous version").click()
    expect(page.locator(".branches")).to_contain_text("1/2")
    assert said(page) == first


def test_a_question_is_edited_beside_the_one_before(page):
    ask(page, "make 24", effort="low")
    finished(page)
    ask(page, "and then", effort="low")
    finished(page, answers=2)
    page.get_by_role("button", name="edit").first.click()
    page.get_by_label("edit the question").fill("make 25")
    page.keyboard.press("Enter")
    expect(page.locator(".asked")).to_have_text(["make 25"])
    finished(page)
    page.get_by_role("button", name="regenerate").click()
    expect(page.locator(".branches")).to_have_text([re.compile("2/2"), re.compile("2/2")])
    finished(page)
    page.get_by_role("button", name="previous version").first.click()
    expect(page.locator(".asked")).to_have_text(["make 24", "and then"])
    page.get_by_role("button", name="edit").last.click()
    expect(page.get_by_label("edit the question")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator(".asked")).to_have_text(["make 24", "and then"])


# Comparing


def test_one_question_is_asked_at_four_budgets(page):
    page.get_by_role("link", name="compare", exact=True).click()
    page.get_by_label("budget 2 in tokens").fill("16")
    page.get_by_role("button", name="How many r's").click()
    columns = page.locator(".columns article")
    expect(columns.locator(".figures")).to_have_count(4)
    for column, budget in zip(columns.all(), (0, 16, 64, 256), strict=True):
        expect(column.get_by_label("in tokens")).to_have_value(str(budget))
        expect(column.locator(".verdict")).to_have_text(re.compile("^(correct|wrong|not checked)$"))
        if budget:
            expect(column.locator(".figures")).to_contain_text(f"{budget} tokens of thought")
    thoughts = columns.locator("pre").all_text_contents()
    assert [thought[-1] for thought in thoughts] == ["!", "!", "!"]  # the closing
    assert thoughts[1].startswith(thoughts[0][:-1])
    assert thoughts[2].startswith(thoughts[1][:-1])
    expect(page.get_by_role("status")).to_have_text("Answers ready")


def test_a_comparison_is_stopped_before_another_model_is_asked(browser):
    options = {"endless": True, "token_s": TOKEN_S, "names": ("tiny", "other")}
    with serving(**options) as client, opened(browser, url_of(client)) as page:
        page.get_by_role("link", name="compare", exact=True).click()
        page.get_by_label("budget 4 in tokens").fill("900")
        page.get_by_role("button", name="How many r's").click()
        expect(fold(page)).to_have_text(COUNTED)
        expect(page.get_by_label("model")).to_be_disabled()
        page.get_by_role("button", name="Stop").click()
        expect(page.locator(".columns .figures")).to_have_count(4)
        expect(page.get_by_role("status")).to_have_text("Stopped")
        page.get_by_label("model").select_option("other")
        expect(page.locator(".columns .figures")).to_have_count(0)
        page.get_by_label("budget 4 in tokens").fill("9")
        page.get_by_role("button", name="How many r's").click()
        expect(page.locator(".columns .figures")).to_have_count(4)
        expect(page.get_by_role("status")).to_have_text("Answers ready")


@pytest.mark.parametrize(
    ("question", "answer", "verdict"),
    [
        ("Use 3, 5 and 8 to make 25.", "(8-3)*5=25", "correct"),
        ("Use 3, 5 and 8 to make 25.", "You can do (8 − 3) × 5 = 25.", "correct"),
        ("Use 3, 5 and 8 to make 25.", "5*5", "wrong"),
        ("Use 3, 5 and 8 to make 25.", "8*3+5", "wrong"),
        ("Use 3, 5 and 8 to make 25.", "(8-3", "wrong"),
        ("Use 3, 5 and 8 to make 25.", "I cannot.", "not checked"),
        ("How many r's are in strawberry?", "There are 3.", "correct"),
        ("How many r's are in strawberry?", "2", "wrong"),
        ("How many r's are in strawberry?", "Three.", "not checked"),
        ("What is 47 + 85?", "132", "correct"),
        ("What is 47 + 85?", "47 + 85 = 1,132", "wrong"),
    ],
)
def test_answers_are_checked(page, question, answer, verdict):
    kept(page, answer, question=question)
    expect(page.locator(".verdict")).to_have_text(verdict)


def test_what_is_not_known_is_not_judged(page):
    kept(page, "3", question="What is love?")
    expect(page.locator(".verdict")).to_have_count(0)


# What a model writes

HOSTILE = """<script>hacked = true</script> <img src=x onerror="hacked = true"> <b onclick="hacked = true">b</b>

![remote](https://evil.example/x.png) <iframe src="https://evil.example"></iframe>
<style>body { display: none }</style>

[script](javascript:hacked=true) [data](data:text/html,x) [page](https://good.example/) [own](./v1/models)

$\\href{javascript:hacked=true}{x}$ $\\includegraphics{https://evil.example/y.png}$ $\\htmlStyle{position:fixed}{z}$
"""
RICH = """## Sum

Some **bold** and 8*3*1 = 24, for $5 and $10.

| a | b |
|---|---|
| 1 | 2 |

$$
\\sum_{i=1}^n i
+ \\boxed{\\frac{1}{2}}
$$

```python
def f(): return "</think>"  # $x$
```
"""


def test_hostile_markdown_is_harmless(page):
    page.on("dialog", lambda dialog: pytest.fail("a script of an answer ran"))
    kept(page, HOSTILE)
    answer = page.locator(".turn.assistant .said")
    expect(answer.locator(".katex").first).to_be_visible()
    expect(answer).to_contain_text("<script>hacked = true</script>")
    expect(answer.locator("img, script, iframe, style, [onclick], [onerror]")).to_have_count(0)
    links = {link.inner_text(): link for link in answer.locator("a").all() if link.inner_text()}
    where = {
        text: link.get_attribute("href") for text, link in links.items() if text in ("script", "data", "page", "own")
    }
    assert where == {"script": None, "data": None, "page": "https://good.example/", "own": None}
    assert {link.get_attribute("rel") for link in links.values()} == {"noopener noreferrer"}
    assert answer.locator("[href^='javascript']").count() == 0
    assert page.evaluate("typeof hacked") == "undefined"


def test_markdown_formulas_and_code(page):
    kept(page, RICH)
    answer = page.locator(".turn.assistant .said")
    expect(answer.locator("h2")).to_have_text("Sum")
    expect(answer.locator("p").first).to_have_text("Some bold and 8*3*1 = 24, for $5 and $10.")
    expect(answer.locator("td")).to_have_text(["1", "2"])
    expect(answer.locator(".hljs-keyword")).to_have_text(["def", "return"])
    expect(answer.locator("pre")).to_contain_text('def f(): return "</think>"  # $x$')
    expect(answer.locator(".katex-display .katex-html")).to_be_visible()
    expect(answer.locator("math")).to_have_count(1)
    expect(answer.locator(".katex")).to_have_count(1)
    page.evaluate("document.fonts.ready")
    loaded = "[...document.fonts].filter(font => font.status == 'loaded').map(font => font.family.replaceAll('\"', ''))"
    assert {"KaTeX_Main", "KaTeX_Math"} <= set(page.evaluate(loaded))
    assert answer.locator(".katex-html [style]").count() > 3  # set one by one; in HTML the policy would refuse them


def test_a_calculation_is_not_markdown(page):
    kept(page, "12.")
    expect(page.locator(".turn.assistant .said")).to_have_text("12.")
    expect(page.locator(".turn.assistant li")).to_have_count(0)


# Keeping


def test_conversations_outlive_the_page(slow_page):
    page = slow_page
    ask(page, "make 24", effort="minimal")
    finished(page)
    answer = said(page)
    page.get_by_role("link", name="new", exact=True).click()
    ask(page, "a long one", effort="max")
    expect(fold(page)).to_have_text(COUNTED)
    page.reload()
    expect(page.locator(".turn .missing")).to_have_text("Stopped.")
    expect(fold(page)).to_have_text("Thought, broken off")
    expect(page.locator("aside .talks a")).to_have_text(["a long one", "make 24"])
    page.locator("aside .talks a", has_text="make 24").click()
    expect(page.locator(".asked")).to_have_text("make 24")
    assert said(page) == answer
    page.on("dialog", lambda dialog: dialog.accept())
    page.locator("aside li", has_text="a long one").hover()
    page.locator("aside").get_by_label("delete a long one").click()
    expect(page.locator("aside .talks a")).to_have_text(["make 24"])
    page.reload()
    expect(page.locator("aside .talks a")).to_have_text(["make 24"])


def test_answers_are_made_while_another_conversation_is_read(slow_page):
    page = slow_page
    ask(page, "a slow one", effort="high")
    expect(fold(page)).to_have_text(COUNTED)
    page.get_by_role("link", name="new", exact=True).click()
    ask(page, "a quick one", effort="none")
    finished(page)
    page.locator("aside .talks a", has_text="a slow one").click()
    finished(page)
    expect(page.locator(".figures")).to_contain_text("128 tokens of thought")


def test_two_tabs_share_their_conversations(page):
    ask(page, "make 24", effort="none")
    finished(page)
    other = page.context.new_page()
    other.goto(page.url)
    ask(other, "and in the other tab", effort="none")
    finished(other, answers=2)
    expect(page.locator(".asked")).to_have_text(["make 24", "and in the other tab"])
    finished(page, answers=2)
    ask(page, "and here", effort="none")
    finished(page, answers=3)
    other.reload()
    expect(other.locator(".asked")).to_have_text(["make 24", "and in the other tab", "and here"])
    page.on("dialog", lambda dialog: dialog.accept())
    page.locator("aside li", has_text="make 24").hover()
    page.locator("aside").get_by_label("delete make 24").click()
    expect(other.locator("aside .talks a")).to_have_count(0)


def test_what_is_answered_in_one_tab_is_waited_for_in_the_others(browser):
    options = {"endless": True, "context": 4096, "token_s": TOKEN_S}
    with serving(**options) as client, opened(browser, url_of(client)) as page:
        ask(page, effort="none")
        finished(page)
        before, after = page.context.new_page(), page.context.new_page()
        before.goto(page.url)
        expect(before.locator(".figures")).to_have_count(1)
        ask(page, "a long one", effort="max")
        expect(fold(page)).to_have_text(COUNTED)
        after.goto(page.url)
        for tab in (before, after):
            expect(tab.locator(".asked")).to_have_text(["make 24", "a long one"])
            expect(tab.get_by_role("button", name="regenerate").last).to_be_disabled()
            expect(tab.locator(".turn.assistant").last.locator(".missing")).to_have_count(0)
            tab.get_by_label("question", exact=True).fill("and here")
            tab.keyboard.press("Enter")
        page.get_by_role("button", name="Answer now").click()
        finished(page, answers=2)
        answer = page.locator(".turn.assistant .said").last.inner_text()
        for tab in (before, after, page):
            expect(tab.locator(".figures")).to_have_count(2)
            expect(tab.locator(".asked")).to_have_text(["make 24", "a long one"])
            expect(tab.locator(".turn.assistant .said").last).to_have_text(answer, use_inner_text=True)
        ask(page, "left alone", effort="max")
        expect(fold(page)).to_have_text(COUNTED)
        expect(before.locator(".asked")).to_have_count(3)
        page.reload()
        expect(before.locator(".turn .missing").last).to_have_text("Stopped.")
        set_effort(before, "none")
        before.get_by_label("question", exact=True).press("Enter")  # what could not be asked
        finished(before, answers=4)


def test_what_is_damaged_in_the_browser_is_passed_over(page):
    for value in ("{", "5", '{"turns": 5}'):
        for key in ("steep.chat.a", "steep.settings"):
            page.evaluate("entry => localStorage.setItem(...entry)", [key, value])
        page.reload()
        expect(page.get_by_role("heading")).to_have_text("Ask tiny")
    ask(page, effort="none")
    finished(page)
    expect(page.locator("aside .talks a")).to_have_text(["make 24"])


def test_a_browser_without_room_is_told(page):
    ask(page, effort="none")
    finished(page)
    page.evaluate("""() => {
        for (let size = 1 << 22; size; size >>= 1)
            try { for (let i = 0; ; i++) localStorage.setItem(`fill ${size} ${i}`, "x".repeat(size)); } catch {}
    }""")
    ask(page, effort="none")
    finished(page, answers=2)
    expect(page.locator("aside .missing")).to_contain_text("The browser has no room for more")


def test_a_conversation_is_exported(page):
    kept(page, "wrong one", "(8-3)*5")
    with page.expect_download() as download:
        page.get_by_role("button", name="Markdown").click()
    assert download.value.suggested_filename == "make-24.md"
    assert download.value.path().read_text() == (
        "# make 24\n\n## You\n\nmake 24\n\n## tiny\n\n"
        "effort low, 7 tokens of thought, 3 tokens of answer, 0.9 s\n\n    5*3=15\n\n(8-3)*5\n"
    )
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON").click()
    talk = json.loads(download.value.path().read_text())
    assert [turn.get("text") or turn["reply"]["text"] for turn in talk["turns"]] == ["make 24", "wrong one", "(8-3)*5"]


def test_an_answer_is_copied(browser, endless):
    with opened(browser, url_of(endless), permissions=["clipboard-read", "clipboard-write"]) as page:
        kept(page, "**24**")
        page.get_by_role("button", name="copy").click()
        expect(page.get_by_role("button", name="copied")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == "**24**"


# What a server lets be seen


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("summary", "Thought for 64 tokens, until it was told to answer. This server tells how long a thought is"),
        ("hidden", "This server does not show thoughts."),
    ],
)
def test_thoughts_that_are_not_shown(browser, mode, told):
    with serving(endless=True, thoughts=mode) as client, opened(browser, url_of(client)) as page:
        ask(page)
        finished(page)
        expect(fold(page)).to_have_text(THOUGHT)
        fold(page).click()
        expect(page.locator(".folded")).to_contain_text(told)
        expect(page.locator(".folded pre")).to_have_count(0)
        expect(page.locator(".figures")).to_contain_text("64 tokens of thought")


def test_a_key_is_asked_for_once(browser):
    with serving(endless=True, api_key="kéy") as client:
        context = browser.new_context()
        page = context.new_page()  # it complains of the 401
        page.goto(url_of(client))
        page.get_by_label("API key").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("the API key is missing or wrong")
        page.get_by_label("API key").fill("kéy")
        page.get_by_role("button", name="Unlock").click()
        ask(page)
        finished(page)
        page.reload()
        finished(page)
        assert page.evaluate("Object.values(localStorage).join().includes('kéy')") is False
        other = context.new_page()
        other.goto(url_of(client))
        expect(other.get_by_label("API key")).to_be_visible()
        context.close()


# Reading


def test_the_end_is_kept_in_sight_unless_the_reader_scrolls_up(slow_page):
    page = slow_page
    kept(page, "\n\n".join(map(str, range(200))) + "\n\nend")
    expect(page.get_by_text("end", exact=True)).to_be_in_viewport()
    ask(page, effort="max")
    expect(fold(page)).to_be_in_viewport()
    expect(fold(page)).to_have_text(COUNTED)
    page.locator("main").evaluate("main => main.scrollTo(0, 0)")
    to_end = page.get_by_role("button", name="to the end")
    expect(to_end).to_be_visible()
    page.get_by_role("button", name="Answer now").click()
    finished(page, answers=2)
    assert page.locator("main").evaluate("main => main.scrollTop") == 0
    to_end.click()
    expect(page.locator(".figures").last).to_be_in_viewport()
    expect(to_end).to_have_count(0)


def test_the_keyboard_is_enough(slow_page):
    page = slow_page
    expect(page.get_by_label("question", exact=True)).to_be_focused()
    page.keyboard.type("two")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("lines")
    set_effort(page, "max")
    page.get_by_label("question", exact=True).press("Enter")
    expect(page.locator(".asked")).to_have_text("two\nlines", use_inner_text=True)
    expect(fold(page)).to_have_text(COUNTED)
    page.get_by_label("question", exact=True).evaluate("field => field.blur()")
    page.keyboard.press("a")
    finished(page)
    page.keyboard.press("o")
    expect(fold(page)).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("r")
    expect(page.locator(".branches")).to_contain_text("2/2")
    page.keyboard.press("Escape")
    expect(page.locator(".turn .missing")).to_have_text("Stopped.")
    page.keyboard.press("e")
    expect(page.get_by_label("edit the question")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="keys")).to_be_hidden()
    page.keyboard.press("c")
    expect(page.get_by_role("heading")).to_have_text("One question, four budgets")


def test_both_themes(page):
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(colour) != light


def test_a_phone_is_wide_enough(browser, slow):
    with opened(browser, url_of(slow), viewport=PHONE) as page:
        width = "document.documentElement.scrollWidth"
        expect(page.get_by_role("heading")).to_be_visible()
        assert page.evaluate(width) == PHONE["width"]
        kept(page, RICH + "x" * 200)
        expect(page.locator(".katex")).to_be_visible()
        assert page.evaluate(width) == PHONE["width"]
        ask(page, effort="max")
        expect(page.get_by_role("button", name="Answer now")).to_be_in_viewport()
        expect(page.get_by_label("limit of thought in tokens")).to_be_in_viewport()
        assert page.evaluate(width) == PHONE["width"]
        page.get_by_role("button", name="conversations").click()
        expect(page.get_by_role("dialog").get_by_role("link", name="make 24")).to_be_visible()
        page.keyboard.press("Escape")
        page.get_by_role("link", name="compare", exact=True).click()
        expect(page.locator(".columns article")).to_have_count(4)
        assert page.evaluate(width) == PHONE["width"]


def test_motion_is_reduced_where_that_is_wished(browser, endless):
    with opened(browser, url_of(endless), reduced_motion="reduce") as page:
        kept(page, "24")
        assert page.locator(".folded").evaluate("box => getComputedStyle(box).transitionDuration") == "0s"


def test_libraries_are_loaded_only_when_they_are_needed(browser, endless):
    with opened(browser, url_of(endless)) as page:
        loaded = "performance.getEntriesByType('resource').map(entry => entry.name.split('/').at(-1))"
        expect(page.get_by_role("heading")).to_be_visible()
        assert set(page.evaluate(loaded)) == {"index.js", "index.css", "models"}
        kept(page, "**24**")
        expect(page.locator(".said strong")).to_be_visible()
        assert set(page.evaluate(loaded)) == {"index.js", "index.css", "models", "markdown.js"}
