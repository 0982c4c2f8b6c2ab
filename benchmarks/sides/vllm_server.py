"""vLLM's own server on the CPU, with its defaults: prefix caching and torch.compile are on."""

import os
import socket
import subprocess
import sys
import time
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from benchmarks.worker import Channel, serve

NAME = "rival"


def load(directory: str, rows: int, context: int, dtype: str) -> dict[str, Any]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    options = ["--host", "127.0.0.1", "--port", str(port), "--model", directory, "--served-model-name", NAME]
    options += ["--dtype", dtype, "--max-model-len", str(context), "--max-num-seqs", str(rows)]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *options]
    server = subprocess.Popen(command, env=os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"})  # as it is by default
    while server.poll() is None:
        try:
            with urlopen(f"http://127.0.0.1:{port}/health"):
                return {"port": port, "model": NAME}
        except URLError:
            time.sleep(0.2)
    raise RuntimeError(f"the server ended with code {server.returncode}")


if __name__ == "__main__":
    serve(Channel(), {"load": load})
