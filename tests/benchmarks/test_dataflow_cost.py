"""The table that docs/performance.md shows."""

import sys
from pathlib import Path

from benchmarks import dataflow_cost

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_is_the_one_in_the_docs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dataflow_cost.py"])
    dataflow_cost.main()
    printed = capsys.readouterr().out
    indented = "".join(f"    {line}".rstrip() + "\n" for line in printed.splitlines())
    assert len(printed.splitlines()) == 11
    assert indented in (ROOT / "docs" / "performance.md").read_text()
