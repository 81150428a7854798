r"""Train the small Fashion-MNIST classifier of the embedded example (`pipeline/demo_data/classifier.keras`).

On idx files, with or without `.gz`:

    python examples/train_classifier.py \
        --train_images $FASHION_MNIST/train-images-idx3-ubyte.gz \
        --train_labels $FASHION_MNIST/train-labels-idx1-ubyte.gz \
        --test_images $FASHION_MNIST/t10k-images-idx3-ubyte.gz \
        --test_labels $FASHION_MNIST/t10k-labels-idx1-ubyte.gz \
        --output pipeline/demo_data/classifier.keras

or on TFRecord shards of `tf.train.Example` with the features `image` (encoded) and `label` (int64):

    python examples/train_classifier.py --train 'DIR/train-*.tfrecord' --test 'DIR/test-*.tfrecord' \
        --output classifier.keras

The saved model takes float32 pixels in [0, 1], (n, height, width, channels), and gives logits (n, classes): one `Dense`
layer on the global average of the last feature maps. It carries no optimizer state.

What was measured. With the defaults (12 epochs, seed 0; one run, 11 minutes on two busy cores): 93.58 % accuracy on the
10,000 Fashion-MNIST test images, and against the 10,000 MNIST test images and 10,000 of uniform noise

    detector                             AUROC, MNIST   AUROC, uniform noise
    msp (T = 1, eps = 0)                        0.908                  0.954
    odin (T = 1000, eps = 0)                    0.981                  0.966
    odin (T = 1000, eps = 0.0014)               0.981                  0.974

The recipe was chosen by 8-epoch runs of one seed on 50,000 training images: accuracy on 5,000 held-out ones, and AUROC
of odin (T = 1000, eps = 0.0014) of these against MNIST test images 5000..7999, so the table's MNIST column is not quite
an unseen test.

    max pooling, widths 24-48-96, dropout 0.1         92.5 %   0.960
    average pooling instead                           92.8 %   0.897
    max pooling, widths 24-56-112, no dropout         93.5 %   0.946   taken

The final run has faster moving averages in the batch normalisation (0.9 for 0.99). Before, the first of the three with
AdamW and no separate selection had given 92.7 % and 0.917 on the test sets. Each figure is of one seed; the spread
between seeds was not measured.
"""

import argparse
import gzip
import os
import struct
import sys
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

PEAK_LEARNING_RATE = 0.1
MOMENTUM = 0.9
# Keras decouples the decay from the momentum, so this equals an L2 penalty of WEIGHT_DECAY * (1 - MOMENTUM) = 5e-4.
WEIGHT_DECAY = 5e-3
MAX_SHIFT = 2
READ_BATCH = 1024


class BadInputError(Exception):
    """The input cannot be used; the message is one line that says why."""


@dataclass(frozen=True)
class LabeledImages:
    """A data set in memory.

    Attributes:
      images: uint8 (n, height, width, channels).
      labels: int64 (n,), 0-based.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array of an idx file (`.gz` recognised) that must have this many dimensions."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInputError(f"cannot read {path}: {error}") from error
    # Two zero bytes, the type (8: unsigned byte), the number of dimensions, then each dimension as a big-endian u32.
    header = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < header:
        raise BadInputError(f"{path} is not an idx file of unsigned bytes in {dimensions} dimension(s)")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    values = np.frombuffer(content, np.uint8, offset=header)
    if values.size != np.prod(shape, dtype=np.int64):
        raise BadInputError(f"{path} declares {shape} values but holds {values.size}")
    return values.reshape(shape)


def read_idx_pair(images_path: Path, labels_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (n, height, width) and their labels int64 (n,) from two idx files."""
    images, labels = read_idx(images_path, dimensions=3), read_idx(labels_path, dimensions=1)
    if len(images) != len(labels):
        raise BadInputError(f"{images_path} has {len(images)} images, {labels_path} has {len(labels)} labels")
    return images, labels.astype(np.int64)


def read_idx_data(images_path: Path, labels_path: Path) -> LabeledImages:
    """`read_idx_pair` with the channel axis that a classifier expects."""
    images, labels = read_idx_pair(images_path, labels_path)
    return LabeledImages(images[..., np.newaxis], labels)


