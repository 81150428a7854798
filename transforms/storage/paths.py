"""Paths on any file system: made absolute, joined, taken apart."""

import os

from apache_beam.io.filesystems import FileSystems


def absolute_path(path: str) -> str:
    """The path as every worker understands it: local ones made absolute, `scheme://` ones as they are."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def is_local(path: str) -> bool:
    """Whether the path lies on the local file system."""
    return FileSystems.get_scheme(path) is None
