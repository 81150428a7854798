"""`examples/draw_method.py`, on a tiny model."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from odin_beam.transforms.detectors.odin_settings import OdinSettings
from odin_beam.transforms.detectors.score_function import ScoreFunction
from odin_beam.transforms.model.classifier import as_classifier
from tests.helpers import samples

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import draw_method


def test_two_pictures_of_two_sets(tmp_path, capsys):
    model = samples.save_model(samples.small_model(), tmp_path / "model.keras")
    # The second set is larger than the model's input.
    inside = samples.write_shard(tmp_path / "in.tfrecord", samples.examples(samples.random_images(12)))
    outside = samples.write_shard(tmp_path / "out.tfrecord", samples.examples(samples.random_images(9, (10, 10, 3))))
    sources = [f"--in_distribution={inside}", f"--out_distribution={outside}"]
    assert draw_method.main([f"--model={model}", *sources, f"--output={tmp_path}/method"]) == 0
    paths = [tmp_path / f"method-{kind}.png" for kind in ("steps", "scores")]
    assert capsys.readouterr().out.split() == list(map(str, paths))
    for path in paths:
        with Image.open(path) as picture:
            assert np.ptp(np.asarray(picture.convert("L"))) > 200


def test_pixels_are_those_of_the_shards_cropped_at_the_centre(tmp_path):
    images = samples.random_images(3, (10, 10, 3))
    shard = samples.write_shard(tmp_path / "a.tfrecord", samples.examples(images))
    pixels = draw_method.read_pixels(str(shard), (8, 8, 3), 2)
    np.testing.assert_array_equal(pixels, images[:2, 1:9, 1:9] / np.float32(255))
    with pytest.raises(SystemExit, match="no file matches"):
        draw_method.read_pixels(str(tmp_path / "none-*"), (8, 8, 3), 2)


def test_the_readable_score_is_the_column_odin_logit():
    classifier = as_classifier(samples.small_model())
    pixels = samples.random_images(5).astype(np.float32) / 255
    columns = ScoreFunction(classifier, OdinSettings(1000.0, 0.0), ("odin",))(pixels).columns
    found = draw_method.readable(columns["odin"], 1000.0, classifier.classes)
    np.testing.assert_allclose(found, columns["odin_logit"], atol=1e-9)


def test_auroc_counts_a_tie_as_one_half():
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(3, 9, 40), rng.integers(0, 7, 50)
    expected = roc_auc_score([1] * 40 + [0] * 50, [*inside, *outside])
    assert draw_method.auroc(inside, outside) == pytest.approx(expected)
