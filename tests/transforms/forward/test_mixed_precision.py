"""bfloat16 inside a network: where it begins and ends, and that detection does not suffer from it."""

import io
import tarfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.metrics import roc_auc_score

from odin_beam.pipeline.main import main
from odin_beam.transforms.checking.precision import PrecisionDifference
from odin_beam.transforms.detectors.odin_settings import OdinSettings
from odin_beam.transforms.detectors.score_function import ScoreFunction
from odin_beam.transforms.forward import forward_pass, mixed_precision
from odin_beam.transforms.forward.frozen_graph import freeze
from odin_beam.transforms.model.classifier import as_classifier, load_classifier
from tests.helpers import samples

SHAPE = (8, 8, 3)
PIXELS = tf.constant(samples.random_images(6, SHAPE).astype(np.float32) / 255)
layers = keras.layers
_PRODUCTS = ("Conv2D", "MatMul")


def network() -> keras.Model:
    keras.utils.set_random_seed(1)
    inputs = keras.Input(SHAPE)
    x = layers.Normalization(mean=[0.4] * 3, variance=[0.1] * 3)(inputs)
    x = layers.Conv2D(8, 3, padding="same", name="first")(x)
    y = layers.Conv2D(8, 3, padding="same", name="second")(layers.ReLU()(x))
    x = layers.Concatenate()([x, layers.Add()([x, y])])
    x = layers.MaxPooling2D()(layers.ReLU()(layers.Conv2D(8, 1, name="third")(x)))
    return keras.Model(inputs, layers.Dense(4, name="last")(layers.GlobalAveragePooling2D()(x)))


def rounded(forward):
    graph = freeze(forward, SHAPE)
    mixed_precision.round_inside(graph)
    return graph


def test_it_begins_behind_the_first_convolution_and_ends_before_the_logits():
    model = network()
    graph = rounded(lambda pixels: [model(pixels, training=False)])
    types = {node.name: tf.as_dtype(node.attr["T"].type) for node in graph.nodes.values() if "T" in node.attr}

    def of_layer(name):
        return {dtype for node, dtype in types.items() if f"/{name}_" in node and graph.nodes[node].op in _PRODUCTS}

    assert of_layer("first") == of_layer("last") == {tf.float32}
    assert of_layer("second") == of_layer("third") == {tf.bfloat16}
    assert [types[name] for name, node in graph.nodes.items() if node.op == "Mean"] == [tf.float32]


