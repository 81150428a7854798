"""The supported image formats, one row each; they are recognised by their content, never by a file name."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
      name: what it is called; Pillow calls it so in capitals.
      signatures: the first bytes of its files.
      brand: the bytes from the ninth on, if a signature is that of a container.
      extensions: of its files, in lower case.
      decides: whether a signature is long enough to distinguish an image from raw pixels of any size.
    """

    name: str
    signatures: tuple[bytes, ...]
    extensions: tuple[str, ...]
    decides: bool = True
    brand: bytes = b""

    def begins(self, head: bytes) -> bool:
        """Whether a file with these first bytes is of this format."""
        return head.startswith(self.signatures) and head.startswith(self.brand, 8)


FORMATS = (
    Format("PNG", (b"\x89PNG\r\n\x1a\n",), (".png",)),
    Format("JPEG", (b"\xff\xd8\xff",), (".jpg", ".jpeg", ".jpe", ".jfif")),
    Format("GIF", (b"GIF87a", b"GIF89a"), (".gif",)),
    # One raw image in 65,536 begins with these two letters.
    Format("BMP", (b"BM",), (".bmp", ".dib"), decides=False),
    Format("WebP", (b"RIFF",), (".webp",), brand=b"WEBP"),
)
NAMES = tuple(row.name.upper() for row in FORMATS)
EXTENSIONS = tuple(extension for row in FORMATS for extension in row.extensions)
_WORDS = tuple(row.name for row in FORMATS)
IN_WORDS = f"{', '.join(_WORDS[:-1])} or {_WORDS[-1]}"


def format_of(head: bytes) -> str | None:
    """The format of a file with these first bytes, if its signature decides; None for any other."""
    return next((row.name for row in FORMATS if row.decides and row.begins(head)), None)
