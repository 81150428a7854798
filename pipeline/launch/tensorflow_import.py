"""Imports TensorFlow, which takes seconds, and keeps its C++ log messages off the terminal.

The rest of a command is checked first, so that a mistake in it is reported at once.
"""

import os
import sys
import tempfile


def import_tensorflow() -> None:
    """Imports it with messages on file descriptor 2 held back; they are shown after all if the import fails."""
    if "tensorflow" in sys.modules:
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            import tensorflow as tf

            from odin_beam.transforms.images.decoding import ignore_pillow_warnings

            tf.config.list_physical_devices()
            ignore_pillow_warnings()
        except BaseException:
            held.seek(0)
            os.write(terminal, held.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