def gated_network() -> keras.Model:
    """As EfficientNet is made: swish, and a factor per channel from all of an image."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(SHAPE)
    x = layers.Activation("silu")(layers.Conv2D(8, 3, padding="same")(inputs))
    x = layers.Activation("silu")(layers.DepthwiseConv2D(3, padding="same")(x))
    gate = layers.Conv2D(8, 1, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Activation("silu")(layers.Conv2D(8, 1)(layers.Multiply()([x, gate])))
    return keras.Model(inputs, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("network", [network, gated_network])
def test_logits_and_gradients_stay_about_the_same_and_come_in_float32(network):
    model = network()
    function = rounded(lambda pixels: [model(pixels, training=False)]).function(SHAPE)
    with tf.GradientTape() as tape:
        tape.watch(PIXELS)
        logits = function(PIXELS)[0]
    gradient = tape.gradient(logits, PIXELS)
    assert logits.dtype == gradient.dtype == tf.float32
    plain = model(PIXELS, training=False)
    difference = np.abs(logits - plain).max() / np.abs(plain).max()
    # Not 0, or nothing was rounded; 2^-8 for each of the layers.
    assert 1e-5 < difference < 3e-2


def test_a_small_step_on_the_pixels_is_not_rounded_away():
    model = network()
    function = rounded(lambda pixels: [model(pixels, training=False)]).function(SHAPE)
    model_difference = model(PIXELS + 0.0014) - model(PIXELS)
    difference = function(PIXELS + 0.0014)[0] - function(PIXELS)[0]
    assert np.corrcoef(np.ravel(difference), np.ravel(model_difference))[0, 1] > 0.5


def test_without_a_second_convolution_nothing_is_rounded():
    def forward(pixels):
        weights = tf.ones((3, 3, 3, 2))
        return [tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(pixels, weights, 1, "SAME")), (1, 2))]

    graph = rounded(forward)
    assert not any(node.op == "Cast" for node in graph.nodes.values())
    np.testing.assert_array_equal(graph.function(SHAPE)(PIXELS)[0], forward(PIXELS)[0])


@pytest.mark.parametrize("said", ["flags: fpu avx512_bf16 sse\n", "flags: amx_bf16\n"])
def test_the_processor_says_whether_it_has_bfloat16(said, monkeypatch, tmp_path):
    processor = tmp_path / "cpuinfo"
    monkeypatch.setattr(mixed_precision, "Path", lambda path: processor)
    assert not mixed_precision.has_bfloat16()
    processor.write_text("flags: fpu avx512f\n")
    assert not mixed_precision.has_bfloat16()
    processor.write_text(said)
    assert mixed_precision.has_bfloat16()


@pytest.mark.parametrize(("capability", "has"), [((7, 5), False), ((8, 0), True), ((8, 9), True)])
def test_gpus_have_it_from_ampere_on(capability, has, monkeypatch):
    monkeypatch.setattr(mixed_precision.tf.config, "list_physical_devices", lambda kind: ["gpu"])
    details = {"compute_capability": capability}
    monkeypatch.setattr(mixed_precision.tf.config.experimental, "get_device_details", lambda gpu: details)
    assert mixed_precision.has_bfloat16() == has


def test_where_the_hardware_has_none_it_is_float32_and_a_line(monkeypatch, caplog):
    monkeypatch.setattr(forward_pass, "has_bfloat16", lambda: False)
    classifier = as_classifier(network())
    mixed = forward_pass.forward_pass(classifier, "mixed").activations(PIXELS).logits
    np.testing.assert_array_equal(mixed, forward_pass.forward_pass(classifier).activations(PIXELS).logits)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "this machine has no bfloat16 support: using float32 instead of mixed"
    ]


@pytest.mark.parametrize("has", [True, False])
def test_a_run_says_what_it_computed_with(has, monkeypatch, tmp_path, capsys):
    for module in ("odin_beam.pipeline.launch.scoring_run", "odin_beam.transforms.forward.forward_pass"):
        monkeypatch.setattr(f"{module}.has_bfloat16", lambda: has)
    model = samples.save_model(network(), tmp_path / "model.keras")
    samples.write_shard(tmp_path / "in.tfrecord", samples.examples(samples.random_images(20), [0] * 20))
    command = ["score", f"--model={model}", f"--in_distribution=known={tmp_path}/in.tfrecord", "--precision=mixed"]
    assert main([*command, f"--output={tmp_path}/out"]) == 0
    errors = capsys.readouterr().err
    assert ("using float32 instead of mixed" in errors) != has
    assert ("mixed against float32 on 20 images: 0 predictions changed, rank correlation" in errors) == has
    described = (tmp_path / "out/run.json").read_text()
    assert f'"precision": "{"mixed" if has else "float32"}"' in described


def test_a_run_whose_order_mixed_precision_changes_goes_on_in_float32(monkeypatch, tmp_path, capsys):
    for module in ("odin_beam.pipeline.launch.scoring_run", "odin_beam.transforms.forward.forward_pass"):
        monkeypatch.setattr(f"{module}.has_bfloat16", lambda: True)
    far_off = PrecisionDifference(20, 2, {"odin": 0.57, "msp": 0.99})
    monkeypatch.setattr("odin_beam.pipeline.launch.scoring_run.compare_precisions", lambda *_: far_off)
    model = samples.save_model(network(), tmp_path / "model.keras")
    samples.write_shard(tmp_path / "in.tfrecord", samples.examples(samples.random_images(20), [0] * 20))
    command = ["score", f"--model={model}", f"--in_distribution=known={tmp_path}/in.tfrecord", "--precision=mixed"]
    assert main([*command, f"--output={tmp_path}/out"]) == 0
    told = "2 predictions changed, rank correlation odin 0.5700, msp 0.9900: too much, so it goes on in float32"
    assert told in capsys.readouterr().err
    assert '"precision": "float32"' in (tmp_path / "out/run.json").read_text()
    assert main([*command, f"--output={tmp_path}/out"]) == 0
    assert "continuing in float32, as this run began" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "correlation", "small"), [(5, 0.96, True), (6, 0.96, False), (0, 0.94, False), (0, float("nan"), True)]
)
def test_what_counts_as_the_same_scores(changed, correlation, small):
    assert PrecisionDifference(100, changed, {"odin": correlation}).is_small == small


@pytest.mark.skipif(not mixed_precision.has_bfloat16(), reason="this machine computes nothing in bfloat16")
def test_detection_on_real_images_is_as_good():
    classifier = load_classifier(str(samples.real("densenet_bc_100_12_cifar10.keras")))
    inside = np.load(samples.real("cifar10_test.npz"))["x"][:300]
    with tarfile.open(samples.real("tiny_imagenet_crop.tar")) as archive:
        members = [member for member in archive.getmembers() if member.name.endswith(".png")][:300]
        files = [io.BytesIO(archive.extractfile(member).read()) for member in members]
    outside = np.stack([np.asarray(Image.open(file).convert("RGB"))[2:-2, 2:-2] for file in files])
    detectors, found = ("odin", "msp", "energy"), {}
    for precision in ("float32", "mixed"):
        score = ScoreFunction(classifier, OdinSettings(), detectors, precision)
        found[precision] = [score(images.astype(np.float32) / 255).columns for images in (inside, outside)]
    is_in = np.repeat([1, 0], [len(inside), len(outside)])
    for detector in detectors:
        exact, mixed = (
            100 * roc_auc_score(is_in, np.concatenate([columns[detector] for columns in found[precision]]))
            for precision in found
        )
        # 600 images: of 4,000 it is 0.05, see docs/performance.md.
        assert mixed == pytest.approx(exact, abs=0.2)
