"""Refuses image files that cost far more to decode than their pixels are worth, by their blocks, before any decoder.

What is merely large passes: only what Pillow handles piece by piece, joins again and again, or unpacks is counted.
"""

import struct

from odin_beam.transforms import limits
from odin_beam.transforms.errors import ImageError
from odin_beam.transforms.images.jpeg_structure import jpeg_structure

_PNG_CHUNK = struct.Struct(">I4s")
_COMPRESSED_CHUNKS = (b"iCCP", b"zTXt", b"iTXt")
_GIF_EXTENSION, _GIF_COMMENT, _GIF_FRAME_OR_END = 0x21, b"!\xfe", b",;"
# Offset of the pixels, size of the header, width, height, planes, bits per pixel, compression.
_BMP_HEADER = struct.Struct("<10xIIiiHHI")
_BMP_UNCOMPRESSED, _BMP_RLE8, _BMP_RLE4, _BMP_BIT_FIELDS = range(4)
# Two bytes are at most a run of 255 pixels.
_PIXELS_PER_RLE_BYTE = 128
# A jump in run-length coding moves down by at most so many rows.
_RLE_JUMP = 256


def check_structure(data: bytes) -> None:
    """Checks the blocks of a PNG, JPEG, GIF, BMP or WebP; other and damaged files pass, for a decoder to judge.

    Raises:
      ImageError: `too_complex`, `too_many_pixels` if that is a WebP, or `truncated` if a BMP has fewer bytes than its
        pixels need, or a WebP fewer than it declares.
    """
    if data.startswith(b"\xff\xd8\xff"):
        jpeg_structure(data)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_png(data)
    elif data.startswith((b"GIF87a", b"GIF89a")):
        _check_gif(data)
    elif data.startswith(b"BM"):
        _check_bmp(data)
    elif data.startswith(b"RIFF") and data.startswith(b"WEBP", 8):
        _check_webp(data)


def _check_png(data: bytes) -> None:
    at, chunks, compressed = 8, 0, 0
    while at + _PNG_CHUNK.size <= len(data):
        length, kind = _PNG_CHUNK.unpack_from(data, at)
        at += length + 12
        chunks += 1
        compressed += kind in _COMPRESSED_CHUNKS
        if chunks > limits.MAX_PNG_CHUNKS:
            raise ImageError("too_complex", f"more than {limits.MAX_PNG_CHUNKS} chunks in a PNG")
        if compressed > limits.MAX_PNG_COMPRESSED:
            raise ImageError("too_complex", f"more than {limits.MAX_PNG_COMPRESSED} compressed texts in a PNG")


def _check_gif(data: bytes) -> None:
    """Walks the extensions before the first frame, as Pillow does."""
    if len(data) < 13:
        return
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    blocks = comment_bytes = 0
    while at < len(data) and data[at] not in _GIF_FRAME_OR_END:
        is_extension, is_comment = data[at] == _GIF_EXTENSION, data[at : at + 2] == _GIF_COMMENT
        blocks += 1
        at += 1 + is_extension
        if is_extension and not is_comment and data[at : at + 1] == b"\0":
            # Pillow takes what follows an empty extension for its content.
            at += 1
        while is_extension and at < len(data) and data[at] and blocks <= limits.MAX_GIF_BLOCKS:
            comment_bytes += data[at] if is_comment else 0
            blocks += 1
            at += data[at] + 1
        at += is_extension
        if blocks > limits.MAX_GIF_BLOCKS:
            raise ImageError("too_complex", f"more than {limits.MAX_GIF_BLOCKS} blocks before the image of a GIF")
        if comment_bytes > limits.MAX_GIF_COMMENT_BYTES:
            raise ImageError("too_complex", f"more than {limits.MAX_GIF_COMMENT_BYTES} bytes of comments in a GIF")


def _check_bmp(data: bytes) -> None:
    if len(data) < _BMP_HEADER.size:
        return
    start, header_size, width, height, _, bits, compression = _BMP_HEADER.unpack_from(data)
    height = abs(height)
    if header_size < 40 or not 0 < width * height <= limits.MAX_PIXELS:
        return
    coded = max(0, len(data) - start)
    if compression in (_BMP_UNCOMPRESSED, _BMP_BIT_FIELDS):
        needed = (width * bits + 31) // 32 * 4 * height
    else:
        needed = width * height // _PIXELS_PER_RLE_BYTE
        if _RLE_JUMP * width > limits.MAX_PIXELS or coded > limits.MAX_RLE_BYTES:
            detail = f"a run-length coded BMP of {width} pixels a row and {coded} bytes"
            raise ImageError(
                "too_complex", f"{detail}; the limits are {limits.MAX_PIXELS // _RLE_JUMP} and {limits.MAX_RLE_BYTES}"
            )
    if coded < needed:
        detail = f"a BMP of {width} x {height} pixels with {coded} bytes of them"
        raise ImageError("truncated", f"{detail}; it needs at least {needed}")


def _check_webp(data: bytes) -> None:
    """Checks the size of the canvas: Pillow allocates it twice, with four bytes a pixel, before it says its size."""
    if len(data) < 30:
        raise ImageError("truncated", f"a WebP of {len(data)} bytes, which ends before its image")
    kind, content = data[12:16], data[20:30]
    if kind == b"VP8X":
        width, height = 1 + int.from_bytes(content[4:7], "little"), 1 + int.from_bytes(content[7:10], "little")
    elif kind == b"VP8L":
        bits = int.from_bytes(content[1:5], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (int.from_bytes(content[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    if width * height > limits.MAX_PIXELS:
        raise ImageError("too_many_pixels", f"{width} x {height}; the limit is {limits.MAX_PIXELS} pixels")
    if (declared := 8 + int.from_bytes(data[4:8], "little")) > len(data):
        raise ImageError("truncated", f"a WebP of {len(data)} bytes, which declares {declared}")
