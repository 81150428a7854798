"""The digest of an encoded image, by which copies are recognised wherever they are stored. Imports no TensorFlow."""

import hashlib


def image_digest(image: bytes, path: str = "", index: int = 0) -> int:
    """The first 8 bytes of the SHA-256 of an encoded image, as a signed number.

    Args:
      image: encoded, or raw pixels; empty for an image that is generated.
      path: of the shard; with `index`, it takes the place of the bytes where there are none.
      index: of the image in its shard.

    Returns:
      In [-2^63, 2^63).
    """
    digest = hashlib.sha256(image or f"{path}:{index}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def half_of(digest: int) -> int:
    """The half that an image belongs to, 0 or 1: one chooses a detector, the other measures how good it is."""
    return digest & 1
