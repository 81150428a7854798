"""Reads a large `tf.train.Example` off its wire format, without building its numbers and features.

Protobuf's own parser builds an object for every feature and 8 bytes for every number: a message of small ones grows
about twentyfold. Here memory is a small constant, whatever the message contains. For valid and invalid bytes the result
is protobuf's (https://protobuf.dev/programming-guides/encoding), except that a message of more than
`limits.MAX_WIRE_FIELDS` fields is refused.

An Example is `features` (1), which is a map: each entry (1) has a key (1) and a `Feature` (2), which is a `bytes_list`
(1), a `float_list` (2) or an `int64_list` (3), whose values are field 1 of it.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np

from odin_beam.transforms import limits

KINDS = {1: "bytes_list", 2: "float_list", 3: "int64_list"}
_VARINT, _EIGHT_BYTES, _LENGTH, _GROUP, _GROUP_END, _FOUR_BYTES = range(6)
_FIXED = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}
_MAX_DEPTH = 100
_PIECE_BYTES = 1 << 16
_MAX_UINT64 = (1 << 64) - 1


class Malformed(ValueError):
    """The bytes are not a `tf.train.Example`."""


class TooManyFields(ValueError):
    """The message has more than `limits.MAX_WIRE_FIELDS` fields."""


@dataclass
class WireFeature:
    """A feature's kind, the number of its values, and the first of them.

    Attributes:
      kind: a value of `KINDS`; None if the feature is empty.
      count: number of values.
      number: the first value of an `int64_list`.
      span: (start, end) of the first value of a `bytes_list` in the message.
      messages: (start, end) of the `Feature`s in the message that were merged.
    """

    kind: str | None = None
    count: int = 0
    number: int | None = None
    span: tuple[int, int] | None = None
    messages: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class WireExample:
    """The features of an Example.

    Attributes:
      names: of all features, distinct.
      features: by name; only the wanted ones.
    """

    names: set[str] = field(default_factory=set)
    features: dict[str, WireFeature] = field(default_factory=dict)


def read_wire(data: bytes, wanted: Collection[str]) -> WireExample:
    """Reads one serialized `tf.train.Example`.

    Args:
      data: the message.
      wanted: names of features.

    Raises:
      Malformed: protobuf would not parse it either.
      TooManyFields: see there.
    """
    example, walk = WireExample(), _Walk(data)
    for number, wire, *features in walk.fields(0, len(data)):
        if (number, wire) == (1, _LENGTH):
            for inner, wire, *content in walk.fields(*features):
                if (inner, wire) == (1, _LENGTH) and (entry := walk.entry(*content)):
                    name, feature = entry
                    example.names.add(name)
                    if name in wanted:
                        example.features[name] = feature
    return example


class _Walk:
    """One pass over a message.

    Args:
      data: the message.
    """

    def __init__(self, data: bytes):
        self._data = data
        self._fields_left = limits.MAX_WIRE_FIELDS

    def entry(self, start: int, end: int) -> tuple[str, WireFeature] | None:
        """An entry of the map: of several keys the last counts, several values are merged.

        None if the entry has any other field: protobuf then keeps the entry as an unknown field, out of the map.
        """
        key, feature, is_known = (0, 0), WireFeature(), True
        for number, wire, *content in self.fields(start, end):
            if (number, wire) == (1, _LENGTH):
                key = content
                self._text(*key)
            elif (number, wire) == (2, _LENGTH):
                self._merge_feature(feature, *content)
            else:
                is_known = False
        return (self._text(*key), feature) if is_known else None

    def _text(self, start: int, end: int) -> str:
        try:
            return self._data[start:end].decode()
        except UnicodeDecodeError:
            raise Malformed from None

    def _merge_feature(self, feature: WireFeature, start: int, end: int) -> None:
        """Lists of one kind are joined; a list of another kind replaces what came before."""
        feature.messages.append((start, end))
        for number, wire, *values in self.fields(start, end):
            if wire == _LENGTH and (kind := KINDS.get(number)):
                if feature.kind != kind:
                    feature.kind, feature.count, feature.number, feature.span = kind, 0, None, None
                for inner, wire, *content in self.fields(*values):
                    if inner == 1:
                        self._merge_value(feature, wire, *content)

    def _merge_value(self, feature: WireFeature, wire: int, start: int, end: int) -> None:
        """One value, or a packed list of numbers."""
        count = 0
        if feature.kind == "bytes_list":
            if wire == _LENGTH:
                count = 1
                feature.span = feature.span or (start, end)
        elif feature.kind == "float_list":
            if wire == _LENGTH and (end - start) % 4:
                raise Malformed
            count = (end - start) // 4 if wire in (_LENGTH, _FOUR_BYTES) else 0
        elif wire in (_LENGTH, _VARINT):
            count = packed_count(self._data, start, end)
            if count and feature.number is None:
                value, _ = self._varint(start, end)
                feature.number = value - (value >> 63 << 64)
        feature.count += count

    def fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """The fields of the message in `data[start:end]`. A group, which only unknown fields use, is one field.

        Yields:
          Number, wire type, and (start, end) of the value, for a varint of its bytes.
        """
        at, groups = start, []
        while at < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise TooManyFields
            tag, at = self._varint(at, end, longest=5)
            number, wire = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise Malformed
            value = at
            if wire == _VARINT:
                _, at = self._varint(at, end)
            elif wire == _LENGTH:
                size, value = self._varint(at, end, longest=5)
                at = value + size
            elif wire in _FIXED:
                at += _FIXED[wire]
            elif wire == _GROUP and len(groups) < _MAX_DEPTH:
                groups.append(number)
                continue
            elif wire == _GROUP_END and groups and groups[-1] == number:
                groups.pop()
            else:
                raise Malformed
            if at > end:
                raise Malformed
            if not groups:
                yield number, wire, value, at
        if groups:
            raise Malformed

    def _varint(self, at: int, end: int, longest: int = 10) -> tuple[int, int]:
        """The number that starts at `at`, less what exceeds 64 bits, and where it ends."""
        value = shift = 0
        for position in range(at, min(end, at + longest)):
            byte = self._data[position]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value & _MAX_UINT64, position + 1
        raise Malformed


def packed_count(data: bytes, start: int, end: int) -> int:
    """The number of varints in `data[start:end]`, counted in pieces of constant size.

    Raises:
      Malformed: a varint is cut, or longer than 10 bytes.
    """
    count, last = 0, start - 1
    for at in range(start, end, _PIECE_BYTES):
        piece = np.frombuffer(data, np.uint8, min(_PIECE_BYTES, end - at), at)
        ends = np.flatnonzero(piece < 128)
        sizes = np.diff(ends + at, prepend=last)
        if (sizes > 10).any():
            raise Malformed
        if len(ends):
            count, last = count + len(ends), at + int(ends[-1])
    if last != end - 1:
        raise Malformed
    return count
