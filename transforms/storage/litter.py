"""Files that lie among images and shards without being meant: one rule for every way to read them."""

_FOLDERS = ("__macosx",)
_FILES = ("thumbs.db", "desktop.ini", "_success")
# Checksums that Hadoop writes beside its files.
_ENDS = (".crc",)


def is_litter(path: str) -> bool:
    """Whether a file is left by an operating system or a cluster: `.DS_Store`, `._x`, `__MACOSX/x`, `Thumbs.db`,
    `desktop.ini`, `_SUCCESS`, `x.crc`; in any case.

    Args:
      path: relative to the folder that the user named.
    """
    *folders, name = path.lower().split("/")
    return (
        name in _FILES
        or name == ".ds_store"
        or name.startswith("._")
        or name.endswith(_ENDS)
        or any(folder in _FOLDERS for folder in folders)
    )


def is_beside_shards(path: str) -> bool:
    """Whether a file is named as what `ingest` writes beside shards: `P-summary.json`, `P-labels.txt`, `labels.txt`."""
    name = path.rpartition("/")[2]
    return name.endswith(("-summary.json", "-labels.txt")) or name == "labels.txt"


def is_skipped(path: str) -> bool:
    """Whether a file is not an image that its owner sees: hidden, in a hidden folder, or litter; argument as above."""
    return any(part.startswith(".") for part in path.split("/")) or is_litter(path)
