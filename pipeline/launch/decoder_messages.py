"""Counts what the JPEG decoder prints about damaged data, in place of printing it: it never says in which file.

TensorFlow's libjpeg writes lines such as `Corrupt JPEG data: premature end of data segment` straight to file descriptor
2. A process of its own reads what is written there, by this process and by the workers that it starts, and passes on
everything else; being another process, it also passes on the last words of one that crashes. Python's own messages go
where they always went, so that a terminal is still a terminal.
"""

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Iterator

_BEGINNINGS = (b"Corrupt JPEG data", b"Premature end of JPEG file", b"Invalid JPEG file structure")
# Text without the end of its line waits so long for it.
_PATIENCE_SECONDS = 0.2
_CHUNK = 1 << 16


@contextlib.contextmanager
def counted() -> Iterator[None]:
    """Within the body, messages of the decoder are counted; the count is printed when all writers have ended."""
    sys.stderr.flush()
    try:
        original = os.dup(2)
        # In a session of its own, so that Ctrl-C does not end it before the others.
        command = [sys.executable, "-I", "-S", __file__]
        reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=original, start_new_session=True)
    except OSError:
        # Without a file descriptor to spare, messages are better than none.
        yield
        return
    before = sys.stderr
    try:
        os.dup2(reader.stdin.fileno(), 2)
        sys.stderr = os.fdopen(os.dup(original), "w", encoding=before.encoding, errors=before.errors, buffering=1)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(original, 2)
        sys.stderr = before
        reader.stdin.close()
        # Workers that outlive this process keep it running; nobody waits for those.
        with contextlib.suppress(subprocess.TimeoutExpired):
            reader.wait(timeout=1)
        os.close(original)


def pass_on(source: int, target: int) -> None:
    """Copies bytes to the end, but for the decoder's lines, whose number it writes last.

    Args:
      source: file descriptor to read.
      target: file descriptor to write.
    """
    pending, count = b"", 0
    while True:
        waiting = bool(pending) and not _may_begin(pending)
        if waiting and not select.select([source], [], [], _PATIENCE_SECONDS)[0]:
            _write(target, pending)
            pending = b""
            continue
        chunk = os.read(source, _CHUNK)
        lines = (pending + chunk).splitlines(keepends=True)
        # Of a line that has been begun, the rest is to come.
        pending = lines.pop() if chunk and lines and not lines[-1].endswith(b"\n") else b""
        kept = [line for line in lines if not line.startswith(_BEGINNINGS)]
        count += len(lines) - len(kept)
        _write(target, b"".join(kept))
        if not chunk:
            break
    if count:
        images = "once" if count == 1 else f"{count:,} times"
        told = f"the JPEG decoder complained {images} about damaged data; what it decoded all the same was used\n"
        _write(target, told.encode())


def _may_begin(text: bytes) -> bool:
    return any(text.startswith(line) or line.startswith(text) for line in _BEGINNINGS)


def _write(target: int, data: bytes) -> None:
    while data:
        data = data[os.write(target, data) :]


if __name__ == "__main__":
    with contextlib.suppress(OSError):
        pass_on(0, 1)
