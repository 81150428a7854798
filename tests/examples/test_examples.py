"""The scripts of `examples/`, on data made here, and the embedded example that they made."""

import contextlib
import dataclasses
import functools
import gzip
import io
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorflow as tf

from odin_beam.transforms.detectors.odin_settings import OdinSettings
from odin_beam.transforms.detectors.score_function import ScoreFunction
from odin_beam.transforms.model.classifier import as_classifier, load_classifier
from tests.helpers.samples import examples, write_shard

ROOT = Path(__file__).resolve().parents[2]
DEMO_DATA = ROOT / "pipeline" / "demo_data"
SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
sys.path.insert(0, str(ROOT / "examples"))

import architectures  # noqa: E402
import keras  # noqa: E402
import make_demo_data  # noqa: E402
import train_classifier  # noqa: E402

CLASSES = 3
SOURCES = ("fashion_mnist", "mnist", "uniform_noise")


def patterned_images(count: int, size: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Noise in one of three patterns (rows, columns, squares), uint8 (count, size, size); and which, uint8 (count,).

    Flips and shifts do not turn one pattern into another.
    """
    rng = np.random.default_rng(0)
    row, column = np.indices((size, size)) // 2
    patterns = np.stack([row % 2, column % 2, (row + column) % 2]).astype(np.uint8)
    labels = rng.permutation(np.arange(count, dtype=np.uint8) % CLASSES)
    return 180 * patterns[labels] + rng.integers(0, 60, (count, size, size), dtype=np.uint8), labels


def write_idx(path: Path, values: np.ndarray) -> Path:
    """Write uint8 `values` as an idx file, compressed if the name says so."""
    content = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_tfrecord(path: Path, images: np.ndarray, labels: np.ndarray | None) -> None:
    """Write uint8 (n, height, width) and, unless None, its labels as `tf.train.Example`s."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, image in enumerate(images):
            label = None if labels is None else int(labels[number])
            writer.write(make_demo_data.make_example(image, str(number), label))


def idx_flags(folder: Path) -> dict[str, str]:
    """Flag to path of four idx files made in `folder`: 300 images twice."""
    images, labels = patterned_images(300)
    return {
        f"--{split}_{kind}": str(write_idx(folder / f"{split}-{kind}", values))
        for split in ("train", "test")
        for kind, values in (("images", images), ("labels", labels))
    }


def run_training(flags: dict[str, str], output: Path, *more: str) -> int:
    """Exit code of one epoch."""
    arguments = [word for item in flags.items() for word in item]
    return train_classifier.main([*arguments, "--output", str(output), "--epochs", "1", "--batch_size", "32", *more])


def read_examples(paths: list[Path]) -> list[dict[str, tf.train.Feature]]:
    """The features of every example, in order."""
    records = tf.data.TFRecordDataset([str(path) for path in paths]).as_numpy_iterator()
    return [dict(tf.train.Example.FromString(record).features.feature) for record in records]


def decode_images(examples: list[dict[str, tf.train.Feature]]) -> np.ndarray:
    """Uint8 (n, height, width, 1)."""
    return np.stack([tf.io.decode_png(example["image"].bytes_list.value[0]).numpy() for example in examples])


def embedded_shards(source: str) -> list[Path]:
    """The four shards of an embedded source, sorted."""
    return sorted(DEMO_DATA.glob(f"{source}-?????-of-00004.tfrecord"))


# Training


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that was trained on idx files, with seed 5; and what was printed."""
    folder, printed = tmp_path_factory.mktemp("trained"), io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert run_training(idx_flags(folder), folder / "model.keras", "--seed", "5") == 0
    return folder / "model.keras", printed.getvalue()


def test_trains_on_idx_files(trained):
    output, printed = trained
    assert re.search(r"test accuracy [01]\.\d{4} on 300 images", printed)
    assert [path.name for path in output.parent.iterdir() if path.name.startswith(".")] == []
    model = keras.models.load_model(output)
    assert model.input_shape == (None, 12, 12, 1)
    assert model.output_shape == (None, CLASSES)
    assert not model.compiled
    *_, pooling, head = model.layers
    assert isinstance(pooling, keras.layers.GlobalAveragePooling2D)
    assert isinstance(head, keras.layers.Dense)
    assert head.activation is keras.activations.linear
    with zipfile.ZipFile(output) as archive, archive.open("model.weights.h5") as weights, h5py.File(weights) as file:
        assert "optimizer" not in file


def test_learns_from_tfrecord_shards(tmp_path, capsys):
    images, labels = patterned_images(300)
    for shard in range(2):
        write_tfrecord(tmp_path / f"train-{shard}.tfrecord", images[shard::2], labels[shard::2])
    write_tfrecord(tmp_path / "test-0.tfrecord", images[:30], labels[:30])
    flags = {"--train": str(tmp_path / "train-*"), "--test": str(tmp_path / "test-*")}
    # Enough steps for the moving averages of batch normalisation to arrive.
    assert run_training(flags, tmp_path / "model.keras", "--epochs", "8") == 0
    assert float(capsys.readouterr().out.split("test accuracy ")[1].split()[0]) > 0.9


def test_same_seed_same_model(trained, tmp_path):
    again = tmp_path / "again.keras"
    assert run_training(idx_flags(tmp_path), again, "--seed", "5") == 0
    weights = [
        np.concatenate([w.ravel() for w in keras.models.load_model(output).get_weights()])
        for output in (trained[0], again)
    ]
    # Near, not bit for bit: the order of summation may depend on the number of threads that are free.
    np.testing.assert_allclose(weights[0], weights[1], atol=1e-3)


def test_shards_hold_what_the_idx_files_hold(tmp_path):
    images, labels = patterned_images(40)
    write_tfrecord(tmp_path / "a.tfrecord", images, labels)
    from_records = train_classifier.read_tfrecord_data(str(tmp_path / "a.tfrecord"))
    from_idx = train_classifier.read_idx_data(
        write_idx(tmp_path / "images.gz", images), write_idx(tmp_path / "labels", labels)
    )
    for attribute in ("images", "labels"):
        first, second = getattr(from_records, attribute), getattr(from_idx, attribute)
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)


def test_augmentation_depends_on_seed_and_epoch():
    images, labels = patterned_images(64)
    data = train_classifier.LabeledImages(images[..., np.newaxis], labels.astype(np.int64))

    def epochs(seed: int) -> list[np.ndarray]:
        batches = train_classifier.training_batches(data, 64, seed, margin=2)
        return [next(batches.as_numpy_iterator())[0] for _ in range(2)]

    first, again, other = epochs(1), epochs(1), epochs(2)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], other[0])
    assert first[0].dtype == np.float32
    assert first[0].min() >= 0 and first[0].max() <= 1


def test_every_image_is_flipped_and_shifted_by_itself_within_the_margin():
    images = np.zeros((200, 9, 9, 1), np.float32)
    images[:, 4, 4] = images[:, 4, 5] = 0.5
    images[:, 4, 5] = 1
    moved = train_classifier.flip_and_crop(tf.constant(images), tf.constant([1, 2]), 2).numpy()
    assert moved.shape == images.shape
    np.testing.assert_array_equal(moved.sum(axis=(1, 2, 3)), 1.5)
    rows, columns = np.array([np.argwhere(image[..., 0] == 1)[0] for image in moved]).T
    assert set(rows) == {2, 3, 4, 5, 6}
    flipped = np.array(
        [image[row, column - 1, 0] == 0 for image, row, column in zip(moved, rows, columns, strict=True)]
    )
    assert 60 < flipped.sum() < 140
    assert set(columns[~flipped]) == {3, 4, 5, 6, 7}
    assert set(columns[flipped]) == {1, 2, 3, 4, 5}


COLOURED = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("build", "parameters"),
    # As published: DenseNet-BC (L = 100, k = 12) 0.8 M, WideResNet-40-2 2.2 M.
    [(architectures.densenet_bc, 0.77e6), (architectures.wide_resnet, 2.24e6)],
)
def test_the_networks_have_the_published_size_and_normalise_inside(build, parameters):
    model = build((32, 32, 3), 10, COLOURED)
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert trainable == pytest.approx(parameters, rel=0.01)
    found = as_classifier(model)
    assert (found.head, found.classes, found.last_layer.map_shape[:2]) == ("linear", 10, (8, 8))
    normalized = keras.Model(model.inputs, model.layers[1].output)(COLOURED / np.float32(255)).numpy()
    np.testing.assert_allclose(normalized.mean(axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(normalized.std(axis=(0, 1, 2)), 1, atol=1e-4)


def test_the_transformer_has_signed_features_and_no_shaping(tmp_path):
    path = str(tmp_path / "small.keras")
    architectures.small_transformer((32, 32, 3), 10, COLOURED, width=16, depth=1).save(path)
    score = ScoreFunction(load_classifier(path), OdinSettings(1000.0, 0.0), ("gen", "scale", "ash_b"))
    columns = score(COLOURED / np.float32(255)).columns
    assert np.isfinite(columns["gen"]).all()
    assert np.isnan(columns["scale"]).all()
    assert np.isnan(columns["ash_b"]).all()


def test_a_depth_that_does_not_exist_is_refused():
    for build in (architectures.densenet_bc, architectures.wide_resnet):
        with pytest.raises(ValueError, match="6 n \\+ 4"):
            build((32, 32, 3), 10, COLOURED, depth=41)


@pytest.mark.parametrize("name", ["densenet_bc", "wide_resnet"])
def test_two_steps_of_training_go_on_after_an_interruption(name, tmp_path, monkeypatch, capsys):
    recipe = train_classifier.RECIPES[name]
    shallow = dataclasses.replace(recipe, build=functools.partial(recipe.build, depth=10))
    monkeypatch.setitem(train_classifier.RECIPES, name, shallow)
    labels = np.arange(64) % 3
    shard = write_shard(tmp_path / "x.tfrecord", examples(COLOURED[:, ::2, ::2], labels.tolist()))
    flags = ["--train", str(shard), "--test", str(shard), "--output", str(tmp_path / "model.keras")]
    argv = [*flags, "--architecture", name, "--epochs", "2", "--batch_size", "64"]
    begun, on_epoch_end = [], keras.callbacks.BackupAndRestore.on_epoch_end

    def interrupted(self, epoch, logs=None):
        on_epoch_end(self, epoch, logs)
        begun.append(epoch)
        if len(begun) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(keras.callbacks.BackupAndRestore, "on_epoch_end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_classifier.main(argv)
    assert not (tmp_path / "model.keras").exists()
    assert train_classifier.main(argv) == 0
    assert begun == [0, 1]
    assert "test accuracy" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.keras", "x.tfrecord"]
    assert as_classifier(keras.models.load_model(tmp_path / "model.keras")).classes == 3


def replaced(flags: dict[str, str], **values: str) -> dict[str, str]:
    """`flags` with some values replaced."""
    return flags | {f"--{name}": value for name, value in values.items()}


def bad_inputs(folder: Path) -> dict[str, tuple[dict[str, str], str]]:
    """Name to flags that must be refused and a piece of the message."""
    good = idx_flags(folder)
    images, labels = patterned_images(30)
    few = str(write_idx(folder / "few", labels))
    larger = str(write_idx(folder / "larger", patterned_images(300, 16)[0]))
    unseen = str(write_idx(folder / "unseen", np.full(300, 7, np.uint8)))
    cut = folder / "cut"
    cut.write_bytes(Path(good["--test_images"]).read_bytes()[:-1])
    cut_gz = folder / "cut.gz"
    cut_gz.write_bytes(gzip.compress(cut.read_bytes())[:-20])
    write_tfrecord(folder / "unlabeled.tfrecord", images, None)
    write_tfrecord(folder / "labeled.tfrecord", images, labels)
    damaged = bytearray((folder / "labeled.tfrecord").read_bytes())
    damaged[200] ^= 1
    (folder / "damaged.tfrecord").write_bytes(damaged)

    def shards(name: str) -> dict[str, str]:
        return {"--train": str(folder / name), "--test": str(folder / "labeled.tfrecord")}

    return {
        "missing file": (replaced(good, test_labels=str(folder / "none")), "cannot read"),
        "count mismatch": (replaced(good, train_labels=few), "has 300 images"),
        "labels as images": (replaced(good, train_images=few), "is not an idx file"),
        "truncated": (replaced(good, test_images=str(cut)), "declares"),
        "truncated gz": (replaced(good, test_images=str(cut_gz)), "cannot read"),
        "sizes differ": (replaced(good, test_images=larger), "training images are"),
        "unseen label": (replaced(good, test_labels=unseen), "outside 0..2"),
        "no match": (shards("none-*"), "no file matches"),
        "no label": (shards("unlabeled.tfrecord"), "label"),
        "damaged shard": (shards("damaged.tfrecord"), "cannot read"),
        "both kinds": (good | shards("labeled.tfrecord"), "give --train_images"),
        "half of a kind": ({"--train": str(folder / "labeled.tfrecord")}, "give --train_images"),
    }


def test_refuses_bad_input_in_one_line(tmp_path, capsys):
    output = tmp_path / "model.keras"
    for name, (flags, message) in bad_inputs(tmp_path).items():
        assert run_training(flags, output) == 2, name
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and message in error, (name, error)
        assert not output.exists(), name


@pytest.mark.parametrize("output", ["model.h5", "no_such_folder/model.keras"])
def test_refuses_output_before_training(tmp_path, capsys, output):
    assert run_training(idx_flags(tmp_path), tmp_path / output) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and output in error


def test_exit_code_of_the_process(tmp_path):
    flags = replaced(idx_flags(tmp_path), train_images=str(tmp_path / "none"))
    command = [sys.executable, str(ROOT / "examples" / "train_classifier.py"), "--output", str(tmp_path / "m.keras")]
    result = subprocess.run([*command, *[word for item in flags.items() for word in item]], capture_output=True)
    assert result.returncode == 2
    assert result.stderr.decode().splitlines()[-1].startswith("train_classifier: cannot read")


# Making the shards


@pytest.fixture
def idx_folders(tmp_path):
    """Folders laid out as the published ones are, one compressed and one not: (fashion_mnist, mnist)."""
    images, labels = patterned_images(1100)
    fashion_mnist, mnist = tmp_path / "fashion", tmp_path / "digits"
    fashion_mnist.mkdir()
    mnist.mkdir()
    write_idx(fashion_mnist / "t10k-images-idx3-ubyte.gz", images)
    write_idx(fashion_mnist / "t10k-labels-idx1-ubyte.gz", labels)
    write_idx(mnist / "t10k-images-idx3-ubyte", images[::-1].copy())
    return fashion_mnist, mnist


def run_making(folders: tuple[Path, Path], output: Path) -> int:
    """Exit code of make_demo_data."""
    fashion_mnist, mnist = map(str, folders)
    return make_demo_data.main(["--fashion_mnist", fashion_mnist, "--mnist", mnist, "--output", str(output)])


def contents(folder: Path) -> dict[str, bytes]:
    """Name to bytes of every file in `folder`."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_shards_are_made_alike_twice(tmp_path, idx_folders):
    for name in ("once", "twice"):
        assert run_making(idx_folders, tmp_path / name) == 0
    once = contents(tmp_path / "once")
    assert sorted(once) == [f"{source}-{shard:05d}-of-00004.tfrecord" for source in SOURCES for shard in range(4)]
    assert once == contents(tmp_path / "twice")


def test_shards_hold_the_first_thousand_in_order(tmp_path, idx_folders):
    assert run_making(idx_folders, tmp_path / "out") == 0
    images, labels = patterned_images(1100)
    for source, expected in (("fashion_mnist", images), ("mnist", images[::-1])):
        examples = read_examples(sorted((tmp_path / "out").glob(f"{source}-*")))
        np.testing.assert_array_equal(decode_images(examples)[..., 0], expected[:1000])
        assert [example["id"].bytes_list.value[0].decode() for example in examples] == [
            f"{source}/test/{number:05d}" for number in range(1000)
        ]
        if source == "fashion_mnist":
            assert [example["label"].int64_list.value[0] for example in examples] == labels[:1000].tolist()


def test_making_refuses_bad_input(tmp_path, capsys, idx_folders):
    fashion_mnist, mnist = idx_folders
    assert run_making((tmp_path / "none", mnist), tmp_path / "out") == 2
    assert "no t10k-images-idx3-ubyte" in capsys.readouterr().err
    write_idx(mnist / "t10k-images-idx3-ubyte", patterned_images(999)[0])
    assert run_making((fashion_mnist, mnist), tmp_path / "out") == 2
    assert "999 test images, 1000 are needed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_noise_is_uniform():
    noise = make_demo_data.uniform_noise(1000, 28, 28)
    assert noise.dtype == np.uint8 and noise.shape == (1000, 28, 28)
    counts = np.bincount(noise.ravel(), minlength=256)
    assert counts.min() > 0.9 * noise.size / 256 and counts.max() < 1.1 * noise.size / 256


# The embedded example


def test_embedded_files():
    assert len((DEMO_DATA / "labels.txt").read_text().splitlines()) == 10
    sizes = {path.name: path.stat().st_size for path in DEMO_DATA.iterdir()}
    assert sizes.pop("classifier.keras") < 1e6
    assert sum(sizes.values()) < 2e6
    assert set(sizes) == {"labels.txt", "LICENSES.md"} | {p.name for source in SOURCES for p in embedded_shards(source)}


@pytest.mark.parametrize("source", SOURCES)
def test_embedded_shards(source):
    shards = [read_examples([path]) for path in embedded_shards(source)]
    assert [len(examples) for examples in shards] == [250] * 4
    examples = [example for shard in shards for example in shard]
    assert decode_images(examples).shape == (1000, 28, 28, 1)
    assert len({example["id"].bytes_list.value[0] for example in examples}) == 1000
    labelled = source == "fashion_mnist"
    assert all(set(example) == {"image", "id"} | ({"label"} if labelled else set()) for example in examples)
    if labelled:
        assert {example["label"].int64_list.value[0] for example in examples} == set(range(10))


def test_embedded_shards_are_what_the_script_makes(tmp_path):
    folders = (SHARED_DATA / "fashion_mnist", SHARED_DATA / "mnist")
    if not all(folder.is_dir() for folder in folders):
        pytest.skip(f"no Fashion-MNIST and MNIST at {SHARED_DATA}")
    assert run_making(folders, tmp_path) == 0
    # Pixels, not bytes: another zlib may compress otherwise.
    for source in SOURCES:
        made = read_examples(sorted(tmp_path.glob(f"{source}-*")))
        embedded = read_examples(embedded_shards(source))
        np.testing.assert_array_equal(decode_images(made), decode_images(embedded))
        for feature in ("id", "label"):
            assert [example.get(feature) for example in made] == [example.get(feature) for example in embedded]


@pytest.fixture(scope="module")
def classifier():
    """The embedded classifier."""
    return keras.models.load_model(DEMO_DATA / "classifier.keras")


def embedded_pixels(source: str) -> np.ndarray:
    """Float32 (1000, 28, 28, 1) in [0, 1]."""
    return decode_images(read_examples(embedded_shards(source))).astype(np.float32) / 255


def odin_scores(model: keras.Model, pixels: np.ndarray, temperature: float, epsilon: float) -> np.ndarray:
    """ODIN's score, float64 (n,), written down directly."""
    images = tf.constant(pixels)
    with tf.GradientTape() as tape:
        tape.watch(images)
        logits = model(images, training=False)
    predicted = tf.one_hot(tf.argmax(logits, axis=1), logits.shape[1], dtype=tf.float64)
    # Temperature times the gradient of -log S with respect to the logits: only its sign will matter.
    seed = tf.nn.softmax(tf.cast(logits, tf.float64) / temperature) - predicted
    gradient = tape.gradient(logits, images, output_gradients=tf.cast(seed, logits.dtype))
    perturbed = model(images - epsilon * tf.sign(gradient), training=False)
    return tf.reduce_max(tf.nn.softmax(tf.cast(perturbed, tf.float64) / temperature), axis=1).numpy()


def auroc(in_scores: np.ndarray, out_scores: np.ndarray) -> float:
    """Share of pairs in which the in-distribution score is the higher; a tie counts one half."""
    ordered = np.sort(out_scores)
    below, not_above = (np.searchsorted(ordered, in_scores, side) for side in ("left", "right"))
    return float(np.mean(below + not_above) / 2 / len(ordered))


def test_embedded_classifier(classifier):
    assert classifier.input_shape == (None, 28, 28, 1)
    assert not classifier.compiled
    examples = read_examples(embedded_shards("fashion_mnist"))
    labels = np.array([example["label"].int64_list.value[0] for example in examples])
    logits = classifier.predict(embedded_pixels("fashion_mnist"), verbose=0)
    assert logits.min() < 0, "a softmax where logits should be"
    assert np.mean(logits.argmax(axis=1) == labels) >= 0.90


def test_odin_tells_the_embedded_sources_apart(classifier):
    scores = {
        # In batches, for the memory's sake.
        source: np.concatenate(
            [odin_scores(classifier, x, 1000.0, 0.0014) for x in np.split(embedded_pixels(source), 8)]
        )
        for source in SOURCES
    }
    assert auroc(scores["fashion_mnist"], scores["mnist"]) >= 0.90
    assert auroc(scores["fashion_mnist"], scores["uniform_noise"]) >= 0.90
