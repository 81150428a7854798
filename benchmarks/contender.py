"""One way to score with ODIN, in a process of its own, that `speed.py` times round by round.

    python -m benchmarks.contender NAME FOLDER BATCH_SIZE

FOLDER holds `network.keras`, `layers.json`, `weights.npz` and `images.npy`. The first line of the answer tells the
versions and what the first batch gives, then each line on standard input scores all images once, and the answer is a
line with the seconds. `counts` instead, to `kernel`, gives what one batch takes beside time.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

TEMPERATURE, EPSILON = 1000.0, 0.0014
# Of the three stages of a WideResNet-40-2: side and channels of the maps.
FLOOR_SHAPES = ((32, 32), (16, 64), (8, 128))
FLOOR_BATCH, FLOOR_DEPTH, FLOOR_CALLS = 64, 8, 8


class Contender:
    """A way to score.

    Args:
      folder: with the network and the images.
      batch_size: of what is scored at once.
    """

    versions = ""

    def __init__(self, folder: Path, batch_size: int):
        images = np.load(folder / "images.npy")
        self.batches = [self.batch(images[i : i + batch_size]) for i in range(0, len(images), batch_size)]

    def batch(self, images: np.ndarray):
        """A batch as this contender has it in memory, of float32 [N, H, W, 3] in [0, 1]."""
        return images

    def logits(self) -> np.ndarray:
        """[N, K] of the first batch, unperturbed."""
        raise NotImplementedError

    def scores(self, batch) -> np.ndarray:
        """`S(x~; T)` of a batch, float [N]."""
        raise NotImplementedError

    def run(self) -> float:
        """Scores all images, and gives the seconds.

        A batch that is not timed comes first: while others had their turn, the system took back idle memory.
        """
        self.scores(self.batches[0])
        started = time.perf_counter()
        for batch in self.batches:
            self.scores(batch)
        return time.perf_counter() - started

    def greeting(self) -> dict:
        """What the first line tells, once all that is compiled is compiled."""
        scores = self.scores(self.batches[0])
        return {"versions": self.versions, "logits": self.logits().tolist(), "scores": np.asarray(scores).tolist()}


class Kernel(Contender):
    """`ScoreFunction`, on batches in memory."""

    def __init__(self, folder: Path, batch_size: int, precision: str = "float32"):
        import tensorflow as tf

        from odin_beam.transforms.detectors.odin_settings import OdinSettings
        from odin_beam.transforms.detectors.score_function import ScoreFunction
        from odin_beam.transforms.model.classifier import load_classifier

        super().__init__(folder, batch_size)
        self.versions = f"TensorFlow {tf.__version__}"
        self._classifier = load_classifier(str(folder / "network.keras"))
        self._score = ScoreFunction(self._classifier, OdinSettings(TEMPERATURE, EPSILON), ("odin",), precision)

    def logits(self) -> np.ndarray:
        return self._classifier.logits(self.batches[0]).numpy()

    def scores(self, batch: np.ndarray) -> np.ndarray:
        return self._score(batch).columns["odin"]

    def counts(self) -> dict:
        """Gradients of weights, traces, and of a batch the bytes that go to the device and those of its columns."""
        batch = self.batches[0]
        sizes = sorted({len(batch), max(1, len(batch) // 2), 1})
        graphs = traced_graphs()
        for size in sizes:
            self._score(batch[:size])
        with counted_input() as given:
            columns = self._score(batch).columns
        return {
            "weight_gradients": sum(weight_gradients(graph) for graph in graphs),
            "graphs": len(graphs),
            "graphs_later": len(traced_graphs()) - len(graphs),
            "batch_sizes": sizes,
            "images": len(batch),
            "pixel_bytes": batch.nbytes,
            "bytes_in": sum(given),
            "bytes_out": sum(column.nbytes for column in columns.values()),
            "columns": len(columns),
        }


def traced_graphs() -> list:
    """The `tf.Graph`s of all concrete functions that there are."""
    import tensorflow as tf

    return [one.graph for one in gc.get_objects() if isinstance(one, tf.types.experimental.ConcreteFunction)]


def weight_gradients(graph) -> int:
    """How many gradients of weights a graph's outputs depend on.

    TensorFlow writes them into the graph with the pixels' gradient; what no output depends on is never run.

    Args:
      graph: `tf.Graph` of a concrete function.
    """
    todo, seen = list(graph.outputs), set()
    ops = set()
    while todo:
        tensor = todo.pop()
        if tensor.ref() in seen:
            continue
        seen.add(tensor.ref())
        if tensor.op not in ops:
            ops.add(tensor.op)
            todo.extend(tensor.op.inputs)
            todo.extend(output for op in tensor.op.control_inputs for output in op.outputs)
    of_weights = [op for op in ops if "BackpropFilter" in op.type or op.type == "BiasAddGrad"]
    of_weights += [op for op in ops if op.type == "MatMul" and op.get_attr("transpose_a")]
    of_norms = [one for one in (ref.deref() for ref in seen) if one.op.type.startswith("FusedBatchNormGrad")]
    return len(of_weights) + sum(one.value_index in (1, 2) for one in of_norms)


@contextmanager
def counted_input() -> Iterator[list[int]]:
    """The sizes in bytes of the NumPy arrays that become tensors meanwhile."""
    from tensorflow.python.framework import constant_op

    sizes, to_tensor = [], constant_op.convert_to_eager_tensor

    def counted(value, *arguments, **options):
        if isinstance(value, np.ndarray):
            sizes.append(value.nbytes)
        return to_tensor(value, *arguments, **options)

    constant_op.convert_to_eager_tensor = counted
    try:
        yield sizes
    finally:
        constant_op.convert_to_eager_tensor = to_tensor


class Eager(Contender):
    """ODIN in eager TensorFlow, the way most code for it is written."""

    def __init__(self, folder: Path, batch_size: int):
        import keras
        import tensorflow as tf

        super().__init__(folder, batch_size)
        self.versions = f"TensorFlow {tf.__version__}"
        self._model = keras.models.load_model(folder / "network.keras", compile=False)

    def logits(self) -> np.ndarray:
        return self._model(self.batches[0], training=False).numpy()

    def scores(self, batch: np.ndarray) -> np.ndarray:
        import tensorflow as tf

        x = tf.convert_to_tensor(batch)
        with tf.GradientTape() as tape:
            tape.watch(x)
            logits = self._model(x, training=False) / TEMPERATURE
            labels = tf.argmax(logits, axis=1)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        x = x - EPSILON * tf.sign(tape.gradient(loss, x))
        probabilities = tf.nn.softmax(self._model(x, training=False) / TEMPERATURE)
        return tf.reduce_max(probabilities, axis=1).numpy()


class PytorchOod(Contender):
    """pytorch-ood as it comes."""

    channels_last = False

    def __init__(self, folder: Path, batch_size: int):
        import torch
        from pytorch_ood.detector import ODIN

        from benchmarks.layers import load_network
        from benchmarks.torch_network import TorchNetwork

        torch.set_num_threads(os.cpu_count())
        super().__init__(folder, batch_size)
        self.versions = f"PyTorch {torch.__version__}"
        self._model = TorchNetwork(*load_network(folder)).eval()
        if self.channels_last:
            self._model = self._model.to(memory_format=torch.channels_last)
        self._detector = ODIN(self._model, eps=EPSILON, temperature=TEMPERATURE)

    def batch(self, images: np.ndarray):
        import torch

        batch = torch.from_numpy(images).permute(0, 3, 1, 2)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return batch.contiguous(memory_format=layout)

    def logits(self) -> np.ndarray:
        import torch

        with torch.no_grad():
            return self._model(self.batches[0]).numpy()

    def scores(self, batch) -> np.ndarray:
        return -self._detector.predict(batch).numpy()


class PytorchOodChannelsLast(PytorchOod):
    """pytorch-ood, network and images in channels-last memory."""

    channels_last = True


class Oodeel(Contender):
    """oodeel on TensorFlow, with this project's epsilon in place of its default."""

    def __init__(self, folder: Path, batch_size: int):
        import tensorflow as tf
        from oodeel.methods import ODIN

        from benchmarks.keras2_network import keras2_network
        from benchmarks.layers import load_network

        super().__init__(folder, batch_size)
        self.versions = f"TensorFlow {tf.__version__}"
        self._model = keras2_network(*load_network(folder))
        self._detector = ODIN(temperature=TEMPERATURE, eps=EPSILON)
        self._detector.fit(self._model)

    def batch(self, images: np.ndarray):
        import tensorflow as tf

        return tf.constant(images)

    def logits(self) -> np.ndarray:
        return self._model(self.batches[0], training=False).numpy()

    def scores(self, batch) -> np.ndarray:
        scores, _ = self._detector.score(batch)
        return -scores


