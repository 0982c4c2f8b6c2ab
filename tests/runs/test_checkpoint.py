import errno
import json
import os
import shutil
import stat

import pytest
import torch
from safetensors import SafetensorError

from steep.errors import CheckpointError, FullDiskError
from steep.runs import checkpoint
from steep.runs.checkpoint import load_best, load_latest, save

RMTREE = shutil.rmtree
FILES = ["manifest.json", "state.json", "state.safetensors", "weights.safetensors"]


def save_step(directory, step, score=None, **more):
    weights = {"b": torch.full((40, 30), float(step)), "a": torch.arange(step, dtype=torch.bfloat16)}
    return save(
        directory, step, {"step": step, "rng": torch.get_rng_state(), "m": {0: (1, 2.5)}}, weights, score, **more
    )


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def two(tmp_path):
    """A directory with whole checkpoints of steps 10 and 20."""
    save_step(tmp_path, 10)
    save_step(tmp_path, 20)
    return tmp_path


def assert_falls_back(directory):
    told = []
    loaded = load_latest(directory, told.append)
    assert loaded is not None
    assert loaded.step == 10
    assert [r.path.name for r in loaded.rejected] == ["step-000020"]
    assert "step-000020 is damaged" in told[0]
    assert told[-1].endswith("step-000010 instead")


def test_gives_back_what_was_saved(two):
    loaded = load_latest(two)
    assert (loaded.step, loaded.rejected, list(loaded.weights)) == (20, (), ["b", "a"])
    assert torch.equal(loaded.weights["b"], torch.full((40, 30), 20.0))
    assert loaded.weights["a"].dtype == torch.bfloat16
    assert loaded.state["m"] == {0: (1, 2.5)}
    assert torch.equal(loaded.state["rng"], torch.get_rng_state())


def test_nothing_saved_is_none(tmp_path):
    assert load_latest(tmp_path / "checkpoints") is None
    (tmp_path / "step-000010.tmp").mkdir()
    (tmp_path / "notes").mkdir()
    assert load_latest(tmp_path) is None


def test_tied_weights_and_views_are_stored_apart(tmp_path):
    table = torch.arange(6.0).reshape(2, 3)
    tied = torch.nn.Parameter(table)
    save(tmp_path, 1, {}, {"embed": tied, "head": tied, "transposed": table.T, "row": table[1]})
    weights = load_latest(tmp_path).weights
    assert torch.equal(weights["head"], table)
    assert torch.equal(weights["transposed"], table.T)
    assert torch.equal(weights["row"], table[1])


def test_all_files_have_the_same_mode(tmp_path):
    modes = {stat.S_IMODE(path.stat().st_mode) for path in save_step(tmp_path, 1).iterdir()}
    assert len(modes) == 1


# Damage


@pytest.mark.parametrize("name", FILES)
def test_every_bit_flip_is_found(two, name):
    path = two / "step-000020" / name
    whole = path.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        for bit in (0, 5, 7):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            assert_falls_back(two)
    path.write_bytes(whole)
    assert load_latest(two).step == 20


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0.0, 0.5, -1])
def test_truncation_is_found(two, name, kept):
    path = two / "step-000020" / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] if kept == -1 else data[: int(kept * len(data))])
    assert_falls_back(two)


@pytest.mark.parametrize("name", FILES)
def test_growth_is_found(two, name):
    with open(two / "step-000020" / name, "ab") as file:
        file.write(b"\n")
    assert_falls_back(two)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_found(two, name):
    (two / "step-000020" / name).unlink()
    assert_falls_back(two)


@pytest.mark.parametrize("start", [0, 1000, 4000])
def test_zeroed_page_is_found(two, start):
    path = two / "step-000020" / "weights.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:start] + bytes(min(512, len(data) - start)) + data[start + 512 :])
    assert_falls_back(two)


def test_swapped_files_are_found(two):
    newest = two / "step-000020"
    os.rename(newest / "weights.safetensors", newest / "aside")
    os.rename(newest / "state.safetensors", newest / "weights.safetensors")
    os.rename(newest / "aside", newest / "state.safetensors")
    assert_falls_back(two)


@pytest.mark.parametrize("name", FILES)
def test_file_of_another_checkpoint_is_found(two, name):
    shutil.copy(two / "step-000010" / name, two / "step-000020" / name)
    if name == "state.safetensors":  # the same in both
        assert load_latest(two).step == 20
    else:
        assert_falls_back(two)


def test_edited_manifest_is_found(two):
    path = two / "step-000020" / "manifest.json"
    manifest = json.loads(path.read_text())
    for edited in (manifest | {"step": 30}, manifest | {"files": {}}, {}, [], {"sha256": manifest["sha256"]}):
        path.write_text(json.dumps(edited, indent=2) + "\n")
        assert_falls_back(two)
    path.write_text(json.dumps(manifest))  # the same content, written otherwise
    assert_falls_back(two)


def test_renamed_checkpoint_is_found(two):
    os.rename(two / "step-000010", two / "step-000030")
    told = []
    assert load_latest(two, told.append).step == 20
    assert "that of step 10" in told[0]