def parse_example(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Pixels uint8 (height, width, channels) and label int64 () of one serialized `tf.train.Example`."""
    features = tf.io.parse_single_example(
        serialized, {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
    )
    return tf.io.decode_image(features["image"], expand_animations=False), features["label"]


def read_tfrecord_data(pattern: str) -> LabeledImages:
    """All examples of the shards that match `pattern`, in the order of the sorted paths."""
    paths = sorted(tf.io.gfile.glob(pattern))
    if not paths:
        raise BadInputError(f"no file matches {pattern}")
    examples = tf.data.TFRecordDataset(paths).map(parse_example, num_parallel_calls=tf.data.AUTOTUNE)
    try:
        batches = list(examples.batch(READ_BATCH).as_numpy_iterator())
    except tf.errors.OpError as error:
        raise BadInputError(f"cannot read {pattern}: {error.message.splitlines()[0]}") from error
    if not batches:
        raise BadInputError(f"{pattern} holds no records")
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return LabeledImages(images, labels)


def check_data(train: LabeledImages, test: LabeledImages) -> int:
    """The number of classes, 1 + the largest training label, once both sets are seen to fit each other."""
    if not len(train) or not len(test):
        raise BadInputError(f"{len(train)} training and {len(test)} test images; neither may be empty")
    if train.images.shape[1:] != test.images.shape[1:]:
        raise BadInputError(f"training images are {train.images.shape[1:]}, test images {test.images.shape[1:]}")
    classes = int(train.labels.max()) + 1
    for name, data in (("training", train), ("test", test)):
        if data.labels.min() < 0 or data.labels.max() >= classes:
            raise BadInputError(f"{name} label outside 0..{classes - 1}, the range of the training labels")
    return classes


def convolution_block(features: keras.KerasTensor, width: int) -> keras.KerasTensor:
    """3x3 convolution to `width` channels, batch normalisation, ReLU; height and width stay."""
    features = keras.layers.Conv2D(width, 3, padding="same", use_bias=False)(features)
    features = keras.layers.BatchNormalization(momentum=0.9)(features)
    return keras.layers.ReLU()(features)


def small_convnet(image_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Three stages of two convolutions; not compiled.

    Takes float32 (n, *image_shape) in [0, 1], gives logits (n, classes).
    """
    inputs = features = keras.Input(image_shape, name="pixels")
    for stage, width in enumerate((24, 56, 112)):
        if stage:
            features = keras.layers.MaxPooling2D(2)(features)
        features = convolution_block(convolution_block(features, width), width)
    features = keras.layers.GlobalAveragePooling2D()(features)
    logits = keras.layers.Dense(classes, name="logits")(features)
    return keras.Model(inputs, logits, name="small_convnet")


def flip_and_shift(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Flip each image left-right by chance and shift the batch by up to MAX_SHIFT pixels, zeros coming in."""
    flip_seed, shift_seed = tf.unstack(tf.random.split(seed))
    images = tf.image.stateless_random_flip_left_right(images, flip_seed)
    margin = [MAX_SHIFT, MAX_SHIFT]
    padded = tf.pad(images, [[0, 0], margin, margin, [0, 0]])
    return tf.image.stateless_random_crop(padded, tf.shape(images), shift_seed)


def training_batches(data: LabeledImages, batch_size: int, seed: int) -> tf.data.Dataset:
    """One epoch of augmented batches, float32 in [0, 1] with labels int64; order and augmentation differ each epoch."""
    seeds = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).batch(2)
    images = tf.data.Dataset.from_tensor_slices((data.images, data.labels)).shuffle(len(data), seed=seed)

    def augment(batch: tuple[tf.Tensor, tf.Tensor], batch_seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels, labels = batch
        return flip_and_shift(tf.cast(pixels, tf.float32) / 255.0, batch_seed), labels

    return tf.data.Dataset.zip(images.batch(batch_size), seeds).map(augment).prefetch(tf.data.AUTOTUNE)


def make_optimizer(steps: int, warmup_steps: int) -> keras.optimizers.Optimizer:
    """Nesterov SGD: the learning rate rises linearly, then falls to 0 along a cosine; `steps` in all."""
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=PEAK_LEARNING_RATE / 10,
        decay_steps=max(1, steps - warmup_steps),
        warmup_target=PEAK_LEARNING_RATE,
        warmup_steps=warmup_steps,
    )
    return keras.optimizers.SGD(schedule, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY)


def train(model: keras.Model, data: LabeledImages, epochs: int, batch_size: int, seed: int) -> None:
    """Fit `model` in place."""
    steps_per_epoch = -(-len(data) // batch_size)
    model.compile(
        make_optimizer(epochs * steps_per_epoch, warmup_steps=steps_per_epoch // 2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    # Keras draws its bar wherever it writes; in a log, one line per epoch reads better.
    verbose = 1 if sys.stdout.isatty() else 2
    model.fit(training_batches(data, batch_size, seed), epochs=epochs, shuffle=False, verbose=verbose)


def measure_accuracy(model: keras.Model, data: LabeledImages) -> float:
    """Share of `data` whose largest logit is the label's."""
    batches = tf.data.Dataset.from_tensor_slices(data.images).batch(READ_BATCH)
    logits = model.predict(batches.map(lambda images: tf.cast(images, tf.float32) / 255.0), verbose=0)
    return float(np.mean(logits.argmax(axis=1) == data.labels))


def save_classifier(model: keras.Model, path: Path) -> None:
    """Write the `.keras` file whole or not at all, without the optimizer's state."""
    # The same layers under a model that was never compiled: Keras saves the optimizer of one that was.
    uncompiled = keras.Model(model.inputs, model.outputs, name=model.name)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as scratch:
        temporary = Path(scratch) / path.name
        uncompiled.save(temporary)
        os.replace(temporary, path)


def check_output(path: Path) -> None:
    """Find out before the training, not after it, that the model cannot be written."""
    if path.suffix != ".keras":
        raise BadInputError(f"--output must end in .keras: {path}")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise BadInputError(f"cannot write {path}")


def read_data(arguments: argparse.Namespace) -> tuple[LabeledImages, LabeledImages]:
    """Training and test set from whichever of the two kinds of flags was given in full, and alone."""
    idx_paths = (arguments.train_images, arguments.train_labels, arguments.test_images, arguments.test_labels)
    patterns = (arguments.train, arguments.test)
    if all(idx_paths) and not any(patterns):
        train_images, train_labels, test_images, test_labels = map(Path, idx_paths)
        return read_idx_data(train_images, train_labels), read_idx_data(test_images, test_labels)
    if all(patterns) and not any(idx_paths):
        return read_tfrecord_data(arguments.train), read_tfrecord_data(arguments.test)
    raise BadInputError("give --train_images, --train_labels, --test_images, --test_labels; or --train and --test")


def positive_int(text: str) -> int:
    """A flag's value that must be at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1: {text}")
    return value


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The flags of the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    idx = parser.add_argument_group("idx files")
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        idx.add_argument(f"--{name}", metavar="FILE")
    tfrecord = parser.add_argument_group("TFRecord shards")
    for name in ("train", "test"):
        tfrecord.add_argument(f"--{name}", metavar="PATTERN")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the .keras file to write")
    parser.add_argument("--epochs", type=positive_int, default=12)
    parser.add_argument("--batch_size", type=positive_int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Train and save; the exit code is 0, or 2 after one line on what is wrong with the input."""
    arguments = parse_arguments(argv)
    try:
        check_output(arguments.output)
        train_data, test_data = read_data(arguments)
        classes = check_data(train_data, test_data)
    except BadInputError as error:
        print(f"train_classifier: {error}", file=sys.stderr)
        return 2
    keras.utils.set_random_seed(arguments.seed)
    model = small_convnet(train_data.images.shape[1:], classes)
    train(model, train_data, arguments.epochs, arguments.batch_size, arguments.seed)
    save_classifier(model, arguments.output)
    print(f"test accuracy {measure_accuracy(model, test_data):.4f} on {len(test_data)} images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
