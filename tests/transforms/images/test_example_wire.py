"""Large Examples are read off the wire as protobuf reads them, in a fraction of its memory."""

import tracemalloc

import pytest
import tensorflow as tf
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from odin_beam.transforms import limits
from odin_beam.transforms.errors import ImageError
from odin_beam.transforms.images import example, example_wire
from odin_beam.transforms.images.example import ImageRecord
from odin_beam.transforms.shards.shard import FeatureNames
from tests.helpers import samples
from tests.helpers.image_files import MEGABYTE, error_of

NAMES = ("image", "label", "id", "x")


def varint(value: int) -> bytes:
    groups = [value >> shift & 127 for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([group | 128 for group in groups[:-1]] + groups[-1:])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def entry(name: bytes, *features: bytes) -> bytes:
    return field(1, field(1, name) + b"".join(field(2, feature) for feature in features))


def int64_list(*values: bytes) -> bytes:
    return field(3, b"".join(values))


def protobufs(payload: bytes) -> dict | None:
    """Kind, count and first value of every wanted feature, by protobuf."""
    try:
        features = tf.train.Example.FromString(payload).features.feature
    except DecodeError:
        return None
    found = {}
    for name in features:
        kind = features[name].WhichOneof("kind")
        values = getattr(features[name], kind).value if kind else ()
        first = values[0] if len(values) and kind != "float_list" else None
        found[name] = (kind, len(values), first)
    return found


def walked(payload: bytes) -> dict | None:
    try:
        read = example_wire.read_wire(payload, NAMES)
    except example_wire.Malformed:
        return None
    found = {}
    for name, feature in read.features.items():
        first = payload[slice(*feature.span)] if feature.span else feature.number
        found[name] = (feature.kind, feature.count, first)
    return dict.fromkeys(read.names) | found


def assert_agree(payload: bytes) -> None:
    expected, found = protobufs(payload), walked(payload)
    assert (expected is None) == (found is None)
    if expected is not None:
        assert found.keys() == expected.keys()
        assert {name: found[name] for name in NAMES if name in found} == {
            name: expected[name] for name in NAMES if name in expected
        }


UNKNOWN = [b"\x18\x05", b"\x1d1234", b"\x1912345678", field(9, b"abc"), b"\x23\x08\x01\x24", b"\x23\x2b\x2c\x24", b""]
NUMBERS = [b"\x08\x05", b"\x08" + b"\xff" * 9 + b"\x01", field(1, b"\x01\x02\xac\x02"), field(1, b""), b"\x0d1234"]
BYTES = [field(1, b"first"), field(1, b""), field(1, b"x" * 200), b"\x08\x01"]
FLOATS = [b"\x0d1234", field(1, b"12345678"), field(1, b"")]
lists = st.one_of(
    *(
        st.lists(st.sampled_from(values + UNKNOWN), max_size=3).map(lambda parts, n=n: field(n, b"".join(parts)))
        for n, values in ((1, BYTES), (2, FLOATS), (3, NUMBERS))
    )
)
features = st.lists(st.one_of(lists, st.sampled_from(UNKNOWN)), max_size=3).map(b"".join)
keys = st.sampled_from([b"image", b"label", b"id", b"x", b"other", b"", b"gr\xc3\xbcn", b"\xff"])
parts_of_entry = st.one_of(
    keys.map(lambda key: field(1, key)), features.map(lambda one: field(2, one)), st.sampled_from(UNKNOWN)
)
entries = st.lists(parts_of_entry, max_size=4).map(lambda parts: field(1, b"".join(parts)))
wire_examples = st.lists(
    st.lists(st.one_of(entries, st.sampled_from(UNKNOWN)), max_size=4).map(lambda parts: field(1, b"".join(parts))),
    max_size=2,
).map(b"".join)
ORDINARY = samples.example(image=b"pixels" * 30, label=300, id="a/b.png", height=5, width=7, score=0.5)


@samples.fuzzed(120)
@given(wire_examples)
def test_any_bytes_of_wire_are_read_as_protobuf_does(payload):
    assert_agree(payload)


@samples.fuzzed(120)
@given(st.one_of(wire_examples, st.just(ORDINARY)).flatmap(samples.damaged))
def test_damage_on_the_wire_is_what_protobuf_takes_it_for(payload):
    assert_agree(payload)


@samples.fuzzed(200)
@given(st.binary(max_size=40).map(lambda data: field(1, entry(b"x", field(3, field(1, data))))))
def test_any_bytes_of_packed_numbers_are_counted_as_protobuf_does(payload):
    assert_agree(payload)


def test_every_cut_is_what_protobuf_takes_it_for():
    for size in range(len(ORDINARY)):
        assert_agree(ORDINARY[:size])


@pytest.mark.parametrize(
    "payload",
    [
        b"\x07",
        b"\x00\x00",
        b"\x80\x80\x80\x80\x80\x00",
        b"\xfa\xff\xff\xff\x0f\x00",
        b"\xfa\xff\xff\xff\x1f\x00",
        b"\x1a\xff\xff\xff\xff\x0f",
        b"\x08" + b"\xff" * 9 + b"\x02",
        b"\x08" + b"\x80" * 10 + b"\x00",
        b"\x0b" * 50 + b"\x0c" * 50,
        b"\x0b\x14",
        b"\x0c",
    ],
)
def test_odd_wire_is_what_protobuf_takes_it_for(payload):
    assert_agree(payload)


def both_ways(monkeypatch, payload: bytes) -> list:
    """What parsing gives as a small and as a large record."""
    results = []
    for small in (len(payload), len(payload) - 1):
        monkeypatch.setattr(limits, "SMALL_RECORD_BYTES", small)
        try:
            results.append(example.parse_example(payload, FeatureNames()))
        except ImageError as e:
            results.append((e.reason, e.detail))
    return results


@pytest.mark.parametrize(
    "payload",
    [
        ORDINARY,
        samples.example(image=b"p", label=-1, id=12, height=2, width=3, depth=1),
        samples.example(image=b"p", label="7", id="x" * 5000),
        samples.example(image=b"p", id=b"\xff\xfe" * 9000, height=5.0),
        samples.example(image=3, label=4),
        samples.example(img=b"p", **{f"{i:03}" * 200: 1 for i in range(30)}),
        field(1, entry(b"image")),
        field(1, entry(b"image", field(1, field(1, b"a") + field(1, b"b")))),
        field(1, entry(b"image", field(1, field(1, b"a"))) + entry(b"label", int64_list(b"\x08\x01", b"\x08\x02"))),
        ORDINARY[:-1],
    ],
)
def test_small_and_large_records_are_parsed_alike(monkeypatch, payload):
    small, large = both_ways(monkeypatch, payload)
    assert small == large


def peak_of(payload: bytes) -> tuple[int, ImageRecord | tuple]:
    tracemalloc.start()
    try:
        try:
            result = example.parse_example(payload, FeatureNames())
        except ImageError as e:
            result = (e.reason, e.detail)
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


def test_of_a_large_record_only_the_image_is_copied():
    image = bytes(8 * MEGABYTE)
    numbers = entry(b"numbers", int64_list(field(1, bytes(8 * MEGABYTE))))
    peak, record = peak_of(field(1, entry(b"image", field(1, field(1, image))) + numbers))
    assert record == ImageRecord(image, None, None, None)
    assert peak < 8 * MEGABYTE + 20 * MEGABYTE


def test_millions_of_numbers_are_counted_without_a_list():
    payload = field(1, entry(b"image", int64_list(field(1, bytes(16 * MEGABYTE)))))
    peak, (reason, detail) = peak_of(payload)
    assert reason == "no_image"
    assert detail.startswith(f"feature 'image' is int64_list of {16 * MEGABYTE},")
    assert peak < 20 * MEGABYTE


@pytest.mark.parametrize(
    "fields",
    [b"\x0a\x00", entry(b"image", int64_list(b"\x08\x05" * 100)), b"\x18\x05", b"\x0b\x0c"],
    ids=["entries", "numbers", "unknown", "groups"],
)
def test_a_large_record_of_tiny_fields_is_too_complex(monkeypatch, fields):
    monkeypatch.setattr(limits, "MAX_WIRE_FIELDS", 10_000)
    error = error_of(example.parse_example, field(1, fields * (MEGABYTE // len(fields) + 1)), FeatureNames())
    assert error.reason == "too_complex"
    assert error.detail.endswith("bytes with more than 10000 fields and values")


def test_the_names_of_features_in_a_message_are_short():
    detail = error_of(example.parse_example, samples.example(**{"n" * 10**6: 1}), FeatureNames()).detail
    assert len(detail) < 300
