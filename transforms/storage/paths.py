"""Paths on any file system: making them absolute, joining and splitting them."""

import os

from odin_beam.transforms.storage.file_system import is_local


def absolute_path(path: str) -> str:
    """The path in a form that every worker understands: local paths absolute, `scheme://` paths unchanged."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def join(folder: str, *names: str) -> str:
    """The path of a file or folder below a folder."""
    return os.path.join(folder, *names) if is_local(folder) else "/".join([folder.rstrip("/"), *names])


def parent(path: str) -> str:
    """The folder that contains a path."""
    return os.path.dirname(os.path.abspath(path)) if is_local(path) else path.rstrip("/").rpartition("/")[0]


__all__ = ["absolute_path", "is_local", "join", "parent"]
