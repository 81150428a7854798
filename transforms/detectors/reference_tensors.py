"""The parts of a reference on the device, once for all batches.

tensors = ReferenceTensors(reference)
FITTED_DETECTORS["mds"](activations, tensors)
"""

from typing import Any

import numpy as np
import tensorflow as tf

from odin_beam.transforms.fitting.reference import Reference


class ReferenceTensors:
    """Has the state of every fitted detector as an attribute, named as in `Reference`.

    Arrays are tensors, which a `tf.function` captures instead of copying them into its graph; whole numbers, which
    are sizes, stay as they are.
    """

    def __init__(self, reference: Reference):
        for name in reference.STATE:
            setattr(self, name, tf.nest.map_structure(_on_device, getattr(reference, name)))


def _on_device(value: Any) -> Any:
    return tf.constant(value) if isinstance(value, np.ndarray | np.floating | float) else value
