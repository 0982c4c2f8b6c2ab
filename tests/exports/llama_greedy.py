"""Run by an interpreter that has llama-cpp-python: from a request on standard input to greedy tokens, as JSON."""

import json
import sys
from itertools import islice

from llama_cpp import GGML_TYPE_F32, Llama
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

asked = json.load(sys.stdin)
llama = Llama(asked["model"], n_ctx=256, n_threads=1, type_k=GGML_TYPE_F32, type_v=GGML_TYPE_F32, verbose=False)
tokens = [list(islice(llama.generate(prompt, temp=0.0), asked["new"])) for prompt in asked["prompts"]]
template = Jinja2ChatFormatter(llama.metadata["tokenizer.chat_template"], eos_token="", bos_token="")
rendered = []
for question in asked["questions"]:
    text = template(messages=[{"role": "user", "content": question}]).prompt
    rendered.append(llama.tokenize(text.encode(), add_bos=False, special=True))
print(json.dumps({"tokens": tokens, "prompts": rendered}))
