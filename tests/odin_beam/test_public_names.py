"""The public face: its names, their types and examples, and that it composes."""

import ast
import doctest
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest

import odin_beam
from tests.helpers import samples
from tests.helpers.samples import DEMO_DATA, ROOT

NAMES = [name for name in odin_beam.__all__ if not name.startswith("__")]


def test_a_type_checker_sees_the_names_that_are_there():
    (block,) = (node for node in ast.parse(Path(odin_beam.__file__).read_text()).body if isinstance(node, ast.If))
    seen = {f"{node.module}.{node.names[0].name}" for node in block.body}
    assert seen == {f"odin_beam.{module}.{name}" for name, module in odin_beam._WHERE.items()}
    assert dir(odin_beam) == sorted(odin_beam.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = odin_beam.nothing


@pytest.mark.parametrize("name", NAMES)
def test_the_example_in_the_docstring_gives_what_it_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in DEMO_DATA.iterdir():
        os.symlink(file, tmp_path / file.name)
    samples.write_calibration(tmp_path / "calibration.json")
    found = getattr(odin_beam, name)
    module = importlib.import_module(f"odin_beam.{odin_beam._WHERE[name]}")
    # A constant has no docstring of its own.
    text = found.__doc__ if hasattr(found, "__qualname__") else module.__doc__
    test = doctest.DocTestParser().get_doctest(text, {"odin_beam": odin_beam, "np": np}, name, None, 0)
    assert test.examples, f"{name} has no example"
    assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.parametrize("name", NAMES)
def test_docs_api_tells_of_it(name):
    assert f"`{name}" in (ROOT / "docs/api.md").read_text()


def test_importing_it_imports_neither_tensorflow_nor_beam():
    code = "import sys, odin_beam; odin_beam.DETECTORS; print({'tensorflow', 'apache_beam'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_importing_changes_no_global_state():
    code = (
        "import os, signal, threading, warnings, numpy, pyarrow.parquet, scipy.special\n"
        "before = dict(os.environ), list(warnings.filters), threading.active_count(), signal.getsignal(signal.SIGINT)\n"
        "import odin_beam\n"
        "import odin_beam.transforms.settings_json, odin_beam.transforms.tables.schemas\n"
        "import odin_beam.pipeline.flags.command_line as c; c.all_jobs()\n"
        "now = dict(os.environ), list(warnings.filters), threading.active_count(), signal.getsignal(signal.SIGINT)\n"
        "print(before == now)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_a_pipeline_of_ones_own_needs_no_launcher(tmp_path):
    output = str(tmp_path / "out")
    settings = odin_beam.ScoreSettings.for_model(str(DEMO_DATA / "classifier.keras"), detectors=("odin", "msp"))
    shards = odin_beam.Shards(
        output,
        in_distribution=[f"known={DEMO_DATA}/fashion_mnist-00000-*"],
        out_distribution=["noise:uniform"],
        noise_count=20,
    )
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        scored = pipeline | shards | odin_beam.ScoreShards(settings, output)
        scored | odin_beam.SummarizeScores(output, settings)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert {name: own["scored"] for name, own in summary["sources"].items()} == {"known": 250, "uniform": 20}
    pairs = json.loads((tmp_path / "out/metrics.json").read_text())["pairs"]
    assert {pair["detector"] for pair in pairs} == {"odin", "msp"}


def test_a_pipeline_of_other_settings_is_refused_the_folder(tmp_path):
    output, model = str(tmp_path / "out"), str(DEMO_DATA / "classifier.keras")
    for detectors, error in ((("msp",), None), (("energy",), "detectors was")):
        pipeline = beam.Pipeline(runner="FnApiRunner")
        shards = odin_beam.Shards(output, input=["noise:uniform"], noise_count=1)
        step = odin_beam.ScoreShards(odin_beam.ScoreSettings.for_model(model, detectors=detectors), output)
        if error is None:
            pipeline | shards | step
        else:
            with pytest.raises(odin_beam.OdinBeamError, match=error):
                pipeline | shards | step
