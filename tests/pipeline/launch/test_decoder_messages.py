"""What the JPEG decoder prints is counted, and everything else passes."""

import os
import subprocess
import sys
import threading

import pytest

from odin_beam.pipeline.launch.decoder_messages import pass_on
from tests.helpers import samples

CORRUPT = b"Corrupt JPEG data: 2 extraneous bytes before marker 0xd9\n"


def passed(*chunks: bytes) -> bytes:
    """What comes out if these chunks are written one after the other."""
    source, into = os.pipe()
    out, target = os.pipe()
    reader = threading.Thread(target=lambda: (pass_on(source, target), os.close(target)))
    reader.start()
    for chunk in chunks:
        os.write(into, chunk)
    os.close(into)
    with os.fdopen(out, "rb") as stream:
        data = stream.read()
    reader.join()
    os.close(source)
    return data


@pytest.mark.parametrize(
    "text", [b"", b"a\nb\n", b"no end", b"Corrupt\n", b"a Corrupt JPEG data: no\n", b"\xff\x00\r50 %\r", b"\n\n"]
)
def test_other_text_passes_unchanged(text):
    assert passed(text) == text
    assert passed(*(text[i : i + 1] for i in range(len(text)))) == text


def test_messages_of_the_decoder_are_counted():
    told = b"the JPEG decoder complained 3 times about damaged data; what it decoded all the same was used\n"
    text = b"a\n" + CORRUPT + b"b\n" + b"Premature end of JPEG file\n" + CORRUPT + b"c"
    assert passed(text) == b"a\nb\nc" + told
    assert passed(text[:9], text[9:30], text[30:]) == b"a\nb\nc" + told
    assert b"complained once about" in passed(CORRUPT)


@pytest.mark.parametrize("ends", [["exit", "0"], ["exit", "3"], ["abort", ""]])
def test_a_process_prints_what_it_would_otherwise(ends):
    code = (
        "import os, sys\n"
        "from odin_beam.pipeline.launch.decoder_messages import counted\n"
        "with counted():\n"
        f"    os.write(2, {CORRUPT!r})\n"
        "    print('from Python', file=sys.stderr)\n"
        "    os.write(2, b'from a library\\n')\n"
        f"    {'os.abort()' if ends[0] == 'abort' else f'sys.exit({ends[1]})'}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == (-6 if ends[0] == "abort" else int(ends[1]))
    assert "from Python\n" in done.stderr
    assert "from a library\n" in done.stderr
    assert "Corrupt" not in done.stderr
    assert "complained once" in done.stderr


def test_a_run_over_damaged_data_names_no_line_of_the_decoder(tmp_path):
    image = samples.random_images(1, (64, 64, 3))[0]
    data = bytearray(samples.encoded(image, "JPEG"))
    # A marker that does not belong into the coded data; what follows is still decoded.
    data[-60:-57] = b"\xff\xd3\x00"
    (tmp_path / "photo.jpg").write_bytes(data)
    model = samples.save_model(samples.small_model(), tmp_path / "m.keras")
    command = [sys.executable, "-m", "odin_beam", "score", f"--model={model}", "--check=false", "--detectors=msp"]
    command += [f"--input=files:{tmp_path}/*.jpg", f"--output={tmp_path}/out"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert "Corrupt JPEG data" not in done.stderr
    assert "the JPEG decoder complained" in done.stderr
    assert "input: 1 images scored in 1 shard" in done.stdout
