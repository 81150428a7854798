"""Writes a TFRecord file and publishes it when it is complete."""

import contextlib
import uuid
from collections.abc import Iterator

from odin_beam.transforms import errors
from odin_beam.transforms.ingest.output_names import OutputNames
from odin_beam.transforms.shards import framing
from odin_beam.transforms.storage import file_system, paths, writing


class TFRecordWriter:
    """A context manager that writes a shard: it publishes the shard on a normal exit and drops it after an error.

    Args:
      output: names of the output files.
      index: the shard's number.

    Raises:
      errors.StorageError: the storage refused, on entry, on exit or in `write`.
    """

    def __init__(self, output: OutputNames, index: int):
        self._final = output.shard(index)
        self._temporary = paths.join(output.unfinished, uuid.uuid4().hex)
        self.written = 0

    def __enter__(self) -> "TFRecordWriter":
        with self._as_storage_error():
            self._stream = file_system.create(self._temporary)
        return self

    def write(self, payload: bytes) -> None:
        with self._as_storage_error():
            self._stream.write(framing.frame(payload))
        self.written += 1

    def __exit__(self, error, *_):
        try:
            if error is None:
                with self._as_storage_error():
                    self._stream.close()
                writing.publish(self._temporary, self._final)
        finally:
            # After an error, report that error, not a failure to clean up.
            with contextlib.suppress(Exception):
                self._stream.close()
            with contextlib.suppress(Exception):
                writing.delete([self._temporary])

    @contextlib.contextmanager
    def _as_storage_error(self) -> Iterator[None]:
        try:
            yield
        except Exception as e:
            raise errors.StorageError(f"cannot write {self._final}: {errors.cause(e)}") from e
