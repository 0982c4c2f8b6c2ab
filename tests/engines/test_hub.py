"""Models named by a hub id, from a small server on this machine that speaks the hub's API."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from steep.engines import load_model, save_model
from steep.errors import ModelError
from tests.engines.test_directory import made

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NEEDED = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
UNNEEDED = ("README.md", "pytorch_model.bin", "optimizer.pt", "onnx/model.onnx", "onnx/model.safetensors", "evil.py")
DENIED = {"private": (401, "RepoNotFound"), "gated": (403, "GatedRepo"), "down": (503, "")}


class Hub(BaseHTTPRequestHandler):
    """`otto/tiny` is the directory of the server; `otto/gated` lists the same files and gives none."""

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        path, _, _ = self.path.lstrip("/").partition("?")
        name = next((name for name in ("tiny", *DENIED) if f"otto/{name}" in path), "private")
        parts = path.split("/")
        if name in DENIED and not (name == "gated" and parts[0] == "api"):
            status, code = DENIED[name]
            return self.send(status, b"{}", {"X-Error-Code": code})
        if parts[0] == "api":
            return self.send(200, json.dumps(self.listing("tree" in parts)).encode())
        _, _, _, _, *file = parts
        content = (self.server.directory / "/".join(file)).read_bytes()
        if self.command == "GET":
            self.server.given.append("/".join(file))
        tag = hashlib.sha1(content).hexdigest()
        return self.send(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})

    def listing(self, tree):
        files = [file for file in self.server.directory.rglob("*") if file.is_file()]
        names = {str(file.relative_to(self.server.directory)): file.stat().st_size for file in files}
        if tree:
            return [{"type": "file", "path": name, "size": size, "oid": name} for name, size in names.items()]
        return {"id": "otto/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}

    def send(self, status, content, headers=None):
        self.send_response(status)
        for key, value in {"Content-Length": len(content), **(headers or {})}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def serving(directory):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.directory, server.given = directory, []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    directory = tmp_path / "files"
    save_model(directory, *made())
    (directory / "steep.json").unlink()
    for name in UNNEEDED:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(b"import os; os.abort()")
    monkeypatch.chdir(tmp_path)
    with serving(directory) as server:
        constants = "huggingface_hub.constants"
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(f"{constants}.ENDPOINT", endpoint)
        files = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path / "hub"))
        yield server


def test_what_is_needed_is_fetched_once(hub, monkeypatch):
    model, template = made()
    loaded = load_model("otto/tiny")
    assert all(torch.equal(value, loaded.model.state_dict()[name]) for name, value in model.state_dict().items())
    assert loaded.template.config == template.config
    assert sorted(hub.given) == sorted(NEEDED)
    load_model("otto/tiny")
    assert len(hub.given) == len(NEEDED)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load_model("otto/tiny").name == "otto/tiny"
    assert len(hub.given) == len(NEEDED)


def test_a_command_asks_the_hub_of_the_environment(hub, tmp_path):
    settings = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path / "home")}
    for offline, words in (("0", ["export", "otto/tiny", "--to", "hf", "out"]), ("1", ["chat", "otto/tiny", "Hi"])):
        command = [sys.executable, "-m", "steep.cli", *words]
        environment = {**os.environ, **settings, "HF_HUB_OFFLINE": offline}
        said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert said.returncode == 0, said.stderr
    assert sorted(hub.given) == sorted(NEEDED)
    assert load_model("out").template.config == made()[1].config


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("otto/nothing", r"has no model otto/nothing, or it is private\n  check the name.*hf auth login"),
        ("otto/private", r"has no model otto/private, or it is private\n"),
        ("otto/gated", r"otto/gated asks for consent\n  accept its terms at http.*/otto/gated.*hf auth login"),
        ("otto/down", r"otto/down is not on this machine, and the hub cannot be asked: .*503"),
    ],
)
def test_what_the_hub_does_not_give(name, said, hub):
    with pytest.raises(ModelError, match=said):
        load_model(name)


def test_without_a_hub_what_to_do_is_said(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(
        ModelError, match=r"otto/tiny is not on this machine, and the hub cannot be asked: .*\n  connect"
    ):
        load_model("otto/tiny")


def test_weights_in_pickles_are_neither_fetched_nor_read(hub):
    (hub.directory / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no weights: neither model.safetensors nor .*\n.*\.bin weights become"):
        load_model("otto/tiny")
    assert sorted(hub.given) == sorted(NEEDED - {"model.safetensors"})


def test_a_repository_of_gguf_files_is_told(hub):
    (hub.directory / "config.json").unlink()
    with pytest.raises(ModelError, match=r"otto/tiny on the hub has no config.json\n.*GGUF"):
        load_model("otto/tiny")
