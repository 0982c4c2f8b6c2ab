"""A sandbox with real workers, which hang, crash and eat memory."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest

from steep.sandbox import CheckError, Sandbox, shared
from steep.sandbox.pool import Worker, WorkerLostError

LIMIT_S = 1.0


KILLED_WHILE_BUSY = """
import os, signal, sys, threading, time
from pathlib import Path
from steep.sandbox import Sandbox
note = Path(sys.argv[1])
sandbox = Sandbox()
print(sandbox.call("checks:pid"), flush=True)
threading.Thread(target=sandbox.call, args=("checks:hang", str(note)), kwargs={"limit_s": 1.0}, daemon=True).start()
while not note.exists():
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def nobody_else():
    """Other tests share a sandbox, whose workers would be counted here."""
    shared().close()
    shared(isolated=True).close()
    shared.cache_clear()


@pytest.fixture
def sandbox(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    made = Sandbox(memory_mb=512)
    yield made
    made.close()
    assert not of_this_process()


def of_this_process():
    """The workers that run, or were not waited for."""
    return [p for p in psutil.Process().children(recursive=True) if "steep.sandbox.worker" in " ".join(p.cmdline())]


def ends(pid, within_s=10.0):
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def failed(sandbox, *call, **options):
    with pytest.raises(CheckError) as error:
        sandbox.call(*call, **{"limit_s": LIMIT_S} | options)
    return str(error.value)


def test_two_hundred_checks_by_one_worker(sandbox):
    assert [sandbox.call("checks:double", n) for n in range(200)] == [2 * n for n in range(200)]
    assert len(of_this_process()) == 1


def test_five_hundred_checks_leave_nothing_behind(sandbox, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", None)
    sandbox.call("checks:double", 0)
    me = psutil.Process()
    files_open = me.num_fds()
    for n in range(500):
        if n % 100 == 50:
            assert failed(sandbox, "checks:crash", str(tmp_path / "note")) == "it ended its process, twice"
        else:
            assert sandbox.call("checks:double", n) == 2 * n
    assert (tmp_path / "note").read_text() == "." * 10
    assert me.num_fds() <= files_open  # the crashed worker's are closed; a new one starts when it is needed
    assert len(of_this_process()) == 1
    assert list(scratch.iterdir()) == []


def test_a_check_that_hangs_is_killed_and_tried_once_more(sandbox, tmp_path):
    note = tmp_path / "note"
    before, began = sandbox.call("checks:pid"), time.monotonic()
    assert failed(sandbox, "checks:hang", str(note)) == "it took more than 1 s, twice"
    assert time.monotonic() - began < 10
    assert note.read_text() == ".."
    assert sandbox.call("checks:pid") != before
    assert not psutil.pid_exists(before)


def test_a_check_that_computes_for_ever_is_killed_and_not_tried_again(sandbox, tmp_path):
    note = tmp_path / "note"
    failure = failed(sandbox, "checks:burn", str(note))
    assert failure.startswith("it took more than 1 s")
    assert len(note.read_text()) == (2 if failure.endswith("twice") else 1)  # on a machine with no core to spare
    assert sandbox.call("checks:double", 4) == 8


def test_a_check_that_crashes_is_tried_once_more(sandbox, tmp_path):
    assert failed(sandbox, "checks:crash", str(tmp_path / "always")) == "it ended its process, twice"
    assert (tmp_path / "always").read_text() == ".."
    assert sandbox.call("checks:crash_once", str(tmp_path / "once")) == "well"


def test_a_check_that_eats_memory(sandbox):
    before = sandbox.call("checks:pid")
    assert failed(sandbox, "checks:hog") == "it needs more than 512 MB"
    assert sandbox.call("checks:pid") != before


def test_a_check_that_raises_keeps_its_worker(sandbox):
    before = sandbox.call("checks:pid")
    assert failed(sandbox, "checks:refuse", "x") == "ValueError: cannot read 'x'"
    assert failed(sandbox, "checks:leave") == "SystemExit: done"
    assert failed(sandbox, "checks:nothing_for_json").startswith("TypeError: Object of type set")
    assert failed(sandbox, "checks:missing").startswith("AttributeError")
    assert failed(sandbox, "no_such_module:check").startswith("ModuleNotFoundError")
    assert sandbox.call("checks:pid") == before


def test_what_a_check_started_is_killed_with_it(sandbox, tmp_path):
    note = tmp_path / "child"
    failed(sandbox, "checks:start_a_child", str(note))
    child = int(note.read_text())
    assert ends(child)


def test_what_a_check_started_is_killed_where_its_worker_ended_by_itself(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    note, worker = tmp_path / "child", Worker(isolated=False)
    request = {"function": "checks:leave_a_child", "arguments": [str(note)], "prepare": []}
    with pytest.raises(WorkerLostError):
        worker.run(request | {"limit_s": LIMIT_S, "memory_mb": 512})
    assert ends(worker.process.pid)
    child = int(note.read_text())
    assert psutil.pid_exists(child)
    worker.kill()
    worker.kill()  # as whoever closes the sandbox and whoever asked both do
    assert ends(child)


def test_a_worker_ends_by_itself_when_whoever_asked_was_killed(tmp_path):
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    asking = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_BUSY, str(tmp_path / "note")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        check=False,
    )
    assert asking.returncode == -signal.SIGKILL
    assert ends(int(asking.stdout))


def test_loading_is_not_timed(sandbox):
    assert sandbox.call("checks:use", 2.0, limit_s=LIMIT_S, prepare=("checks:load", 2.0)) == "loaded"


def test_any_thread_may_call_and_two_checks_run_at_a_time(sandbox):
    results = {}

    def ask(number):
        results[number] = sandbox.call("checks:double", number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: 2 * n for n in range(8)}
    assert 1 <= len(of_this_process()) <= 2


def test_closing_ends_what_is_under_way(sandbox, tmp_path):
    failures = []
    note = tmp_path / "note"
    thread = threading.Thread(target=lambda: failures.append(failed(sandbox, "checks:hang", str(note), limit_s=100)))
    thread.start()
    while not note.exists():
        time.sleep(0.01)
    sandbox.close()
    thread.join(timeout=20)
    assert failures == ["the sandbox is closed"]
    assert not of_this_process()


def test_workers_are_light(sandbox):
    modules = sandbox.call("checks:loaded_modules", prepare=("steep.types:correct",))
    assert "steep.types" in modules
    assert "torch" not in modules
    assert "torch" in sys.modules


def test_nothing_starts_before_it_is_needed():
    assert Sandbox().close() is None
    assert not of_this_process()
    assert shared() is shared()
