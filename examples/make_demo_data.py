"""Make the shards of the embedded example (`pipeline/demo_data/`) from idx files.

    python examples/make_demo_data.py --fashion_mnist $FASHION_MNIST --mnist $MNIST --output pipeline/demo_data

The two input folders hold the test files as they are published: `t10k-images-idx3-ubyte` and, for Fashion-MNIST,
`t10k-labels-idx1-ubyte`, with or without `.gz`. Written are the first 1,000 test images of each, in their order, and
1,000 images of uniform noise, in four TFRecord shards each. A record is a `tf.train.Example` with

    image   bytes  PNG, grey, 28x28
    id      bytes  such as `fashion_mnist/test/00017`, the 18th image of the published file
    label   int64  class, 0..9; Fashion-MNIST only, since digits and noise belong to none of the classifier's classes

The same inputs and the same Pillow give the same bytes.
"""

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from PIL import Image
from train_classifier import BadInputError, read_idx, read_idx_pair

IMAGES_PER_SOURCE = 1000
SHARDS_PER_SOURCE = 4
NOISE_SEED = 2018


def find_idx(folder: Path, name: str) -> Path:
    """The idx file `name` in `folder`, plain or `.gz`."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise BadInputError(f"no {name} or {name}.gz in {folder}")


def first_images(images: np.ndarray, folder: Path) -> np.ndarray:
    """The first 1,000 of `images`, uint8 (n, height, width)."""
    if len(images) < IMAGES_PER_SOURCE:
        raise BadInputError(f"{folder}: {len(images)} test images, {IMAGES_PER_SOURCE} are needed")
    return images[:IMAGES_PER_SOURCE]


def uniform_noise(count: int, height: int, width: int) -> np.ndarray:
    """Seeded uint8 (count, height, width), each pixel uniform on 0..255."""
    return np.random.default_rng(NOISE_SEED).integers(0, 256, (count, height, width), dtype=np.uint8)


def encode_png(image: np.ndarray) -> bytes:
    """PNG of an image, uint8 (height, width) or (height, width, 3), at Pillow's best compression."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def make_example(image: np.ndarray, image_id: str, label: int | None) -> bytes:
    """Serialized `tf.train.Example` of an image, uint8 (height, width) or (height, width, 3)."""
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[encode_png(image)])),
        "id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image_id.encode()])),
    }
    if label is not None:
        features["label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def make_examples(images: np.ndarray, labels: np.ndarray | None, id_prefix: str) -> Iterator[bytes]:
    """One serialized example per image, in order; images uint8 (n, height, width) or (n, height, width, 3)."""
    for number, image in enumerate(images):
        yield make_example(image, f"{id_prefix}/{number:05d}", None if labels is None else int(labels[number]))


def write_shards(examples: list[bytes], folder: Path, source: str, shards: int) -> None:
    """Write `SOURCE-0000x-of-0000N.tfrecord`, equal runs of consecutive examples, each published whole."""
    per_shard = -(-len(examples) // shards)
    # Beside the target, so that publishing is a rename within one file system.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
        for shard in range(shards):
            path = Path(scratch) / f"{source}-{shard:05d}-of-{shards:05d}.tfrecord"
            with tf.io.TFRecordWriter(str(path)) as writer:
                for example in examples[shard * per_shard : (shard + 1) * per_shard]:
                    writer.write(example)
            os.replace(path, folder / path.name)


def make_sources(fashion_mnist: Path, mnist: Path) -> dict[str, list[bytes]]:
    """Serialized examples of the three sources, by name."""
    fashion_images, fashion_labels = read_idx_pair(
        find_idx(fashion_mnist, "t10k-images-idx3-ubyte"), find_idx(fashion_mnist, "t10k-labels-idx1-ubyte")
    )
    fashion = first_images(fashion_images, fashion_mnist)
    digits = first_images(read_idx(find_idx(mnist, "t10k-images-idx3-ubyte"), dimensions=3), mnist)
    noise = uniform_noise(*fashion.shape)
    return {
        "fashion_mnist": list(make_examples(fashion, fashion_labels, "fashion_mnist/test")),
        "mnist": list(make_examples(digits, None, "mnist/test")),
        "uniform_noise": list(make_examples(noise, None, "uniform_noise")),
    }


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The flags of the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--fashion_mnist", type=Path, required=True, metavar="DIR", help="Fashion-MNIST's idx files")
    parser.add_argument("--mnist", type=Path, required=True, metavar="DIR", help="MNIST's idx files")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where the shards go")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Write the twelve shards; the exit code is 0, or 2 after one line on what is wrong with the input."""
    arguments = parse_arguments(argv)
    try:
        sources = make_sources(arguments.fashion_mnist, arguments.mnist)
        arguments.output.mkdir(parents=True, exist_ok=True)
    except (BadInputError, OSError) as error:
        print(f"make_demo_data: {error}", file=sys.stderr)
        return 2
    for source, examples in sources.items():
        write_shards(examples, arguments.output, source, SHARDS_PER_SOURCE)
        print(f"{source}: {len(examples)} images, {sum(map(len, examples)):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