class Floor:
    """3x3 convolutions in float32, one after the other, in a TensorFlow graph: what this machine can do of them.

    Args:
      callers: concurrent ones, which share the cores evenly.
    """

    def __init__(self, callers: int):
        import tensorflow as tf

        cores = os.cpu_count()
        tf.config.threading.set_intra_op_parallelism_threads(max(1, cores // callers))
        tf.config.threading.set_inter_op_parallelism_threads(callers)
        self._callers = callers
        self._calls = FLOOR_CALLS * cores // callers
        random = np.random.default_rng(0)
        # The scale that keeps the variance of what passes.
        weights = [
            [
                tf.constant(random.normal(0, (9 * channels) ** -0.5, (3, 3, channels, channels)), tf.float32)
                for _ in range(FLOOR_DEPTH)
            ]
            for _, channels in FLOOR_SHAPES
        ]

        @tf.function(autograph=False)
        def convolve(*maps):
            sums = []
            for x, kernels in zip(maps, weights, strict=True):
                # One shape after the other, as the layers of a network.
                with tf.control_dependencies(sums):
                    for kernel in kernels:
                        x = tf.nn.conv2d(x, kernel, 1, "SAME")
                    sums.append(tf.reduce_sum(x))
            return tf.add_n(sums)

        self._convolve = convolve
        self._maps = [
            tf.constant(random.normal(size=(FLOOR_BATCH, side, side, channels)), tf.float32)
            for side, channels in FLOOR_SHAPES
        ]

    def run(self) -> float:
        """Seconds."""
        from concurrent.futures import ThreadPoolExecutor

        def call(_) -> None:
            for _ in range(self._calls):
                self._convolve(*self._maps).numpy()

        with ThreadPoolExecutor(self._callers) as pool:
            started = time.perf_counter()
            list(pool.map(call, range(self._callers)))
            return time.perf_counter() - started

    def greeting(self) -> dict:
        """The operations of a run."""
        self.run()
        once = sum(2 * 9 * side**2 * channels**2 for side, channels in FLOOR_SHAPES) * FLOOR_DEPTH * FLOOR_BATCH
        return {"operations": once * self._calls * self._callers}


CONTENDERS: dict[str, Callable[[Path, int], Contender | Floor]] = {
    "kernel": Kernel,
    "kernel-mixed": lambda folder, batch_size: Kernel(folder, batch_size, "mixed"),
    "eager": Eager,
    "pytorch-ood": PytorchOod,
    "pytorch-ood-channels-last": PytorchOodChannelsLast,
    "oodeel": Oodeel,
    "floor-together": lambda folder, batch_size: Floor(1),
    "floor-apart": lambda folder, batch_size: Floor(os.cpu_count()),
}


def main() -> None:
    """Answers on what was standard output; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    name, folder, batch_size = sys.argv[1:]
    contender = CONTENDERS[name](Path(folder), int(batch_size))
    print(json.dumps(contender.greeting()), file=answers, flush=True)
    for line in sys.stdin:
        answer = contender.counts() if line.strip() == "counts" else {"seconds": contender.run()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
