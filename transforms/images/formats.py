"""The supported image formats, one row each; they are recognised by their content, never by a file name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
      name: Pillow's name for it.
      signatures: the first bytes of its files.
      extensions: of its files, in lower case.
      decides: whether a signature is long enough to distinguish an image from raw pixels of any size.
    """

    name: str
    signatures: tuple[bytes, ...]
    extensions: tuple[str, ...]
    decides: bool = True


FORMATS = (
    Format("PNG", (b"\x89PNG\r\n\x1a\n",), (".png",)),
    Format("JPEG", (b"\xff\xd8\xff",), (".jpg", ".jpeg", ".jpe", ".jfif")),
    Format("GIF", (b"GIF87a", b"GIF89a"), (".gif",)),
    # One raw image in 65,536 begins with these two letters.
    Format("BMP", (b"BM",), (".bmp", ".dib"), decides=False),
)
NAMES = tuple(row.name for row in FORMATS)
EXTENSIONS = tuple(extension for row in FORMATS for extension in row.extensions)
# Signatures that suffice to identify an encoded image.
SIGNATURES = tuple(signature for row in FORMATS if row.decides for signature in row.signatures)
IN_WORDS = f"{', '.join(NAMES[:-1])} or {NAMES[-1]}"


def format_of(head: bytes) -> str | None:
    """The format of a file with these first bytes, if its signature decides; None for any other."""
    return next((row.name for row in FORMATS if row.decides and head.startswith(row.signatures)), None)
