"""What a `tf.train.Example` contains: its encoded image, label, id and uri."""

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import tensorflow as tf
from google.protobuf.message import DecodeError

from odin_beam.transforms import limits
from odin_beam.transforms.errors import ImageError
from odin_beam.transforms.images.example_wire import Malformed, TooManyFields, WireFeature, read_wire
from odin_beam.transforms.images.labels import class_index, label_problem
from odin_beam.transforms.images.recognition import described, recognised
from odin_beam.transforms.shards.shard import FeatureNames
from odin_beam.transforms.text import clipped, printable

# Where `ingest` writes the place that an image came from.
URI_FEATURE = "image/uri"
_SHAPE_NAMES = ("height", "width", "channels", "depth")
# Enough for the longest id or uri: a character has at most 4 bytes.
_ID_BYTES = 4 * limits.MAX_ID_LENGTH + 4
# Of a feature's name in a message.
_NAME_LENGTH = 100


@dataclass(frozen=True)
class ImageRecord:
    """What the scorer needs from one Example.

    Attributes:
      image: encoded image, or raw uint8 pixels.
      label: class index, or None; see `labels`.
      id: the id feature, or None.
      raw_shape: (height, width, channels) from features of those names, for raw pixels; None if they are missing.
        Channels may be called `depth`, or follow from the number of bytes.
      uri: where the image came from, absolute, by the feature `URI_FEATURE`; None without one, and for a list's images.
    """

    image: bytes
    label: int | None
    id: str | None
    raw_shape: tuple[int, int, int] | None
    uri: str | None = None


def parse_example(payload: bytes, names: FeatureNames) -> ImageRecord:
    """Reads one serialized `tf.train.Example`.

    Memory: at most 20 times `limits.SMALL_RECORD_BYTES`, and for larger records the record's size once more.

    Raises:
      ImageError: `not_an_example`, `too_complex`, or `no_image` with the names of the existing features.
    """
    if len(payload) > limits.SMALL_RECORD_BYTES:
        return _parse_large(payload, names)
    try:
        features = tf.train.Example.FromString(payload).features.feature
    except DecodeError:
        raise _not_an_example(payload) from None
    image = features[names.image].bytes_list.value if names.image in features else ()
    if len(image) != 1:
        _refuse_other_message(payload, features)
        kind = features[names.image].WhichOneof("kind") if names.image in features else None
        count = len(getattr(features[names.image], kind).value) if kind else 0
        raise ImageError("no_image", missing_image(names.image, features, kind, count))
    raw_shape = _raw_shape(lambda name: _number(features, name), len(image[0]))
    label = class_index(*_values(features[names.label])) if names.label in features else None
    return ImageRecord(image[0], label, _id(features, names.id), raw_shape, _uri(features))


def missing_label(payload: bytes, names: FeatureNames) -> str | None:
    """Why an Example has no label, by what is there in its place.

    Returns:
      None if it has one, marks it as missing, or is damaged or large.
    """
    try:
        features = tf.train.Example.FromString(payload[: limits.SMALL_RECORD_BYTES]).features.feature
    except DecodeError:
        return None
    if names.label not in features:
        return f"no feature {names.label!r}; features there: {_names(features)}"
    return label_problem(names.label, *_values(features[names.label]))


def _values(feature: tf.train.Feature) -> tuple[str | None, Sequence]:
    """A feature's kind, None if it is empty, and its values."""
    kind = feature.WhichOneof("kind")
    return kind, getattr(feature, kind).value if kind else ()


