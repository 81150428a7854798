"""Compiled scores: one classifier, one or many settings."""

import itertools

import numpy as np
import pytest

from odin_beam.transforms.detectors.odin_settings import OdinGrid, OdinSettings
from odin_beam.transforms.detectors.passes import Passes, expected_passes
from odin_beam.transforms.detectors.score_function import ScoreFunction
from odin_beam.transforms.forward import batch_parts
from odin_beam.transforms.model import device
from odin_beam.transforms.model.classifier import as_classifier
from tests.helpers import samples

PIXELS = samples.random_images(20).astype(np.float32) / 255
GRID = OdinGrid((1.0, 10.0, 1000.0), (0.0, 0.001, 0.01))


@pytest.fixture(scope="module")
def classifier():
    return as_classifier(samples.small_model())


def test_the_graphs_that_are_made_first_serve_every_batch_size(classifier, monkeypatch):
    traced, of_pixels = [], ScoreFunction._clean_columns
    monkeypatch.setattr(ScoreFunction, "_clean_columns", lambda *given: traced.append(given) or of_pixels(*given))
    score = ScoreFunction(classifier, OdinSettings(), ("odin", "msp"))
    for size in (1, 7, 64):
        columns = score(samples.random_images(size).astype(np.float32) / 255).columns
        assert columns["odin"].shape == (size,)
    assert len(traced) == 1


def test_a_batch_of_little_work_is_not_cut_up(classifier, monkeypatch):
    """By their size alone 192 images of 8 x 8 would be a part."""
    sizes, score = [], ScoreFunction(classifier, OdinSettings(), ("odin",))
    monkeypatch.setattr(score, "_clean", lambda pixels, clean=score._clean: sizes.append(len(pixels)) or clean(pixels))
    monkeypatch.setattr(batch_parts.os, "cpu_count", lambda: 2)
    score(samples.random_images(480).astype(np.float32) / 255)
    assert sizes == [240, 240]


def test_each_cell_of_a_grid_is_what_its_settings_give_alone(classifier):
    together = ScoreFunction(classifier, GRID, ("odin", "msp"))(PIXELS).columns
    assert set(together) == {*GRID.cells, "msp", "prediction", "finite"}
    for name, settings in GRID.cells.items():
        alone = ScoreFunction(classifier, settings, ("odin", "msp"))(PIXELS).columns
        np.testing.assert_allclose(together[name], alone["odin"], rtol=1e-12)
        np.testing.assert_array_equal(together["prediction"], alone["prediction"])
    np.testing.assert_array_equal(together["odin_T1_eps0"], together["msp"])
    distinct = [tuple(together[name]) for name in GRID.cells]
    assert len(set(distinct)) == len(distinct)


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        (OdinSettings(1000, 0.0014), (2, 1)),
        (OdinSettings(1000, 0.0), (1, 0)),
        (GRID, (1 + 3 * 2, 3)),
        (OdinGrid((1.0, 10.0), (0.0,)), (1, 0)),
        (OdinGrid((1.0,), (0.1, 0.2)), (1 + 2, 1)),
    ],
)
def test_the_passes_that_are_run_are_those_that_the_formula_says(classifier, settings, passes):
    score = ScoreFunction(classifier, settings, ("odin", "msp"))
    assert expected_passes(settings) == score.passes == passes
    assert score(PIXELS).passes == Passes(passes[0] * 20, passes[1] * 20)


def test_the_formula_counts_what_really_runs(monkeypatch):
    """The classifier's own calls and derivatives, counted as TensorFlow executes them."""
    monkeypatch.setattr(batch_parts, "split", lambda pixels, bits: [pixels])
    import tensorflow as tf

    ran = {"forward": 0, "gradient": 0}

    def note(what):
        ran[what] += 1
        return np.int32(0)

    @tf.custom_gradient
    def watched(x):
        def derivative(upstream):
            with tf.control_dependencies([tf.numpy_function(lambda: note("gradient"), [], tf.int32)]):
                return tf.identity(upstream)

        with tf.control_dependencies([tf.numpy_function(lambda: note("forward"), [], tf.int32)]):
            return tf.ensure_shape(tf.identity(x), x.shape), derivative

    found = as_classifier(samples.small_model())

    class Watched:
        input_shape, classes, unavailable = found.input_shape, found.classes, found.unavailable

        def activations(self, pixels):
            return found.activations(watched(pixels))

        def logits(self, pixels):
            return self.activations(pixels).logits

    score = ScoreFunction(Watched(), GRID, ("odin", "msp"))
    score(PIXELS)
    assert ran == {"forward": 7, "gradient": 3}


