"""Paths on any file system: made absolute, joined, taken apart."""

import os

from odin_beam.transforms.storage.file_system import is_local


def absolute_path(path: str) -> str:
    """The path as every worker understands it: local ones made absolute, `scheme://` ones as they are."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def join(folder: str, *names: str) -> str:
    """The path of something below a folder."""
    return os.path.join(folder, *names) if is_local(folder) else "/".join([folder.rstrip("/"), *names])


def parent(path: str) -> str:
    """The folder that a path lies in."""
    return os.path.dirname(os.path.abspath(path)) if is_local(path) else path.rstrip("/").rpartition("/")[0]


__all__ = ["absolute_path", "is_local", "join", "parent"]
