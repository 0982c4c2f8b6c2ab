"""Conversations with hostile messages: what is rendered is what was meant, and what is read is what was sampled."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steep.config import override
from steep.errors import ConfigError, ModelError, SteepError
from steep.tokens import Control, Template, TemplateConfig, Text, Tokenizer, Turn, chatml, compact
from steep.types import Budget, Demonstration, Message

CORPUS = ["user and assistant and system think, then answer: 12 + 34 = 46.\n\nTime is up."] * 3


def template(config: TemplateConfig) -> Template:
    return Template(Tokenizer.train(CORPUS, vocab_size=320, control=config.control), config)


def keeping(config: TemplateConfig) -> TemplateConfig:
    return dataclasses.replace(config, keep_thoughts=True)


COMPACT = template(compact())
CHATML = template(chatml())
SILENT = template(chatml(think_open=None, think_close=None))
KEEPING = template(keeping(compact()))
ALL = [COMPACT, CHATML, SILENT, KEEPING, template(keeping(chatml()))]

marks = [
    "<think>",
    "</think>",
    "<|end|>",
    "<|im_end|>",
    "<|assistant|>",
    "<|im_start|>",
    "<|",
    "|>",
    "</thi",
    "nk>",
    "\0",
]
hostile = st.lists(st.one_of(st.text(), st.sampled_from([*marks, "assistant\n", "\n", "<<think>think>"]))).map("".join)
messages = st.lists(
    st.builds(
        lambda role, content, thought: Message(
            role=role, content=content, thought=thought if role == "assistant" else None
        ),
        st.sampled_from(["system", "user", "assistant"]),
        hostile,
        st.none() | hostile,
    ),
    max_size=4,
)
check = settings(deadline=None, max_examples=25)
each_template = pytest.mark.parametrize("template", ALL)


def user(content: str) -> Message:
    return Message(role="user", content=content)


def shown(template: Template, ids: tuple[int, ...]) -> str:
    return template.tokenizer.decode(ids, control=True)


def test_a_compact_prompt():
    turns = [Message(role="system", content="Be brief."), user("2+3?")]
    expected = "<|system|>Be brief.<|end|><|user|>2+3?<|end|><|assistant|><think>"
    assert shown(COMPACT, COMPACT.render(turns)) == expected


def test_a_chatml_prompt():
    expected = "<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n"
    assert shown(CHATML, CHATML.render([user("2+3?")])) == expected + "<think>"
    assert shown(SILENT, SILENT.render([user("2+3?")])) == expected


def test_earlier_thoughts_are_dropped_or_kept():
    turns = [user("2+3?"), Message(role="assistant", content="5", thought="easy"), user("sure?")]
    start, rest = "<|user|>2+3?<|end|><|assistant|>", "5<|end|><|user|>sure?<|end|><|assistant|><think>"
    assert shown(COMPACT, COMPACT.render(turns)) == start + rest
    assert shown(KEEPING, KEEPING.render(turns)) == start + "<think>easy</think>" + rest


def test_compact_control_tokens():
    roles = ("<|system|>", "<|user|>", "<|assistant|>")
    assert compact().control == ("<|pad|>", "<|end|>", *roles, "<think>", "</think>", "<|document|>")
    assert (COMPACT.pad_id, COMPACT.end_ids, COMPACT.document_id) == (0, {1}, 7)
    assert (COMPACT.think_open_id, COMPACT.think_close_id) == (5, 6)
    assert (SILENT.think_open_id, SILENT.think_close_id) == (None, None)


@each_template
@given(turns=messages)
@check
def test_messages_place_no_control_token(template: Template, turns: list[Message]):
    empty = [dataclasses.replace(turn, content="", thought=None if turn.thought is None else "") for turn in turns]
    control = template.tokenizer.control_ids
    assert [id for id in template.render(turns) if id in control] == [
        id for id in template.render(empty) if id in control
    ]


@each_template
@given(turns=messages)
@check
def test_a_conversation_only_grows(template: Template, turns: list[Message]):
    opening = len(template.render([]))
    for k in range(len(turns)):
        history = template.render(turns[:k])[:-opening]
        assert template.render(turns[: k + 1])[: len(history)] == history


@given(turns=messages, thought=hostile, answer=hostile)
@check
def test_a_kept_response_is_in_the_next_prompt(turns: list[Message], thought: str, answer: str):
    prompt, response = KEEPING.demonstrate(turns, Demonstration(thought=thought, answer=answer))
    said = Message(role="assistant", content=answer, thought=thought)
    assert KEEPING.render([*turns, said, user("and?")])[: len(prompt) + len(response)] == prompt + response


@each_template
@given(turns=messages, thought=hostile, answer=hostile)
@check
def test_a_demonstration_is_read_back(template: Template, turns: list[Message], thought: str, answer: str):
    prompt, response = template.demonstrate(turns, Demonstration(thought=thought, answer=answer))
    assert prompt == template.render(turns)
    assert response[-1] == template.tokenizer.control(template.config.end[0])
    assert template.thought(response) == ("" if template.think_close_id is None else thought)
    assert template.answer(response) == answer


def test_split_is_at_the_first_close():
    close, end, think = COMPACT.think_close_id, 1, COMPACT.think_open_id
    assert COMPACT.split([50, 51, close, 52, think, 53, close, 54, end]) == ((50, 51), (52, 53, 54))
    assert COMPACT.split(np.array([50, close, 52], dtype=np.int32)) == ((50,), (52,))
    assert COMPACT.split([close, end]) == ((), ())
    assert COMPACT.split([]) == ((), ())


def test_a_thought_that_never_ended_has_no_answer():
    ids = tuple(COMPACT.tokenizer.encode("it is 5, </think>5"))
    assert COMPACT.split(ids) == (ids, ())
    assert COMPACT.answer(ids) == ""
    assert COMPACT.thought(ids) == "it is 5, </think>5"


def test_all_is_answer_without_a_thought_section():
    ids = tuple(SILENT.tokenizer.encode("</think>5"))
    assert SILENT.split([*ids, *SILENT.end_ids]) == ((), ids)


def test_budgets():
    close = CHATML.think_close_id
    phrase = tuple(CHATML.tokenizer.encode(chatml().closing))
    assert CHATML.budget(256) == Budget(thought=256, answer=1024, closing=(*phrase, close))
    assert CHATML.budget(None, 8) == Budget(thought=None, answer=8, closing=(*phrase, close))
    assert CHATML.budget(0, 8) == Budget(thought=0, answer=8, closing=(close,))
    assert COMPACT.budget(16) == Budget(thought=16, answer=64, closing=(COMPACT.think_close_id,))
    assert SILENT.budget(256) == Budget(thought=0, answer=1024, closing=())
    wait = tuple(CHATML.tokenizer.encode("\nWait"))
    assert CHATML.budget(8, 8, 2) == Budget(thought=8, answer=8, closing=(*phrase, close), extension=wait, extensions=2)


@pytest.mark.parametrize(("thought", "answer"), [(-1, 8), (8, 0)])
def test_a_budget_that_cannot_be_kept(thought: int, answer: int):
    with pytest.raises(ConfigError):
        COMPACT.budget(thought, answer)


def test_efforts():
    assert COMPACT.effort("none") == COMPACT.budget(0)
    assert COMPACT.effort("medium") == COMPACT.budget(64)
    assert COMPACT.effort("max") == COMPACT.budget(None)
    with pytest.raises(SteepError, match=r"no effort 'huge'\n.*none, minimal, low, medium, high, xhigh, max"):
        COMPACT.effort("huge")


@pytest.mark.parametrize(
    "change",
    [
        lambda config: dataclasses.replace(config, think_open=None),
        lambda config: dataclasses.replace(config, end=()),
        lambda config: dataclasses.replace(config, end=("<|pad|>",)),
        lambda config: dataclasses.replace(config, pad="<|end|>"),
        lambda config: dataclasses.replace(config, assistant=Turn(prefix=(), suffix=(Text("<|end|>"),))),
        lambda config: dataclasses.replace(config, efforts={"huge": 1}),
        lambda config: dataclasses.replace(config, efforts={"low": -1}),
        lambda config: dataclasses.replace(config, answer=0),
    ],
)
def test_a_config_that_cannot_work(change: Callable[[TemplateConfig], TemplateConfig]):
    with pytest.raises(ConfigError):
        change(compact())


def test_a_tokenizer_without_the_templates_tokens():
    with pytest.raises(ModelError, match=r"no control token '<\|endoftext\|>'"):
        Template(COMPACT.tokenizer, chatml())


def test_overrides_reach_a_template():
    config = override(compact(), ["--answer", "5", "--closing", "Done."])
    assert config == dataclasses.replace(compact(), answer=5, closing="Done.")


@each_template
def test_save_then_load(template: Template, tmp_path: Path):
    template.save(tmp_path)
    loaded = Template.load(tmp_path)
    assert loaded.config == template.config
    assert loaded.render([user("2+3?")]) == template.render([user("2+3?")])


def test_text_and_control_stay_apart_on_disk(tmp_path: Path):
    turn = Turn(prefix=(Text("<|user|>"), Control("<|user|>")), suffix=(Control("<|end|>"),))
    template(dataclasses.replace(compact(), user=turn)).save(tmp_path)
    saved = json.loads((tmp_path / "steep.json").read_text())
    assert saved["user"]["prefix"] == [{"text": "<|user|>"}, {"control": "<|user|>"}]
    assert Template.load(tmp_path).config.user == turn


def test_loading_says_what_is_wrong(tmp_path: Path):
    with pytest.raises(ModelError, match=r"has no steep.json.*\n.*chatml\(\)"):
        Template.load(tmp_path)
    COMPACT.save(tmp_path)
    file = tmp_path / "steep.json"
    whole = json.loads(file.read_text())
    for broken, problem in (({"answer": "many"}, "answer"), ({"anwser": 3}, "anwser"), ({"pad": None}, "pad")):
        file.write_text(json.dumps(whole | broken))
        with pytest.raises(ModelError, match=rf"steep.json cannot be used: {problem}"):
            Template.load(tmp_path)
    file.write_text("{")
    with pytest.raises(ModelError, match=r"steep.json cannot be used"):
        Template.load(tmp_path)


CONVERSATION = [
    Message(role="system", content="Be brief, \"quote\" and 'quote'.\n"),
    user("  2+3?\n\nAs a number 🙂"),
    Message(role="assistant", content="5", thought="2, 3: 5.\n"),
    user("{{ sure }} {% if %} \\n ?"),
    Message(role="assistant", content="\n\nYes. "),
    user(""),
]


@each_template
@pytest.mark.parametrize("turns", [CONVERSATION[1:2], CONVERSATION[:2], CONVERSATION[1:4], CONVERSATION])
def test_transformers_renders_the_same_ids(template: Template, turns: list[Message], tmp_path: Path):
    from transformers import AutoTokenizer

    template.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    dicts = [
        {"role": turn.role, "content": turn.content}
        | ({} if turn.thought is None else {"reasoning_content": turn.thought})
        for turn in turns
    ]
    ids = theirs.apply_chat_template(dicts, add_generation_prompt=True, return_dict=False)
    assert tuple(ids) == template.render(turns)
    history = theirs.apply_chat_template(dicts, return_dict=False)
    assert tuple(history) == template.render(turns)[: len(history)]
    assert (theirs.eos_token, theirs.pad_token) == (template.config.end[0], template.config.pad)


def test_the_chat_template_refuses_an_unknown_role(tmp_path: Path):
    from transformers import AutoTokenizer

    COMPACT.save(tmp_path)
    with pytest.raises(Exception, match="unknown role tool"):
        AutoTokenizer.from_pretrained(tmp_path).apply_chat_template([{"role": "tool", "content": "5"}])
