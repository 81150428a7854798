"""The notebook `examples/first_archive.ipynb`, run from its first cell to its last."""

import os
import re
import sys
from pathlib import Path

import nbclient
import nbformat
import pyarrow.dataset
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples" / "first_archive.ipynb"


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell):
    """All text that a cell shows."""
    return "".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "") + "".join(output.get("traceback", []))
        for output in cell.outputs
    )


def by_command(notebook):
    """Job -> what its cell printed."""
    cells = {re.search(r"odin-beam (\w+)", cell.source): cell for cell in code_cells(notebook)}
    return {match[1]: printed(cell) for match, cell in cells.items() if match}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def executed(folder):
    """The notebook after a run in an empty folder, with this checkout's `odin-beam` on the path."""
    command = folder / "bin" / "odin-beam"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m odin_beam "$@"\n')
    command.chmod(0o755)
    notebook = nbformat.read(NOTEBOOK, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
        patch.setenv("PYTHONPATH", str(ROOT))
        nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def test_every_step_says_what_the_committed_outputs_say(executed):
    fresh, committed = by_command(executed), by_command(nbformat.read(NOTEBOOK, 4))
    assert list(fresh) == ["check", "fit", "tune", "score", "flag", "top", "report", "compare"]
    patterns = {
        "check": r"preprocessing: \w+",
        "tune": r"recommended detector: \w+",
        "compare": r"^moved: archive differs from known",
    }
    for job, pattern in patterns.items():
        found = re.search(pattern, fresh[job])
        assert found and found[0] == re.search(pattern, committed[job])[0], job


def test_the_files_hold_the_rows_that_the_notebook_reads(executed, folder):
    rows = pyarrow.dataset.dataset(folder / "first_archive" / "scores" / "scores", partitioning="hive").to_table()
    assert sorted(rows["source"].value_counts().to_pylist(), key=str) == [
        {"values": "archive", "counts": 500},
        {"values": "known", "counts": 250},
    ]
    names = {"model.json", "reference.npz", "calibration.json", "top.png", "top.csv", "scores/report/report.html"}
    assert all((folder / "first_archive" / name).stat().st_size for name in names)


def test_digits_are_flagged_and_clothes_are_not(executed):
    last = printed(next(cell for cell in code_cells(executed) if "came_from" in cell.source))
    shares = {line.split()[0]: float(line.split()[-1]) for line in last.splitlines()[2:]}
    assert set(shares) == {"fashion_mnist", "mnist"}
    assert shares["mnist"] > 0.6
    assert shares["fashion_mnist"] < 0.15


def test_the_committed_notebook_is_small_and_names_no_machine():
    text = NOTEBOOK.read_text()
    assert len(text) < 250_000
    assert not re.search(r"/tmp/|/home/|/root/|/work/|Traceback|Warning|WARNING: All log", text)
    cells = code_cells(nbformat.read(NOTEBOOK, 4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)
