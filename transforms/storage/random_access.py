"""Random access to a file, retrying transient storage errors as `reading.open_file` does."""

import io

from odin_beam.transforms import errors
from odin_beam.transforms.storage import listing, reading

# Every seek discards the buffer, so it is small, but large enough for a row of archive headers or small records.
_BUFFER_BYTES = 1 << 16


class RandomAccessReader(reading.RetryingReader):
    """A `RetryingReader` that can seek. Past its end there is nothing to read, however far the seek goes.

    Args:
      path: of the file.
      size: of the file, in bytes.
    """

    def __init__(self, path: str, size: int):
        super().__init__(path)
        self._size = size

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if position < 0:
            raise ValueError(f"a position of {position}")
        if position != self._position:
            self._position = position
            if position < self._size:
                self._attempt(lambda: self._stream.seek(position))
        return position

    def readinto(self, buffer) -> int:
        return super().readinto(buffer) if self._position < self._size else 0


def open_random_access(path: str) -> io.BufferedReader:
    """Opens a file for reading its bytes as stored, from any position.

    Raises:
      errors.StorageError: the storage gave up, here or in any later read.
    """
    stat = listing.stat_file(path)
    if stat is None:
        raise errors.StorageError(f"cannot read {path}: no such file")
    return io.BufferedReader(RandomAccessReader(path, stat.size), _BUFFER_BYTES)
