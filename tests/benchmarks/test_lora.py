"""The benchmark of LoRA runs and keeps what it found."""

import json
import subprocess
import sys
from pathlib import Path


def test_both_sides_are_measured(tmp_path):
    words = ["--model", "N", "--updates", "1", "--out", str(tmp_path / "lora.json"), "--json"]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.lora", *words], cwd=root, check=True, capture_output=True, text=True
    )
    document = json.loads(done.stdout.splitlines()[-1])
    kept = json.loads((tmp_path / "lora.json").read_text())
    assert [claim["id"] for claim in kept["claims"]] == ["lora.seconds", "lora.memory"]
    for side in ("all", "lora"):
        assert len(document["sides"][side]["seconds"]) == 1
        assert 0.1 < document["sides"][side]["gb"] < 8
    assert kept["claims"][1]["value"] == document["sides"]["lora"]["gb"] / document["sides"]["all"]["gb"]
