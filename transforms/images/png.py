"""Plain PNG images, decoded without the parsing that surrounds the decoder."""

import struct
import zlib

from PIL import Image, ImageFile

from odin_beam.transforms import limits

# Signature, and the IHDR chunk: length and name, width, height, depth, colour type, three methods, checksum.
_PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_PNG_HEADER = struct.Struct(">16sIIBBBBBI")
_PNG_CHUNK = struct.Struct(">I4s")
_PNG_END = b"\0\0\0\0IEND\xae\x42\x60\x82"
_PNG_MODES = {0: "L", 2: "RGB", 6: "RGBA"}


def plain_png(data: bytes) -> Image.Image | None:
    """The image of an unambiguous PNG; None for any other bytes.

    Unambiguous means: 8 bits of grey, RGB or RGBA, not interlaced; only IHDR, one IDAT and IEND, all checksums right;
    and an IDAT that Pillow would hand to its decoder in one piece. The decoder is the same as in Pillow, without the
    surrounding parsing, which takes longer than decoding a small image.
    """
    if len(data) < _PNG_HEADER.size + _PNG_CHUNK.size or not data.startswith(_PNG_START):
        return None
    _, width, height, depth, colour, *methods, crc = _PNG_HEADER.unpack_from(data)
    start = _PNG_HEADER.size + _PNG_CHUNK.size
    length, kind = _PNG_CHUNK.unpack_from(data, _PNG_HEADER.size)
    mode, end = _PNG_MODES.get(colour), start + length
    if mode is None or depth != 8 or any(methods) or not 0 < width * height <= limits.MAX_PIXELS:
        return None
    if kind != b"IDAT" or length > ImageFile.MAXBLOCK or data[end + 4 :] != _PNG_END:
        return None
    if zlib.crc32(data[12:29]) != crc or zlib.crc32(data[start - 4 : end]) != int.from_bytes(data[end : end + 4]):
        return None
    try:
        return Image.frombytes(mode, (width, height), data[start:end], "zip", mode, 0)
    except Exception:
        # The caller's fallback says what is wrong with it.
        return None
