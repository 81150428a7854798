"""`odin-beam check`: what it proves, what it refuses, and what `score` takes over from it."""

import dataclasses
import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.launch import quick_check
from odin_beam.pipeline.main import main
from odin_beam.transforms.checking import expected_input, label_order, soundness, trials
from odin_beam.transforms.detectors.odin_settings import OdinSettings
from odin_beam.transforms.model.classifier import as_classifier
from odin_beam.transforms.model.preprocessing import Preprocessing
from odin_beam.transforms.shards import framing
from tests.helpers import samples

DEMO = samples.DEMO_DATA
FASHION = f"{DEMO}/fashion_mnist-*.tfrecord"
ONE_SHARD = f"{DEMO}/fashion_mnist-00000-*"


@pytest.fixture(scope="module")
def unit_model():
    return str(DEMO / "classifier.keras")


@pytest.fixture(scope="module")
def byte_model(unit_model, tmp_path_factory):
    """The demo's classifier behind a layer that makes [0, 1] out of bytes."""
    inputs = keras.Input((28, 28, 1))
    outputs = keras.models.load_model(unit_model)(keras.layers.Rescaling(1 / 255)(inputs))
    return samples.save_model(keras.Model(inputs, outputs), tmp_path_factory.mktemp("byte") / "byte.keras")


@pytest.fixture(scope="module")
def checked(byte_model, tmp_path_factory):
    """The model.json of a check of that model."""
    config = tmp_path_factory.mktemp("checked") / "model.json"
    assert main(["check", f"--model={byte_model}", f"--in_distribution={FASHION}", f"--output={config}"]) == 0
    return config


def relabelled(folder, change):
    """The first 256 images of the demo with other labels; None takes a label away."""
    payloads = []
    for path in sorted(DEMO.glob("fashion_mnist-*.tfrecord")):
        for record in list(framing.read_file(str(path)))[:64]:
            features = tf.train.Example.FromString(record.payload).features.feature
            label = change(features["label"].int64_list.value[0])
            payloads.append(samples.example(image=features["image"].bytes_list.value[0], label=label))
    return samples.write_shard(folder / "relabelled.tfrecord", payloads)


def table(printed):
    """The candidates' accuracies, as printed."""
    lines = [line.split() for line in printed.splitlines() if line.startswith("  ") and "%" in line]
    return {line[-5]: float(line[-4]) for line in lines}


def test_on_cifar10_unit_is_found_among_six_and_bgr_refused(tmp_path, capsys):
    with np.load(samples.real("cifar10_test.npz")) as arrays:
        payloads = samples.examples(arrays["x"][:128], arrays["y"][:128].astype(int).tolist())
    shard = samples.write_shard(tmp_path / "cifar10.tfrecord", payloads)
    argv = ["check", f"--model={samples.real('densenet_bc_100_12_cifar10.keras')}", f"--in_distribution={shard}"]
    assert main([*argv, f"--output={tmp_path}/model.json"]) == 0
    printed = capsys.readouterr().out
    accuracies = table(printed)
    assert set(accuracies) == {"unit", "byte", "tf", "torch", "caffe", "bgr"}
    assert accuracies["unit"] > 90 > 50 > max(accuracies[name] for name in ("byte", "tf", "torch", "caffe"))
    assert "maps         8 x 8 x 342, global average pooling, then dense" in printed
    assert "preprocessing: unit" in printed
    assert json.loads((tmp_path / "model.json").read_text())["preprocessing"]["name"] == "unit"
    assert main([*argv, "--channel_order=bgr"]) == 2
    assert capsys.readouterr().err.endswith("use --preprocessing unit\n")


def test_a_model_of_bytes_is_found_to_want_bytes(byte_model, capsys):
    assert main(["check", f"--model={byte_model}", f"--in_distribution={FASHION}"]) == 0
    printed = capsys.readouterr().out
    assert "Rescaling(0.00392157, 0)" in printed
    assert "preprocessing: byte" in printed
    assert main(["check", f"--model={byte_model}", f"--in_distribution={FASHION}", "--preprocessing=unit"]) == 2
    assert "use --preprocessing byte" in capsys.readouterr().err


def test_without_labels_the_choice_must_be_spelled_out_and_a_collapse_is_warned_of(unit_model, tmp_path, capsys):
    shard = relabelled(tmp_path, lambda label: None)
    argv = ["check", f"--model={unit_model}", f"--in_distribution={shard}"]
    assert main(argv) == 2
    assert "cannot be chosen because there are no labels: give --preprocessing" in capsys.readouterr().err
    assert main([*argv, "--preprocessing=unit"]) == 0
    assert "WARNING" not in capsys.readouterr().out
    assert main([*argv, "--mean=30", "--std=0.01"]) == 0
    assert "WARNING: the predictions fall into 1.0 of 10 classes" in capsys.readouterr().out


