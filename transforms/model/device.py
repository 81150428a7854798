"""What TensorFlow computes on, and how it is told to."""

import contextlib
import os

import tensorflow as tf


def on_gpu() -> bool:
    """Whether TensorFlow has a GPU to compute on."""
    return bool(tf.config.list_physical_devices("GPU"))


def use_one_intra_op_thread() -> None:
    """Has TensorFlow compute an operation on the core that calls it; to be called before TensorFlow computes at all.

    With GPUs, or where TensorFlow has begun already, everything stays as it is.
    """
    if not on_gpu():
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(1)


def cores() -> int:
    """How many parts are computed at the same time: 1 with GPUs, else this process's cores.

    `TF_NUM_INTRAOP_THREADS` says how many those are; unless it does, they are all there are.
    """
    if on_gpu():
        return 1
    said = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    return int(said) if said.isdecimal() and int(said) else os.cpu_count() or 1


def enable_memory_growth() -> None:
    """Lets GPU memory grow with need instead of taking all at once; must come before the first use of the GPU."""
    for gpu in tf.config.list_physical_devices("GPU"):
        if not tf.config.experimental.get_memory_growth(gpu):
            tf.config.experimental.set_memory_growth(gpu, True)
