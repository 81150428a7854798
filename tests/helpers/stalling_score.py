"""`odin-beam score ...` that prints `stalled` and stands still when it has begun to write the fourth scores file."""

import sys
import threading
from unittest import mock

from odin_beam.pipeline.main import main
from odin_beam.transforms.tables.scores_file import ScoresWriter

if __name__ == "__main__":
    write, writers = ScoresWriter.write, []

    def stalling(writer: ScoresWriter, *columns) -> None:
        """Writes as before, at once, and stops at a fourth file."""
        write(writer, *columns)
        writer._scores._flush()
        if writer not in writers:
            writers.append(writer)
        if len(writers) == 4:
            print("stalled", flush=True)
            threading.Event().wait()

    with mock.patch.object(ScoresWriter, "write", stalling):
        main(sys.argv[1:])
