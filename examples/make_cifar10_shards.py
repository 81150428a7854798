"""Make TFRecord shards of a CIFAR-10 test set that lies in an npz file.

    python examples/make_cifar10_shards.py --npz cifar10_test.npz --output shards/cifar10 --shards 8

The npz file has `x`, uint8 (n, 32, 32, 3), and `y`, the labels (n,) or (n, 1); `keras.datasets.cifar10.load_data()`
gives such arrays. A record is a `tf.train.Example` with `image` (PNG), `label` and `id` (`cifar10/test/00017`).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from make_demo_data import make_examples, write_shards


def main(argv: list[str] | None = None) -> int:
    """Write the shards; the exit code is 0, or 2 after one line on what is wrong with the input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--npz", type=Path, required=True, metavar="FILE", help="with the arrays x and y")
    parser.add_argument("--output", type=Path, required=True, metavar="PREFIX", help="PREFIX-0000x-of-0000N.tfrecord")
    parser.add_argument("--shards", type=int, default=8, metavar="N")
    arguments = parser.parse_args(argv)
    try:
        with np.load(arguments.npz, allow_pickle=False) as arrays:
            images, labels = arrays["x"], arrays["y"].reshape(-1)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError, KeyError) as error:
        print(f"make_cifar10_shards: {arguments.npz}: {error}", file=sys.stderr)
        return 2
    examples = list(make_examples(images, labels, "cifar10/test"))
    write_shards(examples, arguments.output.parent, arguments.output.name, arguments.shards)
    print(f"{len(examples)} images in {arguments.shards} shards")
    return 0


if __name__ == "__main__":
    sys.exit(main())