def test_newer_format_is_refused(two, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    save_step(two, 30)
    monkeypatch.undo()
    told = []
    assert load_latest(two, told.append).step == 20
    assert "format 2" in told[0]


def test_none_whole_is_an_error_that_says_what_to_do(two, caplog):
    for path in two.glob("*/state.json"):
        path.unlink()
    with pytest.raises(CheckpointError, match="restore one from a copy, or delete"):
        load_latest(two)
    assert caplog.text.count("state.json is missing") == 2


# Kills and pruning


def test_directory_left_by_a_kill_is_ignored_and_removed_by_the_next_save(two):
    shutil.copytree(two / "step-000020", two / "step-000030.tmp")
    (two / "step-000030.tmp" / "weights.safetensors").unlink()
    assert load_latest(two).step == 20
    save_step(two, 30)
    assert names(two) == ["step-000020", "step-000030"]


def test_killed_at_any_call_that_changes_the_disk(tmp_path, monkeypatch):
    """Whatever the last call was that still happened, the former or the new checkpoint is there and whole."""

    class Killed(BaseException):
        pass

    def killed(*args, **kwargs):
        raise Killed

    reached = 0
    for calls in range(100):
        directory = tmp_path / str(calls)
        save_step(directory, 10, keep=1)
        left = [calls]

        def count(call, left=left):
            def counted(*args, **kwargs):
                left[0] -= 1
                return killed() if left[0] < 0 else call(*args, **kwargs)

            return counted

        with monkeypatch.context() as patched:
            for module, name in [
                (os, "fsync"),
                (os, "rename"),
                (checkpoint, "save_file"),
                (checkpoint, "write_durable"),
            ]:
                patched.setattr(module, name, count(getattr(module, name)))
            # A process that is killed does not clean up either.
            patched.setattr(shutil, "rmtree", lambda *a, left=left, **k: RMTREE(*a, **k) if left[0] >= 0 else killed())
            try:
                save_step(directory, 20, keep=1)
            except Killed:
                reached += 1
            else:
                break
        assert load_latest(directory).step in (10, 20)
        save_step(directory, 21, keep=1)
        assert names(directory) == ["step-000021"]
    assert 10 < reached < 99


def test_keeps_the_newest(tmp_path):
    for step in range(5):
        save_step(tmp_path, step, keep=3)
    assert names(tmp_path) == ["step-000002", "step-000003", "step-000004"]
    assert checkpoint.steps(tmp_path) == [2, 3, 4]


def test_damaged_ones_do_not_count_as_kept(two, caplog):
    (two / "step-000020" / "weights.safetensors").write_bytes(b"cut short")
    save_step(two, 30)
    assert names(two) == ["step-000010", "step-000020", "step-000030"]
    assert "damaged" in caplog.text
    save_step(two, 40)
    assert names(two) == ["step-000030", "step-000040"]


def test_saving_an_earlier_step_gives_up_the_later_ones(two):
    save_step(two, 15)
    assert names(two) == ["step-000010", "step-000015"]


def test_second_checkpoint_of_a_step_takes_the_place_of_the_first(two):
    save(two, 20, {"again": True}, {}, keep=1)
    assert names(two) == ["step-000020-2"]
    assert load_latest(two).state == {"again": True}


def test_the_best_is_kept_beside_the_newest(tmp_path):
    for step, score in enumerate([0.1, 0.5, 0.4, None, 0.5, 0.3, None, 0.2]):
        save_step(tmp_path, step, score)
    assert checkpoint.steps(tmp_path) == [4, 6, 7]  # of two with the same score the newer one
    best = load_best(tmp_path)
    assert (best.step, best.score) == (4, 0.5)
    assert torch.equal(best.weights["b"], torch.full((40, 30), 4.0))
    assert load_latest(tmp_path).step == 7
    save_step(tmp_path, 8, 0.9)
    assert checkpoint.steps(tmp_path) == [7, 8]


def test_a_best_one_of_a_course_that_was_given_up_is_gone(tmp_path):
    for step, score in ((1, 0.2), (2, 0.9), (1, 0.1)):
        save_step(tmp_path, step, score)
    assert (load_best(tmp_path).step, load_best(tmp_path).score) == (1, 0.2)
    assert checkpoint.steps(tmp_path) == [1]


def test_a_damaged_best_is_told_and_the_next_best_taken(tmp_path):
    for step, score in ((1, 0.9), (2, 0.2), (3, 0.5)):
        save_step(tmp_path, step, score)
    weights = tmp_path / "step-000001" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    told = []
    assert load_best(tmp_path, told.append).step == 3
    assert "step-000001 is damaged" in told[0]


def test_without_scores_there_is_no_best(two):
    assert load_best(two) is None
    assert load_best(two / "nothing") is None


# Full disk


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", range(9))
def test_full_disk_leaves_the_former_checkpoint(tmp_path, monkeypatch, call, code):
    save_step(tmp_path, 10)
    left = [call]

    def full(original, error):
        def counted(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise error
            return original(*args, **kwargs)

        return counted

    as_safetensors = SafetensorError(f"Error while serializing: I/O error: {os.strerror(code)} (os error {code})")
    monkeypatch.setattr(checkpoint, "save_file", full(checkpoint.save_file, as_safetensors))
    monkeypatch.setattr(os, "fsync", full(os.fsync, OSError(code, os.strerror(code))))
    with pytest.raises(FullDiskError, match=r"the disk is full: .* needs 9\.9 kB, and") as raised:
        save_step(tmp_path, 20)
    assert raised.value.needed == 40 * 30 * 4 + 20 * 2 + torch.get_rng_state().nbytes
    monkeypatch.undo()
    assert names(tmp_path) == ["step-000010"]
    assert load_latest(tmp_path).step == 10


def test_other_errors_are_not_called_a_full_disk(tmp_path, monkeypatch):
    def broken(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checkpoint, "save_file", broken)
    with pytest.raises(OSError, match="Input/output"):
        save_step(tmp_path, 20)
    assert names(tmp_path) == []