def test_permuted_labels_do_not_mislead_the_choice_and_their_mapping_is_shown(unit_model, tmp_path, capsys):
    shard = relabelled(tmp_path, lambda label: (label + 5) % 10)
    argv = [f"--model={unit_model}", f"--in_distribution={shard}"]
    (tmp_path / "labels.txt").write_text("".join(f"class {label}\n" for label in range(10)))
    assert main(["check", *argv, f"--output={tmp_path}/model.json"]) == 0
    printed = capsys.readouterr().out
    assert "preprocessing: unit" in printed
    assert "the labels are in another order than the model's outputs" in printed
    assert re.search(r"and 9\d\.\d % with the labels mapped 0 -> 5, 1 -> 6, 2 -> 7", printed)
    written = json.loads((tmp_path / "model.json").read_text())
    assert written["preprocessing"]["name"] == "unit"
    # They name labels, which are not the model's outputs.
    assert written["found"]["class_names"] is None
    assert main(["check", *argv, "--preprocessing=unit"]) == 0
    capsys.readouterr()
    assert main(["score", *argv, f"--output={tmp_path}/out"]) == 0
    assert "the labels are in another order" in capsys.readouterr().err


def test_labels_that_say_nothing_leave_the_choice_to_the_user(unit_model, tmp_path, capsys):
    rng = np.random.default_rng(0)
    shard = relabelled(tmp_path, lambda label: int(rng.integers(10)))
    argv = ["check", f"--model={unit_model}", f"--in_distribution={shard}"]
    assert main(argv) == 2
    assert "because accuracy is at chance under every one" in capsys.readouterr().err
    assert main([*argv, "--preprocessing=unit"]) == 0
    assert "are the labels in another order?" in capsys.readouterr().out


def test_without_labels_the_models_own_layers_are_believed(byte_model, tmp_path, capsys):
    shard = relabelled(tmp_path, lambda label: None)
    argv = [f"--model={byte_model}", f"--in_distribution={shard}"]
    assert main(["check", *argv]) == 0
    assert "preprocessing: byte" in capsys.readouterr().out
    assert main(["score", *argv, f"--output={tmp_path}/out"]) == 0
    warning = "Rescaling(0.00392157, 0) in the model expects --preprocessing byte, and unit is used"
    assert warning in capsys.readouterr().err


def test_images_of_the_archive_show_a_collapse_too_and_a_rerun_says_it_again(byte_model, tmp_path, capsys):
    argv = ["score", f"--model={byte_model}", f"--input={ONE_SHARD}", f"--output={tmp_path}/out", "--detectors=msp"]
    for _ in range(2):
        assert main(argv) == 0
        assert "WARNING: the predictions fall into 1.0 of 10 classes" in capsys.readouterr().err
    assert main([*argv[:2], f"--output={tmp_path}/right", *argv[2:3], "--detectors=msp", "--preprocessing=byte"]) == 0
    assert "WARNING" not in capsys.readouterr().err


def test_a_model_that_cannot_be_rewritten_is_said_to_run_as_loaded(tmp_path, capsys):
    inputs = keras.Input((28, 28, 1))
    rows = keras.layers.SimpleRNN(8)(keras.layers.Reshape((28, 28))(inputs))
    model = samples.save_model(keras.Model(inputs, keras.layers.Dense(10)(rows)), tmp_path / "loop.keras")
    argv = [f"--model={model}", f"--in_distribution={ONE_SHARD}", "--preprocessing=unit"]
    assert main(["check", *argv]) == 0
    assert "as loaded    the model cannot be rewritten into a faster form: " in capsys.readouterr().out
    assert main(["score", *argv, f"--output={tmp_path}/out"]) == 0
    assert "the model runs as it was loaded, which is slower: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda label: label + 100, "labels run to 109, the model has 10 classes"),
        (lambda label: label + 1, "labels run from 1 to 10, the model's classes from 0 to 9: count from 0"),
        (lambda label: label + 1 if label < 9 else None, "the labels less 1 are predicted: number the classes from 0"),
    ],
)
def test_labels_that_the_model_has_no_classes_for_are_said(unit_model, tmp_path, capsys, change, said):
    argv = [f"--model={unit_model}", f"--in_distribution={relabelled(tmp_path, change)}"]
    assert main(["check", *argv, "--preprocessing=unit"]) == 0
    assert said in capsys.readouterr().out
    assert main(["score", *argv, f"--output={tmp_path}/out"]) == 0
    assert f"WARNING: {said}" in capsys.readouterr().err.replace("accuracy is at chance, and ", "")


