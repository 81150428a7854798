"""`odin-beam score --reference`: the columns of the fitted detectors, and which references are refused."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from odin_beam.pipeline.main import main
from odin_beam.transforms.detectors.registry import ALL, DETECTORS, FITTED_DETECTORS
from odin_beam.transforms.fitting.reference_file import write_reference
from odin_beam.transforms.images.geometry import Geometry
from odin_beam.transforms.model.classifier import load_classifier
from odin_beam.transforms.scoring.settings import ScoreSettings
from tests.helpers import samples
from tests.helpers.feature_fits import about, fit, images, images_of
from tests.helpers.numpy_detectors import FORMULAS, TOLERANCES
from tests.helpers.score_runs import command, counted_shards, last_line, read, rows


@pytest.fixture(scope="module")
def fitted(model):
    """Images of the fit, and those of the in-distribution source, as the model sees them."""
    classifier = load_classifier(model)
    inside = samples.random_images(50, seed=1)
    pixels = (np.concatenate([samples.random_images(600, seed=9), inside]) / 255).astype(np.float32)
    of = images_of(classifier, pixels)
    parts = [
        of._replace(features=of.features[part], logits=of.logits[part], labels=of.labels[part])
        for part in (slice(600), slice(600, None))
    ]
    return *parts, ScoreSettings.for_model(model)


@pytest.fixture
def reference(fitted, tmp_path):
    path = str(tmp_path / "reference.npz")
    write_reference(path, fit(fitted[0], 40, **about(fitted[2])))
    return path


def test_the_columns_are_the_published_formulas_of_the_features(model, archive, fitted, reference):
    assert main(command(model, archive, f"--reference={reference}")) == 0
    scored = rows(archive / "out")
    known = [row for row in scored if row["source"] == "known"]
    for name, formula in FORMULAS.items():
        expected = formula(*fitted[:2], 40)
        got = np.array([row[name] for row in known], np.float64)
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-6 + 10 * TOLERANCES[name] * np.std(expected))
    assert all(row[name] is not None for row in scored for name in DETECTORS)
    pairs = [pair["detector"] for pair in read(archive / "out", "metrics.json")["pairs"]]
    assert pairs == list(ALL)
    launched = read(archive / "out", "run.json")
    assert launched["reference"] == reference
    assert launched["settings"]["reference_digest"] == fit(fitted[0], 40).digest
    assert main(["report", f"--scores={archive}/out"]) == 0


def test_without_a_reference_the_columns_are_null(model, archive):
    assert main(command(model, archive)) == 0
    scored = rows(archive / "out")
    assert {row[name] for row in scored for name in FITTED_DETECTORS} == {None}
    assert "reference" not in json.dumps(read(archive / "out", "run.json")["settings"])


def test_detectors_without_scores_are_said_with_the_reason(model, archive, fitted, reference, capsys):
    wrong = fitted[0]._replace(labels=(fitted[0].labels + 1) % 4)
    write_reference(reference, fit(wrong, 40, **about(fitted[2])))
    argv = command(model, archive, f"--reference={reference}", "--detectors=msp,nci,she")
    reason = "no image was classified correctly"
    for _ in range(2):
        assert main(argv) == 0
        assert read(archive / "out", "summary.json")["without_scores"] == {"she": reason}
    assert f"she: {reason}; the columns are null" in capsys.readouterr().err
    row = rows(archive / "out")[0]
    assert [name for name in ALL if row[name] is not None] == ["msp", "nci"]


def test_another_reference_is_another_run(model, archive, fitted, reference, capsys):
    assert main(command(model, archive, f"--reference={reference}", "--detectors=msp,nci")) == 0
    write_reference(reference, fit(fitted[0], 20, **about(fitted[2])))
    assert main(command(model, archive, f"--reference={reference}", "--detectors=msp,nci")) == 2
    assert "reference_digest was" in last_line(capsys)


def test_finished_files_of_earlier_versions_stay_finished(model, archive, monkeypatch):
    assert main(command(model, archive)) == 0
    for path in (archive / "out" / "scores" / "source=known").iterdir():
        pq.write_table(pq.ParquetFile(path).read().drop_columns(list(FITTED_DETECTORS)), path)
    again = counted_shards(monkeypatch)
    metrics = read(archive / "out", "metrics.json")
    assert main(command(model, archive)) == 0
    assert main(["evaluate", f"--scores={archive}/out"]) == 0
    assert main(["report", f"--scores={archive}/out"]) == 0
    assert again == []
    assert read(archive / "out", "metrics.json") == metrics
    # As docs/output.md says.
    folder = f"{archive}/out/scores"
    files = pyarrow.dataset.dataset(folder, partitioning="hive")
    schema = pyarrow.unify_schemas([part.physical_schema for part in files.get_fragments()] + [files.schema])
    table = pyarrow.dataset.dataset(folder, schema, partitioning="hive").to_table()
    assert table.num_rows == table["she"].null_count == 90
    assert set(table["source"].to_pylist()) == {"known", "foreign", "input"}


def test_a_reference_that_does_not_fit_is_one_line_and_code_2(model, archive, fitted, tmp_path, capsys):
    path, settings = tmp_path / "r.npz", fitted[2]
    reference = fit(fitted[0], 40, **about(settings))
    cases = {
        "fitted to a different model": replace(reference, about={**reference.about, "model_digest": "x"}),
        'geometry.resize was "none", is "stretch"': replace(
            reference, about=about(replace(settings, geometry=Geometry(resize="none")))
        ),
        "the reference is of 12 features, the model's last layer of 6": fit(images(), **about(settings)),
    }
    for message, other in cases.items():
        write_reference(str(path), other)
        assert main(command(model, archive, f"--reference={path}")) == 2
        assert message in last_line(capsys)
    path.write_bytes(path.read_bytes()[:5000])
    assert main(command(model, archive, f"--reference={path}")) == 2
    assert "is not a reference" in last_line(capsys)
    assert main(command(model, archive, f"--reference={tmp_path}/absent.npz")) == 2
    assert "absent.npz" in last_line(capsys)
    assert main(command(model, archive, "--detectors=msp,knn")) == 2
    assert "--detectors knn: give --reference" in last_line(capsys)
    assert not (archive / "out").exists()
