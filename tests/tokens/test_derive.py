"""Templates of models that come without one: they speak as the model's own does, and hostile text stays text."""

import dataclasses
import json
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steep.errors import ModelError
from steep.tokens import Template, Tokenizer, chatml, derive, load_template, spare_tokens
from steep.types import Demonstration, Message

CORPUS = ["user and assistant and system think, then answer: 12 + 34 = 46.\n\nTime is up."] * 3
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
THINK = ["<think>", "</think>"]
DEEPSEEK = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<|EOT|>"]
LLAMA3_NAMES = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
LLAMA3_TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
"""As published with Meta-Llama-3-8B-Instruct."""
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""As published with SmolLM2-135M-Instruct."""
SMOLLM2_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def tokenizer(*control):
    return Tokenizer.train(CORPUS, 330, control)


def derived(control, chat_template=None):
    made = tokenizer(*control)
    return Template(made, derive(made, chat_template, "a model"))


QWEN3 = derived([*CHATML, *THINK])
SMOL = derived(CHATML, SMOLLM2)
R1 = derived([*DEEPSEEK, *THINK])
KEEPING = Template(R1.tokenizer, dataclasses.replace(R1.config, keep_thoughts=True))
LLAMA3 = derived(LLAMA3_NAMES)
BASE = derived(["<|endoftext|>", "<|padding|>"])
ALL = {"qwen3": QWEN3, "smollm2": SMOL, "r1": R1, "r1 keeping thoughts": KEEPING, "llama 3": LLAMA3, "base": BASE}


def user(content):
    return Message(role="user", content=content)


def assistant(content, thought=None):
    return Message(role="assistant", content=content, thought=thought)


def shown(template, *messages):
    return template.tokenizer.decode(template.render(messages), control=True)


def test_chatml_with_think_tokens():
    assert QWEN3.config == chatml()
    assert shown(QWEN3, user("2+3?")) == "<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n<think>"


def test_chatml_without_think_tokens_and_with_a_default_system_message():
    assert SMOL.config == dataclasses.replace(chatml(None, None), default_system=SMOLLM2_SYSTEM)
    begun = f"<|im_start|>system\n{SMOLLM2_SYSTEM}<|im_end|>\n"
    asked = "<|im_start|>user\n2+3?<|im_end|>\n<|im_start|>assistant\n"
    assert shown(SMOL, user("2+3?")) == begun + asked
    assert shown(SMOL, Message(role="system", content="Be brief."), user("2+3?")) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n" + asked
    )
    assert shown(SMOL) == "<|im_start|>assistant\n"


def test_a_base_model_is_asked_in_plain_text(caplog):
    made = tokenizer("</s>", "<unk>")
    with caplog.at_level(logging.WARNING):
        config = derive(made, None, "a model")
    assert "a model: its tokenizer has no tokens for turns, so it is asked in plain text" in caplog.text
    turns = [Message(role="system", content="Be brief."), user("2+3?"), assistant("5"), user("sure?")]
    assert shown(Template(made, config), *turns) == (
        "Be brief.\n\nQuestion: 2+3?\nAnswer:5</s>\n\nQuestion: sure?\nAnswer:"
    )
    assert (config.pad, config.end, spare_tokens(made)) == ("<unk>", ("</s>",), None)


@pytest.mark.parametrize("names", [["</s>"], ["<unk>", "<s>"], ["</s>", "<unk>", "[INST]", "[/INST]"]])
def test_what_has_no_end_or_speaks_otherwise_is_not_asked_in_plain_text(names):
    with pytest.raises(ModelError, match="speaks neither ChatML nor"):
        derive(tokenizer(*names), None, "a model")


def test_a_model_with_a_template_of_its_own_is_not_asked_in_plain_text():
    with pytest.raises(ModelError, match="speaks neither ChatML nor"):
        derive(tokenizer("</s>", "<unk>"), "{{ '<|user|>' + messages[0]['content'] }}", "a model")


def test_llama_3_keeps_tokens_in_reserve():
    assert spare_tokens(LLAMA3.tokenizer) == ("<|reserved_special_token_0|>", "<|reserved_special_token_1|>")


def test_deepseek():
    turns = [Message(role="system", content="Be brief."), user("2+3?"), assistant("5", "easy"), user("sure?")]
    start, end = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
    assert shown(R1, *turns) == (
        f"{start}Be brief.<｜User｜>2+3?<｜Assistant｜>5{end}<｜User｜>sure?<｜Assistant｜><think>"
    )
    assert shown(KEEPING, *turns[1:]) == (
        f"{start}<｜User｜>2+3?<｜Assistant｜><think>easy</think>5{end}<｜User｜>sure?<｜Assistant｜><think>"
    )
    assert R1.config.pad == "<|EOT|>"


@pytest.mark.parametrize("system", [[], [Message(role="system", content="Be brief.")]], ids=["default", "own"])
@pytest.mark.parametrize(
    ("template", "own", "asked"),
    [
        (SMOL, {"eos_token": "<|im_end|>", "chat_template": SMOLLM2}, "  2+3?\n"),
        (LLAMA3, {"bos_token": "<|begin_of_text|>", "chat_template": LLAMA3_TEMPLATE}, "2+3?"),  # it strips contents
    ],
    ids=["smollm2", "llama 3"],
)
def test_the_models_own_template_gives_the_same_ids(template, own, asked, system, tmp_path):
    from transformers import AutoTokenizer

    template.tokenizer.save(tmp_path, own)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    turns = [*system, user(asked), assistant("It is 5. 🙂"), user("{{ sure }}?")]
    ids = theirs.apply_chat_template(
        [{"role": turn.role, "content": turn.content} for turn in turns], add_generation_prompt=True, return_dict=False
    )
    assert tuple(ids) == template.render(turns)


@pytest.mark.parametrize("name", ALL)
def test_the_template_written_for_other_programs_gives_the_same_ids(name, tmp_path):
    from transformers import AutoTokenizer

    template = ALL[name]
    template.save(tmp_path)
    assert Template.load(tmp_path).config == load_template(tmp_path).config == template.config
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for turns in ([user("2+3?"), assistant("5"), user("sure?")], [Message(role="system", content="Be."), user("?")]):
        dicts = [{"role": turn.role, "content": turn.content} for turn in turns]
        ids = theirs.apply_chat_template(dicts, add_generation_prompt=True, return_dict=False)
        assert tuple(ids) == template.render(turns)


names = [*CHATML, *THINK, *DEEPSEEK, *LLAMA3_NAMES]
marks = [*names, "Answer:", "Question: ", "<|", "|>", "</thi", "nk>", "<<think>think>", "assistant\n", "\n", "\0"]
hostile = st.lists(st.one_of(st.text(), st.sampled_from(marks))).map("".join)
exchanges = st.lists(st.tuples(hostile, hostile, hostile), min_size=1, max_size=4)
check = settings(deadline=None, max_examples=40)
each_template = pytest.mark.parametrize("template", ALL.values(), ids=ALL)


def conversation(exchange):
    return [turn for asked, thought, said in exchange for turn in (user(asked), assistant(said, thought))]


@each_template
@given(exchange=exchanges, system=st.none() | hostile)
@check
def test_a_conversation_only_grows(template, exchange, system):
    begun = [] if system is None else [Message(role="system", content=system)]
    turns = [*begun, *conversation(exchange)]
    opening = len(template.config.opening) and len(template._ids(template.config.opening))
    before = ()
    for count in range(len(begun) + 1, len(turns) + 1):
        history = template.render(turns[:count])[:-opening]
        assert history[: len(before)] == before
        before = history


@given(exchange=exchanges, question=hostile, thought=hostile, answer=hostile)
@check
def test_a_kept_response_is_in_the_next_prompt(exchange, question, thought, answer):
    turns = [*conversation(exchange), user(question)]
    prompt, response = KEEPING.demonstrate(turns, Demonstration(thought=thought, answer=answer))
    after = KEEPING.render([*turns, assistant(answer, thought), user("and?")])
    assert after[: len(prompt) + len(response)] == prompt + response


@each_template
@given(exchange=exchanges, system=hostile)
@check
def test_hostile_text_places_no_control_token(template, exchange, system):
    control = template.tokenizer.control_ids
    turns = [Message(role="system", content=system), *conversation(exchange)]
    empty = [dataclasses.replace(turn, content="", thought=None if turn.thought is None else "") for turn in turns]
    placed, expected = ([id for id in template.render(each) if id in control] for each in (turns, empty))
    assert placed == expected


@each_template
@given(exchange=exchanges, thought=hostile, answer=hostile)
@check
def test_a_demonstration_is_read_back(template, exchange, thought, answer):
    _, response = template.demonstrate(conversation(exchange), Demonstration(thought=thought, answer=answer))
    thinks = template.think_close_id is not None
    assert template.thought(response) == (thought if thinks else "")
    assert template.answer(response) == answer


def test_a_tokenizer_is_extended():
    smol = SMOL.tokenizer
    longer = smol.extended(["<think>", "<|im_end|>", "</think>"])
    assert longer.vocab_size == smol.vocab_size + 2
    assert [longer.control(name) for name in THINK] == [smol.vocab_size, smol.vocab_size + 1]
    assert longer.control("<|im_end|>") == smol.control("<|im_end|>")
    for text in ("<think>2+3</think>", "the 12 ways\n", "🙂"):
        assert longer.encode(text) == smol.encode(text)
    assert longer.decode([longer.control("<think>")], control=True) == "<think>"


def test_other_programs_agree_on_an_extended_tokenizer(tmp_path):
    from transformers import AutoTokenizer

    longer = SMOL.tokenizer.extended(THINK)
    longer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    expected = [longer.control("<think>"), *longer.encode("2+3"), longer.control("</think>")]
    assert theirs.encode("<think>2+3</think>", add_special_tokens=False) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["<|reserved_special_token_0|>", "<|reserved_special_token_1|>"], 2),
        (["[PAD151646]", "[PAD151647]", "[PAD151648]"], 2),
        (["<unused0>"], None),
        (["<jupyter_start>", "<issue_start>", "<|fim_pad|>", "[PAD]"], None),
    ],
)
def test_tokens_in_reserve(names, expected):
    spare = spare_tokens(tokenizer(*CHATML, *names))
    assert spare == (None if expected is None else tuple(names[:2]))


@pytest.mark.parametrize(
    "settings",
    [
        {"chat_template": SMOLLM2},
        {"chat_template": [{"name": "tool_use", "template": ""}, {"name": "default", "template": SMOLLM2}]},
    ],
    ids=["one", "several"],
)
def test_a_directory_without_a_template_of_ours(settings, tmp_path):
    SMOL.tokenizer.save(tmp_path, settings)
    assert load_template(tmp_path).config == SMOL.config
    (tmp_path / "chat_template.jinja").write_text(SMOLLM2.replace("SmolLM", "Otto"))
    assert load_template(tmp_path).config.default_system == SMOLLM2_SYSTEM.replace("SmolLM", "Otto")


def test_a_directory_without_any_template(tmp_path):
    SMOL.tokenizer.save(tmp_path)
    assert load_template(tmp_path).config == chatml(None, None)
    (tmp_path / "tokenizer_config.json").unlink()
    assert load_template(tmp_path).config == chatml(None, None)


def test_what_cannot_be_derived(tmp_path):
    tokenizer("<s>", "<unk>").save(tmp_path)
    with pytest.raises(
        ModelError, match=r"has no steep.json.*neither ChatML nor DeepSeek-R1's or Llama 3's.*\n.*TemplateConfig"
    ):
        load_template(tmp_path)
    SMOL.tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({})[:-1])
    with pytest.raises(ModelError, match=r"tokenizer_config.json cannot be read"):
        load_template(tmp_path)
