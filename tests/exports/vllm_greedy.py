"""Run by an interpreter that has vLLM: from a request on standard input to greedy tokens, as JSON on the last line."""

import json
import sys

from vllm import LLM, SamplingParams, TokensPrompt

asked = json.load(sys.stdin)
llm = LLM(model=asked["model"], dtype="float32", max_model_len=256, max_num_seqs=4, enforce_eager=True)
sampling = SamplingParams(temperature=0.0, max_tokens=asked["new"], ignore_eos=True, detokenize=False)
prompts = [TokensPrompt(prompt_token_ids=prompt) for prompt in asked["prompts"]]
tokens = [list(output.outputs[0].token_ids) for output in llm.generate(prompts, sampling, use_tqdm=False)]
tokenizer = llm.get_tokenizer()
rendered = [
    tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
    )
    for question in asked["questions"]
]
print(json.dumps({"tokens": tokens, "prompts": rendered}))