@pytest.mark.parametrize(
    ("change", "flag", "said"),
    [
        (lambda label: label + 0.5, "", r"no labels: feature 'label' is float_list of 1 \(\d.5\), not a class index"),
        (lambda label: "cat", "", r"no labels: feature 'label' is bytes_list of 1 \('cat'\)"),
        (lambda label: label, "--label_feature=lable", "no labels: no feature 'lable'; features there: image, label"),
    ],
)
def test_the_reason_for_missing_labels_is_said(unit_model, tmp_path, capsys, change, flag, said):
    argv = [f"--model={unit_model}", f"--in_distribution=known={relabelled(tmp_path, change)}", *filter(None, [flag])]
    assert main(["check", *argv, "--preprocessing=unit"]) == 0
    assert re.match(f"source known: {said}", capsys.readouterr().err)
    assert main(["score", *argv, f"--output={tmp_path}/out"]) == 0
    assert re.search(f"source known: {said}", capsys.readouterr().err)


@pytest.mark.parametrize("change", [float, lambda label: str(label)])
def test_labels_in_other_types_count(unit_model, tmp_path, capsys, change):
    assert main(["check", f"--model={unit_model}", f"--in_distribution={relabelled(tmp_path, change)}"]) == 0
    assert "256 images, 256 with labels" in capsys.readouterr().out


def test_a_model_through_which_no_gradient_flows_is_refused_unless_epsilon_is_0(tmp_path, capsys):
    inputs = keras.Input((28, 28, 1))
    whole = keras.ops.cast(keras.ops.cast(inputs * 255, "uint8"), "float32")
    outputs = keras.layers.Dense(10)(keras.layers.Flatten()(whole))
    model = samples.save_model(keras.Model(inputs, outputs), tmp_path / "cast.keras")
    argv = [f"--model={model}", f"--in_distribution={FASHION}", "--preprocessing=unit"]
    assert main(["check", *argv]) == 2
    assert "no gradient reaches the pixels" in capsys.readouterr().err
    assert main(["score", *argv, f"--output={tmp_path}/out"]) == 2
    assert "--epsilon 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["score", *argv, f"--output={tmp_path}/out", "--epsilon=0"]) == 0
    assert main(["score", *argv, f"--output={tmp_path}/msp", "--detectors=msp"]) == 0


def test_the_contact_sheet_shows_what_the_model_sees(checked):
    with Image.open(checked.with_name("model-images.png")) as sheet:
        assert sheet.size == (8 * 98, 8 * 98)
        assert len(set(sheet.convert("L").get_flattened_data())) > 100


def test_model_json_feeds_score(byte_model, checked, tmp_path):
    argv = [
        "score",
        f"--model={byte_model}",
        f"--in_distribution={ONE_SHARD}",
        f"--output={tmp_path}/o",
    ]
    assert main([*argv, f"--model_config={checked}"]) == 0
    assert json.loads((tmp_path / "o/run.json").read_text())["settings"]["preprocessing"]["name"] == "byte"
    assert json.loads((tmp_path / "o/summary.json").read_text())["sources"]["in_distribution"]["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        (lambda c: c, ["--preprocessing=unit"], "preprocessing name unit contradicts --model_config, which has byte"),
        (lambda c: c, ["--resize=none"], "geometry resize none contradicts --model_config, which has stretch"),
        (lambda c: {**c, "model_digest": "0"}, [], "was made for a different model"),
        (lambda c: {"model_digest": "0"}, [], "was written by another version of odin-beam: it lacks geometry"),
        (lambda c: [c], [], "is not a model.json of `check`"),
        (lambda c: {**c, "geometry": {**c["geometry"], "resize": "squash"}}, [], "resize is one of"),
        (lambda c: {**c, "preprocessing": {"nome": "byte"}}, [], "nome"),
    ],
)
def test_a_model_json_that_does_not_fit_is_refused(byte_model, checked, tmp_path, capsys, change, flags, message):
    config = tmp_path / "model.json"
    config.write_text(json.dumps(change(json.loads(checked.read_text()))))
    argv = ["score", f"--model={byte_model}", f"--in_distribution={FASHION}", f"--output={tmp_path}/out"]
    capsys.readouterr()
    assert main([*argv, f"--model_config={config}", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_score_refuses_a_preprocessing_that_is_clearly_worse_and_can_be_told_not_to_check(byte_model, tmp_path, capsys):
    argv = ["score", f"--model={byte_model}", f"--in_distribution={FASHION}", f"--output={tmp_path}/out"]
    assert main(argv) == 2
    assert "use --preprocessing byte" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*argv, "--check=false"]) == 0


