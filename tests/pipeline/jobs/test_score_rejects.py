"""`odin-beam score`: records and shards that give no score."""

import struct
import zlib

import keras
import numpy as np
import pytest

from odin_beam.pipeline.main import main
from odin_beam.transforms.shards import framing
from tests.helpers import samples
from tests.helpers.score_runs import GOOD, read, rows


def rejects_of(model, tmp_path, payloads, *more, expected=3, mangle=None):
    """Exit code, rejects and number of scored rows of a run over one shard."""
    path = samples.write_shard(tmp_path / "bad.tfrecord", payloads)
    if mangle:
        path.write_bytes(mangle(path.read_bytes()))
    code = main(["score", f"--model={model}", f"--output={tmp_path}/out", f"--input={path}", *more])
    summary = read(tmp_path / "out", "summary.json")
    assert summary["scored"] + summary["rejected"] == summary["framed"]
    assert code == expected
    rejected = rows(tmp_path / "out", "rejects") if summary["rejected"] else []
    assert len(rejected) == summary["rejected"]
    return rejected, summary["scored"]


def huge_png(side=60_000):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (samples.example(label=3), "no_image"),
        (samples.example(image=b"not an image"), "undecodable"),
        (samples.example(image=samples.encoded(samples.random_images(1)[0])[:60]), "truncated"),
        (samples.example(image=huge_png()), "too_many_pixels"),
        (b"\xff\xfe\xfd not protobuf", "not_an_example"),
    ],
)
def test_a_bad_record_is_one_reject_and_the_shard_goes_on(model, tmp_path, bad, reason):
    rejected, scored = rejects_of(model, tmp_path, [*GOOD, bad, *GOOD])
    assert [(row["index"], row["reason"]) for row in rejected] == [(4, reason)]
    assert scored == 8
    assert rejected[0]["detail"]


def test_a_shard_of_nothing_but_bad_records_is_committed(model, tmp_path):
    rejected, scored = rejects_of(model, tmp_path, [samples.example(image=b"x")] * 3)
    assert [row["reason"] for row in rejected] == ["undecodable"] * 3
    assert scored == 0


def byte_flipper(position):
    def mangle(data):
        return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]

    return mangle


RECORD = len(framing.frame(GOOD[0]))


@pytest.mark.parametrize(
    ("mangle", "reason", "scored"),
    [
        (byte_flipper(RECORD + 40), "bad_payload_checksum", 3),
        (byte_flipper(RECORD + 1), "bad_length_checksum", 1),
        (lambda data: data[:-5], "truncated_shard", 3),
        (
            lambda data: data + struct.pack("<QI", 2**60, framing.masked_crc32c(struct.pack("<Q", 2**60))),
            "truncated",
            4,
        ),
    ],
)
def test_a_damaged_shard_gives_what_is_whole_and_one_reject(model, tmp_path, mangle, reason, scored):
    assert len({len(payload) for payload in GOOD[:2]}) == 1
    rejected, count = rejects_of(model, tmp_path, GOOD, mangle=mangle)
    assert len(rejected) == 1
    assert reason in rejected[0]["reason"] or "declares" in rejected[0]["detail"]
    assert count == scored


def test_an_image_for_which_the_classifier_gives_nan_is_a_reject(tmp_path):
    inputs = keras.Input((8, 8, 3))
    # 0 / 0 for an all-white image, and for no other.
    white = keras.ops.subtract(1.0, keras.ops.mean(inputs, axis=(1, 2, 3), keepdims=True))
    x = keras.layers.Flatten()(keras.ops.divide(keras.ops.subtract(1.0, inputs), white))
    model = samples.save_model(keras.Model(inputs, keras.layers.Dense(3)(x)), tmp_path / "nan.keras")
    white_image = samples.examples(np.full((1, 8, 8, 3), 255, np.uint8))
    rejected, scored = rejects_of(model, tmp_path, [*GOOD, *white_image, *GOOD])
    assert [(row["index"], row["reason"]) for row in rejected] == [(4, "non_finite_logits")]
    assert scored == 8


def test_max_rejected_decides_over_the_exit_code(model, tmp_path, capsys):
    bad = samples.example(image=b"x")
    rejected, scored = rejects_of(model, tmp_path, [*GOOD, bad], "--max_rejected=0.2", expected=0)
    assert (len(rejected), scored) == (1, 4)
    main(["score", f"--model={model}", f"--output={tmp_path}/out", f"--input={tmp_path}/bad.tfrecord"])
    assert "20.00% of the records were rejected" in capsys.readouterr().out
