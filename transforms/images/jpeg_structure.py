"""The segments of a JPEG file, read without decoding: how many there are, its scans, and where its data ends.

A decoder's time grows with the scans of a multi-scan file, which may take a few bytes each, and Pillow's with the
number of segments. Large metadata cost nothing: they are skipped.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from odin_beam.transforms import limits
from odin_beam.transforms.errors import ImageError

_START_OF_SCAN, _END_OF_IMAGE, _EXIF = 0xDA, 0xD9, 0xE1
# SOF0 to SOF15, without the three that are tables: DHT, JPG, DAC.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
# Markers without a segment: TEM and the restarts.
_BARE = frozenset((0x01, *range(0xD0, 0xD8)))
# A marker inside or behind coded data: neither a stuffed zero, nor a restart, nor filling.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_COEFFICIENTS = 64


@dataclass(frozen=True)
class JpegStructure:
    """What the segments of a JPEG file say.

    Attributes:
      is_single_scan: whether the first scan contains the whole image, as in every baseline file in common use.
      has_frame: whether there is a header with the image's size.
      is_complete: whether the scans contain every component, in a progressive file to the last bit of each coefficient.
      data_end: where the coded data ends: position of the marker after the last scan, or the end of the file; None if
        there is no scan.
      has_end: whether a marker follows the coded data.
    """

    is_single_scan: bool
    has_frame: bool
    is_complete: bool
    data_end: int | None
    has_end: bool


def jpeg_structure(data: bytes) -> JpegStructure:
    """Walks the segments; in a single-scan file, only up to its scan.

    Args:
      data: any bytes that begin like a JPEG file; damage ends the walk.

    Raises:
      ImageError: `too_complex`.
    """
    frame, components, left, scans, exif, data_end = 0, 0, None, 0, 0, None
    for count, (marker, at, end) in enumerate(_segments(data)):
        if count >= limits.MAX_JPEG_SEGMENTS:
            raise ImageError("too_complex", f"more than {limits.MAX_JPEG_SEGMENTS} segments in a JPEG")
        if marker == _EXIF and data[at : at + 4] == b"Exif":
            exif += 1
            if exif > limits.MAX_EXIF_SEGMENTS:
                raise ImageError("too_complex", f"more than {limits.MAX_EXIF_SEGMENTS} segments of EXIF in a JPEG")
        elif marker in _FRAMES and not frame and end - at >= 6:
            frame, components = marker, data[at + 5]
        elif marker == _START_OF_SCAN:
            scans += 1
            if scans > limits.MAX_JPEG_SCANS:
                raise ImageError("too_complex", f"more than {limits.MAX_JPEG_SCANS} scans in a JPEG")
            if frame not in _PROGRESSIVE and scans == 1 and end > at and data[at] == components:
                return JpegStructure(True, True, True, None, True)
            left = _still_to_come(left, frame, data[at:end])
            data_end = end
    if scans:
        marker = _MARKER.search(data, data_end)
        data_end = marker.start() if marker else len(data)
    is_complete = left is not None and len(left) >= components and not any(map(any, left.values()))
    return JpegStructure(False, bool(frame), is_complete, data_end, data_end is not None and data_end < len(data))


def end_of_scan(data: bytes) -> int | None:
    """Where the coded data of a single-scan file ends: at a marker or the end of the file; None without a scan."""
    for marker, _, end in _segments(data):
        if marker == _START_OF_SCAN:
            found = _MARKER.search(data, end)
            return found.start() if found else len(data)
    return None


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, and (start, end) of the content, of each segment in order, up to the end of the image or of the bytes."""
    at = 2
    while at + 4 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF or marker == 0 or marker in _BARE:
            # Filling, or what a decoder skips with a warning; also the coded data after a scan's header.
            found = _MARKER.search(data, at)
            if found is None:
                return
            at = found.start()
            marker = data[at + 1]
            if marker in _BARE:
                at += 2
                yield marker, at, at
                continue
        if marker == _END_OF_IMAGE:
            return
        size = int.from_bytes(data[at + 2 : at + 4])
        end = at + 2 + size
        if size < 2 or end > len(data):
            return
        yield marker, at + 4, end
        at = end


def _still_to_come(left: dict | None, frame: int, header: bytes) -> dict[int, list[int]]:
    """For each component, the number of bits of every coefficient that no scan has yet contained.

    Args:
      left: the same before this scan; a component appears in it with its first scan.
      frame: marker of the frame.
      header: of the scan: the number of components, two bytes for each, the first and last coefficient, and the number
        of bits left out before and after this scan.
    """
    left = dict(left or {})
    count = header[0] if header else 0
    if len(header) < 4 + 2 * count:
        return left
    first, last, bits = header[1 + 2 * count : 4 + 2 * count]
    for component in header[1 : 1 + 2 * count : 2]:
        if frame not in _PROGRESSIVE:
            left[component] = [0]
            continue
        bits_left = list(left.get(component, [_COEFFICIENTS] * _COEFFICIENTS))
        for k in range(first, min(last, _COEFFICIENTS - 1) + 1):
            bits_left[k] = bits & 15
        left[component] = bits_left
    return left