def test_without_images_it_says_what_it_found_and_what_to_give(unit_model, capsys):
    assert main(["check", f"--model={unit_model}"]) == 0
    printed = capsys.readouterr().out
    assert "28 x 28 x 1" in printed
    assert "linear, 10 classes" in printed
    assert "give --in_distribution" in printed


def test_effective_classes_is_the_exponential_of_the_entropy():
    assert trials.effective_classes(np.arange(10)) == pytest.approx(10)
    assert trials.effective_classes(np.zeros(10, int)) == pytest.approx(1)
    assert trials.effective_classes(np.array([0, 0, 0, 1])) == pytest.approx(4 / 27**0.25)


def trial(correct):
    return trials.Trial(Preprocessing(), np.zeros(len(correct), int), np.array(correct, bool), 1.0)


@pytest.mark.parametrize(
    ("ours", "theirs", "worse"),
    [
        ([1] * 90 + [0] * 10, [1] * 100, True),
        ([1] * 95 + [0] * 5, [1] * 100, False),
        ([1] * 100, [1] * 90 + [0] * 10, False),
        ([1, 0] * 50, [0, 1] * 50, False),
    ],
)
def test_clearly_worse_needs_more_than_chance(ours, theirs, worse):
    assert trials.clearly_worse(trial(ours), trial(theirs)) == worse


LABELS = np.repeat(np.arange(10), 10)


def tried(name, predictions, confidence=0.9):
    return trials.Trial(Preprocessing(name), predictions, predictions == LABELS, confidence)


def test_collapsed_predictions_are_never_chosen_and_never_a_reason_to_refuse():
    """More accurate than the right ones, whose labels are permuted."""
    collapsed = tried("byte", np.where(np.arange(100) < 30, LABELS, 2), confidence=1.0)
    right = tried("unit", (LABELS + 1) % 10)
    assert collapsed.accuracy >= 0.3 > right.accuracy == 0
    both = [collapsed, right]
    collapsed_now = [tried("byte", np.full(100, 3), confidence=1.0), right]
    for given in (None, Preprocessing("unit")):
        assert quick_check.choose(collapsed_now, given, None, 10, LABELS) is right
    assert quick_check.choose(both, Preprocessing("unit"), None, 10, LABELS).preprocessing.name == "unit"
    with pytest.raises(UsageError, match="collapse into a few classes under every one: give --preprocessing"):
        quick_check.choose(collapsed_now[:1], None, None, 10, LABELS)
    assert quick_check.choose(collapsed_now[:1], Preprocessing("byte"), None, 10, LABELS) is collapsed_now[0]


def test_the_best_order_of_labels_is_found_and_told_from_chance():
    rng = np.random.default_rng(1)
    order = rng.permutation(10)
    predictions = np.where(rng.random(100) < 0.9, order[LABELS], rng.integers(10, size=100))
    found = label_order.best_order(predictions, LABELS, 10)
    assert found.outputs == {label: int(output) for label, output in enumerate(order)}
    assert found.accuracy == np.mean(predictions == order[LABELS])
    assert found.explains
    assert not label_order.best_order(rng.integers(10, size=100), LABELS, 10).explains
    assert not label_order.best_order(rng.integers(10, size=100), np.full(100, -1), 10).explains


def network(name):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(3, 3)(inputs))
    return keras.Model(inputs, keras.layers.Dense(3)(x), name=name)


def behind(first, network):
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, network(first(inputs)), name="mine")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (network("resnet50"), "caffe"),
        (network("resnet50v2"), "tf"),
        (network("mobilenetv2_1.00_224"), "tf"),
        (network("densenet121"), "torch"),
        (behind(keras.layers.RandomFlip(), network("vgg16")), "caffe"),
        (behind(keras.Sequential([keras.layers.RandomRotation(0.1)]), network("xception")), "tf"),
        (behind(lambda x: x / 127.5 - 1, network("resnet50")), None),
        (network("densenet_of_mine"), None),
    ],
)
def test_networks_of_keras_applications_are_known_by_their_names(model, expected):
    own = expected_input.own_preprocessing(as_classifier(model).model)[1]
    assert (own.name if own else None) == expected


