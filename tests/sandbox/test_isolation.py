"""What an isolated worker may not do. Where a system cannot hold it back, the worker must say so."""

import socket

import pytest

from steep.sandbox import CheckError, Sandbox


@pytest.fixture(scope="module")
def isolated():
    made = Sandbox(isolated=True)
    yield made
    made.close()


@pytest.fixture(scope="module")
def missing(isolated):
    return isolated.call("steep.sandbox.isolation:isolate")


def refused(sandbox, *call):
    with pytest.raises(CheckError, match=r"PermissionError|OSError|gaierror"):
        sandbox.call(*call)


def test_no_byte_is_written_to_a_file_on_any_system(isolated, tmp_path):
    file = tmp_path / "file"
    with pytest.raises(CheckError):
        isolated.call("shutil:copyfile", __file__, str(file))
    assert not file.exists() or file.read_bytes() == b""


def test_files_stay_as_they_are(isolated, missing, tmp_path):
    if "files" in missing:
        pytest.skip("this system has neither Landlock nor mount namespaces for everybody")
    file = tmp_path / "file"
    file.write_text("as it was")
    refused(isolated, "builtins:open", str(file), "w")
    refused(isolated, "builtins:open", str(tmp_path / "other"), "w")
    refused(isolated, "os:mkdir", str(tmp_path / "directory"))
    refused(isolated, "os:unlink", str(file))
    refused(isolated, "os:rename", str(file), str(tmp_path / "other"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "as it was"


def test_the_network_is_out_of_reach(isolated, missing):
    if "network" in missing:
        pytest.skip("this system has no network namespaces for everybody")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        refused(isolated, "socket:create_connection", list(server.getsockname()))
        with pytest.raises(TimeoutError):
            server.accept()


def test_an_isolated_worker_still_loads_and_computes(isolated):
    assert isolated.call("math:comb", 5, 2, prepare=("fractions:Fraction", 1)) == 10
    assert isolated.call("os:getcwd") == "/"


def test_a_plain_worker_is_not_isolated(tmp_path):
    sandbox = Sandbox()
    sandbox.call("os:mkdir", str(tmp_path / "directory"))
    sandbox.close()
    assert (tmp_path / "directory").is_dir()
