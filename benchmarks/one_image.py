"""What one image in a service takes, beside the bare passes of the same graph.

    PYTHONPATH=. python benchmarks/one_image.py --networks densenet,resnet50 --rounds 30

In turns: `OdinScorer.score_one` of a PNG, and two forward passes and an input gradient on its pixels at batch 1,
as `tf.function`s of the model that Keras loaded. Medians of seconds, and of the rounds' ratios.
"""

import argparse
import io
import os
import statistics
import tempfile
import time

import numpy as np
import tensorflow as tf
from PIL import Image

from benchmarks.networks import NETWORKS, Network, build, cifar_images


def bare_passes(model, pixels: np.ndarray):
    """A function that computes the logits, their gradient towards the predicted class, and the moved image's logits."""

    @tf.function(autograph=False)
    def passes(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            logits = model(x, training=False)
            loss = tf.reduce_max(tf.nn.log_softmax(logits / 1000.0), axis=1)
        return model(x + 0.0014 * tf.sign(tape.gradient(loss, x)), training=False)

    tensor = tf.constant(pixels[None])
    return lambda: passes(tensor).numpy()


def measure(network: Network, rounds: int) -> str:
    """A line of the table."""
    import odin_beam

    images = cifar_images(16, network.image_size)
    model = build(network, images)
    buffer = io.BytesIO()
    Image.fromarray(np.uint8(images[0] * 255)).save(buffer, "PNG")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        model.save(path)
        scorer = odin_beam.OdinScorer(path)
    bare = bare_passes(model, images[0])

    def seconds(function) -> float:
        started = time.perf_counter()
        function()
        return time.perf_counter() - started

    pair = (lambda: scorer.score_one(buffer.getvalue())), bare
    for function in pair:
        function()
    taken = []
    for number in range(rounds):
        first = seconds(pair[number % 2])
        second = seconds(pair[1 - number % 2])
        taken.append((first, second) if number % 2 == 0 else (second, first))
    ours, theirs = (statistics.median(column) for column in zip(*taken, strict=True))
    ratio = statistics.median(a / b for a, b in taken)
    return f"{network.title:24}{1000 * ours:>14.1f}{1000 * theirs:>14.1f}{ratio:>8.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="densenet,resnet50", help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--rounds", type=int, default=30, help="(default: %(default)s)")
    arguments = parser.parse_args()
    print(f"{'':24}{'score_one, ms':>14}{'passes, ms':>14}{'ratio':>8}", flush=True)
    for name in arguments.networks.split(","):
        print(measure(NETWORKS[name], arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