def test_soundness_tells_a_model_that_mixes_images_from_a_sound_one():
    pixels = samples.random_images(8).astype(np.float32) / 255
    sound = soundness.measure_soundness(as_classifier(samples.small_model()), pixels, OdinSettings())
    assert sound.repeatable
    assert sound.gradient_share > 0.9
    assert sound.alone_difference < 1e-5
    assert sound.images_per_second > 0

    classifier = as_classifier(samples.small_model())
    mixing = dataclasses.replace(
        classifier, model_logits=lambda x: classifier.model_logits(x - tf.reduce_mean(x, axis=0, keepdims=True))
    )
    assert soundness.measure_soundness(mixing, pixels, OdinSettings()).alone_difference > 1e-2


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (keras.layers.Rescaling(1 / 127.5, -1), "byte"),
        (keras.layers.Rescaling(2.0, -1), "unit"),
        (keras.layers.Normalization(mean=[123.0, 116.0, 103.0], variance=[9.0, 9.0, 9.0]), "byte"),
        (keras.layers.Normalization(mean=[0.5, 0.5, 0.5], variance=[0.1, 0.1, 0.1]), "unit"),
        (keras.layers.Dropout(0.1), None),
    ],
)
def test_what_the_models_own_normalisation_asks_for(layer, expected):
    nested = keras.Sequential([keras.Input((8, 8, 3)), layer])
    model = keras.Sequential([keras.Input((8, 8, 3)), nested, keras.layers.Flatten(), keras.layers.Dense(3)])
    own = expected_input.own_preprocessing(model)[1]
    assert (own.name if own else None) == expected


@pytest.mark.parametrize("make", ["saved_model", "several_outputs", "mixed_precision"])
def test_other_kinds_of_models_are_checked_and_scored_alike(make, unit_model, tmp_path, capsys):
    model, flags = keras.models.load_model(unit_model), []
    inputs = keras.Input((28, 28, 1))
    if make == "saved_model":
        model.export(tmp_path / "m", verbose=False)
        path = f"{tmp_path}/m"
    elif make == "several_outputs":
        outputs = {"probabilities": model(inputs), "size": keras.layers.Flatten()(inputs)}
        path = samples.save_model(keras.Model(inputs, outputs), tmp_path / "m.keras")
        assert main(["check", f"--model={path}", f"--in_distribution={FASHION}"]) == 2
        assert "choose one with --output_name" in capsys.readouterr().err
        flags = ["--output_name=probabilities"]
    else:
        mixed = keras.models.clone_model(model, clone_function=lambda layer: mixed_precision(layer))
        mixed.set_weights(model.get_weights())
        path = samples.save_model(mixed, tmp_path / "m.keras")
    config = f"{tmp_path}/model.json"
    assert main(["check", f"--model={path}", f"--in_distribution={FASHION}", f"--output={config}", *flags]) == 0
    printed = capsys.readouterr().out
    assert "preprocessing: unit" in printed
    assert ("saved as mixed_bfloat16, computes in float32" in printed) == (make == "mixed_precision")
    argv = ["score", f"--model={path}", f"--model_config={config}", f"--output={tmp_path}/o", f"--input={ONE_SHARD}"]
    assert main(argv) == 0
    assert json.loads((tmp_path / "o/summary.json").read_text())["scored"] == 250
    assert capsys.readouterr().err.count("mixed_bfloat16") == (make == "mixed_precision")


def mixed_precision(layer):
    return type(layer).from_config({**layer.get_config(), "dtype": "mixed_bfloat16"})


def test_what_an_archive_costs_is_printed_on_request(unit_model, capsys):
    argv = ["check", f"--model={unit_model}", f"--in_distribution={ONE_SHARD}"]
    assert main([*argv, "--images=100000000"]) == 0
    printed = capsys.readouterr().out
    assert "nothing was run there; list prices of October 2026" in printed
    speed, hours = re.search(r"speed +([\d,]+) images/s", printed)[1], re.search(r"machine +([\d,.]+) h", printed)[1]
    speed, hours = (float(number.replace(",", "")) for number in (speed, hours))
    assert hours == pytest.approx(1e8 / speed / 3600, rel=1 / speed + 0.01)
    assert re.search(r"decoding [\d,]+ images/s per core", printed)
    assert len(re.findall(r"^  (T4|L4|A100 40 GB), ", printed, re.MULTILINE)) == 3
    assert main(["check", f"--model={unit_model}", "--images=100000000"]) == 0
    assert "decoding not counted" in capsys.readouterr().out
    assert main([*argv, "--images=0"]) == 2
    assert "--images: 0 must be at least 1" in capsys.readouterr().err
