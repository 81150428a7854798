"""What bytes are that are not an image of a supported format, in words."""

import base64
import binascii
import math
import re
import zlib
from collections.abc import Sequence

from odin_beam.transforms.images.formats import format_of

# At their beginning.
_SIGNATURES = (
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "a TIFF image"),
    ((b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"), "a JPEG 2000 image"),
    ((b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a"), "a JPEG XL image"),
    ((b"8BPS",), "a Photoshop file"),
    ((b"%PDF-",), "a PDF"),
    ((b"PK\x03\x04",), "a zip archive"),
    ((b"\x1f\x8b",), "gzip"),
    ((b"BZh",), "bzip2"),
    ((b"\xfd7zXZ\0",), "xz"),
    ((b"7z\xbc\xaf\x27\x1c",), "a 7z archive"),
    ((b"\x28\xb5\x2f\xfd",), "zstd"),
    ((b"PAR1",), "Parquet"),
    ((b"\x93NUMPY",), "a NumPy array"),
    ((b"\x89HDF\r\n\x1a\n",), "HDF5"),
    ((b"version https://git-lfs.",), "a Git LFS pointer (fetch the files: `git lfs pull`)"),
)
# After `ftyp`, in the containers of still images and videos.
_BRANDS = {b"avif": "an AVIF image", b"avis": "an AVIF image", b"qt  ": "a QuickTime video"}
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_HTML = re.compile(rb"\s*(?:<!--.*?-->\s*)?<(?:!doctype html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_SVG = re.compile(rb"\s*(?:<\?xml.*?\?>\s*)?(?:<!.*?>\s*)*<svg\b", re.IGNORECASE | re.DOTALL)
_XML = re.compile(rb"\s*<\?xml")
_BASE64 = re.compile(rb"(?:data:[\w/.+-]*;base64,)?([A-Za-z0-9+/_-]{16,}={0,2})")
_JSON = re.compile(rb"\s*[\[{]\s*[\[{\"\d\]}-]")
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
# Bytes looked at.
_HEAD = 512
_TENSOR_TYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 9: "int64", 10: "bool",
    14: "bfloat16", 17: "uint16", 19: "float16", 22: "uint32", 23: "uint64",
}  # fmt: skip
_MAX_DIMENSIONS = 8


def recognised(data: bytes) -> str | None:
    """What bytes are beyond doubt, with its article where it has one; None for raw pixels, text and anything else.

    Args:
      data: the whole, or at least the first bytes.
    """
    head = data[:_HEAD]
    if image := format_of(head):
        return f"a {image} image"
    for signatures, words in _SIGNATURES:
        if head.startswith(signatures):
            return words
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return _BRANDS.get(brand) or ("a HEIC image" if brand in _HEIC_BRANDS else "an MP4 video")
    if _HTML.match(head):
        return "an HTML page"
    if _SVG.match(head):
        return "an SVG drawing"
    if _is_zlib(head):
        return "zlib"
    return _tensor(head) or _base64_image(head)


def described(data: bytes) -> str | None:
    """What bytes are, text included; None if they are not recognised."""
    if not data:
        return "an empty file"
    if words := recognised(data):
        return words
    try:
        # The last character may be cut.
        text = data[:_HEAD].decode("utf-8", "strict" if len(data) <= _HEAD else "ignore")
    except UnicodeDecodeError:
        return None
    if _CONTROLS.search(text) or len(text) < len(data[:_HEAD]) / 4 - 1:
        return None
    if _XML.match(data[:_HEAD]):
        return "XML"
    return "JSON" if _JSON.match(data[:_HEAD]) else "plain text"


def other_pixels(size: int, shape: Sequence[int]) -> str | None:
    """What raw pixels of a shape are that have `size` bytes, if not one byte each."""
    numbers = math.prod(shape)
    kinds = {2: "16-bit", 4: "float32 or int32", 8: "float64 or int64"}
    kind = next((words for width, words in kinds.items() if numbers and size == width * numbers), None)
    return kind and f"{kind} pixels of {' x '.join(map(str, shape))} by their number (raw pixels are uint8)"


def _is_zlib(head: bytes) -> bool:
    if len(head) < 4 or head[0] != 0x78 or int.from_bytes(head[:2]) % 31:
        return False
    try:
        return bool(zlib.decompressobj().decompress(head, 1)) or len(head) < _HEAD
    except zlib.error:
        return False


def _base64_image(head: bytes) -> str | None:
    """Text that is an image or another recognised file, base64-encoded."""
    found = _BASE64.match(b"".join(head.split()))
    if not found:
        return None
    text = found[1].rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    try:
        decoded = base64.b64decode(text[: len(text) // 4 * 4])
    except binascii.Error:
        return None
    if image := format_of(decoded):
        return f"base64 text of a {image} image (decode it first)"
    return None


def _tensor(head: bytes) -> str | None:
    """A `TensorProto`, by its type (1) and shape (2), the way `tf.io.serialize_tensor` begins."""
    if len(head) < 4 or head[0] != 0x08 or head[1] not in _TENSOR_TYPES or head[2] != 0x12:
        return None
    end, sides, at = 4 + head[3], [], 4
    if end > len(head):
        return None
    # Each dimension (2) is a message with its size (1).
    while at < end:
        if head[at] != 0x12 or at + 2 > end or len(sides) == _MAX_DIMENSIONS:
            return None
        stop, side, shift = at + 2 + head[at + 1], 0, 0
        if stop > end or (stop > at + 2 and head[at + 2] != 0x08):
            return None
        for byte in head[at + 3 : stop]:
            side |= (byte & 127) << shift
            shift += 7
        sides.append(side)
        at = stop
    shape = " x ".join(map(str, sides)) or "no dimensions"
    return f"a serialized tensor, {_TENSOR_TYPES[head[1]]} of {shape} (store encoded images instead)"