def test_without_odin_nothing_is_perturbed(classifier):
    score = ScoreFunction(classifier, OdinSettings(), ("msp",))
    assert score.passes == (1, 0)
    assert set(score(PIXELS).columns) == {"msp", "prediction", "finite"}


def test_progress_adds_up_to_one_and_moves_with_every_pass(classifier, monkeypatch):
    monkeypatch.setattr(batch_parts, "images_per_part", lambda *of_work: 3)
    told = []
    ScoreFunction(classifier, GRID, ("odin",))(PIXELS, told.append)
    assert sum(told) == pytest.approx(1)
    parts = batch_parts.split(PIXELS, 3)
    assert len(parts) > 2
    assert len([share for share in told if share]) == len(parts) * (1 + 6)


def test_an_image_that_only_some_cells_cannot_score_is_not_finite():
    """Logits that overflow once a pixel is above 1, which only a large epsilon brings about."""
    import keras

    inputs = keras.Input((1, 1, 1))
    x = keras.layers.Flatten()(inputs)
    steep = keras.ops.exp(200 * keras.ops.relu(x - 1))
    outputs = keras.ops.concatenate([x + 1 + steep, 1 - x], axis=1)
    found = as_classifier(keras.Model(inputs, outputs))
    pixels = np.array([0.9, 0.2], np.float32).reshape(2, 1, 1, 1)
    grids = [OdinGrid((1.0,), epsilons) for epsilons in ((0.0, 0.01), (0.0, 0.01, 0.7))]
    finite = [ScoreFunction(found, grid, ("odin",))(pixels).columns["finite"].tolist() for grid in grids]
    assert finite == [[True, True], [False, True]]


def test_names_of_cells_are_columns_that_pyarrow_reads_one_by_one(classifier, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ScoreFunction(classifier, GRID, ("odin",))(PIXELS).columns
    pq.write_table(pa.table({name: columns[name] for name in GRID.cells}), tmp_path / "x.parquet")
    for name, other in itertools.pairwise(GRID.cells):
        assert pq.ParquetFile(tmp_path / "x.parquet").read_row_group(0, [name]).column_names == [name]
        assert name != other


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """XLA, whole batches and filling up, on the processor."""
    monkeypatch.setattr(device, "on_gpu", lambda: True)


@pytest.mark.parametrize("settings", [OdinSettings(), GRID])
def test_on_a_gpu_batches_of_any_size_are_one_compiled_size_and_the_same_scores(classifier, settings, monkeypatch):
    detectors = classifier_detectors(classifier)
    plain = ScoreFunction(classifier, settings, detectors)(PIXELS).columns
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    score = ScoreFunction(classifier, settings, detectors, batch_size=16)
    sizes = []
    monkeypatch.setattr(score, "_clean", lambda pixels, clean=score._clean: sizes.append(len(pixels)) or clean(pixels))
    parts = [score(PIXELS[:16]), score(PIXELS[16:])]
    assert sizes == [16, 16]
    for name, column in plain.items():
        ours = np.concatenate([part.columns[name] for part in parts])
        np.testing.assert_allclose(ours, column, rtol=1e-4, atol=1e-6)
    assert [part.passes.forward for part in parts] == [16 * score.passes.forward, 4 * score.passes.forward]


def test_a_model_that_xla_cannot_compile_runs_without(as_on_a_gpu):
    import keras
    import tensorflow as tf

    inputs = keras.Input((8, 8, 3))
    # What comes back has as many elements as are above 0, which XLA cannot foresee.
    x = keras.layers.Lambda(lambda x: x + tf.cast(tf.size(tf.boolean_mask(x, x > 2)), tf.float32))(inputs)
    found = as_classifier(keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x))))
    columns = ScoreFunction(found, OdinSettings(), ("odin",), batch_size=16)(PIXELS).columns
    assert columns["odin"].shape == (20,)


def classifier_detectors(classifier):
    from odin_beam.transforms.detectors.registry import DETECTORS

    missing = classifier.unavailable(DETECTORS)
    return tuple(name for name in DETECTORS if name not in missing)