def _parse_large(payload: bytes, names: FeatureNames) -> ImageRecord:
    try:
        example = read_wire(payload, (names.image, names.label, names.id, URI_FEATURE, *_SHAPE_NAMES))
    except Malformed:
        raise _not_an_example(payload) from None
    except TooManyFields:
        detail = f"{len(payload)} bytes with more than {limits.MAX_WIRE_FIELDS} fields and values"
        raise ImageError("too_complex", detail) from None
    image = example.features.get(names.image, WireFeature())
    if image.span is None or image.count != 1:
        _refuse_other_message(payload, example.names)
        raise ImageError("no_image", missing_image(names.image, example.names, image.kind, image.count))

    def number(name: str) -> int | None:
        feature = example.features.get(name, WireFeature())
        return feature.number if feature.count == 1 and (feature.number or 0) >= 0 else None

    start, end = image.span
    id_feature = example.features.get(names.id, WireFeature())
    image_id = None if id_feature.number is None else str(id_feature.number)
    if id_feature.span is not None:
        image_id = _id_text(payload[id_feature.span[0] : min(id_feature.span[1], id_feature.span[0] + _ID_BYTES)])
    label = _wire_label(payload, example.features.get(names.label, WireFeature()))
    uri = None
    if (uri_span := example.features.get(URI_FEATURE, WireFeature()).span) is not None:
        uri = _uri_text(payload[uri_span[0] : min(uri_span[1], uri_span[0] + _ID_BYTES)])
    return ImageRecord(payload[start:end], label, image_id, _raw_shape(number, end - start), uri)


def _wire_label(payload: bytes, feature: WireFeature) -> int | None:
    if sum(end - start for start, end in feature.messages) > limits.MAX_LABEL_BYTES:
        return None
    # Protobuf merges messages that follow each other.
    joined = b"".join(payload[start:end] for start, end in feature.messages)
    return class_index(*_values(tf.train.Feature.FromString(joined)))


def _refuse_other_message(payload: bytes, names: Iterable[str]) -> None:
    """Refuses another protobuf message, such as a tensor, which parses as an Example without features."""
    if not list(names) and recognised(payload):
        raise _not_an_example(payload)


def _not_an_example(payload: bytes) -> ImageError:
    words = described(payload)
    but = f", but {words}" if words else ""
    return ImageError("not_an_example", f"{len(payload)} bytes that are not a tf.train.Example{but}")


def missing_image(name: str, existing: Iterable[str], kind: str | None, count: int) -> str:
    """Says what was found in place of the image.

    Args:
      name: of the image's feature.
      existing: names of the features.
      kind: of the feature of that name; None if it is empty or missing.
      count: number of its values.
    """
    names = _names(existing)
    if name not in existing:
        return f"no feature {name!r}; features there: {names}"
    if kind is None:
        return f"feature {name!r} is empty; features there: {names}"
    return f"feature {name!r} is {kind} of {count}, not one byte string; features there: {names}"


def _names(existing: Iterable[str]) -> str:
    return ", ".join(printable(clipped(other, _NAME_LENGTH)) for other in heapq.nsmallest(20, existing)) or "none"


def _number(features, name: str) -> int | None:
    """A single integer of at least 0."""
    values = features[name].int64_list.value if name in features else ()
    return values[0] if len(values) == 1 and values[0] >= 0 else None


def _id(features, name: str) -> str | None:
    if name not in features:
        return None
    feature = features[name]
    if feature.bytes_list.value:
        return _id_text(feature.bytes_list.value[0][:_ID_BYTES])
    return str(feature.int64_list.value[0]) if feature.int64_list.value else None


def _id_text(value: bytes) -> str:
    return clipped(value.decode("utf-8", errors="replace"), limits.MAX_ID_LENGTH)


def _uri(features) -> str | None:
    values = features[URI_FEATURE].bytes_list.value if URI_FEATURE in features else ()
    return _uri_text(values[0][:_ID_BYTES]) if values else None


def _uri_text(value: bytes) -> str | None:
    """The uri; None for what names no place: a relative path, bytes that are not UTF-8, or an overlong text."""
    try:
        uri = value.decode()
    except UnicodeDecodeError:
        return None
    is_absolute = uri.startswith("/") or "://" in uri
    return uri if is_absolute and len(uri) <= limits.MAX_ID_LENGTH else None


def _raw_shape(number: Callable[[str], int | None], size: int) -> tuple[int, int, int] | None:
    """The shape of raw pixels; `number` gives a feature's value."""
    height, width = number("height"), number("width")
    if height is None or width is None:
        return None
    channels = number("channels") or number("depth") or size // max(1, height * width)
    return height, width, channels
