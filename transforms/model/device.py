"""The devices that TensorFlow computes on, and how to configure it for them."""

import contextlib
import os

import tensorflow as tf


def on_gpu() -> bool:
    """Whether TensorFlow has a GPU."""
    return bool(tf.config.list_physical_devices("GPU"))


def use_one_intra_op_thread() -> None:
    """Makes TensorFlow compute each operation on the core that calls it; call this before TensorFlow computes anything.

    With GPUs, or if TensorFlow has already started computing, nothing changes.
    """
    if not on_gpu():
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(1)


def cores() -> int:
    """How many parts are computed in parallel: 1 with GPUs, else this process's number of cores.

    `TF_NUM_INTRAOP_THREADS` sets that number; by default all cores count.
    """
    if on_gpu():
        return 1
    threads = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    return int(threads) if threads.isdecimal() and int(threads) else os.cpu_count() or 1


def enable_memory_growth() -> None:
    """Lets GPU memory grow as needed instead of reserving all of it; call this before the first use of the GPU."""
    for gpu in tf.config.list_physical_devices("GPU"):
        if not tf.config.experimental.get_memory_growth(gpu):
            tf.config.experimental.set_memory_growth(gpu, True)
