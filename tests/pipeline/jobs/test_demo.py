"""`odin-beam demo`: the first thing that anyone sees."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from odin_beam.pipeline.main import main

ROOT = Path(__file__).resolve().parents[3]


def test_the_tour_ends_with_a_table_and_queries_that_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 0
    printed = capsys.readouterr().out
    metrics = json.loads((tmp_path / "demo-output/metrics.json").read_text())
    auroc = {(p["out_distribution"], p["detector"]): p["auroc"] for p in metrics["pairs"]}
    assert auroc["mnist", "odin"] >= 0.90
    assert metrics["in_distribution"]["fashion_mnist"]["count"] == 1000
    assert metrics["in_distribution"]["fashion_mnist"]["accuracy"] >= 0.90
    assert "fashion_mnist (1,000) against mnist (1,000)" in printed
    assert (tmp_path / "demo-output/report/report.html").exists()
    assert f"{tmp_path}/demo-output/report/report.html" in printed

    # The command that it prints is run as it stands.
    query = re.search(r'^  (\S+ -c ".*?\)")$', printed, re.DOTALL | re.MULTILINE).group(1)
    answer = subprocess.run(["bash", "-c", query], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(answer) == 10
    assert "'source': 'mnist'" in "".join(answer) or "'source': 'uniform_noise'" in "".join(answer)


def test_the_module_is_the_program():
    argv = [sys.executable, "-m", "odin_beam", "--help"]
    helped = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    assert helped.stdout.startswith("usage: odin-beam JOB")
    assert helped.stderr == ""


def test_the_console_script_is_the_program_too():
    script = Path(sys.executable).with_name("odin-beam")
    if not script.exists():
        pytest.skip("the package is not installed here: `make venv` does it")
    assert subprocess.run([script, "--help"], capture_output=True, text=True, check=True).stdout.startswith("usage:")
