"""What a `tf.train.Example` contains: its encoded image, label and id."""

from dataclasses import dataclass

import tensorflow as tf
from google.protobuf.message import DecodeError

from odin_beam.transforms.errors import ImageError
from odin_beam.transforms.shards.shard import FeatureNames


@dataclass(frozen=True)
class ImageRecord:
    """What the scorer needs from one Example.

    Attributes:
      image: encoded image, or raw uint8 pixels.
      label: class index, or None.
      id: the id feature, or None.
      raw_shape: (height, width, channels) from features of those names, for raw pixels; None if they are missing.
        Channels may be called `depth`, or follow from the number of bytes.
    """

    image: bytes
    label: int | None
    id: str | None
    raw_shape: tuple[int, int, int] | None


def parse_example(payload: bytes, names: FeatureNames) -> ImageRecord:
    """Reads one serialized `tf.train.Example`.

    Raises:
      ImageError: `not_an_example`, or `no_image` with the names of the existing features.
    """
    try:
        features = tf.train.Example.FromString(payload).features.feature
    except DecodeError as e:
        raise ImageError("not_an_example", f"{len(payload)} bytes that are no tf.train.Example") from e
    image = features[names.image].bytes_list.value if names.image in features else ()
    if len(image) != 1:
        raise ImageError("no_image", missing_image(names.image, features))
    raw_shape = _raw_shape(features, len(image[0]))
    return ImageRecord(image[0], _label(features, names.label), _id(features, names.id), raw_shape)


def missing_image(name: str, features) -> str:
    """Says what was found in place of the image."""
    names = ", ".join(sorted(features)[:20]) or "none"
    if name not in features:
        return f"no feature {name!r}; features there: {names}"
    kind = features[name].WhichOneof("kind")
    if kind is None:
        return f"feature {name!r} is empty; features there: {names}"
    count = len(getattr(features[name], kind).value)
    return f"feature {name!r} is {kind} of {count}, not one byte string; features there: {names}"


def _label(features, name: str) -> int | None:
    """A single number of at least 0; TensorFlow Datasets writes -1 for a missing label."""
    values = features[name].int64_list.value if name in features else ()
    return values[0] if len(values) == 1 and values[0] >= 0 else None


def _id(features, name: str) -> str | None:
    if name not in features:
        return None
    feature = features[name]
    if feature.bytes_list.value:
        return feature.bytes_list.value[0].decode("utf-8", errors="replace")
    return str(feature.int64_list.value[0]) if feature.int64_list.value else None


def _raw_shape(features, size: int) -> tuple[int, int, int] | None:
    height, width = _label(features, "height"), _label(features, "width")
    if height is None or width is None:
        return None
    channels = _label(features, "channels") or _label(features, "depth") or size // max(1, height * width)
    return height, width, channels
