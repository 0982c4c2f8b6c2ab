"""Run by an interpreter that has litellm, with a server's URL: what it makes of answers, as JSON on the last line."""

import json
import sys

import litellm
import openai

server = {"model": "openai/tiny", "api_base": sys.argv[1], "api_key": "none"}
known = {"litellm_provider": "openai", "supports_reasoning": True, "supports_native_streaming": True}
litellm.register_model({server["model"]: known})  # else the stream of a response is only imitated
chat = {**server, "messages": [{"role": "user", "content": "make 24"}], "seed": 1}
response = {**server, "input": "make 24", "reasoning": {"effort": "low"}, "extra_body": {"seed": 1}}


def completed(fields):
    """The answer, the thought and the usage of a completion; once whole, once streamed."""
    whole = litellm.completion(**chat, **fields)
    (choice,) = whole.choices
    yield [choice.message.content, choice.message.reasoning_content, counted(whole.usage)]
    content, thought = "", ""
    for chunk in litellm.completion(**chat, **fields, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            content += choice.delta.content or ""
            thought += getattr(choice.delta, "reasoning_content", None) or ""
    yield [content, thought, counted(chunk.usage)]


def counted(usage):
    return [usage.prompt_tokens, usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens]


def refused(fields):
    try:
        litellm.completion(**{**chat, **fields})
    except openai.APIStatusError as error:
        return [type(error).__name__, error.status_code]


whole = litellm.responses(**response)
deltas = {"response.reasoning_text.delta": "", "response.output_text.delta": ""}
for event in litellm.responses(**response, stream=True):
    if event.type in deltas:
        deltas[event.type] += event.delta
print(
    json.dumps(
        {
            "effort": list(completed({"reasoning_effort": "low"})),
            "budget": list(completed({"thinking_token_budget": 16})),
            "response": [whole.output[1].content[0].text, whole.output[0].content[0].text],
            "streamed response": [deltas["response.output_text.delta"], deltas["response.reasoning_text.delta"]],
            "reasoning tokens": whole.usage.output_tokens_details.reasoning_tokens,
            "refused": [refused({"thinking_token_budget": -1}), refused({"model": "openai/none"})],
        }
    )
)
